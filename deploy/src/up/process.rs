//! The processes that `peal up` runs: where their programs are, how they start, end, and what they leave behind.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use peal_nats::server::Server;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::folder::Folder;
use super::health::Probe;

/// What people call the server's process.
pub const NATS_SERVER: &str = "nats-server";

/// How long a process may take to end when it is asked to, before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked whether a process from an earlier run is gone.
const POLL: Duration = Duration::from_millis(50);
/// How many lines of a log an error carries.
const LOG_LINES: usize = 15;
/// How much of the end of a log is read for that.
const LOG_BYTES: usize = 16 * 1024;

/// A process and how to start it again.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there are three, kept for the life of the process")]
pub enum Process {
    /// nats-server.
    Nats(Box<Server>),
    /// A program of ours.
    Program(Program),
}

/// A program of ours: gateway or dispatcher.
#[derive(Debug)]
pub struct Program {
    name: &'static str,
    path: PathBuf,
    settings: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Program {
    /// The program `peal-<name>` beside this one, with a settings file. It does not run yet.
    ///
    /// # Errors
    /// When there is no such program; says how to build it.
    pub fn find(name: &'static str, folder: &Folder, settings: &Path) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("cannot find out where this program is")?;
        let path = own.with_file_name(format!("peal-{name}"));
        if !path.is_file() {
            anyhow::bail!(
                "{} is missing: build it with `cargo build --workspace --bins` (or `make up`), or put the peal programs \
                 of one version into one folder",
                path.display()
            );
        }
        let log = folder.logs().join(format!("{name}.log"));
        if log.exists() {
            fs::rename(&log, log.with_extension("previous.log")).context("cannot put the last log aside")?;
        }
        Ok(Program { name, path, settings: settings.to_owned(), log, child: None })
    }

    fn start(&mut self) -> anyhow::Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = Command::new(&self.path);
        // A process group of its own, so that Ctrl-C reaches us alone and things end in the right order.
        command.process_group(0);
        let child = command
            .arg("--config")
            .arg(&self.settings)
            // The log is a file, not a terminal.
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.path.display()))?;
        self.child = Some(child);
        Ok(())
    }

    async fn stop(&mut self) -> io::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if let Some(pid) = child.id() {
            signal(pid, "TERM").await?;
        }
        match timeout(STOP_LIMIT, child.wait()).await {
            Ok(ended) => ended.map(drop),
            Err(_) => child.kill().await,
        }
    }
}

impl Process {
    /// What people call it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Process::Nats(_) => NATS_SERVER,
            Process::Program(program) => program.name,
        }
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        match self {
            Process::Nats(server) => server.log_file(),
            Process::Program(program) => program.log.clone(),
        }
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match self {
            Process::Nats(server) => server.pid(),
            Process::Program(program) => program.child.as_ref().and_then(Child::id),
        }
    }

    /// The folder on whose disk it writes.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        match self {
            Process::Nats(server) => server.config().data.clone(),
            Process::Program(program) => program.log.parent().unwrap_or(Path::new(".")).to_owned(),
        }
    }

    /// How to ask it whether it is well; `None` for a process that ends when it is not.
    #[must_use]
    pub fn probe(&self) -> Option<Probe> {
        match self {
            Process::Nats(server) => Probe::new(&server.monitor()?, self.folder()).ok(),
            Process::Program(_) => None,
        }
    }

    /// Starts it, also again. A nats-server that still runs is stopped first.
    ///
    /// # Errors
    /// When it can't be started; nats-server also when it does not answer in time.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        match self {
            Process::Nats(server) => Ok(server.restart().await?),
            Process::Program(program) => program.start(),
        }
    }

    /// Waits until it ends by itself, and says how where that is known.
    ///
    /// # Errors
    /// When the system can't say.
    pub async fn wait(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        match self {
            Process::Nats(server) => {
                server.wait().await?;
                Ok(None)
            }
            Process::Program(Program { child: Some(child), .. }) => Ok(Some(child.wait().await?)),
            Process::Program(_) => Ok(None),
        }
    }

    /// Asks it to end, and kills it when that takes too long.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        match self {
            Process::Nats(server) => match timeout(STOP_LIMIT, server.stop()).await {
                Ok(stopped) => Ok(stopped?),
                Err(_) => Ok(server.kill().await?),
            },
            Process::Program(program) => Ok(program.stop().await?),
        }
    }
}

/// Sends a signal by its name.
///
/// # Errors
/// When the shell can't be run. A process that is gone already is no error.
async fn signal(pid: u32, name: &str) -> io::Result<()> {
    // The shell's own kill is there on every system; sending signals without it would need unsafe code.
    let script = ["-c", "kill -s \"$1\" \"$2\"", "sh", name, &pid.to_string()];
    Command::new("sh").args(script).stdin(Stdio::null()).stderr(Stdio::null()).status().await.map(drop)
}

/// The last lines of a log.
#[must_use]
pub fn log_end(path: &Path) -> String {
    let log = fs::read(path).unwrap_or_default();
    let log = String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_BYTES)..]);
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// Notes which process runs under a name, so that the next `peal up` can end it should this one be killed.
///
/// # Errors
/// When the note can't be written.
pub fn note_pid(folder: &Path, name: &str, pid: Option<u32>) -> io::Result<()> {
    let path = folder.join(name);
    match pid {
        Some(pid) => fs::write(path, pid.to_string()),
        None => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    }
}

/// Ends what a killed `peal up` left running in this folder, and names it.
///
/// # Errors
/// When the notes can't be read, or a process does not end.
pub async fn stop_leftovers(folder: &Folder) -> anyhow::Result<Vec<String>> {
    let mut stopped = Vec::new();
    for entry in fs::read_dir(folder.pids())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = fs::read_to_string(entry.path())?.trim().parse::<u32>().ok();
        if let Some(pid) = pid
            && is_ours(pid, folder.path()).await
        {
            end(pid, folder.path()).await.with_context(|| format!("cannot stop {name}, process {pid}"))?;
            stopped.push(format!("{name} (process {pid})"));
        }
        note_pid(&folder.pids(), &name, None)?;
    }
    Ok(stopped)
}

async fn end(pid: u32, folder: &Path) -> anyhow::Result<()> {
    for name in ["TERM", "KILL"] {
        signal(pid, name).await?;
        let deadline = Instant::now() + STOP_LIMIT;
        while Instant::now() < deadline {
            if !is_ours(pid, folder).await {
                return Ok(());
            }
            sleep(POLL).await;
        }
    }
    anyhow::bail!("it does not end")
}

/// Whether a process is one of this folder's: process ids are used again, but only ours are started with its paths.
async fn is_ours(pid: u32, folder: &Path) -> bool {
    let arguments = match fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(arguments) => arguments,
        // Systems without /proc.
        Err(_) if !Path::new("/proc/self").exists() => {
            let ps = Command::new("ps").args(["-ww", "-o", "args=", "-p", &pid.to_string()]).output().await;
            ps.map(|output| output.stdout).unwrap_or_default()
        }
        Err(_) => return false,
    };
    String::from_utf8_lossy(&arguments).contains(&*folder.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::process::ChildStdin;

    /// A shell that waits for a line while its input is open. It has answered once, since a process that was just
    /// started has no arguments to be known by yet.
    async fn waiting_shell(argument: &str) -> (Child, ChildStdin) {
        let mut command = Command::new("sh");
        command.args(["-c", "echo; read line", "sh", argument]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = command.kill_on_drop(true).spawn().unwrap();
        shell.stdout.as_mut().unwrap().read_exact(&mut [0]).await.unwrap();
        let input = shell.stdin.take().unwrap();
        (shell, input)
    }

    #[tokio::test]
    async fn a_process_of_an_earlier_run_is_ended_and_a_strangers_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::open(parent.path()).unwrap();
        let (mut ours, _input) = waiting_shell(&folder.settings().to_string_lossy()).await;
        let (mut strange, _other_input) = waiting_shell("/elsewhere").await;
        note_pid(&folder.pids(), "gateway", ours.id()).unwrap();
        note_pid(&folder.pids(), "dispatcher", strange.id()).unwrap();
        let (stopped, ended) = tokio::join!(stop_leftovers(&folder), ours.wait());
        assert!(!ended.unwrap().success());
        let stopped = stopped.unwrap();
        assert!(stopped.len() == 1 && stopped[0].starts_with("gateway"), "{stopped:?}");
        assert!(strange.try_wait().unwrap().is_none());
        assert!(stop_leftovers(&folder).await.unwrap().is_empty());
    }

    #[test]
    fn only_the_end_of_a_log_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let lines: Vec<_> = (0..5_000).map(|n| format!("line {n}")).collect();
        fs::write(&path, lines.join("\n")).unwrap();
        let end = log_end(&path);
        assert!(end.ends_with("line 4999") && end.lines().count() == LOG_LINES, "{end}");
        assert_eq!(log_end(&folder.path().join("none")), "");
    }
}
