//! A gateway stands still: it keeps its connections and answers nothing, and the load balancer sends requests to another one.
//! `PEAL_FAULT_PAUSE_SECONDS` makes it longer.

use futures_util::FutureExt as _;
use rand::RngExt as _;
use tokio::time::sleep;

use super::{Fault, PROBE_LIMIT, pause_for};

/// SIGSTOP of a gateway, then SIGCONT.
pub const FAULT: Fault = Fault {
    name: "pause gateway",
    resends: None,
    strike: |region, rng| {
        async {
            let number = rng.random_range(0..region.gateways.len());
            region.gateways[number].pause().await?;
            let written = region.until_it_takes_writes(PROBE_LIMIT).await;
            sleep(pause_for()).await;
            region.gateways[number].resume().await?;
            written?;
            region.gateways[number].until_ready().await
        }
        .boxed()
    },
};
