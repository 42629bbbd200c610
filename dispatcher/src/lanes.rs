//! The lanes that a dispatcher takes deliveries from: four for each channel that it serves. A channel that gets its first
//! account while the dispatcher runs, because an app brings one along, is served from then on.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use peal_common::channel::{Channel, Priority};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::context::Shared;
use crate::delivery;

/// How often it is looked for accounts that nobody has asked for yet.
const INTERVAL: Duration = Duration::from_secs(5);

/// Serves channels until `stop`: those of `only`, or all that have a provider when it is empty.
pub async fn run(context: Shared, only: Vec<Channel>, in_flight: TaskTracker, stop: CancellationToken) {
    let (mut lanes, mut served) = (JoinSet::new(), HashSet::new());
    loop {
        for channel in context.providers().channels() {
            if (only.is_empty() || only.contains(&channel)) && served.insert(channel) {
                for priority in Priority::ALL {
                    let (context, in_flight, stop) = (Arc::clone(&context), in_flight.clone(), stop.clone());
                    lanes.spawn(delivery::run(context, channel, priority, in_flight, stop));
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            // A lane that ends by itself ends the dispatcher.
            Some(_) = lanes.join_next() => return,
            () = context.providers.replaced() => {}
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
    while lanes.join_next().await.is_some() {}
}
