//! All servers of a region are killed at once and started again on the same data.

use std::time::Duration;

use futures_util::FutureExt as _;

use super::{Fault, PROBE_LIMIT, restart_all};
use crate::wait::now_ms;

const ELECTED: Duration = Duration::from_secs(15);

/// `kill -9` of all three nats-servers.
pub const FAULT: Fault = Fault {
    name: "kill -9 all three",
    resends: Some(ELECTED),
    strike: |region, _| {
        async {
            let at_ms = now_ms();
            for node in &mut region.nodes {
                node.kill().await?;
            }
            restart_all(region.nodes.iter_mut()).await?;
            region.until_it_takes_writes(PROBE_LIMIT).await?;
            region.until_copied().await?;
            Ok(at_ms)
        }
        .boxed()
    },
};
