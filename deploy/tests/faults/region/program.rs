//! A gateway or dispatcher: started, killed and asked as an operator would.

use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::network::Host;
use crate::clock::Clock;
use crate::plan::given_folder;
use crate::wait::{Patience, now_ms};

/// How long a process may take until it says that it is ready. A machine with two processors runs several regions.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long a program may take to end (what orchestrators wait by default before they kill).
pub const END_LIMIT: Duration = Duration::from_secs(30);
/// How long a program may go by the time that it read before, and how old an answer's date may be.
const CLOCK_LIMIT: Duration = Duration::from_secs(10);
const CLOCK_SLACK_SECONDS: i64 = 5;
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
    data: PathBuf,
    log: PathBuf,
    clock: Option<Clock>,
    host: Option<Host>,
    child: Option<Child>,
}

impl Program {
    /// The program `binary`, which is not started yet. Its log is beside its settings, which say that it listens at
    /// `address` and keeps its files in `data`.
    pub fn new(
        binary: &str,
        name: &str,
        settings: PathBuf,
        data: PathBuf,
        address: SocketAddr,
    ) -> anyhow::Result<Self> {
        let (name, path, log) = (name.to_owned(), built(binary)?, settings.with_extension("log"));
        Ok(Program { name, address, path, settings, data, log, clock: None, host: None, child: None })
    }

    /// On a host of its own.
    pub fn on(self, host: Option<Host>) -> Self {
        Program { host, ..self }
    }

    /// With a clock that can be set.
    pub fn with_clock(self, clock: Option<Clock>) -> Self {
        Program { clock, ..self }
    }

    /// An older build of it, from the folder `programs`, until [`upgrade`](Self::upgrade).
    pub fn in_folder(mut self, programs: &Path) -> anyhow::Result<Self> {
        let name = self.path.file_name().context("a program without a name")?;
        self.path = programs.join(name);
        anyhow::ensure!(self.path.is_file(), "{} is missing", self.path.display());
        Ok(self)
    }

    /// Ends it as asked, and starts this build in its place.
    ///
    /// # Errors
    /// When it does not end or does not become ready.
    pub async fn upgrade(&mut self) -> anyhow::Result<()> {
        let status = self.terminate(END_LIMIT).await?;
        anyhow::ensure!(status.success(), "{} was asked to end and says {status}", self.name);
        let name =
            self.path.file_name().and_then(|name| name.to_str()).context("a program without a name")?;
        self.path = built(name)?;
        self.start()?;
        self.until_ready().await
    }

    /// Kills it, deletes its files, and starts another one in its place.
    pub async fn replace(&mut self) -> anyhow::Result<()> {
        self.kill().await?;
        fs::remove_dir_all(&self.data)?;
        self.start()?;
        self.until_ready().await
    }

    /// The host that it runs on.
    ///
    /// # Errors
    /// When it has none of its own.
    pub fn host(&self) -> anyhow::Result<&Host> {
        self.host.as_ref().context("it has no host of its own")
    }

    /// Where it keeps its files.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Makes its wall clock wrong by so many seconds, within a second.
    ///
    /// # Errors
    /// When it can't be set.
    pub fn set_clock(&self, seconds: i64) -> anyhow::Result<()> {
        Ok(self.clock.as_ref().context("its clock can't be set")?.set(seconds)?)
    }

    /// Waits until its answers are dated so many seconds ahead. That they are dated back again nobody can see: the HTTP
    /// server keeps its date until the time has caught up with it.
    pub async fn until_ahead(&self, seconds: i64) -> anyhow::Result<()> {
        let url = format!("http://{}/livez", self.address);
        let http = super::api::plain_client()?;
        let patience = Patience::new("its clock is ahead", CLOCK_LIMIT);
        loop {
            let date = http.get(&url).send().await.ok().and_then(|answer| date_of(&answer));
            if date.is_some_and(|date| (date - now_ms() / 1000 - seconds).abs() < CLOCK_SLACK_SECONDS) {
                return Ok(());
            }
            patience.pause().await?;
        }
    }

    /// Starts it, without waiting until it is ready. Its log goes on where it was.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = match &self.host {
            Some(host) => host.command(&self.path)?,
            None => Command::new(&self.path),
        };
        let child = command
            .envs(self.clock.iter().flat_map(Clock::variables))
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

    /// Makes it stand still (SIGSTOP).
    pub async fn pause(&self) -> anyhow::Result<()> {
        self.signal("STOP").await
    }

    /// Lets it go on (SIGCONT).
    pub async fn resume(&self) -> anyhow::Result<()> {
        self.signal("CONT").await
    }

    async fn signal(&self, name: &str) -> anyhow::Result<()> {
        let pid = self.child.as_ref().and_then(Child::id);
        signal(name, pid.with_context(|| format!("{} does not run", self.name))?).await
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
        let patience = Patience::new(&what, READY_LIMIT);
        while !http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
            self.check()?;
            patience.pause().await.with_context(|| self.log_tail())?;
        }
        Ok(())
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }
}

/// The time at which an answer was given, in seconds since the Unix epoch.
fn date_of(answer: &reqwest::Response) -> Option<i64> {
    let date = answer.headers().get("date")?.to_str().ok()?;
    Some(jiff::fmt::rfc2822::parse(date).ok()?.timestamp().as_second())
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

/// A binary of this workspace, built in the same way as this test: its folder is above that of the test. Those of an
/// optimised build are taken from the folder that `PEAL_FAULT_PROGRAMS` names.
fn built(binary: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let own = own.parent().and_then(Path::parent).context("the test is in no target folder")?;
    let given = given_folder("PEAL_FAULT_PROGRAMS");
    let path = given.as_deref().unwrap_or(own).join(binary);
    anyhow::ensure!(
        path.is_file(),
        "{} is missing: build the programs first with `cargo build --workspace --bins --tests`, as `make test` does",
        path.display()
    );
    Ok(path)
}
