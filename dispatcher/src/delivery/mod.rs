//! Delivery: one recipient on one channel, decided again at the last moment, handed to the provider, and settled.

mod at_once;
mod attempt;
mod in_hand;
mod intents;
mod interrupted;
pub(crate) mod results;
mod settle;
mod suppress;

pub use at_once::{AtOnce, Place, Sole, make_at_once};
pub use in_hand::InHand;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use peal_common::category::Class;
use peal_common::channel::{Channel, Priority};
use peal_common::decide;
use peal_common::envelope::{DecodeError, Envelope as _, LATER_VERSION, Look, Work};
use peal_common::outcome::Outcome;
use peal_nats::follow::StateError;
use peal_nats::publish::PublishError;
use peal_nats::pull::{AckError, Job, Lane};
use peal_nats::put_off;
use peal_nats::topology::{deliver_consumer, work_stream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::channels::Providers;
use crate::channels::outcomes::held_back;
use crate::context::{Context, SayError, Shared};
use crate::outcomes::{Suspicion, UnknownOutcome};
use at_once::Plan;
use attempt::{Decision, Way};
use intents::Intent;
use interrupted::Next;
use settle::Settling;

/// The pause before a delivery is taken up again that could not be settled.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause before JetStream is asked again to store what came of a delivery.
const UNSAID_PAUSE: Duration = Duration::from_millis(200);

/// The wait of what another region may have sent, until the hub is there to tell.
const DOUBT_PAUSE: Duration = Duration::from_secs(300);
/// The reason of that.
const TAKEN_OVER_UNKNOWN: &str = "taken_over_unknown";

/// The least of a channel that is served in batches: so many that even bulk messages, which have an eighth, fill one.
const BATCHED_CONCURRENCY: usize = 4_000;

/// Why a delivery could not be made or settled now. It comes again.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The mirror can't answer.
    #[error(transparent)]
    Catalog(#[from] peal_nats::catalog::CatalogError),
    /// Nobody can tell whether it was settled before.
    #[error(transparent)]
    Unknown(#[from] UnknownOutcome),
    /// Nobody can tell whether the provider was called before.
    #[error(transparent)]
    Intent(#[from] StateError),
    /// JetStream did not take what follows.
    #[error(transparent)]
    Say(#[from] SayError),
    /// It was not acknowledged.
    #[error(transparent)]
    Ack(#[from] AckError),
    /// The server that handed it out is gone, or was, or has not heard of us for too long.
    #[error("others may have it by now: the NATS server was lost meanwhile, or this process stood still")]
    Disconnected,
}

impl From<peal_nats::mirror::NotReady> for DeliveryError {
    fn from(error: peal_nats::mirror::NotReady) -> Self {
        DeliveryError::Catalog(error.into())
    }
}

/// Makes the deliveries of one channel and priority until `stop`. Each priority has permits of its own, so that no
/// backlog of bulk messages can take the last one.
pub async fn run(
    context: Shared,
    channel: Channel,
    priority: Priority,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let lane = Lane {
        stream: work_stream(channel),
        consumer: deliver_consumer(priority),
        permits: permits(concurrency(&context, channel), priority),
        spare: context.at_once.spare(channel, priority),
    };
    let connection = context.connection.clone();
    lane.run(&connection, &stop, |job| {
        let context = Arc::clone(&context);
        tasks.spawn(async move { handle(&context, job, channel).await });
    })
    .await;
}

/// Deliveries in flight on a channel. What goes out in batches of 500 waits for its batch: with fewer in flight none would
/// be full.
fn concurrency(context: &Context, channel: Channel) -> usize {
    match channel {
        Channel::Alimtalk => context.policy.concurrency.max(BATCHED_CONCURRENCY),
        _ => context.policy.concurrency,
    }
}

/// The share of a channel's concurrency that a priority has for itself.
fn permits(concurrency: usize, priority: Priority) -> usize {
    let share = match priority {
        Priority::Critical | Priority::High => concurrency / 4,
        Priority::Normal => concurrency * 3 / 8,
        Priority::Bulk => concurrency / 8,
    };
    share.max(1)
}

async fn handle(context: &Context, job: Job, channel: Channel) {
    let work = match Work::decode(job.payload()) {
        Ok(work) if work.channel == channel => work,
        Ok(_) => return context.foreign(&job, Some(channel), &WrongChannel).await,
        Err(DecodeError::Version(LATER_VERSION)) => return look(context, &job, channel).await,
        Err(error) => return context.unreadable(&job, Some(channel), &error).await,
    };
    // On the heap, since a task's future is moved several times and this one is large.
    let delivered = Box::pin(deliver(context, &job, Box::new(work)));
    settled_or_repeated(&job, channel, job.keep(delivered).await).await;
}

/// Asks what became of a delivery.
async fn look(context: &Context, job: &Job, channel: Channel) {
    match Look::decode(job.payload()) {
        Ok(look) if look.work.channel == channel => {
            let asked = Box::pin(results::ask(context, job, look));
            settled_or_repeated(job, channel, job.keep(asked).await).await;
        }
        Ok(_) => context.foreign(job, Some(channel), &WrongChannel).await,
        Err(error) => context.unreadable(job, Some(channel), &error).await,
    }
}

async fn settled_or_repeated(job: &Job, channel: Channel, settled: Result<(), DeliveryError>) {
    if let Err(error) = settled {
        tracing::warn!(
            sequence = job.sequence,
            delivery.channel = %channel,
            error = &error as &dyn std::error::Error,
            "a delivery is repeated"
        );
        let _ = job.nak(PAUSE).await;
    }
}

/// A delivery stands in another channel's queue.
#[derive(Debug, thiserror::Error)]
#[error("the delivery belongs to another channel")]
struct WrongChannel;

async fn deliver(context: &Context, job: &Job, mut work: Box<Work>) -> Result<(), DeliveryError> {
    // The first time that it is handed out is for the wait, even if that is over by then.
    if let Some(at) = work.not_before.filter(|_| job.deliveries == 1) {
        return Ok(job.nak(left_until(context, at)).await?);
    }
    let Some(_in_hand) = context.in_hand.take(&work.delivery, work.replays) else {
        // Whoever has it tells what came of the call before, and makes no other one.
        if work.not_before.is_some() {
            return Ok(job.nak(PAUSE).await?);
        }
        // A server that was started again has handed it out once more, or its notification, whose delivery was being made
        // at once. What whoever has it tells the server holds for the message here too, or for what it finds of it
        // when it comes again; given back it would be handed to another process, which knows of neither.
        return Ok(());
    };
    let suspicion = match work.repeat {
        true => Some(Suspicion::Repeated),
        false => context.outcomes.suspicion(job),
    };
    if let Some(suspicion) = suspicion {
        let known = context.outcomes.known(&work, job, suspicion).await?;
        if known.is_settled || waits(context, &work).await? {
            return Ok(job.ack().await?);
        }
        // It comes again as it was. Not each time that it was handed out it was tried, too.
        work.attempts = work.attempts.max(known.attempts);
    }
    let mut is_second = false;
    if let Some(suspicion) = suspicion {
        match intents::find(context, &work, suspicion == Suspicion::Repeated).await? {
            Intent::None => {}
            Intent::Young(left) => return Ok(job.nak(left).await?),
            Intent::Open(call) => {
                // The question is for the attempt that the intent numbers, which an event may have told of already.
                let told = work.attempts;
                work.attempts = call.earlier.unwrap_or(told);
                match Box::pin(interrupted::settle(context, job, &work, call)).await? {
                    Next::Nothing => return Ok(()),
                    Next::Call => (work.attempts, is_second) = (told, true),
                }
            }
        }
    }
    make(context, job, &work, None, is_second).await
}

/// How long it is until then; nothing when that is over.
fn left_until(context: &Context, at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(context.clock.now())).unwrap_or_default()
}

/// Whether the same delivery was put down in SCHEDULE after it came to its queue, and waits there.
async fn waits(context: &Context, work: &Work) -> Result<bool, UnknownOutcome> {
    Ok(put_off::waits(&context.connection, &context.subjects, work).await?)
}

/// Decides, calls the provider and settles. `job` is the message that is acknowledged in the end: that of the delivery, or with
/// a `plan` that of its notification. `is_second`: the call before was heard by nobody.
async fn make(
    context: &Context,
    job: &Job,
    work: &Work,
    plan: Option<&Plan<'_>>,
    is_second: bool,
) -> Result<(), DeliveryError> {
    context.caught_up(work.state_seq).await?;
    // It may have to wait for its provider: the decision comes after that.
    let providers = context.providers();
    let way = Way::of(context, &providers, work)?;
    let admitted = way.admit(&providers).await;
    match attempt::decide(context, work, plan.map(|plan| plan.recipient))? {
        Decision::Send(ready) => {
            // What could not be settled now would have to be sent again, and a server that was started again may have
            // handed this to somebody else already.
            if !job.is_ours() {
                return Err(DeliveryError::Disconnected);
            }
            if context.doubt.covers(work.notification.accepted_at)
                && !decide::may_repeat(work.channel, ready.class)
            {
                drop(admitted);
                let outcome = held_back(TAKEN_OVER_UNKNOWN, Some(DOUBT_PAUSE));
                let to = untried(context, job, plan, &way, &providers);
                return settle(&to, work, ready.class, &outcome, false).await;
            }
            let mut declared = None;
            if let Ok(admitted) = &admitted
                && intents::are_kept(work.channel, ready.class)
            {
                match attempt::declare(context, work, admitted, is_second).await {
                    Ok(intent) => declared = Some(intent),
                    Err(error) => {
                        // It may stand there all the same, and nobody was called.
                        take_back(context, job, work).await?;
                        return Err(error.into());
                    }
                }
                // By now somebody else may have found the intent, and asked the provider.
                if !job.is_ours() {
                    return Err(DeliveryError::Disconnected);
                }
            }
            let is_declared = declared.is_some();
            let attempted = match admitted {
                Ok(admitted) => {
                    attempt::send(context, job, &way, &ready, &providers, admitted, declared).await
                }
                Err(held_back) => held_back,
            };
            suppress::after(context, work, ready.recipient.registered_ms, &attempted.outcome).await;
            let to = Settling { context, job, plan, provider: attempted.provider };
            if is_declared
                && let Outcome::Ambiguous { reason } = &attempted.outcome
                && way.is_searchable(&providers, to.provider.as_deref())
            {
                return settle::ask_first(&to, work, reason).await;
            }
            settle(&to, work, ready.class, &attempted.outcome, is_declared).await
        }
        Decision::End(kind, reason) => {
            let to = untried(context, job, plan, &way, &providers);
            settle::without_attempt(&to, work, kind, &reason).await
        }
        Decision::Hold(until) => {
            let to = untried(context, job, plan, &way, &providers);
            Box::pin(settle::hold(&to, work.clone(), until)).await
        }
    }
}

/// Takes an intent back that was not followed by a call, or whoever has the delivery next would take it for one that was
/// broken off. The delivery is kept in hand until that stands: given back, another one may have an intent of its own there.
async fn take_back(context: &Context, job: &Job, work: &Work) -> Result<(), DeliveryError> {
    while job.is_ours() {
        match intents::withdraw(context, work).await {
            Err(SayError::Publish(PublishError::Unavailable { .. })) => {
                tokio::time::sleep(UNSAID_PAUSE).await
            }
            taken_back => return Ok(taken_back?),
        }
    }
    Err(DeliveryError::Disconnected)
}

/// Settles what was tried. What came of a call is known to this process alone until an event says it: while JetStream
/// can't store that event, the process keeps the delivery in hand, since giving it back would call the provider again.
async fn settle(
    to: &Settling<'_>,
    work: &Work,
    class: Class,
    outcome: &Outcome,
    is_declared: bool,
) -> Result<(), DeliveryError> {
    loop {
        match tell(to, work, class, outcome, is_declared).await {
            Err(DeliveryError::Say(SayError::Publish(error @ PublishError::Unavailable { .. }))) => {
                tracing::debug!(
                    sequence = to.job.sequence,
                    error = &error as &dyn std::error::Error,
                    "what came of a delivery cannot be said yet"
                );
            }
            settled => return settled,
        }
        tokio::time::sleep(UNSAID_PAUSE).await;
    }
}

/// `is_declared`: the intent to call stands in the log.
async fn tell(
    to: &Settling<'_>,
    work: &Work,
    class: Class,
    outcome: &Outcome,
    is_declared: bool,
) -> Result<(), DeliveryError> {
    if is_declared && intents::is_unheard(outcome) {
        intents::withdraw(to.context, work).await?;
    }
    settle::after_attempt(to, work, class, outcome).await?;
    if is_declared && !intents::is_unheard(outcome) {
        intents::forget(to.context, work).await;
    }
    Ok(())
}

/// What is not sent is told of the account that would have been called first.
fn untried<'a>(
    context: &'a Context,
    job: &'a Job,
    plan: Option<&'a Plan<'a>>,
    way: &Way<'_>,
    providers: &Providers,
) -> Settling<'a> {
    Settling { context, job, plan, provider: way.provider(providers) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_priority_has_permits_of_its_own_and_bulk_the_fewest() {
        for concurrency in [8, 128, 4096] {
            let all: Vec<_> =
                Priority::ALL.into_iter().map(|priority| permits(concurrency, priority)).collect();
            assert!(all.iter().all(|permits| *permits >= 1));
            assert!(all.iter().sum::<usize>() <= concurrency);
            assert!(all[3] <= all[0]);
        }
    }
}
