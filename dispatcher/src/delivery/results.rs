//! What became of deliveries whose providers say nothing by themselves: they are asked, some seconds after they took a
//! message. The question waits in SCHEDULE and comes back through the channel's own queue, so that it is asked by a
//! dispatcher that serves the channel, whichever of them lives by then.

use std::time::Duration;

use peal_common::envelope::{ENVELOPE_VERSION, Envelope as _, LATER_VERSION, Look, Work};
use peal_common::event::{Event, EventType};
use peal_common::outcome::Outcome;
use peal_nats::publish::Outgoing;
use peal_nats::pull::Job;

use super::settle::{self, Settling};
use super::{DeliveryError, suppress};
use crate::channels::Account;
use crate::context::{Context, SayError};
use crate::fanout::fallback;

/// How long after a message was taken its result is asked for (Aligo has it after 4 to 6 s). Each further wait is twice as
/// long.
const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// How often a provider is asked, over half an hour. What has no result then was sent, and no more is known of it.
const LOOKS: u32 = 18;

/// Has the provider asked later, where that is the way to know. Nothing happens with other providers.
pub(super) async fn ask_later(
    to: &Settling<'_>,
    work: &Work,
    attempts: u32,
    provider_id: &str,
) -> Result<(), SayError> {
    let providers = to.context.providers();
    let account = to.provider.as_deref().and_then(|name| providers.named(work.channel, name));
    let Some(account) = account.filter(|account| account.is_asked()) else { return Ok(()) };
    let look = Look {
        v: LATER_VERSION,
        work: work.clone(),
        account: account.name().to_string(),
        provider_id: provider_id.to_owned(),
        attempts,
        sent_at: to.context.clock.now(),
        looks: 0,
    };
    put_down(to.context, &look).await
}

async fn put_down(context: &Context, look: &Look) -> Result<(), SayError> {
    let wait = FIRST_WAIT.saturating_mul(1 << look.looks.min(8)).min(LONGEST_WAIT);
    let notification = &look.work.notification;
    let target = context.subjects.due(&[
        "look",
        look.work.channel.as_str(),
        notification.priority.as_str(),
        notification.app.as_str(),
    ]);
    let name = ["look", look.work.delivery.as_str(), &look.work.replays.to_string()];
    context.schedule(&name, &target, settle::later(context, wait), look.encode()?).await
}

/// Puts a question that has become due into its channel's queue.
pub(crate) async fn queue(context: &Context, look: &Look) -> Result<(), SayError> {
    let work = &look.work;
    let subject =
        context.subjects.work(work.channel, work.notification.priority, work.notification.app.as_str());
    let id = format!("look:{}:{}:{}", work.delivery, work.replays, look.looks);
    context.connection.publish(Outgoing::new(subject, look.encode()?).id(&id)).await?;
    Ok(())
}

/// Asks, and tells what came of it.
pub(super) async fn ask(context: &Context, job: &Job, look: Look) -> Result<(), DeliveryError> {
    let work = &look.work;
    context.caught_up(work.state_seq).await?;
    let providers = context.providers();
    let recipient = context.catalog.recipient(&work.notification.app, &work.recipient)?;
    let contact = recipient.as_ref().and_then(|recipient| recipient.contact(&work.contact));
    // Of who is not known any more nothing more is to be known, and an account that is gone can't be asked.
    let (Some(account), Some(recipient), Some(contact)) =
        (providers.named(work.channel, &look.account), &recipient, contact)
    else {
        return Ok(job.ack().await?);
    };
    match account.result(&look.provider_id, contact, &context.clock).await {
        Ok(Some(outcome)) => {
            // Whom Aligo reaches by a text message in its place is reached again so.
            if !account.has_failover() {
                suppress::after(context, work, recipient.registered_ms, &outcome).await;
            }
            tell(context, account, &look, &outcome).await?;
        }
        unknown => {
            if let Err(outcome) = &unknown {
                tracing::debug!(delivery.channel = %work.channel, outcome = outcome.name(), "no result yet");
            }
            let looks = look.looks + 1;
            if looks < LOOKS {
                put_down(context, &Look { looks, ..look }).await?;
            }
        }
    }
    Ok(job.ack().await?)
}

async fn tell(context: &Context, account: &Account, look: &Look, outcome: &Outcome) -> Result<(), SayError> {
    let attempts = look.attempts;
    let say = |kind, reason: Option<String>| {
        let mut event = event(context, look, kind);
        event.reason = reason;
        event
    };
    match outcome {
        Outcome::Delivered { .. } | Outcome::Sent { .. } => {
            said(context, &say(EventType::Delivered, None)).await
        }
        // The provider sends it another way, and nobody else may.
        Outcome::Permanent { reason }
        | Outcome::AddressDead { reason, .. }
        | Outcome::AddressFull { reason }
        | Outcome::Ambiguous { reason }
        | Outcome::Retry { reason, .. }
        | Outcome::Unavailable { reason, .. }
        | Outcome::HeldBack { reason, .. }
            if account.has_failover() =>
        {
            said(context, &say(EventType::Sent, Some(format!("failover: {reason}")))).await
        }
        Outcome::Retry { reason, .. }
        | Outcome::Unavailable { reason, .. }
        | Outcome::HeldBack { reason, .. }
            if attempts < context.policy.max_attempts || matches!(outcome, Outcome::Unavailable { .. }) =>
        {
            again(context, look, outcome, reason).await
        }
        Outcome::Permanent { reason }
        | Outcome::AddressDead { reason, .. }
        | Outcome::AddressFull { reason }
        | Outcome::Ambiguous { reason }
        | Outcome::Retry { reason, .. }
        | Outcome::Unavailable { reason, .. }
        | Outcome::HeldBack { reason, .. } => {
            said(context, &say(EventType::Bounced, Some(reason.clone()))).await?;
            fallback::hurry(context, fallback::missed(&look.work.notification)).await;
            Ok(())
        }
    }
}

/// Sends what did certainly not arrive once more. The provider's trouble burns no attempt.
async fn again(context: &Context, look: &Look, outcome: &Outcome, reason: &str) -> Result<(), SayError> {
    let burned = u32::from(!matches!(outcome, Outcome::Unavailable { .. }));
    let work = look.work.once_more(look.attempts.saturating_sub(1) + burned);
    let mut event = event(context, look, EventType::Replayed);
    event.reason = Some(reason.to_owned());
    event.replays = Some(work.replays);
    let times = look.attempts.saturating_add(look.work.replays);
    let wait = context.policy.backoff.delay(times, None, &mut rand::rng());
    settle::reschedule(context, work, settle::later(context, wait)).await?;
    said(context, &event).await
}

fn event(context: &Context, look: &Look, kind: EventType) -> Event {
    let work = &look.work;
    let mut event = Event::about(kind, context.clock.now(), &work.notification);
    event.v = ENVELOPE_VERSION;
    event.delivery = Some(work.delivery.clone());
    event.recipient = Some(work.recipient.clone());
    event.channel = Some(work.channel);
    event.provider = Some(look.account.clone());
    event.provider_id = Some(look.provider_id.clone());
    event.replays = Some(work.replays).filter(|replays| *replays > 0);
    event
}

/// A question may be asked twice when its acknowledgement is lost: what follows is said once.
async fn said(context: &Context, event: &Event) -> Result<(), SayError> {
    let delivery = event.delivery.as_ref().map_or("", |delivery| delivery.as_str());
    let id = format!("result:{delivery}:{}:{}", event.kind.as_str(), event.replays.unwrap_or(0));
    crate::metrics::event(event.kind, event.channel);
    let subject = context.subjects.of_event(event);
    context.connection.publish(Outgoing::new(subject, event.encode()?).id(&id)).await?;
    Ok(())
}
