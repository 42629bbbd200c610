//! One of a region's servers is lost with its disk, and another one starts in its place, under its name and with nothing:
//! it gets everything from the others.

use futures_util::FutureExt as _;

use super::kill_node::ELECTED;
use super::{Fault, PROBE_LIMIT};

/// Another server in the place of one of three.
pub const FAULT: Fault = Fault {
    name: "one of three lost and replaced",
    resends: Some(ELECTED),
    strike: |region, rng| {
        async {
            let node = region.any_node(rng).await?;
            region.nodes[node].kill().await?;
            region.until_another_leads(node).await?;
            region.until_it_takes_writes(PROBE_LIMIT).await?;
            region.nodes[node].forget()?;
            region.nodes[node].restart().await?;
            region.until_copied().await
        }
        .boxed()
    },
};
