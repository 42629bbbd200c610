//! Answers that are no success, as `application/problem+json` (RFC 9457), and the few successes that are not plain 200.
//!
//! This is the one file of the gateway that knows HTTP status codes. Callers say what is wrong; clients get a stable
//! code and a sentence; what went wrong inside goes to the log, here, once.
//!
//! Which mistake gets which status: what is no JSON text at all (or holds characters that no text may hold) is
//! `400`; JSON that does not fit what the route takes is `422` with one entry per field. Query strings and ids in
//! paths are fields too.

use std::borrow::Cow;
use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{self, HeaderName};
use http::{HeaderValue, StatusCode};
use peal_common::key::Scope;
use peal_common::problem::FieldError;
use peal_common::seal::SealError;
use peal_nats::catalog::CatalogError;
use peal_nats::follow::StateError;
use peal_nats::keys::KeyError;
use peal_nats::mirror::NotReady;
use peal_nats::publish::PublishError;
use peal_nats::remove::RemoveError;
use peal_nats::state::WriteError;
use serde::Serialize;
use utoipa::ToSchema;

use super::request::request_id;

use crate::accept::Refusal;

/// When a client should come back after an answer that is nobody's fault: long enough for a leader to be elected.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The body of every answer that is no success (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct ProblemBody {
    /// `urn:peal:problem:` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// What the status means.
    title: &'static str,
    /// The status.
    status: u16,
    /// A sentence for people. It never repeats what was sent.
    #[schema(value_type = String)]
    detail: Cow<'static, str>,
    /// A stable word for programs.
    code: &'static str,
    /// The request, as it stands in the gateway's log and in the header `x-request-id`.
    request_id: String,
    /// What is wrong with which field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

/// An answer that is no success.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Problem { status, code, detail: detail.into(), errors: Vec::new(), headers: Vec::new() }
    }

    fn header(mut self, name: HeaderName, value: impl TryInto<HeaderValue>) -> Self {
        if let Ok(value) = value.try_into() {
            self.headers.push((name, value));
        }
        self
    }

    fn retry_after(self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.header(header::RETRY_AFTER, seconds.max(1).to_string())
    }

    /// The stable word.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.code
    }

    /// The sentence.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// What is wrong with which field.
    #[must_use]
    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    /// No credentials, or none that work. Unknown, expired and revoked keys and wrong secrets all read the same.
    #[must_use]
    pub fn unauthorized() -> Self {
        Problem::unauthorized_because("unauthorized", "the key or its secret is not valid")
    }

    /// A signed request whose signature can't count, though its maker may be entitled.
    #[must_use]
    pub fn unauthorized_because(code: &'static str, detail: &'static str) -> Self {
        Problem::new(StatusCode::UNAUTHORIZED, code, detail)
            .header(header::WWW_AUTHENTICATE, "Basic realm=\"peal\", charset=\"UTF-8\"")
            .header(header::WWW_AUTHENTICATE, "PEAL-HMAC-SHA256")
    }

    /// The key is not for this.
    #[must_use]
    pub fn forbidden(scope: Scope) -> Self {
        let detail = format!("this needs a key with the scope `{}`", scope.as_str());
        Problem::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// This gateway is the hub's.
    #[must_use]
    pub fn only_in_regions() -> Self {
        let detail = "this is the hub, which only looks at what all regions did; ask a gateway of a region";
        Problem::new(StatusCode::FORBIDDEN, "only_in_regions", detail)
    }

    /// No such object in the caller's app.
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Problem::new(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}"))
    }

    /// No such route.
    #[must_use]
    pub fn no_route() -> Self {
        Problem::new(StatusCode::NOT_FOUND, "no_route", "there is nothing at this path; see /docs")
    }

    /// The request names a host that this gateway does not answer for here.
    #[must_use]
    pub fn foreign_host() -> Self {
        let detail = "without a key the console answers at localhost, 127.0.0.1 and [::1] only; \
                      set gateway.console_requires_key = true to open it at other names";
        Problem::new(StatusCode::MISDIRECTED_REQUEST, "foreign_host", detail)
    }

    /// The route has no such method; the answer's `Allow` names those it has.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        let detail = "this path does not take this method; the header `Allow` names those it takes";
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
    }

    /// The object's present condition does not allow it.
    #[must_use]
    pub fn conflict(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Problem::new(StatusCode::CONFLICT, code, detail)
    }

    /// Another request with the same notification id has not been answered yet.
    #[must_use]
    pub fn in_flight() -> Self {
        let detail = "a request with this id is still being handled; repeat it in a moment";
        Problem::conflict("in_flight", detail).retry_after(Duration::from_secs(1))
    }

    /// The notification id was used for another body.
    #[must_use]
    pub fn id_reused() -> Self {
        let detail = "this id was used for a notification with another content; repeat the same content or take a new id";
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "id_reused", detail)
    }

    /// The body is too large.
    #[must_use]
    pub fn too_large(limit: usize) -> Self {
        let detail = format!("the body may have at most {} KiB", limit / 1024);
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    }

    /// The body is not declared to be JSON.
    #[must_use]
    pub fn not_json() -> Self {
        let detail = "send JSON and the header `Content-Type: application/json`";
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", detail)
    }

    /// The body is no JSON text, or holds what no text may hold.
    #[must_use]
    pub fn malformed(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// Fields are wrong.
    #[must_use]
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = "some fields are not valid; see `errors`";
        Problem { errors, ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail) }
    }

    /// One field is wrong.
    #[must_use]
    pub fn invalid_field(field: &str, code: &str, detail: impl Into<String>) -> Self {
        Problem::invalid(vec![FieldError::new(field, code, detail)])
    }

    /// The key has made too many requests; `wait` says when the next one will pass.
    #[must_use]
    pub fn rate_limited(wait: Duration) -> Self {
        let detail = "this key has made too many requests; see the header `Retry-After`";
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail).retry_after(wait)
    }

    /// The key uses up something that is counted other than by requests a second.
    #[must_use]
    pub fn too_many(code: &'static str, detail: &'static str, wait: Duration) -> Self {
        Problem::new(StatusCode::TOO_MANY_REQUESTS, code, detail).retry_after(wait)
    }

    /// Something that the gateway stands on does not answer. Nothing is known to be done; the same request may be
    /// repeated.
    #[must_use]
    pub fn unavailable(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(RETRY_AFTER)
    }

    /// It fits the gateway and not the servers behind it.
    #[must_use]
    pub fn message_too_large() -> Self {
        let detail = "the message is larger than the NATS server takes";
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    }

    /// The request took longer than requests may.
    #[must_use]
    pub fn timed_out() -> Self {
        Problem::unavailable("timed_out", "the request took too long; it may be repeated")
    }

    /// A mistake of ours. The cause belongs in the log.
    #[must_use]
    pub fn internal() -> Self {
        let detail = "something went wrong inside; the request id helps to find it in the log";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    fn log_unavailable(error: &(dyn std::error::Error + 'static)) {
        tracing::warn!(error, "a request could not be served");
    }

    fn log_internal(error: &(dyn std::error::Error + 'static)) {
        tracing::error!(error, "a request failed inside");
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = ProblemBody {
            kind: format!("urn:peal:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            detail: self.detail,
            code: self.code,
            request_id: request_id(),
            errors: self.errors,
        };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        for (name, value) in self.headers {
            headers.append(name, value);
        }
        response
    }
}

impl From<Vec<FieldError>> for Problem {
    fn from(errors: Vec<FieldError>) -> Self {
        Problem::invalid(errors)
    }
}

impl From<NotReady> for Problem {
    fn from(error: NotReady) -> Self {
        Problem::log_unavailable(&error);
        Problem::unavailable("not_ready", "this gateway is still reading its state; try again in a moment")
    }
}

impl From<crate::readmodel::NotReady> for Problem {
    fn from(error: crate::readmodel::NotReady) -> Self {
        Problem::log_unavailable(&error);
        Problem::unavailable(
            "not_ready",
            "this gateway is still reading what happened; try again in a moment",
        )
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(errors) => Problem::invalid(errors),
            Refusal::IdReused => Problem::id_reused(),
            Refusal::InFlight => Problem::in_flight(),
            Refusal::TooLarge => Problem::message_too_large(),
            Refusal::Unavailable { reason, .. } => {
                Problem::log_unavailable(&refusal);
                Problem::unavailable(
                    "unavailable",
                    format!("not accepted: {reason}; repeat it with the same id"),
                )
            }
        }
    }
}

impl From<CatalogError> for Problem {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::NotReady(error) => error.into(),
            CatalogError::Sealed(_) | CatalogError::Damaged(_) => {
                Problem::log_internal(&error);
                Problem::internal()
            }
        }
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Unavailable { reason, .. } => {
                Problem::log_unavailable(&error);
                Problem::unavailable("jetstream_unavailable", format!("not stored: {reason}"))
            }
            PublishError::Conflict => {
                Problem::log_unavailable(&error);
                Problem::unavailable("contended", "somebody else changed it at the same time; try again")
            }
            PublishError::TooLarge => Problem::message_too_large(),
        }
    }
}

impl From<StateError> for Problem {
    fn from(error: StateError) -> Self {
        Problem::log_unavailable(&error);
        Problem::unavailable("jetstream_unavailable", "JetStream does not answer")
    }
}

impl From<RemoveError> for Problem {
    fn from(error: RemoveError) -> Self {
        Problem::log_unavailable(&error);
        Problem::unavailable("jetstream_unavailable", "JetStream does not answer")
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Publish(error) => error.into(),
            WriteError::Read(error) => error.into(),
            WriteError::Contended => {
                Problem::unavailable("contended", "too many change this at the same time; try again")
            }
            WriteError::Encode(_) => {
                Problem::log_internal(&error);
                Problem::internal()
            }
        }
    }
}

impl From<SealError> for Problem {
    fn from(error: SealError) -> Self {
        Problem::log_internal(&error);
        Problem::internal()
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Unknown => Problem::not_found("key"),
            KeyError::Revoked => Problem::conflict("revoked", "the key has been revoked; make a new one"),
            KeyError::Write(error) => error.into(),
            KeyError::Seal(error) => error.into(),
        }
    }
}

/// The object is new.
#[derive(Debug)]
pub struct Created<T>(pub T);

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        (StatusCode::CREATED, Json(self.0)).into_response()
    }
}

/// The object is new, or was there before.
#[derive(Debug)]
pub enum Put<T> {
    /// It is new.
    New(T),
    /// It was there before.
    Changed(T),
}

impl<T: Serialize> IntoResponse for Put<T> {
    fn into_response(self) -> Response {
        match self {
            Put::New(body) => Created(body).into_response(),
            Put::Changed(body) => Json(body).into_response(),
        }
    }
}

/// Taken over, to be done later.
#[derive(Debug)]
pub struct Accepted<T>(pub T);

impl<T: Serialize> IntoResponse for Accepted<T> {
    fn into_response(self) -> Response {
        (StatusCode::ACCEPTED, Json(self.0)).into_response()
    }
}

/// Done, and there is nothing to say.
#[derive(Debug)]
pub struct NoContent;

impl IntoResponse for NoContent {
    fn into_response(self) -> Response {
        StatusCode::NO_CONTENT.into_response()
    }
}

/// A report that is also an answer to "is it so?": the same body with another status.
pub fn yes_or_no<T: Serialize>(yes: bool, body: T) -> Response {
    let status = if yes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}
