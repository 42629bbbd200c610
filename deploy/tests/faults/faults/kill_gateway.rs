//! A gateway is killed and started again. It must not lose what it accepted, nor cause a second delivery: a repeated
//! id is recognised.

use futures_util::FutureExt as _;
use rand::RngExt as _;

use super::Fault;

/// `kill -9` of a gateway.
pub const FAULT: Fault = Fault {
    name: "kill -9 gateway",
    resends: None,
    strike: |region, rng| {
        async {
            let number = rng.random_range(0..region.gateways.len());
            region.gateways[number].kill().await?;
            region.gateways[number].start()
        }
        .boxed()
    },
};
