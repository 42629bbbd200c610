//! For orchestrators and scrapers: alive, ready, measured. Open to everybody who reaches the gateway; nothing here says
//! anything about anybody.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;

use crate::app::App;
use crate::health::Readiness;
use crate::http::problem::yes_or_no;
use crate::metrics::Metric;

/// The process answers.
#[utoipa::path(get, path = "/livez", tag = "operation", security(()), responses((status = 200, description = "alive", body = String)))]
pub async fn livez() -> &'static str {
    "ok"
}

/// Whether the gateway can do its work, and why not.
#[utoipa::path(get, path = "/readyz", tag = "operation", security(()), responses(
    (status = 200, description = "ready", body = Readiness),
    (status = 503, description = "not ready; the reasons say why", body = Readiness),
))]
pub async fn readyz(State(app): State<App>) -> Response {
    let readiness = app.health.readiness();
    yes_or_no(readiness.ready, readiness)
}

/// Metrics in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "operation", security(()), responses((status = 200, description = "metrics", body = String)))]
pub async fn metrics(State(app): State<App>) -> impl IntoResponse {
    metrics::gauge!(Metric::StateSequence.name()).set(app.mirror.position() as f64);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.metrics.render())
}
