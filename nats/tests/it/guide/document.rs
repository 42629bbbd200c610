//! The guide as a test reads it: blocks of commands with the lines that they are said to print.

/// A block that is fenced as `console`.
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    /// Its commands, in order.
    pub commands: Vec<Command>,
    /// Whether its commands go on until Ctrl-C: `console live`.
    pub live: bool,
    /// The stream that has been lost when its commands are typed: `console lost=NAME`.
    pub lost: Option<String>,
}

/// A command and what it is said to print.
#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    /// As typed.
    pub text: String,
    /// The line of the guide that it stands on, from 1.
    pub line: usize,
    /// Lines of its output, with `…` for what may differ.
    pub shows: Vec<String>,
}

impl Command {
    /// The first line that is said to be printed and was not.
    pub fn missing(&self, output: &str) -> Option<&String> {
        self.shows.iter().find(|expected| !output.lines().any(|line| matches(expected, line)))
    }
}

/// The blocks of a guide. Fences of commands in other languages are refused: nobody would run them.
pub fn blocks(guide: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = guide.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let mut words = info.split_whitespace();
        assert_eq!(words.next(), Some("console"), "line {}: a block that no test runs", number + 1);
        let mut block = Block { commands: Vec::new(), live: false, lost: None };
        for word in words {
            match word.split_once('=') {
                Some(("lost", stream)) => block.lost = Some(stream.to_owned()),
                None if word == "live" => block.live = true,
                _ => panic!("line {}: unknown word {word}", number + 1),
            }
        }
        for (number, line) in lines.by_ref().take_while(|(_, line)| !line.starts_with("```")) {
            match (line.strip_prefix("$ "), block.commands.last_mut()) {
                (Some(text), _) => {
                    block.commands.push(Command {
                        text: text.to_owned(),
                        line: number + 1,
                        shows: Vec::new(),
                    });
                }
                (None, Some(command)) => command.shows.push(line.to_owned()),
                (None, None) => panic!("line {}: output before the first command", number + 1),
            }
        }
        blocks.push(block);
    }
    blocks
}

/// Whether a line contains what is expected: the pieces between `…` in their order, however much white space there is.
pub fn matches(expected: &str, line: &str) -> bool {
    let (expected, line) = (squeezed(expected), squeezed(line));
    let mut rest = line.as_str();
    for piece in expected.split('…').map(str::trim).filter(|piece| !piece.is_empty()) {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    true
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The names that links of the form `#name` point to, as the usual Markdown viewers make them from headings.
pub fn anchors(guide: &str) -> Vec<String> {
    let headings = guide.lines().filter_map(|line| line.strip_prefix("## "));
    headings
        .map(|heading| {
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.collect::<String>().to_lowercase().replace(' ', "-")
        })
        .collect()
}

/// What stands between `start` and `end`, everywhere.
pub fn between<'a>(text: &'a str, start: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(start).skip(1).filter_map(move |rest| rest.split_once(end)).map(|(inside, _)| inside)
}

#[test]
fn blocks_are_read_with_their_outputs() {
    let guide = "text\n```console live\n$ one\n$ two a\nout\n```\n```console lost=X\n$ three\n```\n";
    let read = blocks(guide);
    assert_eq!(read.len(), 2);
    assert!(read[0].live && !read[1].live);
    assert_eq!(read[1].lost.as_deref(), Some("X"));
    let two = &read[0].commands[1];
    assert_eq!((two.text.as_str(), two.line, two.shows.as_slice()), ("two a", 4, &["out".to_owned()][..]));
    assert_eq!(two.missing("x\n an out \n"), None);
    assert_eq!(two.missing("ou t").map(String::as_str), Some("out"));
}

#[test]
fn lines_match_in_pieces() {
    assert!(matches("a … c", "x  a   b c"));
    assert!(matches("│ a … │ 0 …", "│ a    │ 1 │ 0 │"));
    assert!(!matches("a … c", "c a b"));
    assert!(!matches("a b", "ab"));
}
