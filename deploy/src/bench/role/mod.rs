//! The measuring sides: publisher, load generator and sink, each a process of its own, so that they share no runtime
//! with each other or with what they measure.
//!
//! A role is this same program. It gets its task as one line of JSON on stdin and answers with lines of JSON on stdout;
//! when stdin ends it ends.

pub mod load;
pub mod publisher;
mod pushes;
pub mod sink;

use std::io::{self, BufRead as _, Write as _};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use super::process;

/// What a process of a measurement does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Publishes straight into a stream.
    Publisher,
    /// Sends requests to a gateway.
    Load,
    /// Takes webhooks and pushes.
    Sink,
}

impl Role {
    const fn as_str(self) -> &'static str {
        match self {
            Role::Publisher => "publisher",
            Role::Load => "load",
            Role::Sink => "sink",
        }
    }
}

/// Does what a role does until it is done, on one thread of its own.
///
/// # Errors
/// When the task can't be read or carried out.
pub async fn run(role: Role) -> anyhow::Result<ExitCode> {
    let thread = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            match role {
                Role::Publisher => publisher::run(task()?).await,
                Role::Load => load::run(task()?).await,
                Role::Sink => sink::run().await,
            }
        })
    });
    thread.await.context("the role failed")??;
    Ok(ExitCode::SUCCESS)
}

fn task<T: DeserializeOwned>() -> anyhow::Result<T> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    serde_json::from_str(&line).context("the task of this role is no JSON; `peal bench` starts roles itself")
}

/// Tells the other side something.
fn say(line: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&text)?;
    stdout.flush()
}

/// What a role says when it has warmed up and begins to count.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Started {
    started: bool,
}

const STARTED: Started = Started { started: true };

/// The other end of a role.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    role: Role,
}

impl Worker {
    /// Starts a role.
    ///
    /// # Errors
    /// When this executable can't be started again.
    pub fn start(role: Role) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("cannot find this executable")?;
        let mut child = process::command(&own)
            .args(["bench", "--role", role.as_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("cannot start a measuring process")?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            anyhow::bail!("a measuring process has no pipes");
        };
        Ok(Worker { child, stdin, stdout: BufReader::new(stdout).lines(), role })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Writes a line of JSON.
    ///
    /// # Errors
    /// When the role is gone.
    pub async fn tell(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.stdin.write_all(&text).await.with_context(|| format!("the {} is gone", self.role.as_str()))
    }

    /// Reads a line of JSON.
    ///
    /// # Errors
    /// When none comes within `limit`, or the role is gone.
    pub async fn hear<T: DeserializeOwned>(&mut self, limit: Duration) -> anyhow::Result<T> {
        let role = self.role.as_str();
        let line = tokio::time::timeout(limit, self.stdout.next_line())
            .await
            .with_context(|| format!("the {role} did not answer within {limit:?}"))??
            .with_context(|| format!("the {role} ended without an answer"))?;
        serde_json::from_str(&line).with_context(|| format!("the {role} answered something else"))
    }

    /// Waits for [`Started`].
    ///
    /// # Errors
    /// As [`hear`](Self::hear).
    pub async fn started(&mut self, limit: Duration) -> anyhow::Result<()> {
        self.hear::<Started>(limit).await.map(|_| ())
    }
}
