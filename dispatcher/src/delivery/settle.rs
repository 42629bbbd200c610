//! What follows from an attempt: the one place where an outcome becomes events, acknowledgements and waits.
//!
//! Whatever follows is durable before the message is acknowledged. When something in between fails, the message comes
//! again and its event tells what was done.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use peal_common::category::Class;
use peal_common::decide;
use peal_common::envelope::Work;
use peal_common::event::{Event, EventType};
use peal_common::outcome::Outcome;
use peal_nats::pull::Job;
use peal_nats::put_off::{self, PutOffError};

use super::at_once::Plan;
use super::{DeliveryError, results};
use crate::context::{Context, SayError};
use crate::fanout::{self, fallback};

/// Waits that are longer go through SCHEDULE: a message that waits in its queue keeps a place there.
const LONGEST_NAK: Duration = Duration::from_secs(60);
/// The least wait while a provider as a whole is out of order. Its circuit says how long it is left alone.
const UNAVAILABLE_PAUSE: Duration = Duration::from_secs(5);
/// The least wait of what a rate limit held back; schedules are in whole seconds.
const HELD_BACK_PAUSE: Duration = Duration::from_secs(1);
/// The wait before a message is sent again that may have been sent: time for a bounce or a receipt to come in.
const AMBIGUOUS_PAUSE: Duration = Duration::from_secs(90);
/// The wait before a provider is asked for a message that it may have: time for its lists to show what it has.
const ASK_PAUSE: Duration = Duration::from_secs(15);

/// A delivery that is being settled, and with whom.
pub(super) struct Settling<'a> {
    pub(super) context: &'a Context,
    /// The message that is acknowledged in the end.
    pub(super) job: &'a Job,
    /// The planning, where that was not told yet: `job` is the notification's message then.
    pub(super) plan: Option<&'a Plan<'a>>,
    /// The provider that was called, or would have been.
    pub(super) provider: Option<Arc<str>>,
}

/// Settles a delivery that was tried. What it takes over is copied only where more follows than an event; and what follows then
/// is on the heap, since most deliveries arrive and need no room for it.
pub(super) async fn after_attempt(
    to: &Settling<'_>,
    work: &Work,
    class: Class,
    outcome: &Outcome,
) -> Result<(), DeliveryError> {
    let attempts = work.attempts.saturating_add(1);
    match outcome {
        Outcome::Delivered { provider_id } => {
            sent(to, work, EventType::Delivered, attempts, provider_id.as_deref()).await
        }
        Outcome::Sent { provider_id } => {
            sent(to, work, EventType::Sent, attempts, provider_id.as_deref()).await
        }
        Outcome::HeldBack { reason, after } => {
            let wait = after.unwrap_or_default().max(HELD_BACK_PAUSE);
            Box::pin(wait_for(to, work.clone(), attempts - 1, reason, wait)).await
        }
        Outcome::Retry { reason, after } => {
            Box::pin(retry(to, Box::new(work.clone()), attempts, reason, *after)).await
        }
        Outcome::Permanent { reason }
        | Outcome::AddressDead { reason, .. }
        | Outcome::AddressFull { reason } => {
            Box::pin(refused(to, Box::new(work.clone()), attempts, reason)).await
        }
        // The provider's trouble burns no attempt.
        Outcome::Unavailable { reason, after } => {
            let wait =
                after.unwrap_or(UNAVAILABLE_PAUSE).max(UNAVAILABLE_PAUSE).min(to.context.policy.backoff.cap);
            Box::pin(wait_for(to, work.clone(), attempts - 1, reason, wait)).await
        }
        Outcome::Ambiguous { reason } => {
            Box::pin(ambiguous(to, Box::new(work.clone()), class, attempts, reason)).await
        }
    }
}

async fn sent(
    to: &Settling<'_>,
    work: &Work,
    kind: EventType,
    attempts: u32,
    provider_id: Option<&str>,
) -> Result<(), DeliveryError> {
    let mut event = event(to, work, kind, attempts);
    event.provider_id = provider_id.map(str::to_owned);
    if kind == EventType::Sent
        && let Some(provider_id) = provider_id
    {
        results::ask_later(to, work, attempts, provider_id).await?;
    }
    to.context.event(&event).await?;
    Ok(to.job.ack().await?)
}

async fn retry(
    to: &Settling<'_>,
    work: Box<Work>,
    attempts: u32,
    reason: &str,
    after: Option<Duration>,
) -> Result<(), DeliveryError> {
    if attempts >= to.context.policy.max_attempts {
        return give_up(to, work, attempts, "attempts_exhausted", reason).await;
    }
    let wait = to.context.policy.backoff.delay(attempts, after, &mut rand::rng());
    if wait > LONGEST_NAK {
        return wait_for(to, *work, attempts, reason, wait).await;
    }
    let until = later(to.context, wait);
    let mut event = event(to, &work, EventType::Retried, attempts);
    event.reason = Some(reason.to_owned());
    event.until = Some(until);
    if to.plan.is_none() {
        to.context.event(&event).await?;
        return Ok(to.job.nak(wait).await?);
    }
    // The notification is done. Should it come again all the same, the queue recognises the delivery.
    let waiting = Work { attempts, not_before: Some(until), ..*work };
    to.context.connection.publish(fanout::queued(to.context, &waiting)?).await.map_err(SayError::from)?;
    to.context.event(&event).await?;
    Ok(to.job.ack().await?)
}

/// Waits through SCHEDULE: the message is put down there with the attempts made so far, and this one is done.
async fn wait_for(
    to: &Settling<'_>,
    work: Work,
    attempts: u32,
    reason: &str,
    wait: Duration,
) -> Result<(), DeliveryError> {
    // It was not settled until now.
    put_off(to, Work { repeat_since: None, ..work }, attempts, reason, wait).await
}

async fn put_off(
    to: &Settling<'_>,
    mut work: Work,
    attempts: u32,
    reason: &str,
    wait: Duration,
) -> Result<(), DeliveryError> {
    let until = later(to.context, wait);
    let mut event = event(to, &work, EventType::Retried, attempts);
    event.reason = Some(reason.to_owned());
    event.until = Some(until);
    work.attempts = attempts;
    reschedule(to.context, work, until).await?;
    to.context.event(&event).await?;
    Ok(to.job.ack().await?)
}

async fn refused(
    to: &Settling<'_>,
    work: Box<Work>,
    attempts: u32,
    reason: &str,
) -> Result<(), DeliveryError> {
    let mut event = event(to, &work, EventType::Failed, attempts);
    event.reason = Some(reason.to_owned());
    // It is kept as a dead letter too: when the receiving side has been put right, it can be replayed.
    let missed = fallback::missed(&work.notification);
    to.context.dead_letter(work, attempts, reason).await?;
    to.context.event(&event).await?;
    fallback::hurry(to.context, missed).await;
    Ok(to.job.term(&to.context.connection, reason).await?)
}

async fn give_up(
    to: &Settling<'_>,
    work: Box<Work>,
    attempts: u32,
    reason: &str,
    last: &str,
) -> Result<(), DeliveryError> {
    let mut event = event(to, &work, EventType::DeadLettered, attempts);
    let reason = format!("{reason}: {last}");
    event.reason = Some(reason.clone());
    let missed = fallback::missed(&work.notification);
    to.context.dead_letter(work, attempts, &reason).await?;
    to.context.event(&event).await?;
    fallback::hurry(to.context, missed).await;
    Ok(to.job.term(&to.context.connection, &reason).await?)
}

/// It may have been sent or not, and the provider can be asked: it comes again with its intent, which has it asked
/// ([`super::interrupted`]).
pub(super) async fn ask_first(to: &Settling<'_>, work: &Work, reason: &str) -> Result<(), DeliveryError> {
    let attempts = work.attempts.saturating_add(1);
    let mut event = event(to, work, EventType::Retried, attempts);
    event.reason = Some(format!("ambiguous: {reason}"));
    event.until = Some(later(to.context, ASK_PAUSE));
    to.context.event(&event).await?;
    Ok(to.job.nak(ASK_PAUSE).await?)
}

/// It may have been sent or not. What that means depends on the channel.
async fn ambiguous(
    to: &Settling<'_>,
    work: Box<Work>,
    class: Class,
    attempts: u32,
    reason: &str,
) -> Result<(), DeliveryError> {
    if decide::may_repeat(work.channel, class) && attempts < to.context.policy.max_attempts {
        // A receipt that comes meanwhile settles it.
        let work = Work { repeat: true, repeat_since: Some(to.context.clock.now()), ..*work };
        return put_off(to, work, attempts, &format!("ambiguous: {reason}"), AMBIGUOUS_PAUSE).await;
    }
    let mut event = event(to, &work, EventType::Ambiguous, attempts);
    event.reason = Some(reason.to_owned());
    to.context.dead_letter(work, attempts, &format!("ambiguous: {reason}")).await?;
    to.context.event(&event).await?;
    Ok(to.job.term(&to.context.connection, reason).await?)
}

/// Settles a delivery that is not to be sent.
pub(super) async fn without_attempt(
    to: &Settling<'_>,
    work: &Work,
    kind: EventType,
    reason: &str,
) -> Result<(), DeliveryError> {
    let mut event = event(to, work, kind, work.attempts);
    event.reason = Some(reason.to_owned());
    to.context.event(&event).await?;
    if matches!(kind, EventType::Failed | EventType::Suppressed) {
        fallback::hurry(to.context, fallback::missed(&work.notification)).await;
    }
    Ok(to.job.ack().await?)
}

/// Puts a delivery off until the recipient wants to be disturbed.
pub(super) async fn hold(to: &Settling<'_>, mut work: Work, until: Timestamp) -> Result<(), DeliveryError> {
    let mut event = event(to, &work, EventType::Held, work.attempts);
    event.reason = Some("quiet_hours".to_owned());
    event.until = Some(until);
    // It was not settled until now.
    work.repeat_since = None;
    reschedule(to.context, work, until).await?;
    to.context.event(&event).await?;
    Ok(to.job.ack().await?)
}

pub(super) async fn reschedule(context: &Context, work: Work, at: Timestamp) -> Result<(), SayError> {
    put_off::put_off(&context.connection, &context.subjects, work, at).await.map_err(|error| match error {
        PutOffError::Publish(error) => error.into(),
        PutOffError::Encode(error) => error.into(),
    })
}

pub(super) fn later(context: &Context, wait: Duration) -> Timestamp {
    let now = context.clock.now();
    now.checked_add(wait).unwrap_or(now)
}

fn event(to: &Settling<'_>, work: &Work, kind: EventType, attempts: u32) -> Event {
    let mut event = Event::about(kind, to.context.clock.now(), &work.notification);
    event.delivery = Some(work.delivery.clone());
    event.recipient = Some(work.recipient.clone());
    event.channel = Some(work.channel);
    event.provider = to.provider.as_deref().map(str::to_owned);
    event.attempts = Some(attempts).filter(|attempts| *attempts > 0);
    event.replays = Some(work.replays).filter(|replays| *replays > 0);
    match to.plan {
        Some(plan) => plan.with(event),
        None => event,
    }
}
