//! The process itself: start, wait, stop, kill, pause.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout};

use super::config::{STORE, ServerConfig};
use super::find::{self, FindError};
use super::ports::{PortError, free_port};

/// How often a condition is looked at while waiting for the process.
const POLL: Duration = Duration::from_millis(10);
/// How many ports are tried when somebody else takes the one that looked free.
const PORT_TRIES: usize = 5;
/// How long a graceful stop may take before the process is killed.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// How many lines of the server's log an error carries.
const LOG_LINES: usize = 12;

/// The binary, looked up once per process: looking may mean a download.
static BINARY: OnceCell<PathBuf> = OnceCell::const_new();

/// Why a server does not run as asked.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// There is no nats-server.
    #[error(transparent)]
    Find(#[from] FindError),
    /// There is no free port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// Its folder or configuration can't be written.
    #[error("cannot write to {path}", path = .path.display())]
    Folder {
        /// What could not be written.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The process can't be started or signalled.
    #[error("cannot {action} nats-server")]
    Process {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The process ended by itself.
    #[error("nats-server ended while starting; the end of its log:\n{log}")]
    Ended {
        /// The last lines of its log.
        log: String,
    },
    /// The port of the configuration is taken.
    #[error("port {port} is taken: stop what listens there or choose another port\n{log}")]
    PortTaken {
        /// The port.
        port: u16,
        /// The last lines of the log.
        log: String,
    },
    /// JetStream did not answer in time.
    #[error("JetStream did not answer within {limit:?}; the end of nats-server's log:\n{log}")]
    NotReady {
        /// The limit that was set.
        limit: Duration,
        /// The last lines of its log.
        log: String,
    },
}

/// A running nats-server. Dropping it kills the process; the data stays.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    binary: PathBuf,
    port: u16,
    monitor: Option<u16>,
    child: Option<Child>,
}

impl Server {
    /// Starts a server and waits until JetStream answers.
    ///
    /// # Errors
    /// [`ServerError`]; the process is gone then.
    pub async fn start(config: ServerConfig) -> Result<Self, ServerError> {
        let binary = match &config.binary {
            Some(path) => path.clone(),
            None => BINARY.get_or_try_init(found).await?.clone(),
        };
        let tries = if config.port == 0 { PORT_TRIES } else { 1 };
        let mut server = Server { port: config.port, binary, config, monitor: None, child: None };
        let mut attempt = 1;
        loop {
            if server.config.port == 0 {
                server.port = free_port()?;
            }
            match server.launch().await {
                Err(ServerError::PortTaken { .. }) if attempt < tries => attempt += 1,
                Err(error) => return Err(error),
                Ok(()) => return Ok(server),
            }
        }
    }

    /// Where clients connect: `nats://<host>:<port>`, without credentials.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}", SocketAddr::from((self.config.host, self.port)))
    }

    /// The port for clients; it stays the same over restarts.
    #[must_use]
    pub fn client_port(&self) -> u16 {
        self.port
    }

    /// Where the server answers monitoring requests: `http://127.0.0.1:<port>`. A restart changes the port.
    #[must_use]
    pub fn monitor(&self) -> Option<String> {
        self.monitor.map(|port| format!("http://127.0.0.1:{port}"))
    }

    /// The configuration that it was started with.
    #[must_use]
    pub fn config(&self) -> &ServerConfig {
        &self.config
    }

    /// The server's log.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.config.data.join("nats-server.log")
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Kills the process at once (SIGKILL), as a crash would, and waits until it is gone.
    ///
    /// # Errors
    /// [`ServerError::Process`] when the system refuses.
    pub async fn kill(&mut self) -> Result<(), ServerError> {
        if let Some(mut child) = self.child.take() {
            child.kill().await.map_err(|source| ServerError::Process { action: "kill", source })?;
        }
        Ok(())
    }

    /// Asks the process to end (SIGTERM) and waits; kills it when it takes too long.
    ///
    /// # Errors
    /// [`ServerError::Process`] when the system refuses.
    pub async fn stop(&mut self) -> Result<(), ServerError> {
        if self.child.is_none() {
            return Ok(());
        }
        self.signal("TERM", "stop").await?;
        let Some(child) = self.child.as_mut() else { return Ok(()) };
        match timeout(STOP_LIMIT, child.wait()).await {
            Ok(Ok(_)) => {
                self.child = None;
                Ok(())
            }
            Ok(Err(source)) => Err(ServerError::Process { action: "wait for", source }),
            Err(_) => self.kill().await,
        }
    }

    /// Starts it again on the same port and folder, after [`kill`](Self::kill) or [`stop`](Self::stop); a server that
    /// still runs is stopped first.
    ///
    /// # Errors
    /// As [`start`](Self::start); [`ServerError::PortTaken`] when somebody took the port in between.
    pub async fn restart(&mut self) -> Result<(), ServerError> {
        self.stop().await?;
        self.launch().await
    }

    /// Deletes all that it has stored, as if its disk had been lost.
    ///
    /// # Errors
    /// [`ServerError::Process`] while it runs, or when the system refuses.
    pub fn forget(&mut self) -> Result<(), ServerError> {
        let failed = |source| ServerError::Process { action: "delete the files of", source };
        if self.child.is_some() {
            return Err(failed(io::Error::new(io::ErrorKind::ResourceBusy, "it runs")));
        }
        std::fs::remove_dir_all(self.config.data.join(STORE)).map_err(failed)
    }

    /// Stops the process from running (SIGSTOP) and waits until it stands still: it keeps its connections and answers
    /// nothing.
    ///
    /// # Errors
    /// [`ServerError::Process`] when it does not run, or goes on running.
    pub async fn pause(&self) -> Result<(), ServerError> {
        self.signal("STOP", "pause").await?;
        let deadline = Instant::now() + STOP_LIMIT;
        while let Some(pid) = self.pid()
            && has_running_thread(pid).await
        {
            if Instant::now() >= deadline {
                let source = io::Error::new(io::ErrorKind::TimedOut, "it goes on running");
                return Err(ServerError::Process { action: "pause", source });
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Lets a paused process run on (SIGCONT).
    ///
    /// # Errors
    /// [`ServerError::Process`] when it does not run.
    pub async fn resume(&self) -> Result<(), ServerError> {
        self.signal("CONT", "resume").await
    }

    /// Waits until the process ends by itself; returns at once when it does not run.
    ///
    /// # Errors
    /// [`ServerError::Process`] when the system can't say.
    pub async fn wait(&mut self) -> Result<(), ServerError> {
        match self.child.as_mut() {
            None => Ok(()),
            Some(child) => {
                child.wait().await.map_err(|source| ServerError::Process { action: "wait for", source })?;
                self.child = None;
                Ok(())
            }
        }
    }

    async fn signal(&self, name: &'static str, action: &'static str) -> Result<(), ServerError> {
        let failed = |source| ServerError::Process { action, source };
        let Some(pid) = self.pid() else {
            return Err(failed(io::Error::new(io::ErrorKind::NotFound, "it does not run")));
        };
        // The shell's own kill is there on every system; sending signals without it would need unsafe code.
        let status = Command::new("sh")
            .args(["-c", "kill -s \"$1\" \"$2\"", "sh", name, &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await
            .map_err(failed)?;
        if status.success() { Ok(()) } else { Err(failed(io::Error::other(format!("kill: {status}")))) }
    }

    async fn launch(&mut self) -> Result<(), ServerError> {
        // Relative paths in the configuration would be taken from the server's own folder.
        let data = std::path::absolute(&self.config.data)
            .map_err(|source| ServerError::Folder { path: self.config.data.clone(), source })?;
        self.config.data = data;
        let file = self.write_config().await?;
        let mut command = Command::new(&self.binary);
        #[cfg(unix)]
        if self.config.own_process_group {
            command.process_group(0);
        }
        let mut child = command
            .arg("--config")
            .arg(&file)
            .arg("--log")
            .arg(self.log_file())
            .arg("--ports_file_dir")
            .arg(&self.config.data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| ServerError::Process { action: "start", source })?;
        let ready = self.wait_until_ready(&mut child).await;
        match ready {
            Ok(()) => {
                self.child = Some(child);
                Ok(())
            }
            Err(error) => {
                // It may have ended already; what counts is the first error.
                let _ = child.kill().await;
                Err(error)
            }
        }
    }

    async fn write_config(&self) -> Result<PathBuf, ServerError> {
        let data = &self.config.data;
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ServerError::Folder { path, source }
        };
        tokio::fs::create_dir_all(data).await.map_err(failed(data))?;
        remove_old_ports(data).await.map_err(failed(data))?;
        let log = self.log_file();
        // An error must show this start's lines, not those of an earlier one.
        match tokio::fs::rename(&log, data.join("nats-server.previous.log")).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&log)(error)),
            _ => {}
        }
        let file = data.join("nats-server.conf");
        tokio::fs::write(&file, self.config.render(self.port)).await.map_err(failed(&file))?;
        Ok(file)
    }

    async fn wait_until_ready(&mut self, child: &mut Child) -> Result<(), ServerError> {
        let limit = self.config.start_limit;
        let deadline = Instant::now() + limit;
        loop {
            let ended =
                child.try_wait().map_err(|source| ServerError::Process { action: "watch", source })?;
            if ended.is_some() {
                let log = self.log_tail().await;
                return Err(if log.contains("address already in use") {
                    ServerError::PortTaken { port: self.port, log }
                } else {
                    ServerError::Ended { log }
                });
            }
            if let Some(monitor) = monitor_port(&self.config.data, child.id()).await {
                self.monitor = Some(monitor);
                if self.jetstream_answers().await {
                    return Ok(());
                }
            }
            if Instant::now() >= deadline {
                return Err(ServerError::NotReady { limit, log: self.log_tail().await });
            }
            sleep(POLL).await;
        }
    }

    /// Whether JetStream answers a request, which in a cluster means that there is a leader.
    async fn jetstream_answers(&self) -> bool {
        let options = async_nats::ConnectOptions::new()
            .connection_timeout(Duration::from_secs(1))
            .request_timeout(Some(Duration::from_secs(1)))
            .max_reconnects(1);
        let options = match &self.config.login {
            Some(login) => options.user_and_password(login.user.clone(), login.password.clone()),
            None => options,
        };
        match options.connect(self.url()).await {
            Ok(client) => async_nats::jetstream::new(client).query_account().await.is_ok(),
            Err(_) => false,
        }
    }

    async fn log_tail(&self) -> String {
        let log = tokio::fs::read(self.log_file()).await.unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

/// Whether a thread has not taken a SIGSTOP yet, on systems that tell (proc(5)). On a machine with much to do that takes
/// a while, in which the process may still answer.
async fn has_running_thread(pid: u32) -> bool {
    let Ok(mut threads) = tokio::fs::read_dir(format!("/proc/{pid}/task")).await else { return false };
    while let Ok(Some(thread)) = threads.next_entry().await {
        let Ok(stat) = tokio::fs::read_to_string(thread.path().join("stat")).await else { continue };
        // The state follows the program's name in parentheses: T is stopped, Z and X have ended.
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        if !matches!(state, Some('T' | 'Z' | 'X')) {
            return true;
        }
    }
    false
}

async fn found() -> Result<PathBuf, ServerError> {
    let looked = tokio::task::spawn_blocking(find::nats_server).await;
    let path = looked
        .map_err(|error| ServerError::Process { action: "look for", source: io::Error::other(error) })??;
    Ok(path)
}

async fn remove_old_ports(data: &Path) -> io::Result<()> {
    let mut entries = tokio::fs::read_dir(data).await?;
    while let Some(entry) = entries.next_entry().await? {
        if entry.path().extension().is_some_and(|extension| extension == "ports") {
            tokio::fs::remove_file(entry.path()).await?;
        }
    }
    Ok(())
}

/// The monitoring port, from the file `<program>_<pid>.ports` that the server writes once it listens.
async fn monitor_port(data: &Path, pid: Option<u32>) -> Option<u16> {
    let ending = format!("_{}.ports", pid?);
    let mut entries = tokio::fs::read_dir(data).await.ok()?;
    while let Ok(Some(entry)) = entries.next_entry().await {
        if entry.file_name().to_string_lossy().ends_with(&ending) {
            let text = tokio::fs::read(entry.path()).await.ok()?;
            let ports: serde_json::Value = serde_json::from_slice(&text).ok()?;
            return ports["monitoring"][0].as_str()?.rsplit(':').next()?.parse().ok();
        }
    }
    None
}
