//! Tells a message that an account is against from an account that does not let us send, or no longer does.
//!
//! Some answers say either: a mail server's policy (RFC 3463 §3.8), a gateway's 404. Whether the account has taken another
//! message meanwhile tells them apart: one that did is at work, and means this message. That one must not keep all others
//! waiting; but since a relay may lose its trust in us from one moment to the next, or have it for some domains alone,
//! nothing is given up for one refusal.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use peal_common::id::DeliveryId;
use peal_common::outcome::Outcome;
use tokio::time::Instant;

use super::outcomes::{held_back, permanent, unavailable};

/// For so long after a message was taken the account is held to be at work.
const AT_WORK: Duration = Duration::from_secs(60);
/// A message that an account at work has refused so often is given up: a quarter of an hour after the first time.
const TRIES: u32 = 5;
/// The wait after the first time. Each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(60);
/// The most messages whose refusals are kept in mind, some 100 bytes each. More of them wait as if it was the first time.
const CAPACITY: usize = 10_000;
/// What is as old is not asked for any more: it was sent by somebody else, or has expired.
const FORGOTTEN: Duration = Duration::from_secs(60 * 60);

/// What one account has refused.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// When a message was taken last.
    taken: Option<Instant>,
    refused: HashMap<DeliveryId, Refused>,
}

/// How a message was refused.
#[derive(Debug)]
struct Refused {
    /// How often while the account was at work.
    times: u32,
    /// When last.
    last: Instant,
}

impl Refusals {
    /// Notes that the account took a message.
    pub(super) fn taken(&self, delivery: &DeliveryId) {
        let mut seen = self.seen();
        seen.taken = Some(Instant::now());
        seen.refused.remove(delivery);
    }

    /// The outcome of a message that was refused, for itself or with all others.
    pub(super) fn judge(&self, delivery: &DeliveryId, reason: String) -> Outcome {
        let now = Instant::now();
        let mut seen = self.seen();
        let taken = seen.taken;
        let Some(refused) = seen.refused(delivery, now) else {
            let is_at_work = taken.is_some_and(|taken| now.duration_since(taken) < AT_WORK);
            return if is_at_work { held_back(reason, Some(FIRST_WAIT)) } else { unavailable(reason) };
        };
        let since = std::mem::replace(&mut refused.last, now);
        // Where there are few messages, more than a minute may pass between two.
        if taken.is_none_or(|taken| now.duration_since(taken) >= AT_WORK && taken <= since) {
            return unavailable(reason);
        }
        refused.times += 1;
        let times = refused.times;
        if times < TRIES {
            return held_back(reason, Some(FIRST_WAIT * (1 << (times - 1))));
        }
        seen.refused.remove(delivery);
        permanent(reason)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// What is known of a message's refusals; `None` where there is no room for it.
    fn refused(&mut self, delivery: &DeliveryId, now: Instant) -> Option<&mut Refused> {
        if self.refused.len() >= CAPACITY && !self.refused.contains_key(delivery) {
            self.refused.retain(|_, refused| now.duration_since(refused.last) < FORGOTTEN);
            if self.refused.len() >= CAPACITY {
                return None;
            }
        }
        Some(self.refused.entry(delivery.clone()).or_insert(Refused { times: 0, last: now }))
    }
}

#[cfg(test)]
mod tests {
    use peal_common::channel::Channel;
    use tokio::time::{advance, pause};

    use super::*;

    const REASON: &str = "smtp_550_5.7.1";

    fn delivery(n: usize) -> DeliveryId {
        let (app, notification) = ("shop".parse().unwrap(), "n".parse().unwrap());
        DeliveryId::derive(&app, &notification, &"u".parse().unwrap(), Channel::Email, &n.to_string(), 0)
    }

    fn waits(seconds: u64) -> Outcome {
        held_back(REASON, Some(Duration::from_secs(seconds)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_takes_nothing_is_out_of_order_for_everybody() {
        let refusals = Refusals::default();
        let judge = |n| refusals.judge(&delivery(n), REASON.to_owned());
        assert_eq!(judge(1), unavailable(REASON), "it never took any");
        refusals.taken(&delivery(2));
        assert_eq!(judge(1), waits(60));
        advance(AT_WORK).await;
        // However often: nothing is given up for it.
        for n in (0..3 * TRIES as usize).map(|n| n % 3) {
            assert_eq!(judge(n), unavailable(REASON));
        }
        refusals.taken(&delivery(2));
        assert_eq!(judge(1), waits(120));
    }

    #[tokio::test(start_paused = true)]
    async fn an_e_mail_that_is_refused_alone_is_given_up_at_last() {
        let refusals = Refusals::default();
        let judge = |n| refusals.judge(&delivery(n), REASON.to_owned());
        for wait in [60, 120, 240, 480] {
            refusals.taken(&delivery(2));
            assert_eq!(judge(1), waits(wait));
            advance(Duration::from_secs(wait)).await;
        }
        refusals.taken(&delivery(2));
        assert_eq!(judge(3), waits(60), "others are counted by themselves");
        assert_eq!(judge(1), permanent(REASON));
        // Should it be replayed.
        assert_eq!(judge(1), waits(60));
        refusals.taken(&delivery(1));
        assert_eq!(judge(1), waits(60), "what was taken is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_seldom_is_enough_to_see_that_the_account_is_at_work() {
        let refusals = Refusals::default();
        let judge = || refusals.judge(&delivery(1), REASON.to_owned());
        assert_eq!(judge(), unavailable(REASON));
        for wait in [60, 120, 240, 480] {
            advance(AT_WORK * 10).await;
            refusals.taken(&delivery(2));
            advance(AT_WORK * 10).await;
            assert_eq!(judge(), waits(wait), "it took another one since");
            assert_eq!(judge(), unavailable(REASON), "and none since");
        }
        refusals.taken(&delivery(2));
        assert_eq!(judge(), permanent(REASON));
    }

    #[tokio::test]
    async fn no_more_than_so_many_are_counted_and_old_ones_make_room() {
        pause();
        let refusals = Refusals::default();
        let judge = |n| {
            refusals.taken(&delivery(usize::MAX));
            refusals.judge(&delivery(n), REASON.to_owned())
        };
        for n in 0..CAPACITY + 5 {
            judge(n);
        }
        assert_eq!(refusals.seen().refused.len(), CAPACITY);
        assert_eq!(judge(CAPACITY), waits(60), "it is not counted");
        assert_eq!(judge(0), waits(120));
        advance(FORGOTTEN).await;
        judge(CAPACITY);
        assert_eq!(refusals.seen().refused.len(), 1);
    }
}
