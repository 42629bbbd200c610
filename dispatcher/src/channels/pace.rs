//! How fast an account may send, where a limit of our own is set.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock, QuantaInstant};
use governor::{DefaultDirectRateLimiter, NotUntil, Quota, RateLimiter};
use tokio::time::{Instant, sleep};

/// Waits until `check` lets one message pass, at most until `deadline`.
///
/// # Errors
/// How much longer it would take, when that is too long.
pub(crate) async fn pass<T>(
    clock: &DefaultClock,
    deadline: Instant,
    check: impl Fn() -> Result<T, NotUntil<QuantaInstant>>,
) -> Result<(), Duration> {
    loop {
        let Err(not_until) = check() else { return Ok(()) };
        let wait = not_until.wait_time_from(clock.now());
        if Instant::now() + wait > deadline {
            return Err(wait);
        }
        sleep(wait).await;
    }
}

/// The rate limit of one account within this process.
pub(crate) struct Pace {
    limiter: Option<DefaultDirectRateLimiter>,
    clock: DefaultClock,
}

impl Pace {
    /// At most `per_second` messages in any second; no limit without it. A tenth of them may go at once, which leaves the
    /// rest to be spread over the second.
    pub(crate) fn new(per_second: Option<NonZeroU32>) -> Self {
        let limiter = per_second.map(|rate| {
            let burst = NonZeroU32::new(rate.get() / 10);
            let evenly = burst.and_then(|burst| NonZeroU32::new(rate.get() - burst.get())).unwrap_or(rate);
            RateLimiter::direct(Quota::per_second(evenly).allow_burst(burst.unwrap_or(NonZeroU32::MIN)))
        });
        Pace { limiter, clock: DefaultClock::default() }
    }

    /// Waits for the turn of a message, at most `max_wait`.
    ///
    /// # Errors
    /// How much longer it would take, when that is too long.
    pub(crate) async fn turn(&self, max_wait: Duration) -> Result<(), Duration> {
        match &self.limiter {
            Some(limiter) => pass(&self.clock, Instant::now() + max_wait, || limiter.check()).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_second_has_more_than_the_limit() {
        let at_once = async |pace: &Pace| {
            let mut passed = 0;
            while passed < 1000 && pace.turn(Duration::ZERO).await.is_ok() {
                passed += 1;
            }
            passed
        };
        let pace = |rate| Pace::new(NonZeroU32::new(rate));
        assert_eq!(at_once(&pace(1)).await, 1);
        assert_eq!(at_once(&pace(0)).await, 1000, "no limit");
        // The loop takes far less than a tenth of a second, in which a tenth of the rest may go too.
        let passed = at_once(&pace(100)).await;
        assert!((10..=19).contains(&passed), "{passed}");

        let one = pace(1);
        assert_eq!(one.turn(Duration::ZERO).await, Ok(()));
        let wait = one.turn(Duration::from_millis(100)).await.unwrap_err();
        assert!(wait > Duration::from_millis(500) && wait <= Duration::from_secs(1), "{wait:?}");
    }
}
