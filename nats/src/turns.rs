//! Turns under rate limits that all processes of a region share, such as those that a provider sets for an account.
//!
//! A limit is a bucket, and a bucket is one message of the stream LIMITS, under a subject of its own: until when its turns
//! are given away (the generic cell rate algorithm of ITU-T I.371, annex A). Whoever takes a turn writes the bucket again,
//! on the condition that nobody else has in between; so two processes never get the same turn. Times are those of the
//! servers: the clocks of the hosts may be wrong.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::connect::Connection;
use crate::follow::StateError;
use crate::publish::{Outgoing, PublishError};
use crate::topology::LIMITS;

/// How much is reserved at once where turns follow each other closely: far below what anybody notices, and few enough
/// messages at any rate.
const LEASE: Duration = Duration::from_millis(20);
/// How long a bucket may be given away ahead of now. What says more was written when the servers' clock stood otherwise.
const MAX_AHEAD: Duration = Duration::from_secs(30);
/// The longest time for which everybody is kept from a bucket.
pub const MAX_FREEZE: Duration = Duration::from_secs(3600);
/// How long it is believed how far the servers' clock is from ours.
const CLOCK_INTERVAL: Duration = Duration::from_secs(30);
/// How often somebody else may be first.
const MAX_CONFLICTS: usize = 50;
/// When so many buckets are known, those that nobody uses at present are forgotten.
const MAX_KNOWN: usize = 10_000;

/// A rate: a turn in every `period`, and `burst` of them at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The time between two turns; not zero.
    pub period: Duration,
    /// At least 1.
    pub burst: u32,
}

impl Rate {
    /// At most `limit` turns in any second: a tenth of them may go at once, the rest evenly.
    ///
    /// # Panics
    /// Never: a limit of 0 counts as 1.
    #[must_use]
    pub fn per_second(limit: u32) -> Self {
        let limit = limit.max(1);
        let burst = (limit / 10).max(1);
        let evenly = if limit > burst { limit - burst } else { limit };
        // Buckets count whole microseconds.
        Rate { period: Duration::from_micros(1_000_000_u64.div_ceil(evenly.into())), burst }
    }

    fn lease(self) -> u32 {
        let turns = LEASE.as_micros() / self.period.as_micros().max(1);
        u32::try_from(turns).unwrap_or(u32::MAX).max(1)
    }
}

/// There is no turn.
#[derive(Debug, thiserror::Error)]
pub enum NoTurn {
    /// It would be too late. When to ask again: so early that those who wait then keep the limit in use.
    #[error("the rate limit is used up")]
    Later(Duration),
    /// Everybody is kept away.
    #[error("nobody may for a while")]
    Frozen(Duration),
    /// The bucket can't be written.
    #[error("the bucket of the rate limit cannot be written")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// When the turns of a limit are given away, in microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Bucket {
    /// When the next turn would be if there were no bursts.
    next_us: u64,
    /// Until when nobody gets one.
    frozen_until_us: u64,
}

impl Bucket {
    /// Takes `turns` turns: the first one's time, and the bucket after it.
    fn take(self, now_us: u64, rate: Rate, turns: u32, patience: Duration) -> Result<(u64, Bucket), NoTurn> {
        let frozen = Duration::from_micros(self.frozen_until_us.saturating_sub(now_us));
        if !frozen.is_zero() {
            return Err(NoTurn::Frozen(frozen.min(MAX_FREEZE)));
        }
        let period = micros(rate.period);
        let next = self.next_us.min(now_us + micros(MAX_AHEAD)).max(now_us);
        let early = period * u64::from(rate.burst.saturating_sub(1));
        let first = next.saturating_sub(early).max(now_us);
        let wait = Duration::from_micros(first - now_us);
        if wait > patience {
            return Err(NoTurn::Later(wait - patience / 2));
        }
        Ok((first, Bucket { next_us: next + period * u64::from(turns), ..self }))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Gives turns. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Turns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Where buckets are kept; in this process alone without it.
    connection: Option<Connection>,
    known: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Known>>>>,
    clock: tokio::sync::Mutex<Option<ServerClock>>,
    began: Instant,
}

/// What this process knows of a bucket.
#[derive(Debug, Default)]
struct Known {
    /// Its sequence in the stream, once it was read, and its content.
    read: Option<(u64, Bucket)>,
    /// Turns that were taken and that nobody has used yet.
    leased: VecDeque<u64>,
}

/// How far the servers' clock is.
#[derive(Debug, Clone, Copy)]
struct ServerClock {
    /// The servers' time.
    us: u64,
    /// Ours, when it was that.
    at: Instant,
}

impl Turns {
    /// Turns that all processes share which use the same streams.
    #[must_use]
    pub fn shared(connection: Connection) -> Self {
        Turns::new(Some(connection))
    }

    /// Turns of this process alone.
    #[must_use]
    pub fn local() -> Self {
        Turns::new(None)
    }

    fn new(connection: Option<Connection>) -> Self {
        let (known, clock) = (Mutex::default(), tokio::sync::Mutex::default());
        Turns(Arc::new(Inner { connection, known, clock, began: Instant::now() }))
    }

    /// Takes `turns` turns of the bucket `name` (letters, digits and dots), and says how long it is until the first: at
    /// most `patience`. Of a rate with less than 20 ms between its turns, whoever takes one takes several and keeps them for
    /// the next calls.
    ///
    /// # Errors
    /// [`NoTurn`]
    pub async fn take(
        &self,
        name: &str,
        rate: Rate,
        turns: u32,
        patience: Duration,
    ) -> Result<Duration, NoTurn> {
        let known = self.known(name);
        let mut known = known.lock().await;
        let now_us = self.now_us().await?;
        let lease = if turns == 1 { rate.lease() } else { 0 };
        if lease > 1 {
            // A turn that is gone is not made up for: two of them might meet.
            while known.leased.front().is_some_and(|turn| turn + micros(LEASE) < now_us) {
                known.leased.pop_front();
            }
            if let Some(turn) = known.leased.pop_front_if(|turn| *turn <= now_us + micros(patience)) {
                return Ok(Duration::from_micros(turn.saturating_sub(now_us)));
            }
        }
        let take = |bucket: Bucket| bucket.take(now_us, rate, turns.max(lease), patience);
        // Large, and where turns are leased not often needed.
        let first = Box::pin(self.write(name, &mut known, take)).await?;
        if lease > 1 {
            let period = micros(rate.period);
            known.leased = (1..u64::from(lease)).map(|turn| first + turn * period).collect();
        }
        Ok(Duration::from_micros(first.saturating_sub(now_us)))
    }

    /// Takes the turn of the bucket `name` that is in `ahead`, when it is free then.
    ///
    /// # Errors
    /// [`NoTurn`], which counts from then.
    pub async fn take_at(&self, name: &str, rate: Rate, ahead: Duration) -> Result<(), NoTurn> {
        let known = self.known(name);
        let mut known = known.lock().await;
        let then_us = self.now_us().await? + micros(ahead);
        let take = |bucket: Bucket| bucket.take(then_us, rate, 1, Duration::ZERO);
        Box::pin(self.write(name, &mut known, take)).await.map(drop)
    }

    /// How long it is until the next turn of a bucket would be free, as far as this process knows: others may be first.
    ///
    /// # Errors
    /// [`NoTurn::Unavailable`]
    pub async fn wait(&self, name: &str, rate: Rate) -> Result<Duration, NoTurn> {
        let known = self.known(name);
        let mut known = known.lock().await;
        let now_us = self.now_us().await?;
        let (sequence, bucket) = match (known.read, &self.0.connection) {
            (Some(known), _) => known,
            (None, Some(connection)) => Box::pin(read(connection, name)).await?,
            (None, None) => (0, Bucket::default()),
        };
        known.read = Some((sequence, bucket));
        let (first, _) = bucket.take(now_us, rate, 1, Duration::MAX)?;
        Ok(Duration::from_micros(first - now_us))
    }

    /// Keeps everybody from a bucket for a time, at most [`MAX_FREEZE`]. A shorter time does not end a longer one.
    ///
    /// # Errors
    /// [`NoTurn::Unavailable`]
    pub async fn freeze(&self, name: &str, time: Duration) -> Result<(), NoTurn> {
        let known = self.known(name);
        let mut known = known.lock().await;
        let until_us = self.now_us().await? + micros(time.min(MAX_FREEZE));
        known.leased.clear();
        let freeze = |bucket: Bucket| {
            let frozen_until_us = bucket.frozen_until_us.max(until_us);
            Ok((0, Bucket { frozen_until_us, ..bucket }))
        };
        self.write(name, &mut known, freeze).await.map(drop)
    }

    /// How long everybody is still kept from a bucket, as the servers know it now.
    ///
    /// # Errors
    /// [`NoTurn::Unavailable`]
    pub async fn frozen(&self, name: &str) -> Result<Option<Duration>, NoTurn> {
        let now_us = self.now_us().await?;
        let (_, bucket) = match &self.0.connection {
            Some(connection) => Box::pin(read(connection, name)).await?,
            None => self.known(name).lock().await.read.unwrap_or_default(),
        };
        let left = Duration::from_micros(bucket.frozen_until_us.saturating_sub(now_us));
        Ok((!left.is_zero()).then(|| left.min(MAX_FREEZE)))
    }

    /// Writes what `change` makes of a bucket, unless somebody else was first; then again.
    async fn write<T>(
        &self,
        name: &str,
        known: &mut Known,
        change: impl Fn(Bucket) -> Result<(T, Bucket), NoTurn>,
    ) -> Result<T, NoTurn> {
        let Some(connection) = &self.0.connection else {
            let (told, bucket) = change(known.read.unwrap_or_default().1)?;
            known.read = Some((0, bucket));
            return Ok(told);
        };
        for _ in 0..MAX_CONFLICTS {
            let (sequence, bucket) = match known.read {
                Some(known) => known,
                None => read(connection, name).await?,
            };
            known.read = Some((sequence, bucket));
            let (told, bucket) = change(bucket)?;
            let payload = serde_json::to_vec(&bucket).map_err(|error| NoTurn::Unavailable(error.into()))?;
            let outgoing = Outgoing::new(subject(connection, name), payload).expect_last(sequence);
            known.read = None;
            match connection.publish(outgoing).await {
                Ok(published) => {
                    known.read = Some((published.sequence, bucket));
                    return Ok(told);
                }
                Err(PublishError::Conflict) => {}
                Err(error) => return Err(NoTurn::Unavailable(error.into())),
            }
        }
        Err(NoTurn::Later(LEASE))
    }

    fn known(&self, name: &str) -> Arc<tokio::sync::Mutex<Known>> {
        let mut all = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_KNOWN && !all.contains_key(name) {
            // What is forgotten is read again; without a stream it would be gone.
            let keep = |known: &Arc<tokio::sync::Mutex<Known>>| Arc::strong_count(known) > 1;
            all.retain(|_, known| keep(known) || self.0.connection.is_none());
        }
        Arc::clone(all.entry(name.to_owned()).or_default())
    }

    async fn now_us(&self) -> Result<u64, NoTurn> {
        let Some(connection) = &self.0.connection else { return Ok(micros(self.0.began.elapsed()) + 1) };
        let mut clock = self.0.clock.lock().await;
        let known = match *clock {
            Some(known) if known.at.elapsed() < CLOCK_INTERVAL => known,
            _ => *clock.insert(Box::pin(ask_time(connection)).await?),
        };
        Ok(known.us + micros(known.at.elapsed()))
    }
}

fn subject(connection: &Connection, name: &str) -> String {
    crate::Subjects::new(&connection.region).limit(name)
}

async fn read(connection: &Connection, name: &str) -> Result<(u64, Bucket), NoTurn> {
    let found = connection.last_of(LIMITS, &subject(connection, name)).await;
    let found = found.map_err(|error| NoTurn::Unavailable(error.into()))?;
    // A bucket that can't be read is written anew.
    let bucket = |stored: &crate::follow::Stored| serde_json::from_slice(&stored.payload).unwrap_or_default();
    Ok(found.map_or((0, Bucket::default()), |stored| (stored.sequence, bucket(&stored))))
}

/// Asks for the time by having a message stored: half of the way there and back is how wrong it may be.
async fn ask_time(connection: &Connection) -> Result<ServerClock, NoTurn> {
    let unavailable = |error: Box<dyn std::error::Error + Send + Sync>| NoTurn::Unavailable(error);
    let name = format!("clock.{}", connection.client.new_inbox().rsplit('.').next().unwrap_or_default());
    let asked = Instant::now();
    let published = connection.publish(Outgoing::new(subject(connection, &name), "")).await;
    let sequence = published.map_err(|error| unavailable(error.into()))?.sequence;
    let at = asked + asked.elapsed() / 2;
    let stored = connection.message_at(LIMITS, sequence).await.map_err(|error| unavailable(error.into()))?;
    let gone = || unavailable(Box::new(StateError::new(LIMITS, std::io::Error::other("a message is gone"))));
    let at_ms = stored.ok_or_else(gone)?.at_ms;
    Ok(ServerClock { us: u64::try_from(at_ms).unwrap_or_default() * 1000, at })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { period: Duration::from_millis(40), burst: 5 };

    #[test]
    fn a_tenth_goes_at_once_and_the_rest_evenly() {
        assert_eq!(Rate::per_second(1), Rate { period: Duration::from_secs(1), burst: 1 });
        assert_eq!(Rate::per_second(0), Rate::per_second(1));
        assert_eq!(Rate::per_second(100), Rate { period: Duration::from_micros(11_112), burst: 10 });
        assert_eq!((Rate::per_second(10).lease(), Rate::per_second(10_000).lease()), (1, 178));
    }

    #[test]
    fn a_frozen_bucket_gives_no_turns_and_one_of_another_time_does() {
        let now = 1_000_000_000;
        let frozen = Bucket { next_us: 0, frozen_until_us: now + 2_000_000 };
        let refused = frozen.take(now, RATE, 1, Duration::MAX).unwrap_err();
        assert!(matches!(refused, NoTurn::Frozen(left) if left == Duration::from_secs(2)));
        assert!(frozen.take(now + 2_000_000, RATE, 1, Duration::ZERO).is_ok());
        let foreign = Bucket { next_us: now * 1000, frozen_until_us: 0 };
        let later = foreign.take(now, RATE, 1, Duration::from_secs(1)).unwrap_err();
        assert!(matches!(later, NoTurn::Later(wait) if wait <= MAX_AHEAD));
    }

    proptest! {
        /// Whoever asks when and for how much: no second has more than 25 and the burst of 5.
        #[test]
        fn no_second_has_more_than_the_limit(
            asked in prop::collection::vec((0_u64..200_000, 1_u32..4, 0_u64..3_000), 1..300),
        ) {
            let (mut now, mut bucket, mut turns) = (1_000_000, Bucket::default(), Vec::new());
            for (pause, count, patience) in asked {
                now += pause;
                if let Ok((first, after)) = bucket.take(now, RATE, count, Duration::from_millis(patience)) {
                    bucket = after;
                    turns.extend((0..u64::from(count)).map(|turn| first + turn * 40_000));
                }
            }
            turns.sort_unstable();
            for (place, turn) in turns.iter().enumerate() {
                let within = turns[place..].iter().take_while(|other| **other < turn + 1_000_000).count();
                prop_assert!(within <= 30, "{within}");
            }
        }
    }
}
