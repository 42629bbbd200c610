//! All servers of a region are killed at once and started again on the same data.

use std::time::Duration;

use futures_util::FutureExt as _;

use super::{Fault, restart_all};

const ELECTED: Duration = Duration::from_secs(15);

/// `kill -9` of all three nats-servers.
pub const FAULT: Fault = Fault {
    name: "kill -9 all three",
    resends: Some(ELECTED),
    strike: |region, _| {
        async {
            for node in &mut region.nodes {
                node.kill().await?;
            }
            restart_all(region.nodes.iter_mut()).await?;
            region.until_recovered().await
        }
        .boxed()
    },
};
