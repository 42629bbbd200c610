//! The next channel for those whom one did not reach.
//!
//! A notification with a fallback leaves a check in SCHEDULE when it is fanned out. When that is due, or brought forward by
//! a delivery that failed, the gateways are asked how its deliveries stand (they know every receipt and every reaction), and
//! each recipient who was not reached in time gets it on the next channel of their order.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use peal_common::channel::Channel;
use peal_common::envelope::{Accepted, Envelope as _, FallbackCheck, Intake, ResolvedTarget, Work};
use peal_common::event::{EventType, Status};
use peal_common::fallback::{DeliveryStanding, Fallback, NotificationStanding, Verdict};
use peal_common::id::RecipientId;
use peal_nats::catalog::CatalogError;
use peal_nats::fallback::{self, DOOR, Question};
use peal_nats::publish::{Outgoing, PublishError};
use peal_nats::pull::Job;
use peal_nats::topology::SCHEDULE;

use super::deliveries::{self, Decided, Repeat};
use super::{FanOutError, PAUSE, publish};
use crate::channels::{Account, Sought};
use crate::context::{Context, SayError};

/// How long a gateway may take to tell how a notification stands: it reads up to the end of its events first.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// The reason in the event of deliveries that were planned because others did not do.
const REASON: &str = "fallback";

/// Puts a check down for a notification that has just been planned. Who has no other channel is not looked at again.
pub(super) async fn arm(
    context: &Context,
    intake: &Intake,
    decided: &Decided,
    now: Timestamp,
) -> Result<(), FanOutError> {
    let Some(rules) = intake.notification.fallback else { return Ok(()) };
    let planned: HashSet<&RecipientId> = decided.works.iter().map(|work| &work.recipient).collect();
    let is_looked_at =
        |target: &&ResolvedTarget| target.only.is_none() && planned.contains(&target.recipient);
    let targets: Vec<_> = intake.targets.iter().filter(is_looked_at).cloned().collect();
    let since = vec![now; targets.len()];
    // On the heap: hardly any notification needs room for it.
    let put_down = Box::pin(put_down(context, intake, targets, since, rules, None));
    Ok(put_down.await.map_err(SayError::from)?)
}

/// What a delivery that fails has the check come soon of; `None` where the notification has no fallback.
pub fn missed(notification: &Accepted) -> Option<Question> {
    notification.fallback?;
    Some(Question { app: notification.app.clone(), notification: notification.id.clone() })
}

/// Has the check come soon, since a delivery failed.
pub async fn hurry(context: &Context, missed: Option<Question>) {
    let Some(missed) = missed else { return };
    let now = context.clock.now();
    let brought = fallback::hurry(&context.connection, &context.subjects, &missed, now).await;
    if let Err(error) = brought {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "a fallback comes when its time is over, not before");
    }
}

async fn put_down(
    context: &Context,
    intake: &Intake,
    targets: Vec<ResolvedTarget>,
    since: Vec<Timestamp>,
    rules: Fallback,
    expected: Option<u64>,
) -> Result<(), PublishError> {
    let Some(first) = since.iter().min() else { return Ok(()) };
    let at = first.saturating_add(rules.after()).unwrap_or(*first);
    let notification = &intake.notification;
    let intake = Intake { targets, send_at: None, takeover: None, ..intake.clone() };
    let check = FallbackCheck::new(intake, since);
    let payload = check.encode().map_err(|error| PublishError::Unavailable {
        reason: "a check cannot be encoded",
        source: Some(error.into()),
    })?;
    let target =
        context.subjects.due(&["fallback", notification.priority.as_str(), notification.app.as_str()]);
    let subject = fallback::subject(&context.subjects, &notification.app, &notification.id);
    // One that is due too late waits for failures alone.
    let outgoing = Outgoing::new(subject, payload).at(at.min(notification.expires_at), &target);
    let outgoing = match expected {
        Some(sequence) => outgoing.expect_last(sequence),
        None => outgoing,
    };
    context.connection.publish(outgoing).await.map(drop)
}

/// Looks after the recipients of a notification whose check is due.
pub async fn handle(context: &Context, job: Job) {
    let check = match FallbackCheck::decode(job.payload()) {
        Ok(check) => check,
        Err(error) => return context.unreadable(&job, None, &error).await,
    };
    let looked = Box::pin(look(context, &job, check));
    if let Err(error) = job.keep(looked).await {
        tracing::warn!(
            sequence = job.sequence,
            error = &error as &dyn std::error::Error,
            "a fallback is looked at again"
        );
        let _ = job.nak(PAUSE).await;
    }
}

async fn look(context: &Context, job: &Job, check: FallbackCheck) -> Result<(), FanOutError> {
    let FallbackCheck { intake, since, .. } = check;
    let notification = &intake.notification;
    context.caught_up(intake.state_seq).await?;
    let now = context.clock.now();
    let is_over = notification.expires_at <= now || context.stopped(notification)?.is_some();
    let Some(rules) = notification.fallback.filter(|_| !is_over) else { return Ok(job.ack().await?) };
    // Whoever brings it forward from here on does so with what is put down below.
    let subject = fallback::subject(&context.subjects, &notification.app, &notification.id);
    let waiting = context
        .connection
        .last_of(SCHEDULE, &subject)
        .await
        .map_err(crate::outcomes::UnknownOutcome::from)?;
    let expected = waiting.map_or(0, |waiting| waiting.sequence);
    let standing = ask(context, notification).await?;
    if standing.acknowledged {
        return Ok(job.ack().await?);
    }

    let mut of = HashMap::<&RecipientId, Vec<&DeliveryStanding>>::new();
    for delivery in &standing.deliveries {
        of.entry(&delivery.recipient).or_default().push(delivery);
    }
    let (mut targets, mut begun, mut next) = (Vec::new(), Vec::new(), Vec::new());
    for (target, since) in intake.targets.iter().zip(since) {
        let own = of.get(&target.recipient).map_or(&[][..], Vec::as_slice);
        match rules.verdict(own.iter().copied(), since, now) {
            Verdict::Reached => {}
            Verdict::Wait(since) => {
                targets.push(target.clone());
                begun.push(since);
            }
            // Of a notification with more deliveries than gateways keep, nobody knows how the others stand.
            Verdict::Next if own.is_empty() => {}
            Verdict::Next => next.push(target.clone()),
        }
    }
    let has_failover = has_failover(context, notification)?;
    let tried = |recipient: &RecipientId, channel: Channel| {
        let own = of.get(recipient).map_or(&[][..], Vec::as_slice);
        own.iter().any(|delivery| delivery.channel == Some(channel))
            || (channel == Channel::Sms && has_failover && may_have_it(own))
    };
    let decided = decide(context, &Intake { targets: next, ..intake.clone() }, now, &tried)?;
    for target in &intake.targets {
        if decided.works.iter().any(|work| work.recipient == target.recipient) {
            targets.push(target.clone());
            begun.push(now);
        }
    }
    match put_down(context, &intake, targets, begun, rules, Some(expected)).await {
        Ok(()) => {}
        // It was brought forward meanwhile: the check that comes now looks at everything anew.
        Err(PublishError::Conflict) => return Ok(job.ack().await?),
        Err(error) => return Err(SayError::from(error).into()),
    }
    publish(context, decided).await?;
    Ok(job.ack().await?)
}

/// What is planned for those who get it on another channel. Who has no other one is told nothing: what was tried before says
/// it all.
fn decide(
    context: &Context,
    intake: &Intake,
    now: Timestamp,
    tried: &dyn Fn(&RecipientId, Channel) -> bool,
) -> Result<Decided, FanOutError> {
    // A check may come twice: what it had sent must be known before it is sent again.
    let repeat = Repeat { is_possible: true, since: Some(intake.notification.accepted_at) };
    let mut decided = deliveries::decide_but(context, intake, now, repeat, tried)?;
    decided.events.retain(|event| event.kind == EventType::Planned);
    for event in &mut decided.events {
        event.reason = Some(REASON.to_owned());
    }
    let works = std::mem::take(&mut decided.works);
    decided.works = works.into_iter().map(|work| Work { repeat: true, ..work }).collect();
    Ok(decided)
}

/// Whether an account for Alimtalk that takes such notifications sends text messages by itself: then Peal does not.
fn has_failover(context: &Context, notification: &Accepted) -> Result<bool, CatalogError> {
    let Some(rules) = context.catalog.category(&notification.app, &notification.category)? else {
        return Ok(false);
    };
    let sought = Sought { app: &notification.app, class: rules.class, address: None };
    Ok(context.providers().taking(Channel::Alimtalk, &sought).any(Account::has_failover))
}

/// Whether Alimtalk's provider has, or may have, what it is to send by text message. What it never took it does not send.
fn may_have_it(tried: &[&DeliveryStanding]) -> bool {
    let never = |status| matches!(status, Status::Failed | Status::DeadLettered | Status::Suppressed);
    tried.iter().any(|delivery| delivery.channel == Some(Channel::Alimtalk) && !never(delivery.status))
}

async fn ask(context: &Context, notification: &Accepted) -> Result<NotificationStanding, FanOutError> {
    let question = Question { app: notification.app.clone(), notification: notification.id.clone() };
    let question = serde_json::to_vec(&question).map_err(SayError::from)?;
    let door = context.subjects.api(DOOR);
    let answer =
        context.connection.ask(door, question.into(), ASK_LIMIT).await.map_err(FanOutError::Gateway)?;
    Ok(serde_json::from_slice(&answer).map_err(SayError::from)?)
}
