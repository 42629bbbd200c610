//! Looking up what became of notifications: one with its timeline, many by a search, and events. All of it is answered
//! from the read model of this gateway.

use std::time::Duration;

use axum::extract::State;
use jiff::Timestamp;
use peal_common::address;
use peal_common::channel::Channel;
use peal_common::envelope::ContactRef;
use peal_common::event::{EventType, Status};
use peal_common::id::{AppId, CategoryId, NotificationId, RecipientId};
use serde::Deserialize;

use super::page::limit;
use crate::app::App;
use crate::http::auth::Caller;
use crate::http::json::Json;
use crate::http::params::{Id, Query};
use crate::http::problem::{Problem, ProblemBody};
use crate::readmodel::{Cursor, EventFilter, EventView, Filter, NotificationSummary, NotificationView, Page};

/// How long the look-up of a notification that was accepted a moment ago waits for the read model.
const JUST_ACCEPTED_LIMIT: Duration = Duration::from_secs(2);

/// A notification with its deliveries and everything that happened. It is there as soon as its acceptance was answered,
/// at whichever gateway of the region.
#[utoipa::path(get, path = "/v1/notifications/{id}", tag = "notifications",
    params(("id" = String, Path, description = "the notification")),
    responses(
        (status = 200, description = "the notification", body = NotificationView),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn notification(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<NotificationId>,
) -> Result<Json<NotificationView>, Problem> {
    let found = app.model.notification_or_wait(&caller.app, &id, JUST_ACCEPTED_LIMIT).await?;
    found.map(Json).ok_or_else(|| Problem::not_found("notification"))
}

/// Which notifications; all that is given must hold.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Search {
    /// To this recipient.
    #[param(value_type = Option<String>)]
    recipient: Option<RecipientId>,
    /// Of this category.
    #[param(value_type = Option<String>)]
    category: Option<CategoryId>,
    /// Standing here as a whole.
    status: Option<Status>,
    /// With a delivery on this channel.
    channel: Option<Channel>,
    /// To this address: of the given channel, or else of the channel that the address looks like.
    address: Option<String>,
    /// Accepted at this time or later.
    from: Option<Timestamp>,
    /// Accepted before this time.
    to: Option<Timestamp>,
    /// How many entries, 1 to 500; 50 unless said otherwise.
    limit: Option<usize>,
    /// The `next` of the page before.
    after: Option<String>,
}

/// Notifications, the latest first. A page may hold fewer than asked for, even none, although more follow: `next` says.
#[utoipa::path(get, path = "/v1/notifications", tag = "notifications", params(Search), responses(
    (status = 200, description = "a page of notifications", body = Page<NotificationSummary>),
    (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn notifications(
    State(app): State<App>,
    caller: Caller,
    Query(search): Query<Search>,
) -> Result<Json<Page<NotificationSummary>>, Problem> {
    let contact = search.address.as_deref().map(|text| contact(&app, &caller.app, search.channel, text));
    let filter = Filter {
        recipient: search.recipient,
        contact: contact.transpose()?,
        category: search.category,
        status: search.status,
        channel: search.channel,
        from: search.from,
        to: search.to,
    };
    let (limit, after) = (limit(search.limit)?, cursor(search.after.as_deref())?);
    let found = blocking(move || app.model.search(&caller.app, &filter, after, limit)).await??;
    Ok(Json(found))
}

/// Which events; all that is given must hold.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventSearch {
    /// Of this notification.
    #[param(value_type = Option<String>)]
    notification: Option<NotificationId>,
    /// About this recipient.
    #[param(value_type = Option<String>)]
    recipient: Option<RecipientId>,
    /// Of this kind.
    #[serde(rename = "type")]
    kind: Option<EventType>,
    /// On this channel.
    channel: Option<Channel>,
    /// At this time or later.
    from: Option<Timestamp>,
    /// Before this time.
    to: Option<Timestamp>,
    /// How many entries, 1 to 500; 50 unless said otherwise.
    limit: Option<usize>,
    /// The `next` of the page before.
    after: Option<String>,
}

/// Events, the latest first. A page may hold fewer than asked for, even none, although more follow: `next` says.
#[utoipa::path(get, path = "/v1/events", tag = "events", params(EventSearch), responses(
    (status = 200, description = "a page of events", body = Page<EventView>),
    (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn events(
    State(app): State<App>,
    caller: Caller,
    Query(search): Query<EventSearch>,
) -> Result<Json<Page<EventView>>, Problem> {
    let filter = EventFilter {
        notification: search.notification,
        recipient: search.recipient,
        kind: search.kind,
        channel: search.channel,
        from: search.from,
        to: search.to,
    };
    let (limit, after) = (limit(search.limit)?, cursor(search.after.as_deref())?);
    let found = blocking(move || app.model.events(&caller.app, &filter, after, limit)).await??;
    Ok(Json(found))
}

fn cursor(text: Option<&str>) -> Result<Option<Cursor>, Problem> {
    let parse = |text: &str| text.parse::<Cursor>();
    let wrong = |_| Problem::invalid_field("after", "invalid_cursor", "write the `next` of the page before");
    text.map(parse).transpose().map_err(wrong)
}

/// The name of an address in the streams.
fn contact(app: &App, of: &AppId, channel: Option<Channel>, text: &str) -> Result<ContactRef, Problem> {
    let channel = channel.unwrap_or_else(|| looks_like(text));
    let wrong =
        |error: address::AddressError| Problem::invalid_field("address", error.code(), error.to_string());
    let address = address::normalize(channel, text).map_err(wrong)?;
    Ok(ContactRef { channel, index: app.catalog.blind_index(of, channel, &address) })
}

fn looks_like(address: &str) -> Channel {
    if address.starts_with("http://") || address.starts_with("https://") {
        Channel::Webhook
    } else if address.starts_with('+') {
        Channel::Sms
    } else if address.find('@').is_some_and(|at| at > 0) {
        Channel::Email
    } else {
        Channel::Telegram
    }
}

/// A search may read thousands of rows, which would keep other requests waiting.
async fn blocking<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(read).await.map_err(|_| Problem::internal())
}
