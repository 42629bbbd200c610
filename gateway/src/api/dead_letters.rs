//! Dead letters: deliveries that were given up. They stand in a stream of their own, each under its sequence, until they
//! are replayed, deleted, or too old.
//!
//! A replay publishes the delivery to its queue again with its attempts at zero, says so in an event, and then removes
//! the dead letter. The message's id is made of the delivery and the number of the replay, so that a replay that was
//! broken off and repeated is queued once.

use axum::extract::State;
use jiff::Timestamp;
use peal_common::channel::Channel;
use peal_common::envelope::{DeadLetter, Envelope as _, Work};
use peal_common::event::{Event, EventType};
use peal_common::id::{AppId, CategoryId, NotificationId, RecipientId};
use peal_nats::follow::Stored;
use peal_nats::publish::Outgoing;
use peal_nats::topology::DEAD_LETTERS;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::page::{Page, from_cursor, limit, to_cursor};
use crate::app::App;
use crate::http::auth::Caller;
use crate::http::json::Json;
use crate::http::params::{Id, Query};
use crate::http::problem::{NoContent, Problem, ProblemBody};

/// How many dead letters one request replays.
const MAX_REPLAY: usize = 1_000;
/// How many messages one request reads.
const MAX_READS: usize = 5_000;

/// A dead letter.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadLetterView {
    /// Its id.
    id: String,
    /// When it was given up.
    at: Timestamp,
    /// Why: a stable word.
    reason: String,
    /// Attempts made.
    attempts: u32,
    /// How often it was replayed before.
    replays: u32,
    /// The channel.
    channel: Option<Channel>,
    /// The notification.
    notification: Option<NotificationId>,
    /// Its category.
    category: Option<CategoryId>,
    /// The recipient.
    recipient: Option<RecipientId>,
    /// The delivery.
    delivery: Option<String>,
}

impl DeadLetterView {
    fn new(sequence: u64, letter: DeadLetter) -> Self {
        let work = letter.work;
        DeadLetterView {
            id: sequence.to_string(),
            at: letter.at,
            reason: letter.reason,
            attempts: letter.attempts,
            replays: work.as_ref().map_or(0, |work| work.replays),
            channel: work.as_ref().map(|work| work.channel),
            notification: work.as_ref().map(|work| work.notification.id.clone()),
            category: work.as_ref().map(|work| work.notification.category.clone()),
            recipient: work.as_ref().map(|work| work.recipient.clone()),
            delivery: work.as_ref().map(|work| work.delivery.to_string()),
        }
    }
}

/// Which dead letters.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeadLetterQuery {
    /// Of this channel.
    channel: Option<Channel>,
    /// With this reason.
    reason: Option<String>,
    /// How many entries, 1 to 500; 50 unless said otherwise.
    limit: Option<usize>,
    /// The `next` of the page before.
    after: Option<String>,
}

/// Dead letters of the caller's app, the newest first. A page may hold fewer than asked for, even none, although more
/// follow: `next` says.
#[utoipa::path(get, path = "/v1/dead-letters", tag = "dead letters", params(DeadLetterQuery), responses(
    (status = 200, description = "a page of dead letters", body = Page<DeadLetterView>),
    (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<DeadLetterQuery>,
) -> Result<Json<Page<DeadLetterView>>, Problem> {
    let limit = limit(query.limit)?;
    let wrong = || Problem::invalid_field("after", "invalid_cursor", "write the `next` of the page before");
    let before =
        query.after.as_deref().map(|cursor| from_cursor(cursor)?.parse().map_err(|_| wrong())).transpose()?;
    let filter = subject(&app, &caller.app, query.channel);
    let wanted = |stored: &Stored| {
        let letter = DeadLetter::decode(&stored.payload).ok()?;
        let is_wanted = query.reason.as_ref().is_none_or(|reason| letter.reason == *reason);
        is_wanted.then(|| DeadLetterView::new(stored.sequence, letter))
    };
    let found = app.connection.latest_of(DEAD_LETTERS, &filter, before, limit, MAX_READS, wanted).await?;
    Ok(Json(Page { data: found.found, next: found.next.map(|sequence| to_cursor(&sequence.to_string())) }))
}

fn subject(app: &App, of: &AppId, channel: Option<Channel>) -> String {
    match channel {
        Some(channel) => app.subjects.dead(Some(channel), of.as_str()),
        None => app.subjects.dead_of(of.as_str()),
    }
}

/// Which dead letters to take up again: either `ids` or `filter`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    /// These; at most 1,000.
    ids: Option<Vec<String>>,
    /// All that match, at most 1,000 a request, the oldest first.
    filter: Option<ReplayFilter>,
}

/// Dead letters by what they are; all that is given must hold, and an empty filter means every one.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayFilter {
    /// Of this channel.
    channel: Option<Channel>,
    /// With this reason.
    reason: Option<String>,
    /// Of this app, which can only be the caller's own.
    app: Option<AppId>,
}

/// What came of a replay.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Replayed {
    /// How many deliveries are queued again.
    replayed: usize,
    /// Those that are not, and why.
    failed: Vec<NotReplayed>,
    /// Whether the filter matches more: repeat the request.
    more: bool,
}

/// A dead letter that was not replayed.
#[derive(Debug, Serialize, ToSchema)]
pub struct NotReplayed {
    /// Its id, as it was given.
    id: String,
    /// A stable word.
    code: &'static str,
    /// A sentence.
    detail: &'static str,
}

/// Takes dead letters up again.
#[utoipa::path(post, path = "/v1/dead-letters/replay", tag = "dead letters", request_body = Replay, responses(
    (status = 200, description = "what came of it", body = Replayed),
    (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn replay(
    State(app): State<App>,
    caller: Caller,
    Json(body): Json<Replay>,
) -> Result<Json<Replayed>, Problem> {
    let replayed = match (body.ids, body.filter) {
        (Some(ids), None) => replay_ids(&app, &caller.app, ids).await?,
        (None, Some(filter)) => replay_matching(&app, &caller.app, filter).await?,
        _ => return Err(Problem::invalid_field("ids", "required", "give either ids or filter")),
    };
    tracing::info!(app.id = %caller.app, by = %caller.key, replayed = replayed.replayed, "dead letters were replayed");
    Ok(Json(replayed))
}

async fn replay_ids(app: &App, of: &AppId, ids: Vec<String>) -> Result<Replayed, Problem> {
    if ids.is_empty() || ids.len() > MAX_REPLAY {
        return Err(Problem::invalid_field("ids", "out_of_range", "name 1 to 1,000 dead letters"));
    }
    let mut out = Replayed::default();
    for id in ids {
        let sequence = id.parse::<u64>().ok().filter(|sequence| *sequence > 0);
        let found = match sequence {
            Some(sequence) => own(app, of, sequence).await?,
            None => None,
        };
        match found.map(|stored| (stored.sequence, DeadLetter::decode(&stored.payload))) {
            Some((sequence, Ok(letter))) => again(app, sequence, letter, &mut out).await?,
            _ => {
                let id = id.chars().take(20).filter(|c| !c.is_control()).collect();
                out.failed.push(NotReplayed {
                    id,
                    code: "not_found",
                    detail: "there is no such dead letter",
                });
            }
        }
    }
    Ok(out)
}

async fn replay_matching(app: &App, of: &AppId, filter: ReplayFilter) -> Result<Replayed, Problem> {
    if filter.app.as_ref().is_some_and(|app| app != of) {
        let detail = "a key replays the dead letters of its own app; leave the field out";
        return Err(Problem::invalid_field("filter.app", "other_app", detail));
    }
    let subject = subject(app, of, filter.channel);
    let mut out = Replayed::default();
    let mut at = 1;
    for _ in 0..MAX_READS {
        let Some(stored) = app.connection.next_of(DEAD_LETTERS, &subject, at).await? else { return Ok(out) };
        at = stored.sequence + 1;
        let Ok(letter) = DeadLetter::decode(&stored.payload) else { continue };
        if filter.reason.as_ref().is_some_and(|reason| letter.reason != *reason) {
            continue;
        }
        if out.replayed + out.failed.len() >= MAX_REPLAY {
            out.more = true;
            return Ok(out);
        }
        again(app, stored.sequence, letter, &mut out).await?;
    }
    out.more = app.connection.next_of(DEAD_LETTERS, &subject, at).await?.is_some();
    Ok(out)
}

/// A dead letter of an app.
async fn own(app: &App, of: &AppId, sequence: u64) -> Result<Option<Stored>, Problem> {
    let found = app.connection.next_of(DEAD_LETTERS, &app.subjects.dead_of(of.as_str()), sequence).await?;
    Ok(found.filter(|stored| stored.sequence == sequence))
}

async fn again(app: &App, sequence: u64, letter: DeadLetter, out: &mut Replayed) -> Result<(), Problem> {
    let Some(work) = letter.work else {
        let detail = "the message could not be read, so there is nothing to deliver";
        out.failed.push(NotReplayed { id: sequence.to_string(), code: "not_replayable", detail });
        return Ok(());
    };
    let work = Work { attempts: 0, not_before: None, replays: work.replays.saturating_add(1), ..*work };
    let of = work.notification.app.as_str();
    let subject = app.subjects.work(work.channel, work.notification.priority, of);
    let id = format!("{}:replay:{}", work.delivery, work.replays);
    let payload = work.encode().map_err(|_| Problem::internal())?;
    app.connection.publish(Outgoing::new(subject, payload).id(&id)).await?;

    let now = app.clock.now();
    let mut event = Event::about(EventType::Replayed, now, &work.notification);
    event.delivery = Some(work.delivery.clone());
    event.recipient = Some(work.recipient.clone());
    event.channel = Some(work.channel);
    event.replays = Some(work.replays);
    let subject = app.subjects.of_event(&event);
    let payload = event.encode().map_err(|_| Problem::internal())?;
    app.connection.publish(Outgoing::new(subject, payload).id(&id)).await?;

    app.connection.remove_message(DEAD_LETTERS, sequence).await?;
    out.replayed += 1;
    Ok(())
}

/// Deletes a dead letter: what it holds is never delivered. Deleting one that is not there does no harm.
#[utoipa::path(delete, path = "/v1/dead-letters/{id}", tag = "dead letters",
    params(("id" = String, Path, description = "the dead letter")),
    responses(
        (status = 204, description = "deleted"),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn delete(State(app): State<App>, caller: Caller, Id(id): Id<u64>) -> Result<NoContent, Problem> {
    if let Some(stored) = own(&app, &caller.app, id).await? {
        app.connection.remove_message(DEAD_LETTERS, stored.sequence).await?;
    }
    Ok(NoContent)
}
