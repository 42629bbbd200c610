//! A headless Chromium, spoken to over its debugging protocol.

use std::path::PathBuf;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt as _, StreamExt as _};
use peal_nats::server::skipped;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::harness::{LIMIT, eventually};

/// The names under which it is installed.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// Alone, without a screen, and without calls to anybody.
const FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
];

/// A browser. It ends with this.
pub struct Browser {
    _child: Child,
    _profile: TempDir,
    port: u16,
    http: reqwest::Client,
}

impl Browser {
    /// Starts a browser. `None` when there is none on this machine, unless `PEAL_REQUIRE_TOOLS` is 1.
    pub async fn start() -> Option<Self> {
        let Some(program) = find() else {
            skipped("pages in a browser: there is no Chromium on this machine");
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        let child = Command::new(program)
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let file = profile.path().join("DevToolsActivePort");
        let port = || std::fs::read_to_string(&file).ok()?.lines().next()?.parse::<u16>().ok();
        eventually("the browser listens", || async { port().is_some() }).await;
        let http = reqwest::Client::builder().timeout(LIMIT).no_proxy().build().unwrap();
        Some(Browser { _child: child, port: port().unwrap(), _profile: profile, http })
    }

    /// Opens a page.
    pub async fn open(&self, url: &str) -> Page {
        let address = format!("http://127.0.0.1:{}/json/new?{url}", self.port);
        let opened: Value = self.http.put(address).send().await.unwrap().json().await.unwrap();
        let (socket, _) =
            tokio_tungstenite::connect_async(opened["webSocketDebuggerUrl"].as_str().unwrap()).await.unwrap();
        let mut page = Page { socket, calls: 0, log: Vec::new() };
        page.call("Log.enable", json!({})).await;
        page.until(
            "the page is there",
            "document.readyState === 'complete' && location.href !== 'about:blank'",
        )
        .await;
        page
    }
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    NAMES
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|file| file.is_file())
}

/// A page that is open.
pub struct Page {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    calls: u64,
    /// What the browser complained about, such as violations of the page's policy.
    pub log: Vec<String>,
}

impl Page {
    /// Calls a method of the debugging protocol.
    pub async fn call(&mut self, method: &str, params: Value) -> Value {
        let answer = self.ask(method, params).await;
        answer.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    async fn ask(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        self.calls += 1;
        let call = json!({"id": self.calls, "method": method, "params": params});
        self.socket.send(Message::text(call.to_string())).await.unwrap();
        let answer = async {
            loop {
                let Message::Text(text) = self.socket.next().await.unwrap().unwrap() else { continue };
                let mut message: Value = serde_json::from_str(&text).unwrap();
                if message["id"] == self.calls {
                    return match message["error"].take() {
                        Value::Null => Ok(message["result"].take()),
                        error => Err(error),
                    };
                }
                if message["method"] == "Log.entryAdded" {
                    self.log.push(message["params"]["entry"]["text"].to_string());
                }
            }
        };
        tokio::time::timeout(LIMIT, answer).await.expect("the browser does not answer")
    }

    /// What an expression gives in the page.
    pub async fn evaluate(&mut self, expression: &str) -> Value {
        self.try_evaluate(expression).await.unwrap_or_else(|| panic!("{expression}: there is no document"))
    }

    /// What an expression gives in the page; `None` while one document has gone and the next has not come.
    async fn try_evaluate(&mut self, expression: &str) -> Option<Value> {
        let params = json!({"expression": expression, "returnByValue": true});
        let mut result = match self.ask("Runtime.evaluate", params).await {
            Ok(result) => result,
            Err(error) if error["message"] == "Cannot find default execution context" => return None,
            Err(error) => panic!("{expression}: {error}"),
        };
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        Some(result["result"]["value"].take())
    }

    /// Waits until an expression holds in the page.
    pub async fn until(&mut self, what: &str, expression: &str) {
        let waiting = async {
            let mut interval = tokio::time::interval(std::time::Duration::from_millis(20));
            while self.try_evaluate(expression).await != Some(Value::Bool(true)) {
                interval.tick().await;
            }
        };
        if tokio::time::timeout(LIMIT, waiting).await.is_err() {
            let dom = self.evaluate("document.documentElement.outerHTML").await;
            panic!("not within {LIMIT:?}: {what}\n{}", dom.as_str().unwrap_or_default());
        }
    }

    /// A picture of the whole page (PNG) at a width, light or dark. It is also written into the folder that
    /// `PEAL_SCREENSHOTS` names, if it is set.
    pub async fn picture(&mut self, name: &str, width: u32, scheme: &str) -> Vec<u8> {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features})).await;
        let size = json!({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size).await;
        let height = self.evaluate("document.documentElement.scrollHeight").await;
        let clip = json!({"x": 0, "y": 0, "width": width, "height": height, "scale": 1});
        let params = json!({"captureBeyondViewport": true, "clip": clip});
        let shot = self.call("Page.captureScreenshot", params).await;
        let picture = STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        if let Some(folder) = std::env::var_os("PEAL_SCREENSHOTS") {
            std::fs::write(PathBuf::from(folder).join(format!("{name}.png")), &picture).unwrap();
        }
        picture
    }
}
