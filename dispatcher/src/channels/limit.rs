//! How fast an account may be sent messages, all dispatchers together.

use std::time::Duration;

use peal_common::channel::Priority;
use peal_common::outcome::Outcome;
use peal_nats::turns::{Rate, Turns};
use sha2::{Digest as _, Sha256};

use super::outcomes::no_turn;

/// The rate limit of an account.
#[derive(Debug)]
pub(super) struct Limit {
    rate: Rate,
    bucket: String,
    turns: Turns,
}

impl Limit {
    /// At most `per_second` turns in any second for everybody who has an account of this name in the same region.
    pub(super) fn new(account: &str, per_second: u32, turns: Turns) -> Self {
        // Names have characters that a bucket's may not have.
        let digest = Sha256::digest(account.as_bytes());
        let name: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Limit { rate: Rate::per_second(per_second), bucket: format!("account.{name}"), turns }
    }

    /// Waits for the turns of a message: as many as the provider counts it for.
    ///
    /// # Errors
    /// The outcome, when there are none soon enough.
    pub(super) async fn turns(&self, count: u32, priority: Priority) -> Result<(), Outcome> {
        let taken = self.turns.take(&self.bucket, self.rate, count, patience(priority)).await;
        tokio::time::sleep(taken.map_err(no_turn)?).await;
        Ok(())
    }
}

/// How long a message may wait for its turn: what is less urgent leaves the later ones to what is more so. With the 20 s
/// that a call may take it stays below [`super::CALL_LIMIT`].
const fn patience(priority: Priority) -> Duration {
    match priority {
        Priority::Critical => Duration::from_secs(4),
        Priority::High => Duration::from_secs(3),
        Priority::Normal => Duration::from_secs(2),
        Priority::Bulk => Duration::from_secs(1),
    }
}
