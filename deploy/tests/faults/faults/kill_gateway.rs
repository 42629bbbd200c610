//! The gateway is killed and started again. It must not lose what it accepted, nor cause a second delivery: a repeated
//! id is recognised.

use futures_util::FutureExt as _;

use super::Fault;

/// `kill -9` of the gateway.
pub const FAULT: Fault = Fault {
    name: "kill -9 gateway",
    resends: None,
    strike: |region, _| {
        async {
            region.gateway.kill().await?;
            region.gateway.start()
        }
        .boxed()
    },
};
