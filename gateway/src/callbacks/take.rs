//! Taking over what providers reported. The gateway that is asked may be in another region than the delivery: it checks who
//! posted, and hands the reports to the region that delivered, over NATS (`peal.<r>.api.receipts`). That one knows the
//! delivery, and its events and state hold what may not leave it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use metrics::counter;
use peal_common::address;
use peal_common::channel::Channel;
use peal_common::clock::Stamp;
use peal_common::envelope::Envelope as _;
use peal_common::event::{Event, EventType, Status};
use peal_common::id::{AppId, Region};
use peal_common::receipt::Reference;
use peal_common::state::Record;
use peal_common::suppression::{self, Suppression};
use peal_nats::Subjects;
use peal_nats::fallback;
use peal_nats::publish::Outgoing;
use peal_nats::service::Refusal;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Provider, Report, again};
use crate::api::suppressions::is_pinned;
use crate::app::App;
use crate::http::problem::Problem;
use crate::metrics::Metric;
use crate::readmodel::{DeliveryView, NotificationView};

/// The door of other regions' gateways.
pub const DOOR: &str = "receipts";
/// How long another region may take. Providers wait for 10 to 15 s.
const REGION_LIMIT: Duration = Duration::from_secs(8);
/// How many reports one message to another region holds: far below the largest message of nats-server (1 MiB).
const PER_MESSAGE: usize = 500;
/// How many reports are written at once.
const AT_ONCE: usize = 32;
/// How long the read model may take to hear of a notification that was accepted a moment ago.
const JUST_ACCEPTED_LIMIT: Duration = Duration::from_secs(2);
/// How long it may take to hear that something was sent of which its provider reports already that it came back. To ask for
/// the report once more is no way out: Twilio posts again only where it could not connect ("Webhooks, Connection
/// Overrides", retry policy).
const JUST_SENT_LIMIT: Duration = Duration::from_secs(2);
/// How much later by a dispatcher's clock, in seconds, something may seem to be that happened before by Telegram's.
const CLOCKS_DIFFER: i64 = 60;
/// Why a chat is not written to.
const BLOCKED: &str = "blocked";
/// What a dispatcher writes when it is told so by an answer.
const BLOCKED_BY_ANSWER: &str = "http_403";

/// What a provider reported of a delivery, as regions tell it each other. It names nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Receipt {
    /// As [`Reference`] writes it.
    reference: String,
    provider: String,
    channel: Channel,
    at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    step: Option<EventType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    provider_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    suppress: Option<Suppress>,
    /// Whether it may be sent again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    passes: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Suppress {
    /// The address's blind index.
    index: String,
    reason: String,
}

/// Takes over what a provider reported, here or in the regions that it is about. When this fails, the provider posts all
/// of it again. `own` is the app whose account signed it: what is said of other apps' deliveries is left.
///
/// # Errors
/// [`Problem`] when something that is needed does not answer.
pub async fn reported(
    app: &App,
    provider: Provider,
    reports: Vec<Report>,
    own: Option<&AppId>,
) -> Result<(), Problem> {
    let callbacks = app.callbacks.get();
    let bot_apps = own.map_or(callbacks.bot_apps.as_slice(), std::slice::from_ref);
    let mut by_region = BTreeMap::<Region, Vec<Receipt>>::new();
    for report in reports {
        match report {
            Report::Chat { chat, blocked, at } => {
                let now = app.clock.now();
                turn(app, bot_apps, &chat, blocked, at.map_or(now, |at| at.min(now))).await?;
            }
            Report::Delivery { reference, .. } if own.is_some_and(|own| reference.app != *own) => {}
            Report::Delivery { reference, step, at, reason, provider_id, dead, passes } => {
                let now = app.clock.now();
                let channel = provider.channel();
                let suppress = dead.and_then(|(address, reason)| {
                    let address = address::normalize(channel, &address).ok()?;
                    let index = app.catalog.blind_index(&reference.app, channel, &address);
                    Some(Suppress { index, reason })
                });
                by_region.entry(reference.region.clone()).or_default().push(Receipt {
                    reference: reference.to_string(),
                    provider: provider.to_string(),
                    channel,
                    // Nothing happens later than now, whatever a provider's clock says.
                    at: at.map_or(now, |at| at.min(now)),
                    step,
                    reason,
                    provider_id,
                    suppress,
                    passes,
                });
            }
        }
    }
    for (region, receipts) in by_region {
        if region == app.settings.region.name {
            take(app, &receipts).await?;
        } else if app.settings.topology.regions.contains(&region) {
            hand_over(app, &region, &receipts).await?;
        } else {
            tracing::warn!(%provider, %region, receipts = receipts.len(), "no such region: what was reported is left");
        }
    }
    Ok(())
}

async fn hand_over(app: &App, region: &Region, receipts: &[Receipt]) -> Result<(), Problem> {
    for some in receipts.chunks(PER_MESSAGE) {
        let question = serde_json::to_vec(some).map_err(|_| Problem::internal())?;
        let subject = Subjects::new(region).api(DOOR);
        let answered = app.connection.ask(subject, question.into(), REGION_LIMIT).await;
        answered.map_err(|error| {
            tracing::warn!(%region, error = &error as &dyn std::error::Error, "a region takes no receipts");
            Problem::unavailable(
                "region_unreachable",
                "the region that delivered does not answer; post it again",
            )
        })?;
    }
    Ok(())
}

/// Answers another region that hands over what it was reported.
///
/// # Errors
/// [`Refusal`] when it is to be handed over again.
pub async fn handed_over(app: &App, question: &[u8]) -> Result<Bytes, Refusal> {
    let refused = |code, title: &str| Refusal { code, title: title.to_owned(), body: Bytes::new() };
    let receipts: Vec<Receipt> =
        serde_json::from_slice(question).map_err(|_| refused(400, "not a list of receipts"))?;
    match take(app, &receipts).await {
        Ok(()) => Ok(Bytes::new()),
        Err(problem) => Err(refused(503, problem.code())),
    }
}

/// Makes events and suppressions of what was reported of deliveries of this region.
async fn take(app: &App, receipts: &[Receipt]) -> Result<(), Problem> {
    let mut known = Vec::with_capacity(receipts.len());
    // Whoever is not known yet was accepted a moment ago, or so long ago that nobody knows it any more. The read model is
    // waited for once.
    let mut waits = true;
    for receipt in receipts {
        let Ok(reference) = receipt.reference.parse::<Reference>() else { continue };
        let mut found = app.model.notification(&reference.app, &reference.notification)?;
        if found.is_none() && waits {
            waits = false;
            let again =
                app.model.notification_or_wait(&reference.app, &reference.notification, JUST_ACCEPTED_LIMIT);
            found = again.await?;
        }
        known.push((receipt, reference, found));
    }
    let latest = Instant::now() + JUST_SENT_LIMIT;
    stream::iter(known)
        .map(Ok)
        .try_for_each_concurrent(AT_ONCE, |(receipt, reference, found)| async move {
            let found = match found {
                Some(found) if is_early(receipt, &reference, &found) => {
                    once_sent(app, receipt, &reference, latest).await?
                }
                found => found,
            };
            // What is known was acted upon: the address may have been put right since.
            if let Some(suppress) = &receipt.suppress
                && !found.as_ref().is_some_and(|found| is_repeated(receipt, &reference, found))
            {
                let pinned = found.as_ref().and_then(|found| found.summary.pinned) == Some(true);
                suppress_address(app, &reference.app, receipt, suppress, pinned).await?;
            }
            let step = receipt.step.zip(found.as_ref());
            let event = step.and_then(|(step, found)| event(receipt, &reference, step, found));
            let outcome = if event.is_some() { "taken" } else { "known" };
            if let Some(event) = event {
                let again = match delivery(&reference, found.as_ref()).zip(found.as_ref()) {
                    Some((delivery, found)) if receipt.passes && is_open(delivery, found) => {
                        again::once_more(app, delivery, &event).await?
                    }
                    _ => None,
                };
                let event = again.unwrap_or(event);
                say(app, &event).await?;
                if event.kind == EventType::Bounced {
                    hurry(app, event).await;
                }
            }
            counter!(Metric::Receipts.name(), "provider" => receipt.provider.clone(), "outcome" => outcome)
                .increment(1);
            Ok(())
        })
        .await
}

/// Whether something is to be made again of which it is not known yet that it was sent: whoever calls the provider may not
/// have told yet, and until then has it in hand.
fn is_early(receipt: &Receipt, reference: &Reference, found: &NotificationView) -> bool {
    let step = receipt.step.filter(|_| receipt.passes && !found.summary.deliveries_truncated);
    let is_new = step.is_some_and(|step| event(receipt, reference, step, found).is_some());
    is_new && delivery(reference, Some(found)).is_none_or(|delivery| !delivery.status.is_settled())
}

/// The notification once it is known that the delivery was sent, or as it stands at `latest`.
async fn once_sent(
    app: &App,
    receipt: &Receipt,
    reference: &Reference,
    latest: Instant,
) -> Result<Option<NotificationView>, Problem> {
    let is_sent = |found: &NotificationView| !is_early(receipt, reference, found);
    Ok(app.model.notification_when(&reference.app, &reference.notification, latest, is_sent).await?)
}

fn delivery<'a>(reference: &Reference, found: Option<&'a NotificationView>) -> Option<&'a DeliveryView> {
    found?.summary.deliveries.iter().find(|delivery| delivery.id == reference.delivery.as_str())
}

/// Whether the delivery is where a receipt says that it is, for the same reason.
fn is_repeated(receipt: &Receipt, reference: &Reference, found: &NotificationView) -> bool {
    delivery(reference, Some(found))
        .zip(receipt.step)
        .is_some_and(|(delivery, step)| is_known(delivery, step) && delivery.reason == receipt.reason)
}

/// The event that a receipt is; `None` when it says nothing new.
fn event(
    receipt: &Receipt,
    reference: &Reference,
    step: EventType,
    found: &NotificationView,
) -> Option<Event> {
    let delivery = delivery(reference, Some(found));
    if delivery.is_some_and(|delivery| is_known(delivery, step) || is_of_before(receipt, delivery)) {
        return None;
    }
    let mut event = Event::new(step, receipt.at, reference.app.clone(), reference.notification.clone());
    event.delivery = Some(reference.delivery.clone());
    event.recipient = delivery.and_then(|delivery| delivery.recipient.clone());
    event.channel = Some(receipt.channel);
    // Which account it was, the delivery knows better than the provider.
    event.provider = delivery.and_then(|delivery| delivery.provider.clone());
    event.reason = receipt.reason.clone();
    event.provider_id = receipt.provider_id.clone();
    event.replays = delivery.map(|delivery| delivery.replays).filter(|replays| *replays > 0);
    // Rather kept at home than told too far, when that is not known any more.
    event.pinned = found.summary.pinned.unwrap_or(true);
    Some(event)
}

fn is_known(delivery: &DeliveryView, step: EventType) -> bool {
    match step {
        EventType::Opened => delivery.opened_at.is_some(),
        EventType::Clicked => delivery.clicked_at.is_some(),
        EventType::Delivered => matches!(delivery.status, Status::Delivered | Status::Bounced),
        _ => step.status().is_some_and(|status| status == delivery.status),
    }
}

/// Whether a receipt is about a sending before the delivery was replayed: the provider calls that one otherwise.
fn is_of_before(receipt: &Receipt, delivery: &DeliveryView) -> bool {
    if delivery.replays == 0 {
        return false;
    }
    match (receipt.provider_id.as_deref(), &delivery.sent_as) {
        // SendGrid adds to the name that it answered with. On its way again, it may have been called already, under a name
        // that is not known yet.
        (Some(named), Some((replay, last))) => named.starts_with(last) == (*replay < delivery.replays),
        (Some(_), None) => false,
        (None, _) => delivery.status == Status::Queued,
    }
}

/// Whether a delivery may be made again: it was sent, and nobody has seen to the matter since.
fn is_open(delivery: &DeliveryView, found: &NotificationView) -> bool {
    delivery.status == Status::Sent && found.summary.acknowledged_at.is_none()
}

async fn say(app: &App, event: &Event) -> Result<(), Problem> {
    let payload = event.encode().map_err(|_| Problem::internal())?;
    let delivery = event.delivery.as_ref().map_or("", |delivery| delivery.as_str());
    // Providers post twice within a moment, and two gateways may be asked.
    let id = format!("receipt:{delivery}:{}:{}", event.kind.as_str(), event.replays.unwrap_or(0));
    app.connection.publish(Outgoing::new(app.subjects.of_event(event), payload).id(&id)).await?;
    Ok(())
}

/// Where the notification has a fallback, the next channel is not waited for.
async fn hurry(app: &App, bounced: Event) {
    let missed = fallback::Question { app: bounced.app, notification: bounced.notification };
    let now = app.clock.now();
    if let Err(error) = fallback::hurry(&app.connection, &app.subjects, &missed, now).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "a fallback comes when its time is over, not before");
    }
}

async fn suppress_address(
    app: &App,
    owner: &AppId,
    receipt: &Receipt,
    suppress: &Suppress,
    pinned: bool,
) -> Result<(), Problem> {
    let pinned = pinned || is_pinned(app, owner, &suppress.index)?;
    let key = suppression::key(owner, receipt.channel, &suppress.index, pinned);
    let found = Suppression { reason: suppress.reason.clone(), since: receipt.at };
    let change = |record: &mut Record, stamp: &Stamp| {
        if Suppression::read(record).is_none() && !Suppression::was_lifted_after(record, receipt.at) {
            found.write(record, stamp);
        }
        Ok::<_, Problem>(())
    };
    let written = app.writer.update(&key, change).await?;
    app.settle(&key, &written).await;
    Ok(())
}

/// Suppresses a chat that blocked the bot of these apps at `since`, or lets it be written to again.
async fn turn(
    app: &App,
    owners: &[AppId],
    chat: &str,
    blocked: bool,
    since: Timestamp,
) -> Result<(), Problem> {
    // Times are in whole seconds. What a dispatcher was answered it noted by its own clock, after the answer.
    let is_later = |found: &Suppression| {
        let slack = if found.reason == BLOCKED { 0 } else { CLOCKS_DIFFER };
        found.since.as_second() > since.as_second() + slack
    };
    for owner in owners {
        let index = app.catalog.blind_index(owner, Channel::Telegram, chat);
        let pinned = is_pinned(app, owner, &index)?;
        let change = |record: &mut Record, stamp: &Stamp| {
            let before = Suppression::read(record);
            let of_blocking =
                |found: &Suppression| found.reason == BLOCKED || found.reason == BLOCKED_BY_ANSWER;
            match (blocked, before) {
                (true, None) if !Suppression::was_lifted_after(record, since) => {
                    Suppression { reason: BLOCKED.to_owned(), since }.write(record, stamp);
                }
                (false, Some(found)) if of_blocking(&found) && !is_later(&found) => {
                    Suppression::lift(record, stamp);
                }
                _ => {}
            }
            Ok::<_, Problem>(())
        };
        let key = suppression::key(owner, Channel::Telegram, &index, pinned);
        let written = app.writer.update(&key, change).await?;
        app.settle(&key, &written).await;
    }
    Ok(())
}
