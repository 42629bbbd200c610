//! One of a region's servers loses the network to the others: connections stay, and nothing comes through. Its clients
//! still reach it.

use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::{Instant, sleep_until};

use super::{Fault, NODE_AWAY, PROBE_LIMIT};

/// As after a pause: what it had handed out may be acknowledged to it when another one has handed it out again.
const ELECTED: Duration = Duration::from_secs(15);

/// One of three nats-servers, alone.
pub const FAULT: Fault = Fault {
    name: "one of three cut off",
    resends: Some(ELECTED),
    strike: |region, rng| {
        async {
            let node = region.any_node(rng).await?;
            region.routes()?.silence(node);
            let alone = Instant::now();
            let led = region.until_another_leads(node).await;
            let written = region.until_it_takes_writes(PROBE_LIMIT).await;
            sleep_until(alone + NODE_AWAY).await;
            region.routes()?.heal(node);
            led.and(written)?;
            region.until_recovered().await
        }
        .boxed()
    },
};
