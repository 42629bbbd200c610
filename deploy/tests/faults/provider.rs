//! The oracle: a webhook endpoint and a carrier of text messages that record every call and know nothing of Peal's own
//! bookkeeping.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use http::{HeaderMap, StatusCode};
use jiff::fmt::rfc2822::DateTimePrinter;
use peal_common::clock::Clock;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use url::form_urlencoded;

use crate::wait::now_ms;

/// What Twilio calls its messages, under its base URL.
const MESSAGES: &str = "/2010-04-01/Accounts/{account}/Messages.json";
/// How long it has a text message until it says so: long enough that some are in this state whenever a dispatcher is killed.
const CARRYING: Duration = Duration::from_millis(50);
/// What comes before the id in every text, as the load writes it.
const BEFORE_ID: &str = "Order ";

/// The calls of one delivery.
#[derive(Debug, Clone, Default)]
pub struct Calls {
    /// The notification that the body names.
    pub notification: String,
    /// When each call came, in milliseconds since the Unix epoch.
    pub at_ms: Vec<i64>,
}

/// A recording webhook endpoint, which also carries text messages as Twilio does. It ends when it is dropped.
pub struct Provider {
    base: String,
    url: String,
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    /// By delivery; of text messages, which do not name it, by notification.
    calls: Mutex<HashMap<String, Calls>>,
    /// The text messages that were taken, by number, the latest first.
    texts: Mutex<HashMap<String, Vec<Value>>>,
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
            texts: Mutex::default(),
            deliveries: watch::Sender::new(0),
            held: watch::Sender::new(false),
            slowness,
        });
        let router = Router::new()
            .route("/hook/{who}", post(take))
            .route(MESSAGES, post(carry).get(list))
            .with_state(Arc::clone(&shared));
        let listener = tokio::net::TcpListener::bind((address, 0)).await?;
        let base = format!("http://{}", listener.local_addr()?);
        let url = format!("{base}/hook");
        let task = tokio::spawn(async move { axum::serve(listener, router).await }).abort_handle();
        Ok(Provider { base, url, shared, task })
    }

    /// What webhook addresses begin with.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The settings with which text messages go to it.
    pub fn settings_of_texts(&self) -> String {
        format!(
            "[channels.sms.twilio]\naccount_sid = \"AC{:032}\"\nauth_token = \"t\"\nfrom = \"+14155550100\"\n\
             base_url = \"{}\"\n",
            1, self.base
        )
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

    /// All calls by delivery; those of text messages, which do not name it, by notification.
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

    fn texts(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<Value>>> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, delivery: &str, notification: &str) {
        let deliveries = {
            let mut calls = self.calls();
            let known = calls.entry(delivery.to_owned()).or_default();
            notification.clone_into(&mut known.notification);
            known.at_ms.push(now_ms());
            calls.len() as u64
        };
        self.deliveries.send_if_modified(|count| {
            let more = deliveries > *count;
            *count = deliveries.max(*count);
            more
        });
    }

    /// Waits until an answer may be given.
    async fn until_answered(&self) {
        if !self.slowness.is_zero() {
            tokio::time::sleep(self.slowness).await;
        }
        // The sender lives as long as the endpoint, so this only ends when answers may be given.
        let _ = self.held.subscribe().wait_for(|held| !held).await;
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
    shared.record(id, body.data.notification);
    shared.until_answered().await;
    StatusCode::NO_CONTENT
}

/// Takes a text message.
async fn carry(State(shared): State<Arc<Shared>>, form: Bytes) -> Response {
    let form: HashMap<_, _> = form_urlencoded::parse(&form).into_owned().collect();
    let (Some(to), Some(text)) = (form.get("To"), form.get("Body")) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let id = text.split_once(BEFORE_ID).and_then(|(_, rest)| rest.split_whitespace().next());
    let Some(id) = id else { return StatusCode::BAD_REQUEST.into_response() };
    shared.record(id, id);
    let message = {
        let mut texts = shared.texts();
        let of_number = texts.entry(to.clone()).or_default();
        let message = json!({
            "sid": format!("SM{}{:04}", to.trim_start_matches('+'), of_number.len()),
            "status": "queued", "error_code": null, "num_segments": "0", "to": to, "body": text,
            "date_created": DateTimePrinter::new().timestamp_to_string(&Clock::System.now()).ok(),
        });
        of_number.insert(0, message.clone());
        message
    };
    tokio::time::sleep(CARRYING).await;
    shared.until_answered().await;
    (StatusCode::CREATED, axum::Json(message)).into_response()
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Question {
    to: String,
}

/// Says which text messages to a number were taken.
async fn list(State(shared): State<Arc<Shared>>, Query(question): Query<Question>) -> Response {
    let messages = shared.texts().get(&question.to).cloned().unwrap_or_default();
    axum::Json(json!({ "messages": messages })).into_response()
}
