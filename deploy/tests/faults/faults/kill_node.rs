//! One of a region's servers is killed and started again on the same data, when the others have taken over.

use std::time::Duration;

use futures_util::FutureExt as _;

use super::{Fault, PROBE_LIMIT};

/// Consumers whose leader is gone hand out again what they had, once another server leads.
pub const ELECTED: Duration = Duration::from_secs(10);

/// `kill -9` of one of three nats-servers.
pub const FAULT: Fault = Fault {
    name: "kill -9 one of three",
    resends: Some(ELECTED),
    strike: |region, rng| {
        async {
            let node = region.any_node(rng).await?;
            region.nodes[node].kill().await?;
            region.until_another_leads(node).await?;
            region.until_it_takes_writes(PROBE_LIMIT).await?;
            region.nodes[node].restart().await?;
            region.until_copied().await
        }
        .boxed()
    },
};
