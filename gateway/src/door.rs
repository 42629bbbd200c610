//! The door over NATS, for services that already hold a connection: a micro service whose requests take the same way
//! as those over HTTP, with the same checks and the same answers.
//!
//! A request to `peal.<region>.api.notifications` carries the same JSON as `POST /v1/notifications`, and the same
//! `Authorization` and `Idempotency-Key` as headers; a signature is made over the HTTP method and path. `…api.batch`
//! stands for `POST /v1/notifications/batch`. `…api.region` tells other regions how this one stands, and `…api.receipts` takes
//! what providers reported there of this region's deliveries; `…api.again` has a record written again that got lost on its
//! way to another region, and `…api.standing` tells dispatchers how a notification stands. A refusal has the micro service error headers, with the status
//! as code, and the problem as body.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request as HttpRequest};
use peal_nats::Connection;
use peal_nats::service::{Description, Refusal, Request, Service};
use peal_nats::{fallback, missed};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::app::App;
use crate::callbacks::take;
use crate::http::json::BATCH_PATH;
use crate::{regions, standing};

/// The path of a single notification over HTTP.
const SINGLE_PATH: &str = "/v1/notifications";
/// Requests of one kind that are handled at once.
const CONCURRENT: usize = 1_024;
/// The largest answer: a batch of a thousand results, each with an error of its own.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;
/// Headers that mean the same over NATS and over HTTP.
const HEADERS: [&str; 2] = ["authorization", "idempotency-key"];
/// The pause before registering is tried again.
const PAUSE: Duration = Duration::from_secs(2);

/// Answers requests over NATS until `stop`; registers again when NATS was not there.
pub async fn serve(app: App, router: Router, stop: CancellationToken) {
    while !stop.is_cancelled() {
        match Service::register(&app.connection, &description(&app.connection)).await {
            Ok(service) => {
                answer(&service, &app, &router, &stop).await;
                service.stop().await;
            }
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "the door over NATS is not open yet"
                );
            }
        }
        if stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
            return;
        }
    }
}

fn description(connection: &Connection) -> Description {
    Description {
        name: "peal-gateway",
        version: env!("CARGO_PKG_VERSION"),
        description: "Takes notifications and keeps what they need",
        metadata: HashMap::from([("region".to_owned(), connection.region.to_string())]),
    }
}

async fn answer(service: &Service, app: &App, router: &Router, stop: &CancellationToken) {
    let subjects = &app.subjects;
    let endpoint = async |name: &str, path: &'static str| {
        let handle = |request: Request| {
            let router = router.clone();
            async move { request.answer(pass_on(router, path, &request).await).await }
        };
        service.serve(name, &subjects.api(name), CONCURRENT, stop, handle).await
    };
    let regions = Arc::clone(&app.regions);
    let tell = |request: Request| {
        let regions = Arc::clone(&regions);
        async move { request.answer(Ok(regions.told().await)).await }
    };
    let take = |request: Request| {
        let app = app.clone();
        async move { request.answer(take::handed_over(&app, request.payload()).await).await }
    };
    let miss = |request: Request| {
        let app = app.clone();
        async move { request.answer(missed::asked(&app.connection, &app.clock, request.payload()).await).await }
    };
    let stands = |request: Request| {
        let app = app.clone();
        async move { request.answer(standing::asked(&app, request.payload()).await).await }
    };
    let standing_subject = subjects.api(fallback::DOOR);
    let (status_subject, receipts_subject) = (subjects.api(regions::DOOR), subjects.api(take::DOOR));
    let missed_subject = subjects.api(missed::DOOR);
    let (single, batch, status, receipts, missed, standing) = tokio::join!(
        endpoint("notifications", SINGLE_PATH),
        endpoint("batch", BATCH_PATH),
        service.serve(regions::DOOR, &status_subject, CONCURRENT, stop, tell),
        service.serve(take::DOOR, &receipts_subject, CONCURRENT, stop, take),
        service.serve(missed::DOOR, &missed_subject, CONCURRENT, stop, miss),
        service.serve(fallback::DOOR, &standing_subject, CONCURRENT, stop, stands),
    );
    for ended in [single, batch, status, receipts, missed, standing] {
        if let Err(error) = ended {
            tracing::warn!(error = &error as &dyn std::error::Error, "the door over NATS was closed");
        }
    }
}

/// Hands a request to the HTTP routes and translates the answer.
async fn pass_on(router: Router, path: &str, request: &Request) -> Result<Bytes, Refusal> {
    let mut http = HttpRequest::new(Body::from(request.payload().clone()));
    *http.method_mut() = Method::POST;
    *http.uri_mut() = path.parse().map_err(|_| internal())?;
    http.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for name in HEADERS {
        // Clients write header names in the case that they like.
        let given = request.header(name).or_else(|| request.header(&title_case(name)));
        if let Some(value) = given.and_then(|value| HeaderValue::from_str(value).ok()) {
            http.headers_mut().insert(name, value);
        }
    }
    let response = router.oneshot(http).await.map_err(|never| match never {})?;
    let status = response.status();
    let body = to_bytes(response.into_body(), MAX_ANSWER_BYTES).await.map_err(|_| internal())?;
    if status.is_success() {
        return Ok(body);
    }
    Err(Refusal {
        code: status.as_u16(),
        title: status.canonical_reason().unwrap_or("refused").to_owned(),
        body,
    })
}

fn internal() -> Refusal {
    Refusal { code: 500, title: "Internal Server Error".to_owned(), body: Bytes::new() }
}

/// `idempotency-key` as `Idempotency-Key`.
fn title_case(name: &str) -> String {
    let mut upper = true;
    name.chars()
        .map(|c| {
            let cased = if upper { c.to_ascii_uppercase() } else { c };
            upper = c == '-';
            cased
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_names_are_found_in_either_case() {
        assert_eq!(title_case("idempotency-key"), "Idempotency-Key");
        assert_eq!(title_case("authorization"), "Authorization");
    }
}
