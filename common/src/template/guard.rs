//! What a source may contain: read token by token before the template engine sees it.
//!
//! The engine bounds steps, but not what one step allocates, nor how deep its own recursion over an expression goes.
//! Doubling a text needs an assignment, repeating one needs `*`, and a long chain of operators becomes a tree that is
//! as deep as the chain is long. So assignments, macros, calls and `*` do not exist here, and expressions and blocks
//! have a size. Whatever this reader does not know is refused.

use super::filters::{FILTERS, TESTS};

/// Most tokens in one tag: more than any text needs, few enough for the engine's recursion.
const MAX_TOKENS: usize = 128;
/// Most `+` and `~` in one tag: bounds the strings and lists that a single step builds.
const MAX_JOINS: usize = 2;
/// Deepest nesting of brackets in a tag.
const MAX_BRACKETS: usize = 8;
/// Deepest nesting of blocks; every `elif` counts as one.
const MAX_BLOCKS: usize = 32;
/// Deepest nesting of loops.
const MAX_LOOPS: usize = 3;

/// Words that the language uses itself, so that no variable can have them.
pub(super) const RESERVED: [&str; 21] = [
    "and",
    "or",
    "not",
    "in",
    "is",
    "if",
    "elif",
    "else",
    "endif",
    "for",
    "endfor",
    "recursive",
    "loop",
    "self",
    "true",
    "false",
    "none",
    "True",
    "False",
    "None",
    "super",
];

/// Words after which an opening parenthesis groups.
const GROUPING: [&str; 7] = ["and", "or", "not", "in", "if", "elif", "else"];

/// Why a source is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The line, from 1.
    pub(super) line: usize,
    /// What to write instead.
    pub(super) reason: String,
}

/// A token inside a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Number,
    Text,
    Symbol(u8),
}

/// Whether a source has any tag at all.
pub(super) fn has_tags(source: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|tag| source.contains(tag))
}

/// Checks a source.
pub(super) fn check(source: &str) -> Result<(), Refusal> {
    Reader { source, position: 0, blocks: Vec::new() }.read()
}

/// An open block.
struct Block {
    is_loop: bool,
    elifs: usize,
}

struct Reader<'a> {
    source: &'a str,
    position: usize,
    blocks: Vec<Block>,
}

impl<'a> Reader<'a> {
    fn read(mut self) -> Result<(), Refusal> {
        while let Some((at, kind)) = self.next_tag() {
            self.position = at + 2;
            match kind {
                b'#' => match self.source[self.position..].find("#}") {
                    Some(end) => self.position += end + 2,
                    None => return self.refuse("close the comment with #}"),
                },
                b'{' => {
                    let tokens = self.tokens(b'}')?;
                    self.check_expression(&tokens)?;
                }
                _ => {
                    let tokens = self.tokens(b'%')?;
                    self.check_block(&tokens)?;
                }
            }
        }
        Ok(())
    }

    /// The next tag's offset and the second byte of its opening.
    fn next_tag(&self) -> Option<(usize, u8)> {
        let bytes = self.source.as_bytes();
        (self.position..bytes.len().saturating_sub(1))
            .find(|at| bytes[*at] == b'{' && matches!(bytes[*at + 1], b'{' | b'%' | b'#'))
            .map(|at| (at, bytes[at + 1]))
    }

    fn refuse<T>(&self, reason: impl Into<String>) -> Result<T, Refusal> {
        let read = &self.source.as_bytes()[..self.position.min(self.source.len())];
        let line = read.iter().filter(|byte| **byte == b'\n').count() + 1;
        Err(Refusal { line, reason: reason.into() })
    }

    /// Reads a tag up to its end, `}}` or `%}`.
    fn tokens(&mut self, end: u8) -> Result<Vec<Token<'a>>, Refusal> {
        let bytes = self.source.as_bytes();
        let (mut tokens, mut depth) = (Vec::new(), 0usize);
        loop {
            let Some(&byte) = bytes.get(self.position) else {
                return self.refuse("close the tag");
            };
            if byte.is_ascii_whitespace() {
                self.position += 1;
                continue;
            }
            if depth == 0 && byte == end && bytes.get(self.position + 1) == Some(&b'}') {
                self.position += 2;
                return Ok(tokens);
            }
            let token = self.token(byte)?;
            match token {
                Token::Symbol(b'(' | b'[') => depth += 1,
                Token::Symbol(b')' | b']') => match depth.checked_sub(1) {
                    Some(less) => depth = less,
                    None => return self.refuse("a bracket is closed that was not opened"),
                },
                _ => {}
            }
            if depth > MAX_BRACKETS {
                return self.refuse(format!("nest at most {MAX_BRACKETS} brackets"));
            }
            tokens.push(token);
            if tokens.len() > MAX_TOKENS {
                return self.refuse(format!("write at most {MAX_TOKENS} words and signs in one tag"));
            }
        }
    }

    fn token(&mut self, first: u8) -> Result<Token<'a>, Refusal> {
        let start = self.position;
        let rest = &self.source.as_bytes()[start..];
        match first {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'0'..=b'9' => {
                let length =
                    rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
                self.position += length;
                let word = &self.source[start..self.position];
                Ok(if first.is_ascii_digit() { Token::Number } else { Token::Word(word) })
            }
            b'"' | b'\'' => {
                let mut escaped = false;
                let closing = rest.iter().enumerate().skip(1).find_map(|(at, byte)| {
                    let ends = !escaped && *byte == first;
                    escaped = !escaped && *byte == b'\\';
                    ends.then_some(at)
                });
                match closing {
                    Some(at) => {
                        self.position += at + 1;
                        Ok(Token::Text)
                    }
                    None => self.refuse("close the quotation mark"),
                }
            }
            b'=' | b'!' | b'<' | b'>' if rest.get(1) == Some(&b'=') => {
                self.position += 2;
                Ok(Token::Symbol(first))
            }
            b'.' | b',' | b'|' | b'(' | b')' | b'[' | b']' | b'+' | b'-' | b'~' | b'/' | b'%' | b'<'
            | b'>' => {
                self.position += 1;
                Ok(Token::Symbol(first))
            }
            b'=' => self.refuse("compare with ==; arguments of a filter have no names"),
            b'*' => self.refuse("`*` is not allowed; send the product as a variable"),
            b':' | b'{' | b'}' => {
                self.refuse("objects and slices are not allowed; send the value as a variable of its own")
            }
            _ => self.refuse(
                "names consist of letters of a to z, digits and _; put other text in quotation marks",
            ),
        }
    }

    fn check_block(&mut self, tokens: &[Token<'a>]) -> Result<(), Refusal> {
        // `{%-` and `{%+` steer white space.
        let tokens = match tokens {
            [Token::Symbol(b'-' | b'+'), rest @ ..] => rest,
            all => all,
        };
        let Some((Token::Word(tag), rest)) = tokens.split_first() else {
            return self.refuse("write if, elif, else, endif, for or endfor");
        };
        match *tag {
            "if" => self.blocks.push(Block { is_loop: false, elifs: 0 }),
            "for" => self.blocks.push(Block { is_loop: true, elifs: 0 }),
            "elif" => {
                if let Some(block) = self.blocks.last_mut() {
                    block.elifs += 1;
                }
            }
            "else" => {}
            "endif" | "endfor" => {
                self.blocks.pop();
            }
            _ => {
                return self
                    .refuse("this tag does not exist; there are if, elif, else, endif, for and endfor");
            }
        }
        if self.blocks.iter().map(|block| 1 + block.elifs).sum::<usize>() > MAX_BLOCKS {
            return self.refuse(format!("nest at most {MAX_BLOCKS} blocks; every elif counts"));
        }
        if self.blocks.iter().filter(|block| block.is_loop).count() > MAX_LOOPS {
            return self.refuse(format!("nest at most {MAX_LOOPS} loops"));
        }
        self.check_expression(rest)
    }

    fn check_expression(&self, tokens: &[Token<'a>]) -> Result<(), Refusal> {
        if tokens.iter().filter(|token| matches!(token, Token::Symbol(b'+' | b'~'))).count() > MAX_JOINS {
            return self.refuse(format!("join at most {MAX_JOINS} times in one tag"));
        }
        let before = |at: usize, back: usize| at.checked_sub(back).map(|index| tokens[index]);
        for (at, token) in tokens.iter().enumerate() {
            match token {
                Token::Symbol(b'|') => self.check_name(tokens, at + 1, "filter", &FILTERS)?,
                Token::Word("is") if before(at, 1) != Some(Token::Symbol(b'.')) => {
                    let negated = tokens.get(at + 1) == Some(&Token::Word("not"));
                    self.check_name(tokens, at + 1 + usize::from(negated), "test", &TESTS)?;
                }
                Token::Symbol(b'(') => {
                    let groups = match before(at, 1) {
                        None => true,
                        Some(Token::Symbol(sign)) => !matches!(sign, b')' | b']'),
                        Some(Token::Number | Token::Text) => false,
                        Some(Token::Word(word)) => {
                            let lead = before(at, 2);
                            let is_filter = lead == Some(Token::Symbol(b'|'));
                            let is_test =
                                matches!(lead, Some(Token::Word("is" | "not"))) && TESTS.contains(&word);
                            let is_keyword = lead != Some(Token::Symbol(b'.')) && GROUPING.contains(&word);
                            is_filter || is_test || is_keyword
                        }
                    };
                    if !groups {
                        return self.refuse(
                            "functions and methods do not exist; use a filter, such as {{ x | upper }}",
                        );
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The engine notices an unknown filter or test only when it runs into it.
    fn check_name(&self, tokens: &[Token<'a>], at: usize, kind: &str, known: &[&str]) -> Result<(), Refusal> {
        let dotted = tokens.get(at + 1) == Some(&Token::Symbol(b'.'));
        match tokens.get(at) {
            Some(Token::Word(name)) if known.contains(name) && !dotted => Ok(()),
            _ => self.refuse(format!("this {kind} does not exist; there are {}", known.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyday_sources_pass() {
        for source in [
            "plain { text } 100% #1",
            "{{ a }} {{- b.c -}} {{ c[0].d }} {{ d['}}'] }} {{ \"it\\\"s }}\" }}",
            "{# any * { thing }} #}",
            "{% if a and not (b or c) %}x{% elif a is not none and a == 'y' %}y{%- else -%}z{% endif %}",
            "{% for x in list %}{{ loop.index + 1 }}. {{ x|upper|truncate(10) }}{% else %}none{% endfor %}",
            "{{ a if b is defined else 'c' }} {{ a in ['x', 'y'] }} {{ -a / 2 }} {{ a | default('x', true) }}",
            "{{ 4 is divisibleby(2) }} {{ a is divisibleby 2 }}",
        ] {
            assert_eq!(check(source), Ok(()), "{source}");
        }
    }

    #[test]
    fn whatever_allocates_assigns_or_calls_is_refused() {
        for source in [
            "{% set a = 'x' %}",
            "{% set a %}x{% endset %}",
            "{% with a = 1 %}{% endwith %}",
            "{% macro m() %}{% endmacro %}",
            "{% filter upper %}x{% endfilter %}",
            "{% include 'x' %}",
            "{% extends 'x' %}",
            "{% import 'x' as y %}",
            "{% raw %}{{{% endraw %}",
            "{% do x() %}",
            "{% autoescape false %}{% endautoescape %}",
            "{%-raw-%}",
            "{% block a %}",
            "{% call x() %}",
            "{{ 'a' * 1000000 }}",
            "{{ 9 ** 9 }}",
            "{{ a[0:2:-1] }}",
            "{{ {'a': 1} }}",
            "{{{ a }}}",
            "{{ range(10) }}",
            "{{ a.upper() }}",
            "{{ a['x']() }}",
            "{{ (a)(b) }}",
            "{{ 'a'() }}",
            "{{ loop(x) }}",
            "{{ a.if (b) }}",
            "{{ a.is (b) }}",
            "{{ not(a)(b) }}",
            "{{ upper(a) }}",
            "{{ is upper(a) }}",
            "{{ a | safe }}",
            "{{ a | format('x') }}",
            "{{ a | indent(9) }}",
            "{{ a | attr('x') }}",
            "{{ a | upper.x }}",
            "{{ a is sameas(b) }}",
            "{{ a is not filter }}",
            "{{ a | }}",
            "{{ a | (b) }}",
            "{{ a",
            "{% if a",
            "{# a",
            "{{ 'a }}",
            "{{ (a }}",
            "{{ a) }}",
            "{{ ä }}",
            "{{ a ; b }}",
            "{% %}",
            "{{ a = b }}",
            "{{ a | truncate(length=3) }}",
            "{{ a ! b }}",
        ] {
            assert!(check(source).is_err(), "{source}");
        }
    }

    #[test]
    fn sizes_are_bounded() {
        let chain =
            |operator: &str, count: usize| format!("{{{{ a{} }}}}", format!(" {operator} a").repeat(count));
        assert!(check(&chain("~", MAX_JOINS)).is_ok());
        assert!(check(&chain("~", MAX_JOINS + 1)).is_err());
        assert!(check(&chain("and", 50)).is_ok());
        assert!(check(&chain("and", 1_000)).is_err());
        assert!(check(&format!("{{{{ {}a{} }}}}", "(".repeat(9), ")".repeat(9))).is_err());
        assert!(check(&"{% if a %}".repeat(MAX_BLOCKS + 1)).is_err());
        assert!(check(&format!("{{% if a %}}{}", "{% elif a %}".repeat(MAX_BLOCKS))).is_err());
        assert!(check(&"{% if a %}x{% endif %}".repeat(200)).is_ok());
        assert!(check(&"{% for a in b %}".repeat(MAX_LOOPS + 1)).is_err());
    }

    #[test]
    fn the_line_of_the_offence_is_named() {
        assert_eq!(check("a\n{{ b }}\n{{ c * 2 }}").unwrap_err().line, 3);
    }
}
