//! A nats-server with the topology applied, a gateway on a free port, keys, and a client that speaks JSON.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use peal_common::channel::Channel;
use peal_common::clock::{Clock, HybridClock, Stamp};
use peal_common::envelope::Envelope;
use peal_common::key::{Grant, Scope};
use peal_common::recipient::Recipient;
use peal_common::seal::Sealer;
use peal_common::settings::Settings;
use peal_common::state::{Kind, Record, RecordKey};
use peal_common::suppression::{self, Suppression};
use peal_nats::connect::{self, Connection, Options};
use peal_nats::keys::Keys;
use peal_nats::mirror::{Keeps, Mirror};
use peal_nats::publish::Outgoing;
use peal_nats::server::{Server, ServerConfig};
use peal_nats::state::{StateWriter, WriteError};
use peal_nats::topology::{self, Current, Topology};
use peal_nats::{Region, Subjects};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long anything that is waited for may take.
pub const LIMIT: Duration = Duration::from_secs(20);
/// The app of most keys.
pub const APP: &str = "shop";

/// The region of the tests.
pub fn region() -> Region {
    "test-1".parse().unwrap()
}

/// A server and a gateway. Both end with it.
pub struct Harness {
    /// The server; it may be killed, paused and started again.
    pub server: Server,
    /// A connection of the test's own.
    pub connection: Connection,
    /// The gateway's address, without a path.
    pub url: String,
    /// What the gateway was started with.
    pub settings: Settings,
    /// The gateway's clock.
    pub clock: Clock,
    /// Opens what the gateway sealed.
    pub sealer: Arc<Sealer>,
    /// Subjects of the region.
    pub subjects: Subjects,
    /// Writes state past the gateway.
    pub writer: StateWriter,
    /// Holds the server's folder (`nats`) and the gateway's (`gateway`).
    pub folder: TempDir,
    keys: Keys,
    http: reqwest::Client,
    running: Option<Running>,
    another: Option<Running>,
}

struct Running {
    stop: CancellationToken,
    reload: mpsc::Sender<Settings>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Harness {
    /// Starts everything and waits until the gateway is ready.
    pub async fn start() -> Self {
        Harness::start_with("", Clock::System).await
    }

    /// Starts everything with more settings (TOML) and a clock, and waits until the gateway is ready.
    pub async fn start_with(settings: &str, clock: Clock) -> Self {
        let mut harness = Harness::prepare(settings, clock).await;
        harness.start_gateway().await;
        harness.ready().await;
        harness
    }

    /// Starts everything but the gateway.
    pub async fn prepare(more: &str, clock: Clock) -> Self {
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(ServerConfig::new(region(), folder.path().join("nats"))).await.unwrap();
        let connection = connect::connect(&Options::new([server.url()], region(), "test")).await.unwrap();
        apply_topology(&connection).await;

        let region_key = Sealer::generate_key(&mut StdRng::seed_from_u64(7));
        let data = folder.path().join("gateway");
        let variables = HashMap::from([
            ("PEAL__REGION__NAME".to_owned(), region().to_string()),
            ("PEAL__REGION__KEY".to_owned(), region_key.clone()),
            ("PEAL__NATS__URLS".to_owned(), server.url()),
            ("PEAL__GATEWAY__DATA_DIR".to_owned(), data.to_string_lossy().into_owned()),
        ]);
        let settings = Settings::parse(Some(more), variables).unwrap();
        let sealer = Arc::new(Sealer::from_base64(&region_key).unwrap());
        // Its task does not run, so it is never ready and the writer asks JetStream.
        let hybrid = Arc::new(HybridClock::new(Clock::System, region().as_str().parse().unwrap()));
        let unused = folder.path().join("unused.redb");
        let (mirror, _) =
            Mirror::new(connection.clone(), unused, Keeps::Records, Clock::System, Arc::clone(&hybrid));
        let writer = StateWriter::new(connection.clone(), mirror, hybrid);
        Harness {
            url: String::new(),
            keys: Keys::new(writer.clone(), Arc::clone(&sealer)),
            subjects: Subjects::new(&region()),
            http: reqwest::Client::builder().timeout(LIMIT).no_proxy().build().unwrap(),
            running: None,
            another: None,
            server,
            connection,
            settings,
            clock,
            sealer,
            writer,
            folder,
        }
    }

    /// Starts the gateway, on a new port.
    pub async fn start_gateway(&mut self) {
        let (url, running) = start(self.settings.clone(), self.clock.clone()).await;
        self.url = url;
        self.running = Some(running);
    }

    /// Starts another gateway of the region, with a folder of its own. Gives its address.
    pub async fn start_another(&mut self) -> String {
        let mut settings = self.settings.clone();
        settings.gateway.data_dir = self.folder.path().join("another");
        let (url, running) = start(settings, self.clock.clone()).await;
        self.another = Some(running);
        url
    }

    /// Has the gateway take over settings (TOML) as it would after SIGHUP.
    pub async fn reload(&self, more: &str) {
        let variables = HashMap::from([("PEAL__REGION__NAME".to_owned(), region().to_string())]);
        let settings = Settings::parse(Some(more), variables).unwrap();
        self.running.as_ref().unwrap().reload.send(settings).await.unwrap();
    }

    /// Stops the gateway softly and checks that all was well with it until then.
    pub async fn stop_gateway(&mut self) {
        let running = self.running.take().unwrap();
        running.stop.cancel();
        tokio::time::timeout(LIMIT, running.task).await.expect("the gateway did not stop").unwrap().unwrap();
    }

    /// Waits until the gateway is ready.
    pub async fn ready(&self) {
        eventually("the gateway is ready", || async { self.readyz().await.status == 200 }).await;
    }

    /// What `/readyz` says.
    pub async fn readyz(&self) -> Answer {
        self.anonymous().get("/readyz").await
    }

    /// A key of [`APP`] that the gateway knows.
    pub async fn key(&self, scopes: &[Scope]) -> Credentials {
        self.key_with(APP, scopes, |_| {}).await
    }

    /// A key of another app that the gateway knows.
    pub async fn key_of(&self, app: &str, scopes: &[Scope]) -> Credentials {
        self.key_with(app, scopes, |_| {}).await
    }

    /// A key whose grant is adapted; waits until the gateway's mirror has it, if the gateway runs.
    pub async fn key_with(&self, app: &str, scopes: &[Scope], adapt: impl FnOnce(&mut Grant)) -> Credentials {
        let mut grant = Grant {
            app: app.parse().unwrap(),
            name: "test".to_owned(),
            scopes: scopes.to_vec(),
            created_at: self.clock.now(),
            expires_at: None,
            rate_limit_per_second: None,
        };
        adapt(&mut grant);
        let expired = grant.expires_at.is_some();
        let made = self.keys.create(grant, &mut rand::make_rng::<StdRng>()).await.unwrap();
        let credentials = Credentials { key: made.key.key.to_string(), secret: made.secret.to_string() };
        if self.running.is_some() && !expired {
            let client = self.client(&credentials);
            eventually("the gateway knows the key", || async { client.get("/v1/keys").await.status != 401 })
                .await;
        }
        credentials
    }

    /// A key for everything, and a client with it.
    pub async fn admin(&self) -> Client {
        self.client(&self.key(&[Scope::Admin]).await)
    }

    /// A client with a key.
    pub fn client(&self, credentials: &Credentials) -> Client {
        Client { http: self.http.clone(), url: self.url.clone(), credentials: Some(credentials.clone()) }
    }

    /// A client without a key.
    pub fn anonymous(&self) -> Client {
        Client { http: self.http.clone(), url: self.url.clone(), credentials: None }
    }

    /// A recipient of [`APP`] as the streams have it.
    pub async fn recipient(&self, id: &str) -> Recipient {
        let key = RecordKey::new(Kind::Recipient, &APP.parse().unwrap(), id);
        let written =
            self.writer.update(&key, |_: &mut Record, _: &Stamp| Ok::<_, WriteError>(())).await.unwrap();
        Recipient::open(&written.record, &key, &self.sealer).unwrap().unwrap()
    }

    /// Suppresses an address of [`APP`], as a dispatcher does.
    pub async fn suppress(&self, channel: Channel, address: &str, suppression: &Suppression) {
        let app = APP.parse().unwrap();
        let index = self.sealer.blind_index(&app, channel, address);
        let change = |record: &mut Record, stamp: &Stamp| {
            suppression.write(record, stamp);
            Ok::<_, WriteError>(())
        };
        self.writer.update(&suppression::key(&app, channel, &index, false), change).await.unwrap();
    }

    /// Publishes an envelope.
    pub async fn publish(&self, subject: String, envelope: &impl Envelope) -> u64 {
        let outgoing = Outgoing::new(subject, envelope.encode().unwrap());
        self.connection.publish(outgoing).await.unwrap().sequence
    }

    /// The gateway's address for a raw connection.
    pub fn address(&self) -> SocketAddr {
        self.url.trim_start_matches("http://").parse().unwrap()
    }

    /// The files below the harness's folder that contain `needle`.
    pub fn files_with(&self, needle: &str) -> Vec<String> {
        let mut found = Vec::new();
        search(self.folder.path(), needle.as_bytes(), &mut found);
        found
    }
}

async fn start(settings: Settings, clock: Clock) -> (String, Running) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let (reload, reloads) = mpsc::channel(1);
    let gateway = peal_gateway::run_on(listener, settings, clock, reloads, stop.clone());
    (url, Running { stop, reload, task: tokio::spawn(gateway) })
}

impl Drop for Harness {
    fn drop(&mut self) {
        for running in self.running.take().into_iter().chain(self.another.take()) {
            // A gateway that has ended by itself is a failure that a test must not miss.
            let ended = running.task.is_finished();
            running.stop.cancel();
            running.task.abort();
            assert!(!ended || std::thread::panicking(), "the gateway ended by itself");
        }
    }
}

fn search(folder: &Path, needle: &[u8], found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            search(&path, needle, found);
        } else if std::fs::read(&path)
            .is_ok_and(|bytes| bytes.windows(needle.len()).any(|window| window == needle))
        {
            found.push(path.display().to_string());
        }
    }
}

/// Makes streams and consumers as they are on a laptop.
pub async fn apply_topology(connection: &Connection) {
    let topology = Topology::for_region(&region(), &topology::Options::laptop());
    let current = Current::read(&connection.jetstream, &topology).await.unwrap();
    topology::apply(&connection.jetstream, &topology::plan(&current, &topology), false).await.unwrap();
}

/// Waits until `condition` holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let poll = async {
        let mut interval = tokio::time::interval(Duration::from_millis(10));
        loop {
            interval.tick().await;
            if condition().await {
                break;
            }
        }
    };
    assert!(tokio::time::timeout(LIMIT, poll).await.is_ok(), "not within {LIMIT:?}: {what}");
}

/// A key and its secret.
#[derive(Debug, Clone)]
pub struct Credentials {
    pub key: String,
    pub secret: String,
}

impl Credentials {
    /// The header of Basic authentication.
    pub fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.key, self.secret)))
    }

    /// The header of a signed request.
    pub fn signed(
        &self,
        method: &str,
        path_and_query: &str,
        body: &[u8],
        timestamp: i64,
        nonce: &str,
    ) -> String {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let text = peal_gateway::http::auth::canonical(method, path, query, body, timestamp, nonce);
        let signature = peal_gateway::http::auth::sign(&self.secret, &text);
        format!("PEAL-HMAC-SHA256 key={},timestamp={timestamp},nonce={nonce},signature={signature}", self.key)
    }
}

/// Calls the gateway.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    credentials: Option<Credentials>,
}

impl Client {
    /// The same at another gateway.
    pub fn at(&self, url: &str) -> Self {
        Client { url: url.to_owned(), ..self.clone() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.call(Method::PUT, path, Some(body)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, None).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        Answer::of(request).await
    }

    /// A request with the client's credentials, to be changed as a test needs it.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.credentials {
            Some(credentials) => request.header("authorization", credentials.basic()),
            None => request,
        }
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Answer {
    /// Sends a request.
    pub async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        Answer { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::Null), text }
    }

    /// A header, empty when it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks that it is a problem of this status and code, in the form of all problems; returns it.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> &Value {
        assert_eq!((self.status, self.body["code"].as_str()), (status, Some(code)), "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.body["status"], status);
        assert_eq!(self.body["type"], format!("urn:peal:problem:{code}"));
        assert!(!self.body["title"].as_str().unwrap().is_empty());
        assert!(!self.body["detail"].as_str().unwrap().is_empty());
        assert_eq!(self.body["request_id"], self.header("x-request-id"));
        &self.body
    }

    /// Checks that it says that exactly this field is wrong.
    #[track_caller]
    pub fn field(&self, field: &str, code: &str) {
        let errors = self.problem(422, "invalid")["errors"].as_array().unwrap();
        let found: Vec<_> =
            errors.iter().map(|error| (error["field"].as_str(), error["code"].as_str())).collect();
        assert_eq!(found, [(Some(field), Some(code))], "{}", self.text);
    }

    /// Checks the status; returns the body.
    #[track_caller]
    pub fn ok(&self, status: u16) -> &Value {
        assert_eq!(self.status, status, "{}", self.text);
        &self.body
    }
}
