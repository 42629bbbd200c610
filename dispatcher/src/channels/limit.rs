//! How fast an account may be sent messages, all dispatchers together.

use std::time::Duration;

use peal_common::channel::Priority;
use peal_common::outcome::Outcome;
use peal_nats::turns::{NoTurn, Rate, Turns};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep, timeout_at};

use super::LIMITS_UNKNOWN;
use super::outcomes::{held_back, no_turn};

/// How long a message may wait for its turn. With the 20 s that a call may take it stays below [`super::CALL_LIMIT`].
const MAX_WAIT: Duration = Duration::from_secs(4);
/// When no turn is near enough, the next look is not sooner.
const AGAIN: Duration = Duration::from_millis(20);

/// The rate limit of an account.
#[derive(Debug)]
pub(super) struct Limit {
    rate: Rate,
    bucket: String,
    turns: Turns,
}

impl Limit {
    /// At most `per_second` turns in any second for everybody who has an account of this name in the same region. The turns of
    /// one message are its own: it goes as a whole when the first of them has come.
    pub(super) fn new(account: &str, per_second: u32, turns: Turns) -> Self {
        // Names have characters that a bucket's may not have.
        let digest = Sha256::digest(account.as_bytes());
        let name: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Limit { rate: Rate::per_second(per_second), bucket: format!("account.{name}"), turns }
    }

    /// Waits for the turns of a message: as many as the provider counts it for. What waits keeps its place in the lane, so
    /// that a backlog stays in its queue.
    ///
    /// # Errors
    /// The outcome, when there are none within [`MAX_WAIT`].
    pub(super) async fn turns(&self, count: u32, priority: Priority) -> Result<(), Outcome> {
        let deadline = Instant::now() + MAX_WAIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let ahead = ahead(priority).min(left);
            let taken = self.turns.take(&self.bucket, self.rate, count, ahead);
            let wait = match timeout_at(deadline, taken).await {
                Ok(Ok(turn)) => {
                    sleep(turn).await;
                    return Ok(());
                }
                Ok(Err(NoTurn::Later(wait))) => wait.max(AGAIN),
                Ok(Err(error)) => return Err(no_turn(error)),
                Err(_) => return Err(held_back(LIMITS_UNKNOWN, None)),
            };
            if Instant::now() + wait >= deadline {
                return Err(no_turn(NoTurn::Later(wait)));
            }
            sleep(wait).await;
        }
    }
}

/// How far ahead turns are reserved. What is less urgent leaves the later ones to what is more so.
const fn ahead(priority: Priority) -> Duration {
    match priority {
        Priority::Critical => MAX_WAIT,
        Priority::High => Duration::from_secs(2),
        Priority::Normal => Duration::from_secs(1),
        Priority::Bulk => Duration::from_millis(250),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;
    use crate::channels::THROTTLED;

    fn is_throttled(outcome: &Result<(), Outcome>) -> bool {
        matches!(outcome, Err(Outcome::HeldBack { reason, .. }) if reason == THROTTLED)
    }

    #[tokio::test(start_paused = true)]
    async fn what_finds_no_turn_in_time_is_held_back() {
        let (limit, began) = (Limit::new("twilio", 1, Turns::local()), Instant::now());
        let all = join_all((0..9).map(|_| limit.turns(1, Priority::Critical))).await;
        let held = all.iter().filter(|outcome| is_throttled(outcome)).count();
        // At once, and after one, two, three and, by a hair, four seconds.
        assert!((4..=5).contains(&held), "{all:?}");
        assert!(began.elapsed() <= MAX_WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_counts_for_several_keeps_the_next_one_waiting() {
        let (limit, began) = (Limit::new("twilio", 1, Turns::local()), Instant::now());
        limit.turns(3, Priority::Critical).await.unwrap();
        assert!(began.elapsed().is_zero());
        limit.turns(1, Priority::Critical).await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn bulk_leaves_the_later_turns_to_what_is_urgent() {
        let limit = Limit::new("twilio", 1, Turns::local());
        limit.turns(1, Priority::Bulk).await.unwrap();
        let bulk = join_all((0..20).map(|_| limit.turns(1, Priority::Bulk)));
        let urgent = join_all((0..2).map(|_| limit.turns(1, Priority::Critical)));
        let (bulk, urgent) = tokio::join!(bulk, urgent);
        assert!(urgent.iter().all(Result::is_ok), "{urgent:?}");
        assert!(bulk.iter().any(is_throttled) && bulk.iter().filter(|outcome| outcome.is_ok()).count() <= 3);
    }
}
