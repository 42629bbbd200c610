//! Tells an e-mail that a mail server's policy is against from a server that does not let us send, or no longer does.
//!
//! Both are told by the same codes (RFC 3463 §3.8). Whether the server has just taken another e-mail tells them apart: one that
//! did is at work, and means this e-mail. That one must not keep all others waiting; but since a relay may lose its trust in us
//! from one moment to the next, or have it for some domains alone, nothing is given up for one refusal.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use peal_common::id::DeliveryId;
use peal_common::outcome::Outcome;
use tokio::time::Instant;

use crate::channels::outcomes::{held_back, permanent, unavailable};

/// For so long after an e-mail was taken the server is held to be at work.
const AT_WORK: Duration = Duration::from_secs(60);
/// An e-mail that a server at work has refused so often is given up: a quarter of an hour after the first time.
const TRIES: u32 = 5;
/// The wait after the first time. Each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(60);
/// The most e-mails whose refusals are counted, some 100 bytes each. More of them wait as if it was the first time.
const CAPACITY: usize = 10_000;
/// What is as old is not asked for any more: it was sent by somebody else, or has expired.
const FORGOTTEN: Duration = Duration::from_secs(60 * 60);

/// What the policy of one server has refused.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// When an e-mail was taken last.
    taken: Option<Instant>,
    /// How often e-mails were refused while the server was at work, and when last.
    refused: HashMap<DeliveryId, (u32, Instant)>,
}

impl Refusals {
    /// Notes that the server took an e-mail.
    pub(super) fn taken(&self, delivery: &DeliveryId) {
        let mut seen = self.seen();
        seen.taken = Some(Instant::now());
        seen.refused.remove(delivery);
    }

    /// The outcome of an e-mail that the policy is against.
    pub(super) fn judge(&self, delivery: &DeliveryId, reason: String) -> Outcome {
        let now = Instant::now();
        let mut seen = self.seen();
        if seen.taken.is_none_or(|taken| now.duration_since(taken) >= AT_WORK) {
            return unavailable(reason);
        }
        let times = seen.count(delivery, now);
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
    /// Counts one more refusal, from 1.
    fn count(&mut self, delivery: &DeliveryId, now: Instant) -> u32 {
        let is_full = self.refused.len() >= CAPACITY && !self.refused.contains_key(delivery);
        if is_full {
            self.refused.retain(|_, (_, last)| now.duration_since(*last) < FORGOTTEN);
            if self.refused.len() >= CAPACITY {
                return 1;
            }
        }
        let (times, last) = self.refused.entry(delivery.clone()).or_insert((0, now));
        (*times, *last) = (*times + 1, now);
        *times
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
