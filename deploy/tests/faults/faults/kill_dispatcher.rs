//! One of the dispatchers is killed and started again. What it had in hand comes again after the acknowledgement wait.

use std::time::Duration;

use futures_util::FutureExt as _;
use rand::RngExt as _;

use super::Fault;

/// A call that the dead process had written may still be on its way to the provider.
pub const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// `kill -9` of a dispatcher.
pub const FAULT: Fault = Fault {
    name: "kill -9 dispatcher",
    resends: Some(ON_ITS_WAY),
    strike: |region, rng| {
        async {
            let number = rng.random_range(0..region.dispatchers.len());
            region.dispatchers[number].kill().await?;
            region.dispatchers[number].start()
        }
        .boxed()
    },
};
