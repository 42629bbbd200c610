//! What happens around every request: an id, a time limit, a net under panics, a span and metrics.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;
use http::{HeaderName, HeaderValue};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::problem::Problem;
use crate::metrics::Metric;

/// The header that carries the id of a request, in and out.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How long it may take until the head of an answer is ready. Streams go on beyond it.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// The longest id that is taken over from a client.
const MAX_ID_BYTES: usize = 64;

tokio::task_local! {
    static CURRENT: String;
}

/// The id of the request that is being handled; empty outside of requests.
#[must_use]
pub fn request_id() -> String {
    CURRENT.try_with(Clone::clone).unwrap_or_default()
}

/// Gives the request an id (a client's own is kept when it is plain), and sees to it that every request is answered in
/// time, whatever its handler does.
pub async fn observe(request: Request, next: Next) -> Response {
    let id = given_id(&request).unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    let method = request.method().clone();
    let span = tracing::info_span!("request", request.id = %id, http.method = %method, http.route = route);
    let header = HeaderValue::from_str(&id).ok();
    let started = Instant::now();

    let mut response = CURRENT.scope(id, handle(request, next)).instrument(span).await;
    if let Some(header) = header {
        response.headers_mut().insert(REQUEST_ID, header);
    }
    let labels = [
        ("method", method.as_str().to_owned()),
        ("route", route.to_owned()),
        ("status", response.status().as_str().to_owned()),
    ];
    metrics::counter!(Metric::HttpRequests.name(), &labels).increment(1);
    metrics::histogram!(Metric::HttpRequestSeconds.name(), "route" => route.to_owned())
        .record(started.elapsed().as_secs_f64());
    response
}

async fn handle(request: Request, next: Next) -> Response {
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
    match tokio::time::timeout(TIME_LIMIT, answer).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            // The panic's message is in the log already, from the panic hook.
            tracing::error!("a handler panicked");
            Problem::internal().into_response()
        }
        Err(_) => {
            tracing::warn!("a request reached its time limit");
            Problem::timed_out().into_response()
        }
    }
}

fn given_id(request: &Request) -> Option<String> {
    let given = request.headers().get(REQUEST_ID)?.to_str().ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let usable = !given.is_empty() && given.len() <= MAX_ID_BYTES && given.bytes().all(plain);
    usable.then(|| given.to_owned())
}
