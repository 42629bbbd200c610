//! Health and metrics of the dispatcher, over HTTP.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use metrics_exporter_prometheus::PrometheusHandle;
use peal_common::channel::Channel;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::channels::{Account, Providers};
use crate::context::Shared;

#[derive(Clone)]
struct Health {
    context: Shared,
    exporter: PrometheusHandle,
    stop: CancellationToken,
}

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
    let of = |channel| providers.of(channel).iter().map(move |account| (channel, account));
    Channel::ALL.into_iter().flat_map(of)
}

/// Serves `/livez`, `/readyz` and `/metrics` until `stop`.
pub async fn serve(
    listener: TcpListener,
    context: Shared,
    exporter: PrometheusHandle,
    stop: CancellationToken,
) {
    let health = Health { context, exporter, stop: stop.clone() };
    let routes = Router::new()
        .route("/livez", get(async || "ok"))
        .route("/readyz", get(ready))
        .route("/metrics", get(measured))
        .with_state(Arc::new(health));
    let served = axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "health can't be served");
    }
}

async fn measured(State(health): State<Arc<Health>>) -> String {
    crate::metrics::state_sequence(health.context.mirror.position());
    for (channel, account) in accounts(&health.context.providers.get()) {
        crate::metrics::circuit(channel, account.name(), account.opened().is_some());
    }
    health.exporter.render()
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
    let providers = health.context.providers.get();
    let accounts = accounts(&providers).map(|(channel, account)| AccountView::of(channel, account));
    (code, Json(Readiness { status, reasons, accounts: accounts.collect() }))
}
