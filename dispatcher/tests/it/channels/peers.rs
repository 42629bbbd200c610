//! Providers, receivers and proxies that nobody here wrote, as the scripts of `tests/peers` install them, and what
//! providers publish of their APIs.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use http::Method;
use peal_nats::server::skipped;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{interval, timeout};

use super::fixture::SOON;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers");
/// How long a program may take to listen: Java takes seconds on a machine that is busy.
const START_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
/// How often a program is started anew because another one took its port.
const PORTS_TRIED: usize = 5;

/// What a script of the folder installs. `None` where it can't, unless `PEAL_REQUIRE_TOOLS` is 1.
async fn installed(script: &str) -> Option<PathBuf> {
    let installed = Command::new(Path::new(FOLDER).join(script)).output().await.unwrap();
    if !installed.status.success() {
        skipped(String::from_utf8_lossy(&installed.stderr));
        return None;
    }
    Some(PathBuf::from(String::from_utf8(installed.stdout).unwrap().trim()))
}

/// What a provider publishes of its API. `None` where it can't be fetched, unless `PEAL_REQUIRE_TOOLS` is 1.
pub async fn published(file: &str) -> Option<Value> {
    let path = installed("install-python").await?.join(file);
    Some(serde_json::from_slice(&tokio::fs::read(path).await.unwrap()).unwrap())
}

/// A peer that listens on the loopback. It is to be [ended](Peer::end); a test that fails before kills it.
pub struct Peer {
    pub port: u16,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Where it keeps files, if it does.
    folder: Option<TempDir>,
}

impl Peer {
    /// Starts a script of the folder that prints its port first, with Python or Node.js. `None` where its packages
    /// can't be installed, unless `PEAL_REQUIRE_TOOLS` is 1.
    pub async fn start(script: &str, arguments: &[&str]) -> Option<Self> {
        let mut command = if script.ends_with(".py") {
            let modules = installed("install-python").await?.join("modules");
            let mut command = Command::new("python3");
            command.arg("-B").env("PYTHONPATH", modules);
            command
        } else {
            let modules = installed("install").await?.join("node_modules");
            let mut command = Command::new("node");
            command.env("NODE_PATH", modules);
            command
        };
        let (child, mut lines) = spawn(command.arg(Path::new(FOLDER).join(script)).args(arguments));
        let first = timeout(START_LIMIT, lines.next_line()).await.expect("a line in time").unwrap();
        let port = first.unwrap_or_else(|| panic!("{script} ended at once")).parse().unwrap();
        Some(Peer { port, child, lines, folder: None })
    }

    /// Starts smtp-sink of Postfix, which is told by arguments how to behave. `None` where it can't be fetched, unless
    /// `PEAL_REQUIRE_TOOLS` is 1.
    pub async fn smtp_sink(arguments: &[&str]) -> Option<Self> {
        let program = installed("install-smtp-sink").await?;
        let backlog = "16";
        Some(
            Peer::on_free_port(|port| {
                let mut command = Command::new(&program);
                command.args(arguments).arg(format!("127.0.0.1:{port}")).arg(backlog);
                command
            })
            .await,
        )
    }

    /// Starts Toxiproxy, whose API listens on the port. `None` where it can't be built, unless `PEAL_REQUIRE_TOOLS` is 1.
    pub async fn toxiproxy() -> Option<Self> {
        let program = installed("install-toxiproxy").await?;
        Some(
            Peer::on_free_port(|port| {
                let mut command = Command::new(&program);
                command.args(["-host", "127.0.0.1", "-port", &port.to_string()]);
                // Nobody reads its log, and a full pipe would hold it up.
                command.env("LOG_LEVEL", "error");
                command
            })
            .await,
        )
    }

    /// Starts WireMock, which plays HTTP servers and is told how on the same port. `None` where it can't be installed or
    /// there is no Java, unless `PEAL_REQUIRE_TOOLS` is 1.
    pub async fn wiremock() -> Option<Self> {
        let folder = installed("install").await?.join("node_modules/wiremock/build");
        let jar =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).next().expect("a jar");
        if let Err(error) = Command::new("java").arg("-version").output().await {
            skipped(format!("java: {error}"));
            return None;
        }
        let root = tempfile::tempdir().unwrap();
        let mut peer = Peer::on_free_port(|port| {
            let mut command = Command::new("java");
            // The compiler that is quick to start: nobody measures it.
            command.arg("-XX:TieredStopAtLevel=1").arg("-jar").arg(&jar);
            command.arg("--root-dir").arg(root.path());
            command.args(["--bind-address", "127.0.0.1", "--port", &port.to_string(), "--disable-banner"]);
            command
        })
        .await;
        peer.folder = Some(root);
        Some(peer)
    }

    /// For a program that has to be given its port, and that nobody else may have taken since.
    async fn on_free_port(command: impl Fn(u16) -> Command) -> Self {
        for _ in 0..PORTS_TRIED {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            let (mut child, lines) = spawn(&mut command(port));
            if timeout(START_LIMIT, listens(&mut child, port)).await.expect("it listens in time") {
                return Peer { port, child, lines, folder: None };
            }
        }
        panic!("it ended at once on each of {PORTS_TRIED} ports");
    }

    /// The next line that it prints.
    pub async fn line(&mut self) -> String {
        timeout(SOON, self.lines.next_line()).await.expect("a line in time").unwrap().expect("another line")
    }

    /// Ends the process and gives the lines that nobody has read.
    pub async fn end(mut self) -> Vec<String> {
        self.child.kill().await.unwrap();
        let mut rest = Vec::new();
        // A process that it left running would keep its end of the pipe open.
        while let Some(line) = timeout(SOON, self.lines.next_line()).await.expect("the end in time").unwrap()
        {
            rest.push(line);
        }
        rest
    }

    /// Posts JSON and gives the answer's.
    pub async fn post(&self, path: &str, body: &Value) -> Value {
        self.call(Method::POST, path, body).await
    }

    /// Has it forget what is at a path.
    pub async fn delete(&self, path: &str) {
        self.call(Method::DELETE, path, &Value::Null).await;
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> Value {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let answer = reqwest::Client::new().request(method, url).json(body).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {answer:?}");
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default()
    }
}

fn spawn(command: &mut Command) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

/// Waits until a process listens. False when it has ended instead.
async fn listens(child: &mut Child, port: u16) -> bool {
    let mut poll = interval(POLL);
    loop {
        poll.tick().await;
        let connected = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok();
        // Whoever took its port would be connected to as well.
        if child.try_wait().unwrap().is_some() || connected {
            return child.try_wait().unwrap().is_none();
        }
    }
}
