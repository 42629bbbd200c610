//! Time as an argument, and the hybrid logical clock that orders writes of state across regions.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::Region;

/// Where the time comes from: the machine, or a test that sets it.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// Milliseconds since the Unix epoch, moved by a test.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// A clock that stands at `at` until it is moved.
    #[must_use]
    pub fn manual(at: Timestamp) -> Self {
        Clock::Manual(Arc::new(AtomicI64::new(at.as_millisecond())))
    }

    /// The time now, to the millisecond.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.now_ms()).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the machine's clock")]
    pub fn now_ms(&self) -> i64 {
        match self {
            Clock::System => Timestamp::now().as_millisecond(),
            Clock::Manual(ms) => ms.load(Ordering::Relaxed),
        }
    }

    /// Moves a manual clock; the machine's clock stays as it is.
    pub fn advance(&self, by: std::time::Duration) {
        if let Clock::Manual(ms) = self {
            ms.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::Relaxed);
        }
    }
}

/// When a piece of state was written: a hybrid logical clock reading with the region as tie-break. Later stamps win.
///
/// Its text form, `<milliseconds>.<counter>.<region>`, is what stands in the state stream.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Stamp {
    /// Milliseconds since the Unix epoch.
    pub ms: u64,
    /// Orders writes within one millisecond.
    pub counter: u32,
    /// Where it was written.
    pub region: Region,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.ms, self.counter, self.region)
    }
}

/// A stamp that is not `<milliseconds>.<counter>.<region>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stamp is <milliseconds>.<counter>.<region>")]
pub struct StampError;

impl FromStr for Stamp {
    type Err = StampError;

    fn from_str(text: &str) -> Result<Self, StampError> {
        let mut parts = text.splitn(3, '.');
        let mut next = || parts.next().ok_or(StampError);
        let ms = next()?.parse().map_err(|_| StampError)?;
        let counter = next()?.parse().map_err(|_| StampError)?;
        let region = next()?.parse().map_err(|_| StampError)?;
        Ok(Stamp { ms, counter, region })
    }
}

impl TryFrom<String> for Stamp {
    type Error = StampError;

    fn try_from(text: String) -> Result<Self, StampError> {
        text.parse()
    }
}

impl From<Stamp> for String {
    fn from(stamp: Stamp) -> String {
        stamp.to_string()
    }
}

/// Gives out stamps that grow, even when the machine's clock goes back, and that are later than every stamp seen.
#[derive(Debug)]
pub struct HybridClock {
    clock: Clock,
    region: Region,
    last: Mutex<(u64, u32)>,
}

impl HybridClock {
    /// A clock for writes of `region`.
    #[must_use]
    pub fn new(clock: Clock, region: Region) -> Self {
        HybridClock { clock, region, last: Mutex::new((0, 0)) }
    }

    /// The next stamp: later than all before it.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        let now = u64::try_from(self.clock.now_ms()).unwrap_or(0);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = if now > last.0 { (now, 0) } else { (last.0, last.1 + 1) };
        Stamp { ms: last.0, counter: last.1, region: self.region.clone() }
    }

    /// Takes note of a stamp that came from elsewhere, so that the next own one is later.
    pub fn observe(&self, seen: &Stamp) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = (*last).max((seen.ms, seen.counter));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_grow_when_the_clock_stands_goes_back_or_is_behind_another_region() {
        let clock = Clock::manual(Timestamp::from_second(1_000).unwrap());
        let hybrid = HybridClock::new(clock.clone(), "eu".parse().unwrap());
        let first = hybrid.stamp();
        let second = hybrid.stamp();
        assert!(second > first);
        let ahead = Stamp { ms: 2_000_000, counter: 7, region: "us".parse().unwrap() };
        hybrid.observe(&ahead);
        let third = hybrid.stamp();
        assert!(third > ahead);
        clock.advance(std::time::Duration::from_secs(5_000));
        assert!(hybrid.stamp() > third);
    }

    #[test]
    fn stamps_are_read_back_as_written() {
        let stamp = Stamp { ms: 5, counter: 2, region: "ap-northeast".parse().unwrap() };
        assert_eq!(stamp.to_string(), "5.2.ap-northeast");
        assert_eq!(stamp.to_string().parse::<Stamp>().unwrap(), stamp);
        for bad in ["", "5", "5.2", "x.2.eu", "5.2.EU", "5.-1.eu"] {
            assert_eq!(bad.parse::<Stamp>(), Err(StampError));
        }
    }
}
