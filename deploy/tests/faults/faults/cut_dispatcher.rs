//! The host of one dispatcher is taken from the network, and comes back: what it had in hand goes to another one after the
//! acknowledgement wait.

use futures_util::FutureExt as _;
use rand::RngExt as _;

use super::cut_gateway::AWAY;
use super::{Fault, kill_server};

/// A dispatcher whose host nobody can reach.
pub const FAULT: Fault = Fault {
    name: "dispatcher's host cut off",
    // It goes on with what it has in hand, and finds its server again.
    resends: Some(kill_server::RECONNECTED),
    strike: |region, rng| {
        async {
            let number = rng.random_range(0..region.dispatchers.len());
            region.dispatchers[number].host()?.cut_for(AWAY).await
        }
        .boxed()
    },
};
