//! Signatures that were used: each counts once.
//!
//! A nonce is remembered for as long as its timestamp would be taken: [`MAX_SKEW`] before and after. It is kept as 64
//! bits of a hash whose key is made at start, so a million take about 20 MB and nobody can make two that meet.
//!
//! The memory is this gateway's own and ends with it. What remains: within the ten minutes in which its timestamp
//! counts, somebody who has recorded a signed request can play it once to each *other* gateway of the region, and again
//! to this one after a restart. A write to JetStream for each signed request would close that, and would double what a
//! request costs. Signed requests belong inside TLS like all others, and the call that must not happen twice, handing
//! in a notification, is recognised by its id wherever it is repeated.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How far a timestamp may be from our clock, in seconds.
pub(super) const MAX_SKEW: i64 = 300;
/// When a key that has used up its nonces should come back.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(60);
/// How many nonces of one key are remembered: 660 signed requests a second.
const PER_KEY: usize = 400_000;
/// How many nonces are remembered in all.
const IN_ALL: usize = 1_000_000;
/// Nonces are forgotten together with others whose timestamps lie in the same span, in seconds.
const SPAN: i64 = 60;

/// The nonces of all keys.
pub struct Nonces {
    hasher: RandomState,
    spans: Mutex<Spans>,
}

#[derive(Default)]
struct Spans {
    /// By the timestamps' span, oldest first.
    used: VecDeque<(i64, Span)>,
    in_all: usize,
}

#[derive(Default)]
struct Span {
    nonces: HashSet<u64>,
    /// How many of them each key has used, by the key's hash.
    by_key: HashMap<u64, usize>,
}

/// What a nonce is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// It was not used before, and is now.
    First,
    /// It was used before.
    Again,
    /// It can't be remembered, so it can't be taken.
    TooMany,
}

impl Default for Nonces {
    fn default() -> Self {
        Nonces { hasher: RandomState::new(), spans: Mutex::default() }
    }
}

impl Nonces {
    /// Uses a nonce of a key for a request of that timestamp; the time is `now`, both in seconds since the Unix epoch.
    pub(super) fn take(&self, key: &str, nonce: &str, timestamp: i64, now: i64) -> Use {
        let name = self.hasher.hash_one(key);
        let nonce = self.hasher.hash_one((key, nonce));
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.forget_before(now - MAX_SKEW);
        // The timestamp is not part of the name: a nonce that comes again with another timestamp is used up all the same.
        if spans.used.iter().any(|(_, span)| span.nonces.contains(&nonce)) {
            return Use::Again;
        }
        let of_key: usize = spans.used.iter().filter_map(|(_, span)| span.by_key.get(&name)).sum();
        if of_key >= PER_KEY || spans.in_all >= IN_ALL {
            return Use::TooMany;
        }
        let span = spans.span(timestamp.div_euclid(SPAN));
        span.nonces.insert(nonce);
        *span.by_key.entry(name).or_default() += 1;
        spans.in_all += 1;
        Use::First
    }
}

impl Spans {
    fn forget_before(&mut self, timestamp: i64) {
        while let Some((start, span)) = self.used.front()
            && (start + 1) * SPAN <= timestamp
        {
            self.in_all -= span.nonces.len();
            self.used.pop_front();
        }
    }

    fn span(&mut self, start: i64) -> &mut Span {
        let at = self.used.partition_point(|(other, _)| *other < start);
        if self.used.get(at).is_none_or(|(other, _)| *other != start) {
            self.used.insert(at, (start, Span::default()));
        }
        &mut self.used[at].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_counts_once_as_long_as_its_timestamp_is_taken() {
        let nonces = Nonces::default();
        let now = 1_000_000;
        assert_eq!(nonces.take("a", "n", now + MAX_SKEW, now), Use::First);
        assert_eq!(nonces.take("b", "n", now, now), Use::First);
        for later in [0, MAX_SKEW, 2 * MAX_SKEW] {
            assert_eq!(nonces.take("a", "n", now + later, now + later), Use::Again, "{later} s later");
        }
        // After that its timestamp is stale, and what is left of the memory is small.
        nonces.take("a", "m", now + 3 * MAX_SKEW, now + 3 * MAX_SKEW);
        assert_eq!(nonces.spans.lock().unwrap().in_all, 1);
    }

    #[test]
    fn the_memory_is_bounded_by_key() {
        let nonces = Nonces::default();
        for n in 0..PER_KEY {
            assert_eq!(nonces.take("a", &n.to_string(), 1_000_000, 1_000_000), Use::First);
        }
        assert_eq!(nonces.take("a", "one more", 1_000_000, 1_000_000), Use::TooMany);
        assert_eq!(nonces.take("b", "one more", 1_000_000, 1_000_000), Use::First);
    }
}
