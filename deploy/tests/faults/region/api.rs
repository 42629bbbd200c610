//! The gateway's HTTP API as a service uses it: one request, one answer, no retries of its own.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Client, Method};
use serde_json::Value;
use tokio::time::Instant;

/// How long a client waits for an answer: longer than the gateway promises to take, so that the promise is tested.
const ANSWER_LIMIT: Duration = Duration::from_secs(8);

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The header `Retry-After`.
    pub retry_after: Option<String>,
    /// The body; null when it is no JSON.
    pub body: Value,
    /// How long it took.
    pub took: Duration,
}

impl Answer {
    /// Whether it says that it can't be done now and when to come back.
    pub fn is_come_back(&self) -> bool {
        let seconds = self.retry_after.as_deref().and_then(|text| text.parse::<u64>().ok());
        self.status == 503 && seconds.is_some_and(|seconds| seconds > 0)
    }
}

/// One caller with one key.
#[derive(Debug, Clone)]
pub struct Api {
    http: Client,
    base: String,
    authorization: String,
}

impl Api {
    /// A caller of the gateway at `address` with the key `key` and its secret.
    pub fn new(address: SocketAddr, key: &str, secret: &str) -> anyhow::Result<Self> {
        let authorization = format!("Basic {}", STANDARD.encode(format!("{key}:{secret}")));
        Ok(Api { http: plain_client()?, base: format!("http://{address}"), authorization })
    }

    /// Asks for something.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.call(Method::GET, path, None).await
    }

    /// Sends something.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// Puts something and expects it to be taken.
    ///
    /// # Errors
    /// When there is no answer or it is a refusal.
    pub async fn put(&self, path: &str, body: &Value) -> anyhow::Result<()> {
        let answer = self.send_put(path, body).await?;
        anyhow::ensure!((200..300).contains(&answer.status), "PUT {path} was refused: {answer:?}");
        Ok(())
    }

    /// Puts something.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn send_put(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.call(Method::PUT, path, Some(body)).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let started = Instant::now();
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        request = request.header("authorization", &self.authorization);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let retry_after =
            response.headers().get("retry-after").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = response.bytes().await?;
        let took = started.elapsed();
        Ok(Answer { status, retry_after, body: serde_json::from_slice(&body).unwrap_or_default(), took })
    }
}

/// A client that trusts this machine's loopback and nothing else.
pub fn plain_client() -> anyhow::Result<Client> {
    // The client wants a TLS provider even when it never speaks TLS; a second installation changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(Client::builder().timeout(ANSWER_LIMIT).no_proxy().build()?)
}
