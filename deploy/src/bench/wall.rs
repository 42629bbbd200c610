//! The machine's clock, to the nanosecond: the processes of a measurement run on one machine and compare its readings.

use std::time::UNIX_EPOCH;

/// Nanoseconds since the Unix epoch.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "a measurement reads the machine's clock, finer than Clock does"
)]
pub fn nanos() -> u64 {
    let since = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
