//! A dispatcher is lost with everything it had, and another one starts in its place with
//! nothing. `GET /v1/regions` lists it then.

use futures_util::FutureExt as _;
use rand::RngExt as _;

use super::{Fault, kill_dispatcher};

/// Another dispatcher.
pub const FAULT: Fault = Fault {
    name: "dispatcher lost and replaced",
    resends: kill_dispatcher::FAULT.resends,
    strike: |region, rng| {
        async {
            let number = rng.random_range(0..region.dispatchers.len());
            region.dispatchers[number].replace().await?;
            region.until_all_are_seen().await
        }
        .boxed()
    },
};
