//! Calls that were broken off: what the provider says of them when it is asked.

use std::time::Duration;

use jiff::Timestamp;
use peal_common::outcome::Outcome;

use super::{CALL_LIMIT, TRY_NEXT};

/// How far the provider's clock and ours may differ.
const SKEW: Duration = Duration::from_secs(30);

/// What a provider says of a message that it may have taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It took it, and this came of it.
    Taken(Outcome),
    /// It certainly did not.
    NotTaken,
    /// It can't tell.
    Unknown,
}

/// Says of what a provider names so whether it may be the message that is looked for, and claims it: two deliveries with the same
/// text to the same number are two messages.
pub type Claim<'a> = &'a (dyn Fn(&str) -> bool + Send + Sync);

/// When a call began that may have been made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallTime(Timestamp);

impl CallTime {
    /// A call whose intent was declared at that time.
    #[must_use]
    pub const fn declared_at(at: Timestamp) -> Self {
        CallTime(at)
    }

    /// The earliest time that the provider may have noted for it.
    #[must_use]
    pub fn earliest(self) -> Timestamp {
        self.0.checked_sub(SKEW).unwrap_or(Timestamp::MIN)
    }

    /// The latest one.
    #[must_use]
    pub fn latest(self) -> Timestamp {
        self.0.checked_add(TRY_NEXT + CALL_LIMIT + SKEW).unwrap_or(Timestamp::MAX)
    }

    /// Whether what the provider noted at that time may be this call.
    #[must_use]
    pub fn may_be(self, noted: Timestamp) -> bool {
        (self.earliest()..=self.latest()).contains(&noted)
    }
}
