//! The clocks of all dispatchers are ten minutes slow when the nats-server is killed: what it may have forgotten is older
//! than they think.

use futures_util::FutureExt as _;
use tokio::time::sleep;

use super::{Fault, jump_clock, kill_server};

/// `kill -9` of the nats-server while clocks are wrong.
pub const FAULT: Fault = Fault {
    name: "kill -9 nats-server, clocks slow",
    resends: Some(kill_server::RECONNECTED),
    strike: |region, rng| {
        async {
            for dispatcher in &region.dispatchers {
                dispatcher.set_clock(-jump_clock::JUMP_SECONDS)?;
            }
            sleep(jump_clock::WRONG).await;
            (kill_server::FAULT.strike)(region, rng).await?;
            sleep(jump_clock::WRONG).await;
            region.dispatchers.iter().try_for_each(|dispatcher| dispatcher.set_clock(0))
        }
        .boxed()
    },
};
