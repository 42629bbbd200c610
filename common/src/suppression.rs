//! Suppressions: addresses that nothing is sent to any more, whoever has them.
//!
//! A suppression is a record of state, named by channel and blind index, so it holds in every region and names nobody.
//! Who suppresses an address wins over whoever lifts its suppression without having seen it (see [`crate::state`]).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::channel::Channel;
use crate::clock::Stamp;
use crate::id::AppId;
use crate::state::{Kind, Record, RecordKey};

/// The guarded facet that says that nothing is to be delivered.
const DELIVER_FACET: &str = "deliver";
/// The facet that holds the [`Suppression`].
const CAUSE_FACET: &str = "cause";
/// What stands for a cause that another region has not told yet.
const UNKNOWN: &str = "unknown";

/// Why an address is suppressed, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suppression {
    /// A stable word: what the provider said, such as `http_410`, or what whoever suppressed it wrote.
    pub reason: String,
    /// Since when. A device that is registered later is another one.
    pub since: Timestamp,
}

impl Suppression {
    /// Reads a record; `None` when the address is not suppressed.
    #[must_use]
    pub fn read(record: &Record) -> Option<Self> {
        if record.allowed(DELIVER_FACET) != Some(false) {
            return None;
        }
        let cause = record.get(CAUSE_FACET).and_then(|cause| Suppression::deserialize(cause).ok());
        Some(
            cause.unwrap_or_else(|| Suppression { reason: UNKNOWN.to_owned(), since: Timestamp::UNIX_EPOCH }),
        )
    }

    /// Writes it into a record. One that is as old or newer stays.
    pub fn write(&self, record: &mut Record, stamp: &Stamp) {
        if Suppression::read(record).is_some_and(|known| known.reason != UNKNOWN && known.since >= self.since)
        {
            return;
        }
        let cause = serde_json::json!({"reason": self.reason, "since": self.since});
        record.set_guarded(DELIVER_FACET, Some(false), stamp);
        record.set(CAUSE_FACET, cause, stamp);
    }

    /// Lifts the suppression that a record shows.
    pub fn lift(record: &mut Record, stamp: &Stamp) {
        if Suppression::read(record).is_some() {
            record.set_guarded(DELIVER_FACET, None, stamp);
            record.set(CAUSE_FACET, serde_json::Value::Null, stamp);
        }
    }

    /// Whether it holds for a contact that was registered at that time (milliseconds since the Unix epoch). A device
    /// that registers again gets its messages again; an address of another kind stays suppressed until somebody lifts it.
    #[must_use]
    pub fn holds_for(&self, channel: Channel, registered_ms: u64) -> bool {
        !channel.is_push() || u64::try_from(self.since.as_millisecond()).unwrap_or(0) >= registered_ms
    }
}

/// The key of an address's record: its id is `<channel>:<blind index>`. A pinned one stays in its region.
#[must_use]
pub fn key(app: &AppId, channel: Channel, index: &str, pinned: bool) -> RecordKey {
    let kind = if pinned { Kind::PinnedSuppression } else { Kind::Suppression };
    RecordKey::new(kind, app, &format!("{channel}:{index}"))
}

/// Channel and blind index of the id of a [`key`]; `None` for what is none.
#[must_use]
pub fn parse_id(id: &str) -> Option<(Channel, &str)> {
    let (channel, index) = id.split_once(':')?;
    Some((channel.parse().ok()?, index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(ms: u64, region: &str) -> Stamp {
        Stamp { ms, counter: 0, region: region.parse().unwrap() }
    }

    fn suppression(reason: &str, ms: i64) -> Suppression {
        Suppression { reason: reason.to_owned(), since: Timestamp::from_millisecond(ms).unwrap() }
    }

    #[test]
    fn a_suppression_is_written_once_and_lifted() {
        let mut record = Record::default();
        Suppression::lift(&mut record, &stamp(1, "eu"));
        assert_eq!((record.exists(), Suppression::read(&record)), (false, None));
        let first = suppression("http_410", 5);
        first.write(&mut record, &stamp(2, "eu"));
        let written = record.clone();
        suppression("again", 5).write(&mut record, &stamp(3, "eu"));
        assert_eq!(record, written);
        suppression("later", 6).write(&mut record, &stamp(3, "eu"));
        assert_eq!(Suppression::read(&record).unwrap().reason, "later");
        Suppression::lift(&mut record, &stamp(4, "eu"));
        assert_eq!((record.exists(), Suppression::read(&record)), (false, None));
        first.write(&mut record, &stamp(5, "eu"));
        assert_eq!(Suppression::read(&record), Some(first));
    }

    #[test]
    fn whoever_suppresses_wins_over_whoever_lifts_without_having_seen_it() {
        let (mut eu, mut us) = (Record::default(), Record::default());
        suppression("http_410", 1).write(&mut eu, &stamp(1, "eu"));
        us.merge(eu.clone());
        Suppression::lift(&mut eu, &stamp(9, "eu"));
        suppression("complaint", 2).write(&mut us, &stamp(2, "us"));
        for (one, other) in [(&eu, &us), (&us, &eu)] {
            let mut merged = one.clone();
            merged.merge(other.clone());
            // The cause was removed later than it was written: that the address is suppressed counts all the same.
            assert_eq!(Suppression::read(&merged).unwrap().reason, UNKNOWN);
            assert!(Suppression::read(&merged).unwrap().holds_for(Channel::Email, 7));
        }
    }

    #[test]
    fn only_a_device_that_registers_again_is_written_to_again() {
        let dead = suppression("http_410", 1_000);
        for (channel, registered_ms, holds) in [
            (Channel::Apns, 999, true),
            (Channel::Apns, 1_000, true),
            (Channel::Fcm, 1_001, false),
            (Channel::Email, 1_001, true),
            (Channel::Sms, u64::MAX, true),
        ] {
            assert_eq!(dead.holds_for(channel, registered_ms), holds, "{channel} {registered_ms}");
        }
    }

    #[test]
    fn the_key_names_the_address() {
        let app = "shop".parse().unwrap();
        let id = key(&app, Channel::Email, "abc", true).id().unwrap();
        assert_eq!(parse_id(&id), Some((Channel::Email, "abc")));
        assert_eq!(parse_id("nothing:abc"), None);
        assert!(key(&app, Channel::Email, "abc", true).kind().unwrap().is_pinned());
    }
}
