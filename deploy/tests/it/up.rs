//! `peal up`, from an empty folder to Ctrl-C.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use peal_nats::server::free_port;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

use crate::support::{Ran, finished, peal, run};

/// The slowest machine, with other tests beside.
const LIMIT: Duration = Duration::from_secs(120);

/// A `peal up` that runs.
pub struct Up {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: Lines<BufReader<ChildStderr>>,
}

/// A folder and ports of its own.
pub struct Place {
    folder: TempDir,
    port: String,
    nats_port: String,
    dispatcher_port: String,
}

impl Place {
    pub fn new() -> Self {
        let port = || free_port().unwrap().to_string();
        Place {
            folder: tempfile::tempdir().unwrap(),
            port: port(),
            nats_port: port(),
            dispatcher_port: port(),
        }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn up(&self, arguments: &[&str]) -> Up {
        let mut command = peal(self.path());
        command.args(arguments).args(["up", "--port", &self.port, "--nats-port", &self.nats_port]);
        command.args(["--dispatcher-port", &self.dispatcher_port]);
        Up::spawn(command)
    }

    pub fn pids(&self) -> BTreeMap<String, u32> {
        pids(&self.path().join(".peal"))
    }

    pub async fn send(&self, id: &str) -> Ran {
        let send = ["send", "--to", "demo-user", "--category", "demo", "--title", "Hi", "--id", id];
        run(self.path(), send.iter().chain(&["--wait", "--timeout", "10"])).await
    }
}

/// The processes that are noted in a folder of `peal up`, by name.
pub fn pids(folder: &Path) -> BTreeMap<String, u32> {
    let Ok(entries) = std::fs::read_dir(folder.join("pids")) else { return BTreeMap::new() };
    let read = |path: PathBuf| {
        let pid = std::fs::read_to_string(&path).ok()?.trim().parse().ok()?;
        Some((path.file_name()?.to_string_lossy().into_owned(), pid))
    };
    entries.filter_map(|entry| read(entry.ok()?.path())).collect()
}

impl Up {
    pub fn spawn(mut command: Command) -> Self {
        // Its own process group, as a terminal gives it.
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        Up { child, stdout, stderr }
    }

    /// The line of JSON that says that everything runs.
    pub async fn ready(&mut self) -> Value {
        let line = timeout(LIMIT, self.stdout.next_line()).await.expect("not ready in time").unwrap();
        let Some(line) = line else { panic!("peal up ended:\n{}", rest(&mut self.stderr).await) };
        serde_json::from_str(&line).unwrap()
    }

    /// The process itself, which watches the others.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Reads stderr up to a line that contains `text`.
    pub async fn says(&mut self, text: &str) {
        let reading = async {
            while let Some(line) = self.stderr.next_line().await.unwrap() {
                if line.contains(text) {
                    return;
                }
            }
            panic!("peal up ended without saying '{text}'");
        };
        timeout(LIMIT, reading).await.unwrap_or_else(|_| panic!("peal up does not say '{text}'"));
    }

    pub async fn stopped_by(mut self, signal: &str) {
        kill(signal, self.child.id().unwrap()).await;
        let status = timeout(LIMIT, self.child.wait()).await.expect("peal up does not stop").unwrap();
        assert_eq!(status.code(), Some(0), "{}", rest(&mut self.stderr).await);
    }
}

async fn rest(lines: &mut Lines<BufReader<impl AsyncRead + Unpin>>) -> String {
    let mut text = String::new();
    while let Ok(Some(line)) = lines.next_line().await {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

pub async fn kill(signal: &str, pid: u32) {
    let status =
        Command::new("sh").args(["-c", "kill -s \"$1\" \"$2\"", "sh", signal, &pid.to_string()]).status();
    assert!(status.await.unwrap().success(), "process {pid} is gone already");
}

pub async fn is_running(pid: u32) -> bool {
    // One that has ended and was not fetched by its parent still has an entry, in state Z (proc(5)).
    match tokio::fs::read_to_string(format!("/proc/{pid}/stat")).await {
        Ok(stat) => !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'),
        Err(_) => false,
    }
}

#[tokio::test]
async fn from_an_empty_folder_over_deaths_and_a_restart_to_the_end() {
    let place = Place::new();
    let mut up = place.up(&["--json"]);
    let first = up.ready().await;
    assert!(["sent", "delivered"].contains(&first["notification"]["status"].as_str().unwrap()), "{first}");
    let id = first["notification"]["id"].as_str().unwrap().to_owned();

    // A second one on the same folder is refused, and harms nothing.
    let second = run(place.path(), ["up", "--port", &place.port]).await.exits(1);
    assert!(second.stderr.contains("another `peal up` (process "), "{}", second.stderr);

    // The doctor of this folder finds nothing that does not work.
    let doctor = run(place.path(), ["--json", "doctor"]).await.exits(0).json();
    assert_ne!(doctor["status"], "fail", "{doctor}");

    // Whatever is killed comes back, and then things work as before.
    let before = place.pids();
    assert_eq!(before.len(), 3, "{before:?}");
    for (name, pid) in &before {
        kill("KILL", *pid).await;
        up.says(&format!("{name} runs again")).await;
        let after_kill = async {
            let mut n = 0;
            loop {
                n += 1;
                if place.send(&format!("after-{name}-{n}")).await.code == Some(0) {
                    break;
                }
            }
        };
        timeout(LIMIT, after_kill)
            .await
            .unwrap_or_else(|_| panic!("nothing is sent after {name} was killed"));
    }
    let after = place.pids();
    assert!(before.iter().all(|(name, pid)| after[name] != *pid), "{before:?} {after:?}");

    up.stopped_by("INT").await;
    for (name, pid) in before.iter().chain(&after) {
        assert!(!is_running(*pid).await, "{name} still runs");
    }
    assert!(place.pids().is_empty());

    // The next start has the same key and the same data.
    let mut up = place.up(&["--json"]);
    let resumed = up.ready().await;
    assert_eq!((&resumed["key"], &resumed["secret"]), (&first["key"], &first["secret"]));
    let url = format!("{}/v1/notifications/{id}", resumed["api"].as_str().unwrap());
    let user = format!("{}:{}", resumed["key"].as_str().unwrap(), resumed["secret"].as_str().unwrap());
    let found = finished(Command::new("curl").args(["-sS", "-f", "-u", &user, &url])).await.exits(0);
    assert_eq!(found.json()["id"], id.as_str());
    up.stopped_by("TERM").await;

    // Nothing secret or personal has come into a log.
    let secret = first["secret"].as_str().unwrap().to_owned();
    let logs = place.path().join(".peal/logs");
    let logs = std::fs::read_dir(logs).unwrap().map(|entry| entry.unwrap().path());
    let mut read = 0;
    for log in logs.chain([place.path().join(".peal/nats-server/nats-server.log")]) {
        let text = std::fs::read_to_string(&log).unwrap();
        read += text.len();
        for hidden in [secret.as_str(), "demo-user@example.com"] {
            assert!(!text.contains(hidden), "{} is in {}", hidden, log.display());
        }
    }
    assert!(read > 0);
}

#[tokio::test]
async fn what_it_prints_can_be_pasted() {
    let place = Place::new();
    let mut up = place.up(&[]);
    let mut lines = Vec::new();
    let reading = async {
        while let Some(line) = up.stdout.next_line().await.unwrap() {
            let last = line.starts_with("Ctrl-C stops everything");
            lines.push(line);
            if last {
                return;
            }
        }
        panic!("peal up ended:\n{}", rest(&mut up.stderr).await);
    };
    timeout(LIMIT, reading).await.expect("no summary in time");
    let start = lines.iter().position(|line| line.trim_start().starts_with("curl ")).unwrap();
    let end = start + lines[start..].iter().position(|line| !line.ends_with('\\')).unwrap();
    let curl = lines[start..=end].join("\n");
    let sent = finished(Command::new("sh").args(["-c", &curl])).await.exits(0);
    assert_eq!(sent.json()["status"], "accepted", "{curl}");
    assert!(lines.iter().any(|line| line.contains(&format!("http://127.0.0.1:{}/console", place.port))));

    let command = lines.iter().find(|line| line.trim_start().starts_with("nats --context")).unwrap().clone();
    match peal_nats::server::find::nats_command().unwrap() {
        Some(nats) => {
            let folder = nats.parent().unwrap().join(".");
            let command = command.replacen("nats", nats.to_str().unwrap(), 1);
            let ran = finished(Command::new("sh").args(["-c", &command]).current_dir(folder)).await.exits(0);
            assert!(ran.stdout.contains("INTAKE"), "{}", ran.stdout);
        }
        None => peal_nats::server::skipped("the nats command that peal up prints: it is missing"),
    }
    up.stopped_by("INT").await;
}

#[tokio::test]
async fn what_a_killed_one_left_running_is_stopped_by_the_next() {
    let place = Place::new();
    let mut up = place.up(&["--json"]);
    up.ready().await;
    let left = place.pids();
    up.child.kill().await.unwrap();
    let mut up = place.up(&["--json"]);
    up.ready().await;
    for (name, pid) in &left {
        assert!(!is_running(*pid).await, "{name} of the killed one still runs");
    }
    up.stopped_by("INT").await;
}

#[tokio::test]
async fn a_taken_port_is_told_before_anything_is_started() {
    let place = Place::new();
    let _taken = std::net::TcpListener::bind(format!("127.0.0.1:{}", place.port)).unwrap();
    let ran = run(place.path(), ["up", "--port", &place.port]).await.exits(1);
    assert!(ran.stderr.contains(&place.port) && ran.stderr.contains("peal up --port"), "{}", ran.stderr);
    assert!(place.pids().is_empty());
}
