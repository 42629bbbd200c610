//! The guide for operators, `nats/OPERATORS.md`, is true: each command in it is run and prints what the guide says.

mod document;
mod filled;
mod messages;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use document::{Block, Command};
use filled::Filled;
use peal_nats::server::{find, skipped};
use tokio::io::{AsyncBufReadExt as _, BufReader};

const GUIDE: &str = include_str!("../../../OPERATORS.md");

/// Far above what any of the commands takes.
const LIMIT: Duration = Duration::from_secs(20);

/// The addresses of the guide's region and hub, which the test replaces by those of its own servers.
const REGION_URL: &str = "nats://127.0.0.1:4222";
const HUB_URL: &str = "nats://hub.example.com:4222";

/// Words of commands that the guide warns of.
const HARMFUL: [&str; 12] =
    ["purge", "rm", "rmm", "seal", "edit", "del", "put", "next", "reset", "add", "pub", "publish"];

#[tokio::test]
async fn every_command_prints_what_the_guide_says() {
    let Some(command) = nats_command().await else { return };
    let filled = Filled::start().await;
    let shell = Shell::new(&filled, &command);
    let mut wrong = Vec::new();
    for block in document::blocks(GUIDE) {
        if let Some(stream) = &block.lost {
            filled.lose(stream).await;
        }
        for command in &block.commands {
            let done = if block.live {
                tokio::select! {
                    done = shell.run_until_shown(command) => done,
                    () = filled.go_on() => Ok(()),
                }
            } else {
                shell.run(command).await
            };
            if let Err(error) = done {
                wrong.push(format!("line {}: $ {}\n{error}", command.line, command.text));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    // Nothing that the guide tells to type changes what Peal needs.
    let report = filled.check().await;
    assert!(report.is_ok(), "after all commands: {report}");
}

#[test]
fn every_command_says_what_it_shows_and_none_does_harm() {
    for Command { text, line, shows } in commands() {
        assert!(!shows.is_empty(), "line {line}: nothing to compare with: {text}");
        assert!(
            shows.iter().all(|line| line.chars().any(char::is_alphanumeric)),
            "line {line}: shows nothing: {text}"
        );
        assert!(
            !text.split_whitespace().any(|word| HARMFUL.contains(&word)),
            "line {line}: does harm: {text}"
        );
    }
}

#[test]
fn what_the_table_names_is_in_the_guide() {
    let anchors = document::anchors(GUIDE);
    for link in document::between(GUIDE, "](#", ")") {
        assert!(anchors.iter().any(|anchor| anchor == link), "no heading for #{link}");
    }
    let table = GUIDE.split("\n## ").next().unwrap();
    let commands = commands();
    let named: Vec<_> = table.lines().filter(|line| line.starts_with('|')).flat_map(codes).collect();
    assert!(named.len() > 15, "the table is not where it was");
    for name in named {
        let run = commands.iter().any(|command| document::matches(&name, &command.text));
        assert!(run, "no command is run that looks like {name}");
    }
}

/// The texts in backticks, with the table's `\|` undone.
fn codes(line: &str) -> Vec<String> {
    line.split('`').skip(1).step_by(2).map(|code| code.replace("\\|", "|")).collect()
}

fn commands() -> Vec<Command> {
    document::blocks(GUIDE).into_iter().flat_map(|Block { commands, .. }| commands).collect()
}

/// The `nats` command; `None` when there is none and the test may be skipped.
async fn nats_command() -> Option<PathBuf> {
    let found = tokio::task::spawn_blocking(find::nats_command).await.unwrap();
    let why = match found {
        Ok(Some(path)) => return Some(path),
        Ok(None) => "it is not on the PATH, and there is no Go to build it".to_owned(),
        Err(error) => error.to_string(),
    };
    skipped(format!("the operators' guide, for want of the nats command: {why}"));
    None
}

/// A shell as operators have it: `nats` on the path, a home for contexts, the passwords in variables.
struct Shell {
    folder: PathBuf,
    path: String,
    region: String,
    hub: String,
}

impl Shell {
    fn new(filled: &Filled, command: &Path) -> Self {
        let folder = filled.folder.path().join("operator");
        let programs = folder.join("bin");
        std::fs::create_dir_all(&programs).unwrap();
        std::os::unix::fs::symlink(command, programs.join("nats")).unwrap();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        Shell { folder, path, region: filled.region.url(), hub: filled.hub.url() }
    }

    /// The command, with the guide's addresses replaced and both outputs in one.
    fn prepared(&self, script: &str) -> tokio::process::Command {
        let script = script.replace(REGION_URL, &self.region).replace(HUB_URL, &self.hub);
        let mut command = tokio::process::Command::new("sh");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("NATS_")) {
            command.env_remove(name);
        }
        command
            .args(["-c", &format!("exec 2>&1; {script}")])
            .current_dir(&self.folder)
            .env("PATH", &self.path)
            .env("HOME", &self.folder)
            .env("XDG_CONFIG_HOME", self.folder.join("config"))
            .env("PEAL_PASSWORD", filled::PASSWORD)
            .env("SYS_PASSWORD", filled::SYS_PASSWORD)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs a command to its end. An error says what is not as the guide says.
    async fn run(&self, command: &Command) -> Result<(), String> {
        let output = tokio::time::timeout(LIMIT, self.prepared(&command.text).output()).await;
        let output = output.map_err(|_| format!("is not done within {LIMIT:?}"))?.unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            return Err(format!("ends with {} and prints\n{printed}", output.status));
        }
        command.missing(&printed).map_or(Ok(()), |missing| Err(does_not_show(missing, &printed)))
    }

    /// Runs a command until it has shown everything, and ends it then, as Ctrl-C would.
    async fn run_until_shown(&self, command: &Command) -> Result<(), String> {
        let script = format!("exec {}", command.text);
        let mut child = self.prepared(&script).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut printed = String::new();
        let until_shown = async {
            while command.missing(&printed).is_some() {
                let Some(next) = lines.next_line().await.unwrap() else { break };
                printed.push_str(&next);
                printed.push('\n');
            }
        };
        // Whether it ended, went silent or has shown everything: what was printed decides.
        let _ = tokio::time::timeout(LIMIT, until_shown).await;
        child.kill().await.unwrap();
        command.missing(&printed).map_or(Ok(()), |missing| Err(does_not_show(missing, &printed)))
    }
}

fn does_not_show(missing: &str, printed: &str) -> String {
    format!("does not show\n{missing}\nbut\n{printed}")
}
