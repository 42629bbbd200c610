//! One of a region's servers stands still until the others have taken over: it keeps its connections and answers nothing.

use std::time::Duration;

use futures_util::FutureExt as _;
use rand::RngExt as _;

use super::{Fault, PROBE_LIMIT};
use crate::wait::now_ms;

/// As after a kill; and what the paused server had handed out may be acknowledged to it too late.
const ELECTED: Duration = Duration::from_secs(15);

/// SIGSTOP of one of three nats-servers, then SIGCONT.
pub const FAULT: Fault = Fault {
    name: "pause one of three",
    resends: Some(ELECTED),
    strike: |region, rng| {
        async {
            let node = rng.random_range(0..region.nodes.len());
            let at_ms = now_ms();
            region.nodes[node].pause().await?;
            let taken_over = region.until_it_takes_writes(PROBE_LIMIT).await;
            region.nodes[node].resume().await?;
            taken_over?;
            region.until_copied().await?;
            Ok(at_ms)
        }
        .boxed()
    },
};
