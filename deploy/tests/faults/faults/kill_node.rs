//! The one of a region's servers that leads INTAKE is killed and started again on the same data, when the others have
//! taken over.

use std::time::Duration;

use futures_util::FutureExt as _;

use super::{Fault, PROBE_LIMIT};

/// Consumers whose leader is gone hand out again what they had, once another server leads.
pub const ELECTED: Duration = Duration::from_secs(10);

/// `kill -9` of the leader among three nats-servers.
pub const FAULT: Fault = Fault {
    name: "kill -9 one of three",
    resends: Some(ELECTED),
    strike: |region, _| {
        async {
            let node = region.leader_of_intake().await?;
            region.nodes[node].kill().await?;
            region.until_another_leads(node).await?;
            region.until_it_takes_writes(PROBE_LIMIT).await?;
            region.nodes[node].restart().await?;
            region.until_copied().await
        }
        .boxed()
    },
};
