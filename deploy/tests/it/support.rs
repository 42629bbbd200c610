//! Running the binary, and a server for it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use peal_nats::server::{Server, ServerConfig};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

/// No command of these tests takes longer, save `peal up`, which runs until it is told to stop.
const LIMIT: Duration = Duration::from_secs(60);

/// The binary in a folder, with nothing of ours in its environment.
pub fn peal(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peal"));
    let ours =
        std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("PEAL"));
    // These two say which nats-server to run, not what Peal does.
    for name in ours.filter(|name| name != "PEAL_NATS_SERVER" && name != "PEAL_TOOLS") {
        command.env_remove(name);
    }
    command.current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// What a run of the binary left.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// The run ended with this code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Its stdout as one line of JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "not one line:\n{}", self.stdout);
        serde_json::from_str(&self.stdout).unwrap()
    }
}

/// Runs the binary to its end.
pub async fn run(folder: &Path, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ran {
    finished(peal(folder).args(arguments)).await
}

/// Runs a command to its end.
pub async fn finished(command: &mut Command) -> Ran {
    let output = timeout(LIMIT, command.output()).await.expect("the command does not end").unwrap();
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A server, a settings file that names it, and a region key.
pub struct Region {
    pub server: Server,
    pub folder: TempDir,
    pub config: PathBuf,
}

impl Region {
    /// Starts a server without streams.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let nats = folder.path().join("nats-server");
        let server = Server::start(ServerConfig {
            // The streams of a production region reserve more than this machine may have.
            max_file_store: Some(100 * 1024 * 1024 * 1024),
            ..ServerConfig::new("local".parse().unwrap(), nats)
        });
        let server = server.await.unwrap();
        let config = folder.path().join("settings.toml");
        // 32 bytes in base64; a test needs no secret one.
        let key = format!("{}=", "A".repeat(43));
        let text = format!("[region]\nkey = \"{key}\"\n[nats]\nurls = [\"{}\"]\n", server.url());
        std::fs::write(&config, text).unwrap();
        Region { server, folder, config }
    }

    /// Starts a server and sets up the streams.
    pub async fn with_streams() -> Self {
        let region = Region::start().await;
        region.run(["topology", "apply"]).await.exits(0);
        region
    }

    /// Runs the binary with this region's settings.
    pub async fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Ran {
        let mut command = peal(self.folder.path());
        finished(command.args(arguments).arg("--config").arg(&self.config)).await
    }
}
