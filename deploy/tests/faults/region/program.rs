//! A gateway or dispatcher: started, killed and asked as an operator would.

use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::wait;

/// How long a process may take until it says that it is ready. A machine with two processors runs several regions.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How many lines of a log an error carries.
const LOG_LINES: usize = 15;

/// A program, running or not. It is killed when it is dropped, also by a panic.
pub struct Program {
    /// What it is called in errors.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    path: PathBuf,
    settings: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Program {
    /// The program `binary`, which is not started yet. Its log is beside its settings.
    pub fn new(binary: &str, name: &str, settings: PathBuf, address: SocketAddr) -> anyhow::Result<Self> {
        let log = settings.with_extension("log");
        Ok(Program { name: name.to_owned(), address, path: built(binary)?, settings, log, child: None })
    }

    /// Starts it, without waiting until it is ready. Its log goes on where it was.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.path)
            .arg("--config")
            .arg(&self.settings)
            .env("PEAL_LOG", std::env::var("PEAL_LOG").unwrap_or_else(|_| "info".to_owned()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.path.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Kills it at once (SIGKILL) and waits until it is gone.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        match self.child.take() {
            Some(mut child) => Ok(child.kill().await?),
            None => Ok(()),
        }
    }

    /// Asks it to end (SIGTERM) and gives its exit status.
    ///
    /// # Errors
    /// When it takes longer than `limit`.
    pub async fn terminate(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let mut child = self.child.take().with_context(|| format!("{} does not run", self.name))?;
        let pid = child.id().with_context(|| format!("{} has ended", self.name))?;
        signal("TERM", pid).await?;
        let ended = timeout(limit, child.wait()).await;
        Ok(ended.with_context(|| format!("{} still runs {limit:?} after SIGTERM", self.name))??)
    }

    /// Fails when it has ended by itself.
    pub fn check(&mut self) -> anyhow::Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        match child.try_wait()? {
            None => Ok(()),
            Some(status) => anyhow::bail!("{} ended by itself ({status}):\n{}", self.name, self.log_tail()),
        }
    }

    /// Waits until `/readyz` says so.
    pub async fn until_ready(&mut self) -> anyhow::Result<()> {
        let url = format!("http://{}/readyz", self.address);
        let http = super::api::plain_client()?;
        let what = format!("{} is ready", self.name);
        let ready = wait::until(&what, READY_LIMIT, async || {
            http.get(&url).send().await.ok().filter(|answer| answer.status().is_success())
        });
        let ready = ready.await.map(drop);
        self.check()?;
        ready.with_context(|| self.log_tail())
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }
}

/// Runs a command to its end; what it printed, on both channels, and whether it succeeded.
///
/// # Errors
/// When it takes too long.
pub async fn run(binary: &str, arguments: &[&str], settings: &Path) -> anyhow::Result<(bool, String)> {
    let mut command = Command::new(built(binary)?);
    command.args(arguments).env("PEAL_CONFIG", settings).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(READY_LIMIT, command.output()).await??;
    let texts = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    Ok((output.status.success(), texts.concat()))
}

/// The last lines of a file.
pub fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// Sends a signal to one process.
pub async fn signal(name: &str, pid: u32) -> anyhow::Result<()> {
    let status =
        Command::new("sh").args(["-c", "kill -s \"$1\" \"$2\"", "sh", name, &pid.to_string()]).status();
    anyhow::ensure!(status.await?.success(), "signal {name} could not be sent to process {pid}");
    Ok(())
}

/// A binary of this workspace, built in the same way as this test: its folder is above that of the test.
fn built(binary: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent).context("the test is in no target folder")?;
    let path = folder.join(binary);
    anyhow::ensure!(
        path.is_file(),
        "{} is missing: build the programs first with `cargo build --workspace --bins --tests`, as `make test` does",
        path.display()
    );
    Ok(path)
}
