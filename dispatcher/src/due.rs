//! What waited in SCHEDULE and whose time has come: notifications to fan out, deliveries to try again, results to ask for.

use std::sync::Arc;
use std::time::Duration;

use peal_common::envelope::{Envelope as _, Look, Work};
use peal_nats::pull::{Job, Lane, Spare};
use peal_nats::topology::{DUE_CONSUMER, SCHEDULE};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::context::{Context, SayError, Shared};
use crate::delivery::results;
use crate::fanout::{self, Origin};

const PERMITS: usize = 256;
const PAUSE: Duration = Duration::from_secs(1);

/// Takes up what is due until `stop`.
pub async fn run(context: Shared, tasks: TaskTracker, stop: CancellationToken) {
    let lane = Lane {
        stream: SCHEDULE.to_owned(),
        consumer: DUE_CONSUMER.to_owned(),
        permits: PERMITS,
        spare: Spare::default(),
    };
    let connection = context.connection.clone();
    lane.run(&connection, &stop, |job| {
        let context = Arc::clone(&context);
        tasks.spawn(async move { handle(&context, job).await });
    })
    .await;
}

async fn handle(context: &Context, job: Job) {
    let is_notification = job.subject().starts_with(&context.subjects.due(&["intake"]));
    if is_notification {
        return fanout::handle(context, job, Origin::Schedule).await;
    }
    if job.subject().starts_with(&context.subjects.due(&["fallback"])) {
        return fanout::fallback::handle(context, job).await;
    }
    let queued = if job.subject().starts_with(&context.subjects.due(&["look"])) {
        match Look::decode(job.payload()) {
            Ok(look) => results::queue(context, &look).await,
            Err(error) => return context.unreadable(&job, None, &error).await,
        }
    } else {
        match Work::decode(job.payload()) {
            Ok(work) => queue(context, &job, work).await,
            Err(error) => return context.unreadable(&job, None, &error).await,
        }
    };
    if let Err(error) = queued {
        tracing::warn!(
            sequence = job.sequence,
            error = &error as &dyn std::error::Error,
            "a due delivery waits on"
        );
        let _ = job.nak(PAUSE).await;
        return;
    }
    if let Err(error) = job.ack().await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "a due delivery will be queued twice and recognised"
        );
    }
}

/// Puts a delivery back into its queue. When this was done before and only its acknowledgement was lost, the delivery
/// says that it may be a repetition.
async fn queue(context: &Context, job: &Job, mut work: Work) -> Result<(), SayError> {
    let is_suspected = context.outcomes.suspicion(job).is_some();
    work.repeat |= is_suspected;
    let published = context.connection.publish(fanout::queued(context, &work)?).await?;
    if published.duplicate && !is_suspected {
        // The queue had one of this number for an earlier wait, put down when its notification was handed out twice. That
        // one has gone on, and this one must not be lost for it.
        (work.hops, work.repeat) = (work.hops.saturating_add(1), true);
        context.connection.publish(fanout::queued(context, &work)?).await?;
    }
    Ok(())
}
