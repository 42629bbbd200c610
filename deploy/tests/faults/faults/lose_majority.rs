//! Two of three servers are killed: nothing may be accepted until one of them is back.

use std::time::Duration;

use futures_util::FutureExt as _;
use rand::RngExt as _;

use super::{Fault, PROBE_LIMIT, restart_all};
use crate::wait::now_ms;

const ELECTED: Duration = Duration::from_secs(15);

/// `kill -9` of two of three nats-servers.
pub const FAULT: Fault = Fault {
    name: "kill -9 two of three",
    resends: Some(ELECTED),
    strike: |region, rng| {
        async {
            let stays = rng.random_range(0..region.nodes.len());
            let at_ms = now_ms();
            for (number, node) in region.nodes.iter_mut().enumerate() {
                if number != stays {
                    node.kill().await?;
                }
            }
            region.until_it_refuses_writes(PROBE_LIMIT).await?;
            let down = region.nodes.iter_mut().enumerate().filter(|(number, _)| *number != stays);
            restart_all(down.map(|(_, node)| node)).await?;
            region.until_it_takes_writes(PROBE_LIMIT).await?;
            region.until_copied().await?;
            Ok(at_ms)
        }
        .boxed()
    },
};
