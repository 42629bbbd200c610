//! Sweeping the work queues, those of deliveries and those of state on its way between regions: a server that crashed may
//! hold on to what was acknowledged before, which nobody is ever given again. See [`peal_nats::sweep`] for why removing it
//! is safe; several dispatchers may do it at once.

use std::collections::HashMap;
use std::time::Duration;

use peal_common::channel::Priority;
use peal_nats::Region;
use peal_nats::sweep::Quiet;
use peal_nats::topology::{deliver_consumer, state_to, work_stream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Shared};

/// How long after a connection was made the queues are swept: deliveries that were in hand when the server went come
/// again first.
const AFTER_CONNECT: Duration = Duration::from_secs(30);
/// How long after that they are swept again.
const EVERY: Duration = Duration::from_secs(5 * 60);
/// The time between the two looks of a sweep: longer than an acknowledgement is on its way.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);
/// How often it is looked whether the connection was made anew.
const POLL: Duration = Duration::from_secs(1);

/// Sweeps until `stop`.
pub async fn run(context: Shared, stop: CancellationToken) {
    tokio::select! {
        // A sweep that is cut off leaves nothing half done.
        () = stop.cancelled() => {}
        () = sweep_on(&context) => {}
    }
}

async fn sweep_on(context: &Context) {
    let mut wait = AFTER_CONNECT;
    loop {
        // A connection that is made anew while this waits starts the shorter wait.
        let connects = context.connection.connects();
        let begun = Instant::now();
        while begun.elapsed() < wait && context.connection.connects() == connects {
            sleep(POLL).await;
        }
        if context.connection.connects() != connects {
            wait = AFTER_CONNECT;
            continue;
        }
        let quiet = look(context, &HashMap::new()).await;
        sleep(BETWEEN_LOOKS).await;
        look(context, &quiet).await;
        wait = if context.connection.connects() == connects { EVERY } else { AFTER_CONNECT };
    }
}

/// The domain of a queue, its stream and its consumer.
type Lane = (Region, String, String);

/// The queues that this dispatcher works on, and those that carry state from this region and to it.
fn lanes(context: &Context) -> Vec<Lane> {
    let here = &context.connection.region;
    let providers = context.providers();
    let deliveries = providers.channels().flat_map(|channel| {
        Priority::ALL.map(|priority| (here.clone(), work_stream(channel), deliver_consumer(priority)))
    });
    let between = |from: &Region, to: &Region| (from.clone(), state_to(to), to.to_string());
    let state = context.hub.iter().flat_map(|hub| [between(here, hub), between(hub, here)]);
    deliveries.chain(state).collect()
}

/// Looks at every queue; returns those that are quiet.
async fn look(context: &Context, before: &HashMap<Lane, Quiet>) -> HashMap<Lane, Quiet> {
    let mut quiet = HashMap::new();
    for lane in lanes(context) {
        let (domain, stream, consumer) = &lane;
        let connection = context.connection.in_domain(domain);
        match connection.sweep(stream, consumer, before.get(&lane).copied()).await {
            Ok(swept) => {
                if swept.purged > 0 {
                    tracing::info!(
                        stream = %stream,
                        consumer = %consumer,
                        messages = swept.purged,
                        "removed what was acknowledged before the server crashed"
                    );
                }
                if let Some(found) = swept.quiet {
                    quiet.insert(lane, found);
                }
            }
            Err(error) => {
                // Nobody waits for this; the next sweep comes by itself.
                let error = &error as &dyn std::error::Error;
                tracing::debug!(error, "a work queue is not swept this time");
            }
        }
    }
    quiet
}
