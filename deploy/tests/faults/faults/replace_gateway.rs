//! A gateway is lost with everything it had, and another one starts in its place with nothing.
//! `GET /v1/regions` lists it then.

use futures_util::FutureExt as _;
use rand::RngExt as _;

use super::Fault;

/// Another gateway.
pub const FAULT: Fault = Fault {
    name: "gateway lost and replaced",
    resends: None,
    strike: |region, rng| {
        async {
            let number = rng.random_range(0..region.gateways.len());
            region.gateways[number].replace().await?;
            region.until_all_are_seen().await
        }
        .boxed()
    },
};
