//! Signatures that were used: each counts once.
//!
//! A nonce is remembered for as long as its timestamp would be taken: [`MAX_SKEW`] before and after. It is kept as 64
//! bits of a digest, so a million take about 20 MB. What was used here is never forgotten early: a key that signs more
//! than can be remembered is refused. What other gateways tell is a help, and not kept beyond its bound.
//!
//! Gateways of all linked regions tell each other which nonces were used, without a stream between them: a write to
//! JetStream for each signed request would double what a request costs. What remains: within the ten minutes in which
//! its timestamp counts, somebody who has recorded a signed request can play it to a gateway that was not listening,
//! because it has just started or was cut off, or that has not heard yet. Signed requests belong inside TLS like all
//! others, and the call that must not happen twice, handing in a notification, is recognised by its id wherever it is
//! repeated.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use peal_common::clock::Clock;
use peal_nats::broadcast::Closed;
use peal_nats::{Connection, Subjects};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How far a timestamp may be from our clock, in seconds.
pub(super) const MAX_SKEW: i64 = 300;
/// When a key that has used up its nonces should come back.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(60);
/// How many nonces of one key that were used here are remembered: 660 signed requests a second.
const PER_KEY: usize = 400_000;
/// How many nonces that were used here are remembered in all.
const IN_ALL: usize = 1_000_000;
/// And how many that were used at other gateways.
const HEARD: usize = 1_000_000;
/// Nonces are forgotten together with others whose timestamps lie in the same span, in seconds.
const SPAN: i64 = 60;

/// How many used nonces may wait to be told. More are not told: nobody waits for this.
const UNTOLD: usize = 4_096;

/// The nonces of all keys. Cheap to clone.
#[derive(Clone)]
pub struct Nonces {
    spans: Arc<Mutex<Spans>>,
    told: mpsc::Sender<Used>,
}

/// Tells other gateways which nonces were used here, and hears from them.
pub struct NoncesTask {
    nonces: Nonces,
    untold: mpsc::Receiver<Used>,
}

/// A nonce that was used, as gateways tell each other: three numbers of 8 bytes, big endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Used {
    key: u64,
    nonce: u64,
    /// Of the request, in seconds since the Unix epoch.
    timestamp: i64,
}

impl Used {
    fn new(key: &str, nonce: &str, timestamp: i64) -> Self {
        Used { key: digest(&[key]), nonce: digest(&[key, nonce]), timestamp }
    }

    fn encode(self) -> Bytes {
        let numbers = [self.key.to_be_bytes(), self.nonce.to_be_bytes(), self.timestamp.to_be_bytes()];
        Bytes::from(numbers.concat())
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, []) = bytes.as_chunks::<8>() else { return None };
        let [key, nonce, timestamp] = *numbers else { return None };
        Some(Used {
            key: u64::from_be_bytes(key),
            nonce: u64::from_be_bytes(nonce),
            timestamp: i64::from_be_bytes(timestamp),
        })
    }
}

/// The first 64 bits of a digest. Keys hold no line breaks.
fn digest(parts: &[&str]) -> u64 {
    let digest = Sha256::digest(parts.join("\n"));
    digest.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

#[derive(Default)]
struct Spans {
    /// By the timestamps' span, oldest first.
    used: VecDeque<(i64, Span)>,
    /// How many were used here.
    in_all: usize,
    /// How many were used elsewhere.
    heard: usize,
}

#[derive(Default)]
struct Span {
    nonces: HashSet<u64>,
    /// How many of them were used elsewhere.
    heard: usize,
    /// How many of them each key has used here, by the key's digest.
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

impl Nonces {
    /// No nonces. The returned task must run for other gateways to know what was used here.
    #[must_use]
    pub fn new() -> (Self, NoncesTask) {
        let (told, untold) = mpsc::channel(UNTOLD);
        let nonces = Nonces { spans: Arc::default(), told };
        (nonces.clone(), NoncesTask { nonces, untold })
    }

    /// Uses a nonce of a key for a request of that timestamp; the time is `now`, both in seconds since the Unix epoch.
    pub(super) fn take(&self, key: &str, nonce: &str, timestamp: i64, now: i64) -> Use {
        let used = Used::new(key, nonce, timestamp);
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.forget_before(now - MAX_SKEW);
        // The timestamp is not part of the name: a nonce that comes again with another timestamp is used up all the same.
        if spans.contain(used.nonce) {
            return Use::Again;
        }
        let of_key: usize = spans.used.iter().filter_map(|(_, span)| span.by_key.get(&used.key)).sum();
        if of_key >= PER_KEY || spans.in_all >= IN_ALL {
            return Use::TooMany;
        }
        let span = spans.span(used.timestamp.div_euclid(SPAN));
        span.nonces.insert(used.nonce);
        *span.by_key.entry(used.key).or_default() += 1;
        spans.in_all += 1;
        // Best effort, see above.
        let _ = self.told.try_send(used);
        Use::First
    }

    /// Notes what another gateway took.
    fn hear(&self, used: Used, now: i64) {
        // What nobody takes any more, or will take for long, needs no memory. Clocks differ a little.
        if !(-MAX_SKEW..=2 * MAX_SKEW).contains(&used.timestamp.saturating_sub(now)) {
            return;
        }
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.forget_before(now - MAX_SKEW);
        if spans.heard < HEARD && !spans.contain(used.nonce) {
            let span = spans.span(used.timestamp.div_euclid(SPAN));
            span.nonces.insert(used.nonce);
            span.heard += 1;
            spans.heard += 1;
        }
    }
}

impl NoncesTask {
    /// Tells and hears until `stop`.
    pub async fn run(self, connection: &Connection, subject: String, clock: Clock, stop: CancellationToken) {
        if let Some(Err(Closed)) = stop.run_until_cancelled(self.exchange(connection, subject, clock)).await {
            tracing::warn!("other gateways are not told any more which signatures were used");
        }
        stop.cancelled().await;
    }

    async fn exchange(
        mut self,
        connection: &Connection,
        subject: String,
        clock: Clock,
    ) -> Result<(), Closed> {
        let mut others = connection.broadcast(subject, Subjects::nonces_everywhere()).await?;
        loop {
            tokio::select! {
                Some(used) = self.untold.recv() => others.tell(used.encode()).await?,
                heard = others.hear() => {
                    if let Some(used) = Used::decode(&heard?) {
                        self.nonces.hear(used, clock.now().as_second());
                    }
                }
            }
        }
    }
}

impl Spans {
    fn contain(&self, nonce: u64) -> bool {
        self.used.iter().any(|(_, span)| span.nonces.contains(&nonce))
    }

    fn forget_before(&mut self, timestamp: i64) {
        while let Some((start, span)) = self.used.front()
            && (start + 1) * SPAN <= timestamp
        {
            self.in_all -= span.nonces.len() - span.heard;
            self.heard -= span.heard;
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
        let (nonces, _task) = Nonces::new();
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
    fn what_gateways_tell_each_other_is_read_back() {
        let used = Used::new("a", "n", -5);
        assert_eq!(Used::decode(&used.encode()), Some(used));
        assert_ne!(used, Used::new("b", "n", -5));
        for foreign in [&b""[..], b"hello", &[0; 23], &[0; 25], &[0; 32]] {
            assert_eq!(Used::decode(foreign), None);
        }
    }

    #[test]
    fn what_is_heard_counts_and_uses_up_nobody_s_room() {
        let (nonces, _task) = Nonces::new();
        let now = 1_000_000;
        for _ in 0..2 {
            nonces.hear(Used::new("a", "n", now + MAX_SKEW + 1), now);
        }
        nonces.hear(Used::new("a", "stale", now - MAX_SKEW - 1), now);
        assert_eq!(nonces.take("a", "n", now, now), Use::Again);
        assert_eq!(nonces.take("a", "stale", now, now), Use::First);
        let spans = nonces.spans.lock().unwrap();
        assert_eq!((spans.in_all, spans.heard), (1, 1));
        drop(spans);
        nonces.take("a", "m", now + 4 * MAX_SKEW, now + 4 * MAX_SKEW);
        let spans = nonces.spans.lock().unwrap();
        assert_eq!((spans.in_all, spans.heard), (1, 0));
    }

    #[test]
    fn the_memory_is_bounded_by_key() {
        let (nonces, _task) = Nonces::new();
        for n in 0..PER_KEY {
            assert_eq!(nonces.take("a", &n.to_string(), 1_000_000, 1_000_000), Use::First);
        }
        assert_eq!(nonces.take("a", "one more", 1_000_000, 1_000_000), Use::TooMany);
        assert_eq!(nonces.take("b", "one more", 1_000_000, 1_000_000), Use::First);
    }
}
