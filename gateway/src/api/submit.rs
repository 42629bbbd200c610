//! Handing in notifications, one or many, and changing one's mind about them.

use std::time::Duration;

use axum::extract::{Request, State};
use bytes::Bytes;
use http::HeaderMap;
use jiff::Timestamp;
use peal_common::envelope::Envelope as _;
use peal_common::event::{Event, EventType, Status};
use peal_common::id::{NotificationId, Region};
use peal_common::notification::{MAX_BATCH, Notification};
use peal_common::problem::FieldError;
use peal_nats::publish::Outgoing;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::accept::{Acceptance, Refusal};
use crate::app::App;
use crate::http::auth::Caller;
use crate::http::json::{Json, json_bytes, parse_around, parse_object};
use crate::http::params::Id;
use crate::http::problem::{Accepted, Problem, ProblemBody};
use crate::readmodel::NotificationView;

/// The header that may carry the id instead of the body.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// How long a notification that was just accepted is waited for.
pub(super) const OWN_WRITE_LIMIT: Duration = Duration::from_secs(2);

/// The answer to one notification.
#[derive(Debug, Serialize, ToSchema)]
pub struct AcceptedView {
    /// Its id: the one given, or a new one.
    id: NotificationId,
    /// `accepted`.
    status: &'static str,
    /// Whether the same notification had been accepted before; nothing was added then.
    duplicate: bool,
    /// Where it is durable.
    region: Region,
    /// When it was accepted: the first time.
    accepted_at: Timestamp,
}

impl From<Acceptance> for AcceptedView {
    fn from(acceptance: Acceptance) -> Self {
        AcceptedView {
            id: acceptance.id,
            status: "accepted",
            duplicate: acceptance.duplicate,
            region: acceptance.region,
            accepted_at: acceptance.accepted_at,
        }
    }
}

/// Many notifications.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Batch<'a> {
    /// 1 to 1,000 notifications. Each is accepted or refused by itself.
    #[schema(value_type = Vec<Notification>)]
    #[serde(borrow)]
    notifications: Vec<&'a RawValue>,
}

/// The answers to a batch.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchView {
    /// One for each notification, in order.
    results: Vec<BatchResult>,
}

/// The answer to one notification of a batch.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchResult {
    /// Its place in the batch, from 0.
    index: usize,
    /// Its id, when it was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<NotificationId>,
    /// `accepted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    /// Whether it had been accepted before.
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicate: Option<bool>,
    /// The region that had accepted it before, when that is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<Region>,
    /// What is wrong with it, when it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<BatchError>,
}

/// Why one notification of a batch was refused.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchError {
    /// A stable word.
    code: &'static str,
    /// A sentence.
    detail: String,
    /// What is wrong with which field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

/// Takes one notification. The answer comes after JetStream has acknowledged it.
#[utoipa::path(post, path = "/v1/notifications", tag = "notifications", request_body = Notification,
    params(("Idempotency-Key" = Option<String>, Header, description = "the notification's id, unless the body has it")),
    responses(
        (status = 202, description = "durable in this region", body = AcceptedView),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn one(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Json(mut notification): Json<Notification>,
) -> Result<Accepted<AcceptedView>, Problem> {
    take_id_from_header(&mut notification, &headers)?;
    let accepted = app.acceptor.accept(&caller.app, notification).await;
    note_health(&app, std::iter::once(&accepted));
    Ok(Accepted(accepted?.into()))
}

fn take_id_from_header(notification: &mut Notification, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(given) = headers.get(IDEMPOTENCY_KEY) else { return Ok(()) };
    let id = given.to_str().ok().and_then(|text| text.parse::<NotificationId>().ok()).ok_or_else(|| {
        Problem::invalid_field(
            "Idempotency-Key",
            "invalid_id",
            "write 1 to 128 characters of A-Z a-z 0-9 _ : -",
        )
    })?;
    match &notification.id {
        Some(own) if *own != id => Err(Problem::invalid_field(
            "Idempotency-Key",
            "conflict",
            "the header and the body give different ids; give one of them",
        )),
        _ => {
            notification.id = Some(id);
            Ok(())
        }
    }
}

/// Takes up to 1,000 notifications. Bad ones fail alone.
#[utoipa::path(post, path = "/v1/notifications/batch", tag = "notifications", request_body = Batch<'static>,
    responses(
        (status = 202, description = "a result for each", body = BatchView),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn batch(
    State(app): State<App>,
    caller: Caller,
    request: Request,
) -> Result<Accepted<BatchView>, Problem> {
    let body = json_bytes(request).await?;
    let batch: Batch<'_> = parse_around(&body)?;
    if batch.notifications.is_empty() || batch.notifications.len() > MAX_BATCH {
        return Err(Problem::invalid_field("notifications", "out_of_range", "give 1 to 1,000 notifications"));
    }
    let notifications = batch.notifications.into_iter().map(read).collect();
    let mut accepted = app.acceptor.accept_all(&caller.app, notifications).await;
    note_health(&app, &accepted);
    // When nothing at all could be stored, the whole request is to be repeated.
    if accepted.iter().all(|result| matches!(result, Err(Refusal::Unavailable { .. })))
        && let Some(Err(refusal)) = accepted.pop()
    {
        return Err(refusal.into());
    }
    let here = &app.settings.region.name;
    let results =
        accepted.into_iter().enumerate().map(|(index, accepted)| result(here, index, accepted)).collect();
    Ok(Accepted(BatchView { results }))
}

fn read(raw: &RawValue) -> Result<Notification, Refusal> {
    parse_object(raw.get().as_bytes()).map_err(|problem| {
        let mut errors = problem.errors().to_vec();
        if errors.is_empty() {
            errors.push(FieldError::new("", "malformed", problem.detail()));
        }
        Refusal::Invalid(errors)
    })
}

fn note_health<'a>(app: &App, results: impl IntoIterator<Item = &'a Result<Acceptance, Refusal>>) {
    for result in results {
        match result {
            Ok(_) => return app.health.storage_took(),
            Err(Refusal::Unavailable { .. }) => return app.health.storage_refused(),
            Err(_) => {}
        }
    }
}

fn result(here: &Region, index: usize, accepted: Result<Acceptance, Refusal>) -> BatchResult {
    let empty = BatchResult { index, id: None, status: None, duplicate: None, region: None, error: None };
    match accepted {
        Ok(acceptance) => BatchResult {
            id: Some(acceptance.id),
            status: Some("accepted"),
            duplicate: Some(acceptance.duplicate),
            region: Some(acceptance.region).filter(|region| region != here),
            ..empty
        },
        Err(refusal) => {
            let problem = Problem::from(refusal);
            let error = BatchError {
                code: problem.code(),
                detail: problem.detail().to_owned(),
                errors: problem.errors().to_vec(),
            };
            BatchResult { error: Some(error), ..empty }
        }
    }
}

/// What became of a cancellation.
#[derive(Debug, Serialize, ToSchema)]
pub struct CancelledView {
    /// The notification.
    id: NotificationId,
    /// `cancelled`: nothing more of it is sent. Deliveries that had been sent stay sent.
    status: &'static str,
}

/// Stops what has not been sent yet.
#[utoipa::path(post, path = "/v1/notifications/{id}/cancel", tag = "notifications",
    params(("id" = String, Path, description = "the notification")),
    responses(
        (status = 202, description = "cancelled", body = CancelledView),
        (status = 409, description = "everything has been sent or settled already", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn cancel(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<NotificationId>,
) -> Result<Accepted<CancelledView>, Problem> {
    let found = find(&app, &caller, &id).await?;
    let status = found.summary.status;
    if status.is_settled()
        && status != Status::Cancelled
        && found.summary.deliveries.iter().all(|d| d.status.is_settled())
        && !app.acceptor.has_fallback(&caller.app, &id).await?
    {
        return Err(Problem::conflict(
            "too_late",
            "the notification is settled: there is nothing left to cancel",
        ));
    }
    app.acceptor.cancel(&caller.app, &found).await?;
    Ok(Accepted(CancelledView { id, status: "cancelled" }))
}

/// What became of an acknowledgement.
#[derive(Debug, Serialize, ToSchema)]
pub struct AcknowledgedView {
    /// The notification.
    id: NotificationId,
    /// `acknowledged`.
    status: &'static str,
}

/// Notes that somebody has seen to it.
#[utoipa::path(post, path = "/v1/notifications/{id}/acknowledge", tag = "notifications",
    params(("id" = String, Path, description = "the notification")),
    responses(
        (status = 202, description = "acknowledged", body = AcknowledgedView),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn acknowledge(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<NotificationId>,
) -> Result<Accepted<AcknowledgedView>, Problem> {
    // Of what is not known nobody can tell whether it may leave the region.
    let pinned = find(&app, &caller, &id).await?.summary.pinned.unwrap_or(true);
    let event = Event::new(EventType::Acknowledged, app.clock.now(), caller.app.clone(), id.clone());
    let event = Event { pinned, ..event };
    let payload: Bytes = event.encode().map_err(|_| Problem::internal())?.into();
    let subject = app.subjects.of_event(&event);
    app.connection.publish(Outgoing::new(subject, payload)).await?;
    Ok(Accepted(AcknowledgedView { id, status: "acknowledged" }))
}

async fn find(app: &App, caller: &Caller, id: &NotificationId) -> Result<NotificationView, Problem> {
    app.model
        .notification_or_wait(&caller.app, id, OWN_WRITE_LIMIT)
        .await?
        .ok_or_else(|| Problem::not_found("notification"))
}
