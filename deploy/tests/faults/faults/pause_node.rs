//! The one of a region's servers that leads INTAKE stands still until the others have taken over: it keeps its
//! connections and answers nothing. `PEAL_FAULT_PAUSE_SECONDS` makes it longer.

use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::{Instant, sleep_until};

use super::{Fault, PROBE_LIMIT};
use crate::plan::given;

/// As after a kill; and what the paused server had handed out may be acknowledged to it too late.
const ELECTED: Duration = Duration::from_secs(15);

/// SIGSTOP of the leader among three nats-servers, then SIGCONT.
pub const FAULT: Fault = Fault {
    name: "pause one of three",
    resends: Some(ELECTED),
    strike: |region, _| {
        async {
            let node = region.leader_of_intake().await?;
            region.nodes[node].pause().await?;
            let paused = Instant::now();
            let led = region.until_another_leads(node).await;
            let written = region.until_it_takes_writes(PROBE_LIMIT).await;
            sleep_until(paused + Duration::from_secs(given("PEAL_FAULT_PAUSE_SECONDS", 0))).await;
            region.nodes[node].resume().await?;
            led.and(written)?;
            region.until_recovered().await
        }
        .boxed()
    },
};
