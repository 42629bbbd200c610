//! The nats-server is killed and started again on the same data.

use std::time::Duration;

use futures_util::FutureExt as _;

use super::Fault;

/// Dispatchers wait up to four seconds between attempts to connect, and deliver what they have in hand meanwhile.
pub const RECONNECTED: Duration = Duration::from_secs(5);

/// `kill -9` of the nats-server.
pub const FAULT: Fault = Fault {
    name: "kill -9 nats-server",
    resends: Some(RECONNECTED),
    strike: |region, _| {
        async {
            region.nodes[0].kill().await?;
            region.nodes[0].restart().await?;
            Ok(())
        }
        .boxed()
    },
};
