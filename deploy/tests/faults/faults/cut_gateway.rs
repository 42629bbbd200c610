//! The host of one gateway is taken from the network, and comes back: the load balancer asks the others meanwhile.

use std::time::Duration;

use futures_util::FutureExt as _;
use rand::RngExt as _;

use super::Fault;

/// Long enough that its connections are given up.
pub const AWAY: Duration = Duration::from_secs(8);

/// A gateway whose host nobody can reach.
pub const FAULT: Fault = Fault {
    name: "gateway's host cut off",
    resends: None,
    strike: |region, rng| {
        async {
            let number = rng.random_range(0..region.gateways.len());
            region.gateways[number].host()?.cut_for(AWAY).await
        }
        .boxed()
    },
};
