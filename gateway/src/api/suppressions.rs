//! Suppressions: addresses that nothing is sent to any more. Providers' answers make them, and so do callers.

use std::str::FromStr;

use axum::extract::State;
use jiff::Timestamp;
use peal_common::address;
use peal_common::channel::Channel;
use peal_common::clock::Stamp;
use peal_common::id::AppId;
use peal_common::problem::FieldError;
use peal_common::recipient::Recipient;
use peal_common::state::{Kind, Record, RecordKey};
use peal_common::suppression::{self, Suppression};
use peal_nats::catalog::CatalogError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::page::{self, Page, from_cursor};
use crate::app::App;
use crate::http::auth::Caller;
use crate::http::json::Json;
use crate::http::params::{Ids, Query};
use crate::http::problem::{NoContent, Problem, ProblemBody, Put};

/// Both kinds of records, in the order in which lists have them.
const KINDS: [Kind; 2] = [Kind::Suppression, Kind::PinnedSuppression];
/// How the cursors of pinned ones begin; no channel's name does.
const PINNED_CURSOR: &str = "~";
/// What is kept as the reason unless the caller gives one.
const MANUAL: &str = "manual";
const MAX_REASON_BYTES: usize = 64;

/// An address that nothing is sent to, as the API gives it.
#[derive(Debug, Serialize, ToSchema)]
pub struct SuppressionView {
    /// The channel.
    channel: Channel,
    /// The address, device token or push endpoint; null when no recipient has it any more: Peal keeps a digest alone.
    address: Option<String>,
    /// Why: what the provider said, such as `http_410`, or what was written with it.
    reason: String,
    /// Since when. A device that registers again later gets its messages again.
    since: Timestamp,
}

impl SuppressionView {
    fn of(channel: Channel, address: Option<String>, found: Suppression) -> Self {
        SuppressionView { channel, address, reason: found.reason, since: found.since }
    }
}

/// What the API takes for a suppression.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SuppressionBody {
    /// Why: 1 to 64 characters of a-z 0-9 _; `manual` unless said otherwise.
    #[serde(default)]
    reason: Option<String>,
}

impl SuppressionBody {
    fn reason(self) -> Result<String, Problem> {
        let Some(reason) = self.reason else { return Ok(MANUAL.to_owned()) };
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if reason.is_empty() || reason.len() > MAX_REASON_BYTES || !reason.bytes().all(plain) {
            let detail = "write 1 to 64 characters of a-z 0-9 _, such as complaint";
            return Err(Problem::invalid_field("reason", "invalid_reason", detail));
        }
        Ok(reason)
    }
}

/// Which suppressions.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SuppressionsQuery {
    /// Only those of this channel.
    channel: Option<Channel>,
    /// How many entries, 1 to 500; 50 unless said otherwise.
    limit: Option<usize>,
    /// The `next` of the page before.
    after: Option<String>,
}

/// A channel in a path that has addresses.
#[derive(Debug, Clone, Copy)]
pub struct Addressed(Channel);

impl FromStr for Addressed {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = name.parse().ok().filter(|channel| *channel != Channel::Inbox).map(Addressed);
        found.ok_or("write apns, fcm, webpush, sms, email, telegram, alimtalk or webhook")
    }
}

/// An address: that of a path, which names the record.
struct Address {
    channel: Channel,
    address: String,
    index: String,
}

impl Address {
    fn read(app: &App, owner: &AppId, channel: Channel, given: &str) -> Result<Self, Problem> {
        let address = match channel {
            // A contact's identity there is its endpoint.
            Channel::Webpush => Ok(given.to_owned()),
            _ => address::normalize(channel, given),
        };
        let address = address.map_err(|error| {
            Problem::invalid(vec![FieldError::new("address", error.code(), error.to_string())])
        })?;
        let index = app.catalog.blind_index(owner, channel, &address);
        Ok(Address { channel, address, index })
    }

    fn key(&self, owner: &AppId, pinned: bool) -> RecordKey {
        suppression::key(owner, self.channel, &self.index, pinned)
    }
}

/// Suppresses an address: nothing is sent to it any more, by no notification of this app, in no region. What is on its way
/// to it ends as `suppressed`. An app's own wish, such as a complaint that came by telephone.
#[utoipa::path(put, path = "/v1/suppressions/{channel}/{address}", tag = "suppressions",
    request_body(content = SuppressionBody),
    params(
        ("channel" = String, Path, description = "apns, fcm, webpush, sms, email, telegram, alimtalk or webhook"),
        ("address" = String, Path, description = "the address, token, chat or URL, percent-encoded"),
    ),
    responses(
        (status = 200, description = "it was suppressed before", body = SuppressionView),
        (status = 201, description = "suppressed", body = SuppressionView),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn put(
    State(app): State<App>,
    caller: Caller,
    Ids(Addressed(channel), address): Ids<Addressed, String>,
    Json(body): Json<SuppressionBody>,
) -> Result<Put<SuppressionView>, Problem> {
    let address = Address::read(&app, &caller.app, channel, &address)?;
    let suppression = Suppression { reason: body.reason()?, since: app.clock.now() };
    let key = address.key(&caller.app, is_pinned(&app, &caller.app, &address.index)?);
    let mut before = None;
    let change = |record: &mut Record, stamp: &Stamp| {
        before = Suppression::read(record);
        suppression.write(record, stamp);
        Ok::<_, Problem>(())
    };
    let written = app.writer.update(&key, change).await?;
    app.settle(&key, &written).await;
    let view = SuppressionView::of(channel, Some(address.address), suppression);
    Ok(if before.is_none() { Put::New(view) } else { Put::Changed(view) })
}

/// Whether an address, named by its blind index, is one of somebody who is pinned: then nothing of it may leave the region.
///
/// # Errors
/// [`CatalogError`]
pub fn is_pinned(app: &App, owner: &AppId, index: &str) -> Result<bool, CatalogError> {
    if app.settings.region.pinned {
        return Ok(true);
    }
    let Some(id) = app.mirror.recipient_with(index)? else { return Ok(false) };
    Ok(app.catalog.reach(owner, &id)?.is_some_and(|reach| reach.pinned))
}

/// Why nothing is sent to an address.
#[utoipa::path(get, path = "/v1/suppressions/{channel}/{address}", tag = "suppressions",
    params(
        ("channel" = String, Path, description = "the channel"),
        ("address" = String, Path, description = "the address, token, chat or URL, percent-encoded"),
    ),
    responses(
        (status = 200, description = "it is suppressed", body = SuppressionView),
        (status = 404, description = "it is not suppressed", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn get(
    State(app): State<App>,
    caller: Caller,
    Ids(Addressed(channel), address): Ids<Addressed, String>,
) -> Result<Json<SuppressionView>, Problem> {
    let address = Address::read(&app, &caller.app, channel, &address)?;
    let found = app.catalog.suppression(&caller.app, channel, &address.index, true)?;
    let found = found.ok_or_else(|| Problem::not_found("suppression"))?;
    Ok(Json(SuppressionView::of(channel, Some(address.address), found)))
}

/// Suppressed addresses by channel.
#[utoipa::path(get, path = "/v1/suppressions", tag = "suppressions", params(SuppressionsQuery), responses(
    (status = 200, description = "a page of suppressed addresses", body = Page<SuppressionView>),
    (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<SuppressionsQuery>,
) -> Result<Json<Page<SuppressionView>>, Problem> {
    let limit = page::limit(query.limit)?;
    let after = query.after.as_deref().map(from_cursor).transpose()?;
    // Opening the recipients who have the addresses takes a while.
    let found = tokio::task::spawn_blocking(move || {
        let read = |id: &str, _: &RecordKey, record: &Record| {
            let Some((channel, index)) = suppression::parse_id(id) else { return Ok(None) };
            if query.channel.is_some_and(|wanted| wanted != channel) {
                return Ok(None);
            }
            let Some(found) = Suppression::read(record) else { return Ok(None) };
            let address = address_of(&app, &caller.app, index)?;
            Ok(Some(SuppressionView::of(channel, address, found)))
        };
        app.catalog.list_both(KINDS, PINNED_CURSOR, &caller.app, after, limit + 1, read)
    });
    let found = found.await.map_err(|_| Problem::internal())??;
    Ok(Json(Page::of(found, limit)))
}

/// The address behind a blind index, while somebody has it.
fn address_of(app: &App, owner: &AppId, index: &str) -> Result<Option<String>, CatalogError> {
    let Some(id) = app.mirror.recipient_with(index)? else { return Ok(None) };
    let recipient = app.catalog.recipient(owner, &id)?;
    let contact = recipient.as_ref().and_then(|recipient: &Recipient| recipient.contact(index));
    Ok(contact.map(|contact| contact.identity().to_owned()))
}

/// Lifts a suppression: the address gets messages again. Lifting one that is not there does no harm.
#[utoipa::path(delete, path = "/v1/suppressions/{channel}/{address}", tag = "suppressions",
    params(
        ("channel" = String, Path, description = "the channel"),
        ("address" = String, Path, description = "the address, token, chat or URL, percent-encoded"),
    ),
    responses(
        (status = 204, description = "lifted"),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    Ids(Addressed(channel), address): Ids<Addressed, String>,
) -> Result<NoContent, Problem> {
    let address = Address::read(&app, &caller.app, channel, &address)?;
    for pinned in [false, true] {
        let key = address.key(&caller.app, pinned);
        let change = |record: &mut Record, stamp: &Stamp| {
            Suppression::lift(record, stamp);
            Ok::<_, Problem>(())
        };
        let written = app.writer.update(&key, change).await?;
        app.settle(&key, &written).await;
    }
    Ok(NoContent)
}
