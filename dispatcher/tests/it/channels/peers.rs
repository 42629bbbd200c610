//! Providers that nobody here wrote, from the packages that `tests/peers/package.json` names, and what providers
//! publish of their APIs, from those of `tests/peers/requirements.txt`.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::fixture::SOON;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers");

/// The folder that a script of the folder installs to. `None` where it can't, unless `PEAL_REQUIRE_TOOLS` is 1.
async fn installed(script: &str) -> Option<PathBuf> {
    let installed = Command::new(Path::new(FOLDER).join(script)).output().await.unwrap();
    if !installed.status.success() {
        let why = String::from_utf8_lossy(&installed.stderr).into_owned();
        assert_ne!(std::env::var("PEAL_REQUIRE_TOOLS").as_deref(), Ok("1"), "no peers: {why}");
        eprintln!("skipped: {why}");
        return None;
    }
    Some(PathBuf::from(String::from_utf8(installed.stdout).unwrap().trim()))
}

/// What a provider publishes of its API. `None` where it can't be fetched, unless `PEAL_REQUIRE_TOOLS` is 1.
pub async fn published(file: &str) -> Option<serde_json::Value> {
    let path = installed("install-python").await?.join(file);
    Some(serde_json::from_slice(&tokio::fs::read(path).await.unwrap()).unwrap())
}

/// A peer that listens; it ends with this.
pub struct Peer {
    pub port: u16,
    _child: Child,
}

impl Peer {
    /// Starts a script of the folder on a free port of the loopback and waits for its first line. `None` where the
    /// packages can't be installed, unless `PEAL_REQUIRE_TOOLS` is 1.
    pub async fn start(script: &str) -> Option<Self> {
        let modules = installed("install").await?.join("node_modules");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut child = Command::new("node")
            .arg(Path::new(FOLDER).join(script))
            .arg(port.to_string())
            .env("NODE_PATH", modules)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = timeout(SOON, lines.next_line()).await.expect("a line in time").unwrap();
        assert!(first.is_some(), "{script} ended at once");
        Some(Peer { port, _child: child })
    }

    /// Posts JSON and gives the answer's.
    pub async fn post(&self, path: &str, body: &serde_json::Value) -> serde_json::Value {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let answer = reqwest::Client::new().post(url).json(body).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {answer:?}");
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default()
    }
}
