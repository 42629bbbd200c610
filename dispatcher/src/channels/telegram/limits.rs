//! How fast a bot may send, and the pause that Telegram asks for.

use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use governor::clock::DefaultClock;
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::time::Instant;

use super::request::Chat;
use crate::channels::pace::pass;

/// All chats together: 25 messages a second evenly and 5 at once, so that no second has more than the 30 that Telegram
/// allows (Bots FAQ, "My bot is hitting limits").
const OVERALL_PERIOD: Duration = Duration::from_millis(40);
const OVERALL_BURST: NonZeroU32 = NonZeroU32::new(5).unwrap();
/// One chat: a message a second (same source).
const CHAT_PERIOD: Duration = Duration::from_secs(1);
/// A group: 17 messages a minute evenly and 3 at once, so that no minute has more than 20 (same source).
const GROUP_PERIOD: Duration = Duration::from_millis(60_000 / 17);
const GROUP_BURST: NonZeroU32 = NonZeroU32::new(3).unwrap();
/// After so many messages, chats that are not limited at present are forgotten.
const TIDY_EVERY: u64 = 1024;
/// A pause is kept no longer than this, whatever Telegram asks for: then one message finds out whether it still holds.
const MAX_PAUSE: Duration = Duration::from_secs(3600);

/// The rate limits of one bot within this process.
pub(super) struct Limits {
    overall: DefaultDirectRateLimiter,
    /// By a hash: chats are personal data, and 64 bits keep them apart well enough.
    chats: DefaultKeyedRateLimiter<u64>,
    groups: DefaultKeyedRateLimiter<u64>,
    hasher: RandomState,
    clock: DefaultClock,
    sent: AtomicU64,
}

impl Limits {
    pub(super) fn new() -> Self {
        Limits {
            overall: RateLimiter::direct(quota(OVERALL_PERIOD, OVERALL_BURST)),
            chats: RateLimiter::keyed(quota(CHAT_PERIOD, NonZeroU32::MIN)),
            groups: RateLimiter::keyed(quota(GROUP_PERIOD, GROUP_BURST)),
            hasher: RandomState::new(),
            clock: DefaultClock::default(),
            sent: AtomicU64::new(0),
        }
    }

    /// Waits for the turn of a message to `chat`, at most `max_wait`.
    ///
    /// # Errors
    /// How much longer it would take, when that is too long.
    pub(super) async fn turn(&self, chat: &Chat, max_wait: Duration) -> Result<(), Duration> {
        if self.sent.fetch_add(1, Ordering::Relaxed) % TIDY_EVERY == TIDY_EVERY - 1 {
            self.chats.retain_recent();
            self.groups.retain_recent();
        }
        let deadline = Instant::now() + max_wait;
        let key = self.hasher.hash_one(chat);
        if chat.is_group() {
            pass(&self.clock, deadline, || self.groups.check_key(&key)).await?;
        }
        pass(&self.clock, deadline, || self.chats.check_key(&key)).await?;
        // Last, so that a message held back by its chat takes no turn from the others.
        pass(&self.clock, deadline, || self.overall.check()).await
    }
}

/// Neither period is zero, so there always is a quota.
fn quota(period: Duration, burst: NonZeroU32) -> Quota {
    Quota::with_period(period).unwrap_or_else(|| Quota::per_second(NonZeroU32::MIN)).allow_burst(burst)
}

/// The pause of the whole bot after a 429.
#[derive(Debug, Default)]
pub(super) struct Pause(Mutex<Option<Instant>>);

impl Pause {
    /// Starts or extends the pause. A shorter one does not end a longer one.
    pub(super) fn extend(&self, wait: Duration, now: Instant) {
        let until = now + wait.min(MAX_PAUSE);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = Some(kept.map_or(until, |kept| kept.max(until)));
    }

    /// What is left of the pause.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        let until = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        let left = until.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_by_itself_and_is_never_shortened_nor_endless() {
        let pause = Pause::default();
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(pause.left(now), None);
        pause.extend(Duration::from_secs(30), now);
        pause.extend(Duration::from_secs(5), now);
        assert_eq!(pause.left(at(10)), Some(Duration::from_secs(20)));
        assert_eq!(pause.left(at(30)), None);
        pause.extend(Duration::from_secs(1_000_000_000), now);
        assert_eq!(pause.left(now), Some(MAX_PAUSE));
    }

    #[tokio::test]
    async fn one_chat_has_to_wait_and_others_do_not() {
        let limits = Limits::new();
        let none = Duration::ZERO;
        assert_eq!(limits.turn(&Chat::Id(1), none).await, Ok(()));
        let wait = limits.turn(&Chat::Id(1), none).await.unwrap_err();
        assert!(wait > Duration::from_millis(500) && wait <= CHAT_PERIOD, "{wait:?}");
        assert_eq!(limits.turn(&Chat::Id(2), none).await, Ok(()));
    }

    #[tokio::test]
    async fn all_chats_together_are_limited_too() {
        let limits = Limits::new();
        let mut passed = 0;
        let mut refused = None;
        for chat in 0..1000 {
            match limits.turn(&Chat::Id(chat), Duration::ZERO).await {
                Ok(()) => passed += 1,
                Err(wait) => refused = refused.or(Some(wait)),
            }
        }
        // The loop takes far less than a second, but how long exactly depends on the machine.
        assert!((5..=30).contains(&passed), "{passed}");
        assert!(refused.unwrap() <= OVERALL_PERIOD);
    }
}
