//! Health and metrics of the dispatcher, over HTTP.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

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
    (code, Json(Readiness { status, reasons }))
}
