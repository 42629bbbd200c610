//! Colours: what is well, what is under way, what was not wanted, and what somebody should look at.

use peal_common::event::{EventType, Status};

/// How a status or an event is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tone {
    /// It arrived, or went out.
    Good,
    /// It is under way.
    Busy,
    /// It was not sent, as somebody wanted it.
    Quiet,
    /// It goes on, though not as planned, or nobody knows.
    Warn,
    /// It did not arrive.
    Bad,
}

impl Tone {
    /// The name of the class in the style sheet.
    pub(super) const fn class(self) -> &'static str {
        match self {
            Tone::Good => "good",
            Tone::Busy => "busy",
            Tone::Quiet => "quiet",
            Tone::Warn => "warn",
            Tone::Bad => "bad",
        }
    }

    /// How a status is shown.
    pub(super) const fn of(status: Status) -> Self {
        match status {
            Status::Sent | Status::Delivered => Tone::Good,
            Status::Accepted | Status::Planned | Status::Scheduled | Status::Held | Status::Queued => {
                Tone::Busy
            }
            Status::Suppressed | Status::Cancelled | Status::Expired | Status::Erased => Tone::Quiet,
            Status::Ambiguous => Tone::Warn,
            Status::DeadLettered | Status::Failed | Status::Bounced => Tone::Bad,
        }
    }

    /// How an event is shown.
    pub(super) const fn of_event(kind: EventType) -> Self {
        match kind {
            EventType::Retried => Tone::Warn,
            EventType::Opened | EventType::Clicked | EventType::Seen | EventType::Acknowledged => Tone::Good,
            other => match other.status() {
                Some(status) => Tone::of(status),
                None => Tone::Busy,
            },
        }
    }
}

/// A stable word as people read it.
pub(super) fn in_words(word: &str) -> String {
    word.replace('_', " ")
}
