//! How long to wait before the next attempt.

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// Exponential backoff with full jitter, bounded on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The upper bound of the first wait.
    pub base: Duration,
    /// No wait is longer, whatever a provider asks for.
    pub cap: Duration,
}

impl Backoff {
    /// The wait after `attempt` attempts (1 is the first). A provider's `retry_after` is honoured as the least wait, up
    /// to the cap; jitter comes on top of it so that waiting messages do not return all at once. One that is shorter than
    /// ours changes nothing: a provider that says "in a second" again and again would use up all attempts in no time.
    pub fn delay(&self, attempt: u32, retry_after: Option<Duration>, rng: &mut impl Rng) -> Duration {
        let doublings = attempt.saturating_sub(1).min(20);
        let ceiling = self.base.saturating_mul(1 << doublings).min(self.cap);
        let jitter = ceiling.mul_f64(rng.random_range(0.5..=1.0));
        match retry_after {
            Some(asked) if asked > jitter => {
                asked.min(self.cap) + self.base.mul_f64(rng.random_range(0.0..=0.5))
            }
            _ => jitter,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(600) };

    proptest! {
        #[test]
        fn every_wait_is_within_its_bounds(attempt in 0u32..1_000, seed: u64) {
            let delay = BACKOFF.delay(attempt, None, &mut StdRng::seed_from_u64(seed));
            prop_assert!(delay >= BACKOFF.base / 2);
            prop_assert!(delay <= BACKOFF.cap);
        }

        #[test]
        fn retry_after_is_honoured_up_to_the_cap(
            attempt in 0u32..20,
            seconds in 0u64..=1_000_000_000,
            seed: u64,
        ) {
            let asked = Duration::from_secs(seconds);
            let delay = BACKOFF.delay(attempt, Some(asked), &mut StdRng::seed_from_u64(seed));
            prop_assert!(delay >= asked.min(BACKOFF.cap));
            prop_assert!(delay >= BACKOFF.delay(attempt, None, &mut StdRng::seed_from_u64(seed)));
            prop_assert!(delay <= BACKOFF.cap + BACKOFF.base);
        }
    }
}
