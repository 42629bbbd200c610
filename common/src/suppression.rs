//! Suppressions: addresses that nothing is sent to any more, whoever has them.
//!
//! A suppression is a record of state, named by channel and blind index, so it holds in every region and names nobody.
//! Who suppresses an address wins over whoever lifts its suppression without having seen it (see [`crate::state`]).

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::channel::Channel;
use crate::clock::Stamp;
use crate::id::AppId;
use crate::state::{Kind, Record, RecordKey};

/// The guarded facet that says that nothing is to be delivered.
const DELIVER_FACET: &str = "deliver";
/// The facet that holds the [`Suppression`].
const CAUSE_FACET: &str = "cause";
/// The facet that holds the days on which the address was full.
const FULL_FACET: &str = "full";
/// An address that was full on so many days ...
const FULL_DAYS: usize = 3;
/// ... of this time is read by nobody.
const FULL_WITHIN: SignedDuration = SignedDuration::from_hours(14 * 24);
/// The reason of its suppression.
pub const FULL: &str = "mailbox_full";
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

    /// Notes in a record that the address is full. When it was on three days of the last fourteen, it is suppressed.
    pub fn note_full(record: &mut Record, now: Timestamp, stamp: &Stamp) {
        let known = record.get(FULL_FACET).and_then(|days| Vec::<Timestamp>::deserialize(days).ok());
        let mut days = known.unwrap_or_default();
        days.retain(|day| now.duration_since(*day) < FULL_WITHIN);
        let is_another_day = |day: &Timestamp| now.duration_since(*day) >= SignedDuration::from_hours(24);
        if days.last().is_some_and(|day| !is_another_day(day)) {
            return;
        }
        days.push(now);
        if days.len() >= FULL_DAYS {
            Suppression { reason: FULL.to_owned(), since: now }.write(record, stamp);
        }
        record.set(FULL_FACET, serde_json::json!(days), stamp);
    }

    /// Lifts the suppression that a record shows.
    pub fn lift(record: &mut Record, stamp: &Stamp) {
        if record.get(FULL_FACET).is_some() {
            record.set(FULL_FACET, serde_json::Value::Null, stamp);
        }
        if Suppression::read(record).is_some() {
            record.set_guarded(DELIVER_FACET, None, stamp);
            record.set(CAUSE_FACET, serde_json::Value::Null, stamp);
        }
    }

    /// Whether a record says that the address's suppression was lifted after what happened at `at`, a time in whole seconds.
    #[must_use]
    pub fn was_lifted_after(record: &Record, at: Timestamp) -> bool {
        let second_later = u64::try_from(at.as_millisecond()).unwrap_or(0).saturating_add(1_000);
        Suppression::read(record).is_none()
            && record.facets.get(CAUSE_FACET).is_some_and(|cause| cause.stamp.ms >= second_later)
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
    fn what_happened_before_it_was_lifted_is_over() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let mut record = Record::default();
        assert!(!Suppression::was_lifted_after(&record, at(0)), "it never was");
        suppression("complaint", 1).write(&mut record, &stamp(5_000, "eu"));
        assert!(!Suppression::was_lifted_after(&record, at(1)), "it stands");
        Suppression::lift(&mut record, &stamp(9_500, "eu"));
        for (second, is_over) in [(1, true), (8, true), (9, false), (10, false)] {
            assert_eq!(Suppression::was_lifted_after(&record, at(second)), is_over, "{second}");
        }
    }

    #[test]
    fn an_address_that_is_full_for_days_is_suppressed() {
        let at = |hours: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours);
        let after = |hours: &[i64]| {
            let mut record = Record::default();
            for (n, hours) in (1..).zip(hours) {
                Suppression::note_full(&mut record, at(*hours), &stamp(n, "eu"));
            }
            record
        };
        for (hours, is_suppressed) in [
            (&[0, 24, 48][..], true),
            (&[0, 1, 2, 3, 23], false),
            (&[0, 1, 25, 48], false),
            (&[0, 24, 14 * 24], false),
            (&[0, 24, 14 * 24, 14 * 24 + 24], false),
            (&[0, 24, 14 * 24 - 1], true),
        ] {
            let found = Suppression::read(&after(hours));
            assert_eq!(found.is_some(), is_suppressed, "{hours:?}");
            assert!(found.is_none_or(|found| found.reason == FULL));
        }
        let mut lifted = after(&[0, 24, 48]);
        Suppression::lift(&mut lifted, &stamp(9, "eu"));
        assert!(!lifted.exists());
        Suppression::note_full(&mut lifted, at(72), &stamp(10, "eu"));
        assert_eq!(Suppression::read(&lifted), None, "the days count anew");
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
