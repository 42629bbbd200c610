//! The in-app inbox: what a recipient has, what it marked, and a stream of what changes.
//!
//! Items come from the read model with their texts sealed; they are opened here with the recipient's data key. A mark is
//! a message in INBOX beside the item; the first `seen` or `read` is also an event of the delivery.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use futures_util::stream::{self, Stream, StreamExt as _};
use http::HeaderMap;
use jiff::Timestamp;
use peal_common::channel::Channel;
use peal_common::envelope::{
    ENVELOPE_VERSION, Envelope as _, InboxChange, InboxEntry, InboxMark, inbox_place,
};
use peal_common::event::{Event, EventType};
use peal_common::id::{AppId, CategoryId, DeliveryId, NotificationId, RecipientId};
use peal_common::seal::DataKeys;
use peal_common::template::Rendered;
use peal_nats::publish::Outgoing;
use peal_nats::subjects;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use utoipa::ToSchema;

use super::page::{from_cursor, limit, to_cursor};
use crate::app::App;
use crate::http::auth::Caller;
use crate::http::json::Json;
use crate::http::params::{Id, Ids, Query};
use crate::http::problem::{NoContent, Problem, ProblemBody};
use crate::metrics::Metric;
use crate::readmodel::{InboxCounts, InboxItem, InboxLive};

/// How long a mark waits until this gateway itself shows it.
const OWN_MARK_LIMIT: Duration = Duration::from_secs(2);
/// How often a quiet stream shows that it is alive: below what proxies wait.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// After this time a stream ends and the client comes back with `Last-Event-ID`: so long a revoked key can listen on.
const STREAM_LIMIT: Duration = Duration::from_secs(30 * 60);

/// An item of an inbox.
#[derive(Debug, Serialize, ToSchema)]
pub struct ItemView {
    /// Its id.
    #[schema(value_type = String)]
    id: DeliveryId,
    /// The notification.
    notification: NotificationId,
    /// The category.
    category: CategoryId,
    /// When it came.
    at: Timestamp,
    /// When it is of no use any more.
    expires_at: Timestamp,
    /// What it says.
    #[serde(flatten)]
    text: Rendered,
    /// When it was on the screen.
    seen_at: Option<Timestamp>,
    /// When it was opened.
    read_at: Option<Timestamp>,
    /// When it was put away.
    archived_at: Option<Timestamp>,
}

/// A page of an inbox.
#[derive(Debug, Serialize, ToSchema)]
pub struct Inbox {
    /// The items, the newest first.
    data: Vec<ItemView>,
    /// What to give as `after` for the next page; null when this is the last one.
    next: Option<String>,
    /// How many items the whole inbox holds.
    counts: InboxCounts,
}

/// Which part of an inbox.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct InboxQuery {
    /// How many entries, 1 to 500; 50 unless said otherwise.
    limit: Option<usize>,
    /// The `next` of the page before.
    after: Option<String>,
    /// Only what was put away (`true`), or only what was not (`false`, which is the default).
    archived: Option<bool>,
}

/// A recipient's inbox, the newest item first.
#[utoipa::path(get, path = "/v1/recipients/{id}/inbox", tag = "inbox",
    params(("id" = String, Path, description = "the recipient"), InboxQuery),
    responses(
        (status = 200, description = "a page of the inbox", body = Inbox),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<RecipientId>,
    Query(query): Query<InboxQuery>,
) -> Result<Json<Inbox>, Problem> {
    let limit = limit(query.limit)?;
    let wrong = || Problem::invalid_field("after", "invalid_cursor", "write the `next` of the page before");
    let after =
        query.after.as_deref().map(|cursor| from_cursor(cursor)?.parse().map_err(|_| wrong())).transpose()?;
    let archived = Some(query.archived.unwrap_or(false));
    // Opening hundreds of items takes milliseconds of arithmetic, which belong on a thread of their own.
    let page = tokio::task::spawn_blocking(move || {
        let recipient =
            app.catalog.recipient(&caller.app, &id)?.ok_or_else(|| Problem::not_found("recipient"))?;
        let (items, next) = app.model.inbox(&caller.app, &id, after, limit, archived)?;
        let data =
            items.into_iter().filter_map(|item| open(item, &caller.app, &id, &recipient.data_keys)).collect();
        let counts = app.model.inbox_counts(&caller.app, &id)?;
        Ok(Inbox { data, next: next.map(|sequence| to_cursor(&sequence.to_string())), counts })
    });
    page.await.map_err(|_| Problem::internal())?.map(Json)
}

/// Opens an item. One whose text can't be opened was sealed with a key that an erasure destroyed, or is damaged: it is
/// left out.
fn open(item: InboxItem, app: &AppId, recipient: &RecipientId, data_keys: &DataKeys) -> Option<ItemView> {
    let plain = data_keys.open(&item.sealed, &inbox_place(app, recipient, &item.item)).ok();
    let text = plain.and_then(|plain| serde_json::from_slice(&plain).ok());
    if text.is_none() {
        tracing::warn!(delivery.id = %item.item, "the text of an inbox item cannot be opened");
    }
    Some(ItemView {
        text: text?,
        id: item.item,
        notification: item.notification,
        category: item.category,
        at: item.at,
        expires_at: item.expires_at,
        seen_at: item.seen_at,
        read_at: item.read_at,
        archived_at: item.archived_at,
    })
}

/// Marks an item as having been on the recipient's screen.
#[utoipa::path(post, path = "/v1/recipients/{id}/inbox/{item}/seen", tag = "inbox",
    params(("id" = String, Path, description = "the recipient"), ("item" = String, Path, description = "the item")),
    responses(
        (status = 204, description = "marked"),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn seen(State(app): State<App>, caller: Caller, ids: ItemIds) -> Result<NoContent, Problem> {
    mark(&app, &caller, ids, InboxMark::Seen).await
}

/// Marks an item as opened.
#[utoipa::path(post, path = "/v1/recipients/{id}/inbox/{item}/read", tag = "inbox",
    params(("id" = String, Path, description = "the recipient"), ("item" = String, Path, description = "the item")),
    responses(
        (status = 204, description = "marked"),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn read(State(app): State<App>, caller: Caller, ids: ItemIds) -> Result<NoContent, Problem> {
    mark(&app, &caller, ids, InboxMark::Read).await
}

/// Puts an item away.
#[utoipa::path(post, path = "/v1/recipients/{id}/inbox/{item}/archive", tag = "inbox",
    params(("id" = String, Path, description = "the recipient"), ("item" = String, Path, description = "the item")),
    responses(
        (status = 204, description = "marked"),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn archive(State(app): State<App>, caller: Caller, ids: ItemIds) -> Result<NoContent, Problem> {
    mark(&app, &caller, ids, InboxMark::Archived).await
}

type ItemIds = Ids<RecipientId, ItemId>;

/// The id of an item as it stands in a path.
#[derive(Debug)]
pub struct ItemId(DeliveryId);

impl std::str::FromStr for ItemId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let id = plain.then(|| serde_json::from_value(serde_json::Value::from(text)).ok()).flatten();
        id.map(ItemId).ok_or("must be the id of an item: 32 hexadecimal digits")
    }
}

async fn mark(
    app: &App,
    caller: &Caller,
    Ids(recipient, ItemId(id)): ItemIds,
    mark: InboxMark,
) -> Result<NoContent, Problem> {
    let item = app.model.inbox_item(&caller.app, &recipient, &id)?;
    let item = item.ok_or_else(|| Problem::not_found("item"))?;
    let marked = match mark {
        InboxMark::Seen => item.seen_at,
        InboxMark::Read => item.read_at,
        InboxMark::Archived => item.archived_at,
    };
    if marked.is_some() {
        return Ok(NoContent);
    }
    let now = app.clock.now();
    let looked_at = matches!(mark, InboxMark::Seen | InboxMark::Read);
    if looked_at && item.seen_at.is_none() && item.read_at.is_none() {
        // Before the mark: whoever repeats a request that ended in between finds the item unmarked and says it again.
        let mut event = Event::new(EventType::Seen, now, caller.app.clone(), item.notification.clone());
        event.delivery = Some(id.clone());
        event.recipient = Some(recipient.clone());
        event.channel = Some(Channel::Inbox);
        // Of what is not known any more nobody can tell whether it may leave the region.
        let notification = app.model.notification(&caller.app, &item.notification)?;
        event.pinned = notification.and_then(|notification| notification.summary.pinned).unwrap_or(true);
        let subject = app.subjects.of_event(&event);
        let payload = event.encode().map_err(|_| Problem::internal())?;
        app.connection.publish(Outgoing::new(subject, payload).id(&format!("{id}:seen"))).await?;
    }
    let entry = InboxEntry {
        v: ENVELOPE_VERSION,
        at: now,
        app: caller.app.clone(),
        recipient: recipient.clone(),
        item: id.clone(),
        notification: item.notification,
        what: InboxChange::Mark(mark),
    };
    let subject = app.subjects.inbox(caller.app.as_str(), recipient.as_str(), subjects::InboxEntry::Mark);
    let payload = entry.encode().map_err(|_| Problem::internal())?;
    let name = match mark {
        InboxMark::Seen => "seen",
        InboxMark::Read => "read",
        InboxMark::Archived => "archived",
    };
    let outgoing = Outgoing::new(subject, payload).id(&format!("{id}:mark:{name}"));
    let published = app.connection.publish(outgoing).await?;
    if app.model.wait_for(OWN_MARK_LIMIT, |positions| positions.inbox >= published.sequence).await.is_err() {
        tracing::warn!("a mark is not in the read model yet");
    }
    Ok(NoContent)
}

/// What changes in a recipient's inbox, as server-sent events: `item` for a new item, `change` for one that was marked,
/// each with the item as data. After a break the client names the last event it got (`Last-Event-ID`), and begins with
/// what changed since; without it the stream begins now. It ends after 30 minutes, to be opened again.
#[utoipa::path(get, path = "/v1/recipients/{id}/inbox/stream", tag = "inbox",
    params(
        ("id" = String, Path, description = "the recipient"),
        ("Last-Event-ID" = Option<String>, Header, description = "the last event that the client got"),
    ),
    responses(
        (status = 200, description = "a stream of events", body = String, content_type = "text/event-stream"),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn watch(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<RecipientId>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<SseEvent, Infallible>>>, Problem> {
    if app.catalog.reach(&caller.app, &id)?.is_none() {
        return Err(Problem::not_found("recipient"));
    }
    let permit = app.streams.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Problem::unavailable("too_many_streams", "too many streams are open"))?;
    // Listening begins before the position is read, so that nothing falls between.
    let changes = app.model.watch_inboxes();
    let position = match headers.get("last-event-id") {
        Some(value) => value.to_str().ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
            Problem::invalid_field(
                "Last-Event-ID",
                "invalid_value",
                "write the id of an event of this stream",
            )
        })?,
        None => app.model.positions().borrow().inbox,
    };
    metrics::gauge!(Metric::InboxStreams.name()).increment(1.0);
    let stop = app.stop.clone();
    let watcher = Watcher {
        app,
        of: caller.app.clone(),
        recipient: id,
        position,
        changes,
        first: true,
        _permit: permit,
    };
    let ended = async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(STREAM_LIMIT) => {}
        }
    };
    let events = stream::unfold(watcher, Watcher::next).flat_map(stream::iter).take_until(ended);
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// One open stream.
struct Watcher {
    app: App,
    of: AppId,
    recipient: RecipientId,
    /// The last change that was told.
    position: u64,
    changes: Receiver<std::sync::Arc<InboxLive>>,
    first: bool,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        metrics::gauge!(Metric::InboxStreams.name()).decrement(1.0);
    }
}

impl Watcher {
    /// Waits for changes; what it was told is only a reason to look.
    async fn next(mut self) -> Option<(Vec<Result<SseEvent, Infallible>>, Self)> {
        loop {
            if !std::mem::take(&mut self.first) {
                match self.changes.recv().await {
                    Ok(change) if change.app != self.of || change.recipient != self.recipient => continue,
                    Ok(change) if change.sequence <= self.position => continue,
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
            let events = self.look()?;
            if !events.is_empty() {
                return Some((events, self));
            }
        }
    }

    /// What changed since the last look. `None` ends the stream: the recipient is gone, or the read model is being
    /// built anew; the client comes back.
    fn look(&mut self) -> Option<Vec<Result<SseEvent, Infallible>>> {
        let recipient = self.app.catalog.recipient(&self.of, &self.recipient).ok()??;
        let items = self.app.model.inbox_since(&self.of, &self.recipient, self.position).ok()?;
        let mut events = Vec::with_capacity(items.len());
        for item in items {
            let name = if item.sequence > self.position { "item" } else { "change" };
            let changed = item.changed;
            if let Some(view) = open(item, &self.of, &self.recipient, &recipient.data_keys)
                && let Ok(event) = SseEvent::default().event(name).id(changed.to_string()).json_data(view)
            {
                events.push(Ok(event));
            }
            self.position = self.position.max(changed);
        }
        Some(events)
    }
}
