//! The clock of a gateway or a dispatcher jumps ten minutes ahead, then is ten minutes slow, then right again.

use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::sleep;

use super::Fault;

/// By how much.
pub const JUMP_SECONDS: i64 = 600;
/// How long the program works with each wrong time: longer than it goes on by the time it read before.
pub const WRONG: Duration = Duration::from_secs(3);

/// A wall clock that is wrong by ten minutes.
pub const FAULT: Fault = Fault {
    name: "clock off by 10 min",
    resends: None,
    strike: |region, rng| {
        async {
            let program = region.any_program(rng);
            program.set_clock(JUMP_SECONDS)?;
            program.until_ahead(JUMP_SECONDS).await?;
            sleep(WRONG).await;
            program.set_clock(-JUMP_SECONDS)?;
            sleep(WRONG).await;
            program.set_clock(0)
        }
        .boxed()
    },
};
