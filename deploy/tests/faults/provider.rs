//! The oracle: a webhook endpoint that records every call and knows nothing of Peal's own bookkeeping.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::wait::now_ms;

/// The calls of one delivery.
#[derive(Debug, Clone, Default)]
pub struct Calls {
    /// The notification that the body names.
    pub notification: String,
    /// When each call came, in milliseconds since the Unix epoch.
    pub at_ms: Vec<i64>,
}

/// A recording webhook endpoint. It ends when it is dropped.
pub struct Provider {
    url: String,
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    calls: Mutex<HashMap<String, Calls>>,
    deliveries: watch::Sender<u64>,
    held: watch::Sender<bool>,
    slowness: Duration,
}

impl Provider {
    /// An endpoint that answers at once.
    pub async fn start() -> anyhow::Result<Self> {
        Provider::new(Ipv4Addr::LOCALHOST, Duration::ZERO).await
    }

    /// An endpoint that other hosts can reach.
    pub async fn at(address: Ipv4Addr) -> anyhow::Result<Self> {
        Provider::new(address, Duration::ZERO).await
    }

    /// An endpoint that takes its time for each answer.
    pub async fn slow(slowness: Duration) -> anyhow::Result<Self> {
        Provider::new(Ipv4Addr::LOCALHOST, slowness).await
    }

    async fn new(address: Ipv4Addr, slowness: Duration) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            calls: Mutex::default(),
            deliveries: watch::Sender::new(0),
            held: watch::Sender::new(false),
            slowness,
        });
        let router = Router::new().route("/hook/{who}", post(take)).with_state(Arc::clone(&shared));
        let listener = tokio::net::TcpListener::bind((address, 0)).await?;
        let url = format!("http://{}/hook", listener.local_addr()?);
        let task = tokio::spawn(async move { axum::serve(listener, router).await }).abort_handle();
        Ok(Provider { url, shared, task })
    }

    /// What webhook addresses begin with.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Keeps all answers back from now on; calls are recorded all the same.
    pub fn hold(&self) {
        self.shared.held.send_replace(true);
    }

    /// Gives the answers that were kept back, and answers at once from now on.
    pub fn release(&self) {
        self.shared.held.send_replace(false);
    }

    /// How many different deliveries have come; changes can be waited for.
    pub fn deliveries(&self) -> watch::Receiver<u64> {
        self.shared.deliveries.subscribe()
    }

    /// All calls by delivery.
    pub fn calls(&self) -> HashMap<String, Calls> {
        self.shared.calls().clone()
    }

    /// How many calls have come, repetitions included.
    pub fn total(&self) -> usize {
        self.shared.calls().values().map(|calls| calls.at_ms.len()).sum()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn calls(&self) -> std::sync::MutexGuard<'_, HashMap<String, Calls>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of a webhook's body that says what it is about.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    data: Data<'a>,
}

#[derive(Deserialize)]
struct Data<'a> {
    notification: &'a str,
}

async fn take(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let id = headers.get("webhook-id").and_then(|value| value.to_str().ok());
    let (Some(id), Ok(body)) = (id, serde_json::from_slice::<Body<'_>>(&body)) else {
        return StatusCode::BAD_REQUEST;
    };
    let deliveries = {
        let mut calls = shared.calls();
        let known = calls.entry(id.to_owned()).or_default();
        body.data.notification.clone_into(&mut known.notification);
        known.at_ms.push(now_ms());
        calls.len() as u64
    };
    shared.deliveries.send_if_modified(|count| {
        let more = deliveries > *count;
        *count = deliveries.max(*count);
        more
    });
    if !shared.slowness.is_zero() {
        tokio::time::sleep(shared.slowness).await;
    }
    // The sender lives as long as the endpoint, so this only ends when answers may be given.
    let _ = shared.held.subscribe().wait_for(|held| !held).await;
    StatusCode::NO_CONTENT
}
