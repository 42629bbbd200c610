//! One of a region's servers stands still until the others have taken over: it keeps its connections and answers nothing.
//! `PEAL_FAULT_PAUSE_SECONDS` makes it longer.

use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::{Instant, sleep_until};

use super::{Fault, NODE_AWAY, PROBE_LIMIT};
use crate::plan::given;

/// As after a kill; and what the paused server had handed out may be acknowledged to it too late.
const ELECTED: Duration = Duration::from_secs(15);

/// SIGSTOP of one of three nats-servers, then SIGCONT.
pub const FAULT: Fault = Fault {
    name: "pause one of three",
    resends: Some(ELECTED),
    strike: |region, rng| {
        async {
            let node = region.any_node(rng).await?;
            region.nodes[node].pause().await?;
            let paused = Instant::now();
            let led = region.until_another_leads(node).await;
            let written = region.until_it_takes_writes(PROBE_LIMIT).await;
            let still = Duration::from_secs(given("PEAL_FAULT_PAUSE_SECONDS", 0)).max(NODE_AWAY);
            sleep_until(paused + still).await;
            region.nodes[node].resume().await?;
            led.and(written)?;
            region.until_recovered().await
        }
        .boxed()
    },
};
