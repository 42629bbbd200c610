//! How many requests a second a key may make at this gateway.
//!
//! Each request costs one, also a batch; its size is limited elsewhere. A second's worth may come at once. The answer's
//! headers say what is left (draft-ietf-httpapi-ratelimit-headers): `RateLimit-Policy: "key";q=<limit>;w=1` and
//! `RateLimit: "key";r=<left>;t=<seconds>`.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use http::{HeaderMap, HeaderName, HeaderValue};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// The window in which the limit counts, in seconds.
const WINDOW_SECONDS: u64 = 1;

/// Counts one key's requests.
pub(super) struct Limiter {
    rate: NonZeroU32,
    policy: HeaderValue,
    counter: RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>,
}

/// What is left to a key.
#[derive(Debug)]
pub(super) struct Allowance {
    policy: HeaderValue,
    left: u32,
    reset_seconds: u64,
}

/// A request too many.
#[derive(Debug)]
pub(super) struct Refused {
    /// When the next one will pass.
    pub(super) wait: Duration,
    /// What is left: nothing.
    pub(super) allowance: Allowance,
}

impl Limiter {
    /// At most `rate` requests a second; at least one.
    pub(super) fn new(rate: u32) -> Self {
        let rate = NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN);
        let counter =
            RateLimiter::direct(Quota::per_second(rate)).with_middleware::<StateInformationMiddleware>();
        let policy = format!("\"key\";q={rate};w={WINDOW_SECONDS}");
        let policy = HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("\"key\""));
        Limiter { rate, policy, counter }
    }

    pub(super) fn rate(&self) -> u32 {
        self.rate.get()
    }

    pub(super) fn admit(&self) -> Result<Allowance, Refused> {
        let allowance = |left, reset_seconds| Allowance { policy: self.policy.clone(), left, reset_seconds };
        match self.counter.check() {
            Ok(state) => Ok(allowance(state.remaining_burst_capacity(), WINDOW_SECONDS)),
            Err(until) => {
                let wait = until.wait_time_from(DefaultClock::default().now());
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                Err(Refused { wait, allowance: allowance(0, seconds.max(1)) })
            }
        }
    }
}

impl Allowance {
    pub(super) fn write(self, headers: &mut HeaderMap) {
        let Allowance { policy, left, reset_seconds } = self;
        if let Ok(value) = HeaderValue::try_from(format!("\"key\";r={left};t={reset_seconds}")) {
            headers.insert(RATE_LIMIT, value);
        }
        headers.insert(RATE_LIMIT_POLICY, policy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seconds_worth_passes_and_the_next_one_does_not() {
        let limiter = Limiter::new(3);
        for left in [2, 1, 0] {
            assert_eq!(limiter.admit().unwrap().left, left);
        }
        let refused = limiter.admit().unwrap_err();
        assert!(refused.wait <= Duration::from_secs(1) && refused.allowance.reset_seconds == 1);
        let mut headers = HeaderMap::new();
        refused.allowance.write(&mut headers);
        assert_eq!(headers["ratelimit"], "\"key\";r=0;t=1");
        assert_eq!(headers["ratelimit-policy"], "\"key\";q=3;w=1");
    }
}
