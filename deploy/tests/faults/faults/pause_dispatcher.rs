//! A dispatcher stands still with whatever it has in hand, which goes to another one after the acknowledgement wait, and goes
//! on. `PEAL_FAULT_PAUSE_SECONDS` makes it longer.

use futures_util::FutureExt as _;
use rand::RngExt as _;
use tokio::time::sleep;

use super::{Fault, kill_dispatcher, pause_for};

/// SIGSTOP of a dispatcher, then SIGCONT.
pub const FAULT: Fault = Fault {
    name: "pause dispatcher",
    resends: Some(kill_dispatcher::ON_ITS_WAY),
    strike: |region, rng| {
        async {
            let number = rng.random_range(0..region.dispatchers.len());
            region.dispatchers[number].pause().await?;
            sleep(pause_for()).await;
            region.dispatchers[number].resume().await?;
            region.dispatchers[number].until_ready().await
        }
        .boxed()
    },
};
