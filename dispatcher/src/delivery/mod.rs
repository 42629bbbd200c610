//! Delivery: one recipient on one channel, decided again at the last moment, handed to the provider, and settled.

mod attempt;
mod in_hand;
mod settle;

pub use in_hand::InHand;

use std::sync::Arc;
use std::time::Duration;

use peal_common::category::Class;
use peal_common::channel::{Channel, Priority};
use peal_common::envelope::{Envelope as _, Work};
use peal_common::outcome::Outcome;
use peal_nats::publish::PublishError;
use peal_nats::pull::{AckError, Job, Lane};
use peal_nats::topology::{deliver_consumer, work_stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::context::{Context, SayError, Shared};
use crate::outcomes::{Suspicion, UnknownOutcome};
use attempt::Decision;

/// The pause before a delivery is taken up again that could not be settled.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause before JetStream is asked again to store what came of a delivery.
const UNSAID_PAUSE: Duration = Duration::from_millis(200);
/// How often a slow provider's delivery tells the server that it is still in hand; well below the consumers' wait.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// Why a delivery could not be made or settled now. It comes again.
#[derive(Debug, thiserror::Error)]
enum DeliveryError {
    /// The mirror can't answer.
    #[error(transparent)]
    Catalog(#[from] peal_nats::catalog::CatalogError),
    /// Nobody can tell whether it was settled before.
    #[error(transparent)]
    Unknown(#[from] UnknownOutcome),
    /// JetStream did not take what follows.
    #[error(transparent)]
    Say(#[from] SayError),
    /// It was not acknowledged.
    #[error(transparent)]
    Ack(#[from] AckError),
    /// Nothing could be settled.
    #[error("not connected to a NATS server")]
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
        permits: permits(context.policy.concurrency, priority),
    };
    let connection = context.connection.clone();
    lane.run(&connection, &stop, |job| {
        let context = Arc::clone(&context);
        // On the heap, since a task's future is moved several times and this one is large.
        tasks.spawn(Box::pin(async move { handle(&context, job, channel).await }));
    })
    .await;
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
        Err(error) => return context.unreadable(&job, Some(channel), &error).await,
    };
    if let Err(error) = deliver(context, &job, Box::new(work)).await {
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

async fn deliver(context: &Context, job: &Job, work: Box<Work>) -> Result<(), DeliveryError> {
    let Some(_in_hand) = context.in_hand.take(&work.delivery, work.replays) else {
        return Ok(job.nak(PAUSE).await?);
    };
    let suspicion = match work.repeat {
        true => Some(Suspicion::Repeated),
        false => context.outcomes.suspicion(job),
    };
    if let Some(suspicion) = suspicion
        && context.outcomes.is_settled(&work.delivery, work.replays, job, suspicion).await?
    {
        return Ok(job.ack().await?);
    }
    context.caught_up(work.state_seq).await?;
    match attempt::decide(context, &work)? {
        Decision::Send(ready) => {
            // What could not be settled now would have to be sent again.
            if !context.connection.is_connected() {
                return Err(DeliveryError::Disconnected);
            }
            let outcome = attempt::send(context, job, &work, &ready).await;
            crate::metrics::attempt(work.channel, &outcome);
            settle(context, job, work, ready.class, outcome).await
        }
        Decision::End(kind, reason) => settle::without_attempt(context, job, &work, kind, &reason).await,
        Decision::Hold(until) => settle::hold(context, job, *work, until).await,
    }
}

/// Settles what was tried. What came of a call is known to this process alone until an event says it: while JetStream
/// can't store that event, the process keeps the delivery in hand, since giving it back would call the provider again.
async fn settle(
    context: &Context,
    job: &Job,
    work: Box<Work>,
    class: Class,
    outcome: Outcome,
) -> Result<(), DeliveryError> {
    let mut told = Instant::now();
    loop {
        match settle::after_attempt(context, job, &work, class, &outcome).await {
            Err(DeliveryError::Say(SayError::Publish(error @ PublishError::Unavailable { .. }))) => {
                tracing::debug!(
                    sequence = job.sequence,
                    error = &error as &dyn std::error::Error,
                    "what came of a delivery cannot be said yet"
                );
            }
            settled => return settled,
        }
        tokio::time::sleep(UNSAID_PAUSE).await;
        if told.elapsed() >= PROGRESS_INTERVAL {
            told = Instant::now();
            // Without it the server hands the delivery to somebody else, who knows nothing of the call.
            let _ = job.progress().await;
        }
    }
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
