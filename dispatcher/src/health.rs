//! Health and metrics of the dispatcher, over HTTP.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use futures_util::future::join_all;
use jiff::Timestamp;
use metrics_exporter_prometheus::PrometheusHandle;
use peal_common::channel::Channel;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::channels::{Account, CALL_LIMIT, Probe, Providers};
use crate::context::Shared;

struct Health {
    context: Shared,
    exporter: PrometheusHandle,
    stop: CancellationToken,
    probed: LastProbed,
}

/// How often providers are asked at most whether accounts work.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// What `/readyz` answers.
#[derive(Debug, Serialize)]
struct Readiness {
    status: &'static str,
    /// What is missing, in plain words.
    reasons: Vec<&'static str>,
    /// The accounts at providers. One that is out of order keeps its own channel waiting and nothing else.
    accounts: Vec<AccountView>,
}

/// How an account at a provider stands.
#[derive(Debug, Serialize)]
struct AccountView {
    channel: Channel,
    provider: Arc<str>,
    /// `closed` while it works, `open` while it is left alone.
    circuit: &'static str,
    /// What opened the circuit.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Since when it is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
}

impl AccountView {
    fn of(channel: Channel, account: &Account) -> Self {
        let (circuit, reason, since) = match account.opened() {
            Some(opened) => ("open", Some(opened.cause), Some(opened.since)),
            None => ("closed", None, None),
        };
        AccountView { channel, provider: Arc::clone(account.name()), circuit, reason, since }
    }
}

fn accounts(providers: &Providers) -> impl Iterator<Item = (Channel, &Account)> {
    let of = |channel| providers.of(channel).iter().map(move |account| (channel, &**account));
    Channel::ALL.into_iter().flat_map(of)
}

/// An account and what its provider says of it.
#[derive(Debug, Clone, Serialize)]
struct Probed {
    channel: Channel,
    provider: Arc<str>,
    #[serde(flatten)]
    probe: Probe,
}

/// What was found last, and when. Whoever asks meanwhile waits, so that nobody is asked more often than that.
type LastProbed = Mutex<Option<(Instant, Vec<Probed>)>>;

/// Asks all providers, unless they were just asked.
async fn probed(State(health): State<Arc<Health>>) -> Json<Vec<Probed>> {
    let mut last = health.probed.lock().await;
    if let Some((at, found)) = &*last
        && at.elapsed() < PROBE_INTERVAL
    {
        return Json(found.clone());
    }
    let providers = health.context.providers();
    let all = accounts(&providers).map(|(channel, account)| async move {
        let provider = Arc::clone(account.name());
        let probe = tokio::time::timeout(CALL_LIMIT, account.probe()).await;
        Probed { channel, provider, probe: probe.unwrap_or(Probe::Fails { reason: "timeout".to_owned() }) }
    });
    let found = join_all(all).await;
    *last = Some((Instant::now(), found.clone()));
    Json(found)
}

/// Serves `/livez`, `/readyz`, `/metrics` and `/accounts` until `stop`.
pub async fn serve(
    listener: TcpListener,
    context: Shared,
    exporter: PrometheusHandle,
    stop: CancellationToken,
) {
    let health = Health { context, exporter, stop: stop.clone(), probed: LastProbed::default() };
    let routes = Router::new()
        .route("/livez", get(async || "ok"))
        .route("/readyz", get(ready))
        .route("/metrics", get(measured))
        .route("/accounts", get(probed))
        .with_state(Arc::new(health));
    let served = axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "health can't be served");
    }
}

async fn measured(State(health): State<Arc<Health>>) -> String {
    crate::metrics::state_sequence(health.context.mirror.position());
    let providers = health.context.providers();
    let circuits = accounts(&providers)
        .map(|(channel, account)| (channel, &**account.name(), account.opened().is_some()));
    health.exporter.render() + &crate::metrics::circuits(circuits)
}

async fn ready(State(health): State<Arc<Health>>) -> (StatusCode, Json<Readiness>) {
    let mut reasons = Vec::new();
    if health.stop.is_cancelled() {
        reasons.push("the dispatcher is stopping");
    }
    if !health.context.connection.is_connected() {
        reasons.push("not connected to a NATS server");
    }
    if !health.context.mirror.is_ready() {
        reasons.push("the mirror of state is being filled");
    }
    let (code, status) = match reasons.is_empty() {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not_ready"),
    };
    let providers = health.context.providers();
    let accounts = accounts(&providers).map(|(channel, account)| AccountView::of(channel, account));
    (code, Json(Readiness { status, reasons, accounts: accounts.collect() }))
}
