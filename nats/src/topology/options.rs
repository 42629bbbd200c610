//! What may differ between regions.

use std::time::Duration;

use crate::subjects::Region;

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Sizes and ages of a region's streams. [`Options::default`] suits a production region, [`Options::laptop`] one
/// machine with little disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Copies of each message: 1, 3 or 5. More than 1 needs a cluster of at least as many servers.
    pub replicas: usize,
    /// Whether there is a stream for what the sandbox provider records. In memory; never in production.
    pub sandbox: bool,
    /// The size at which each stream is full.
    pub max_bytes: MaxBytes,
    /// How long streams remember message ids. The server keeps about 240 bytes of memory per id, so this covers only
    /// the lag of the gateways' own index of the intake.
    pub duplicate_window: Duration,
    /// How long accepted notifications stay in the intake, fanned out or not. It has to exceed the longest time to
    /// live that is accepted, and `intake.max_bytes` has to hold what arrives in that time: INTAKE refuses what does
    /// not fit.
    pub intake_max_age: Duration,
    /// How long events stay.
    pub events_max_age: Duration,
    /// How long dead letters can be replayed.
    pub dead_letters_max_age: Duration,
    /// How long inbox items stay.
    pub inbox_max_age: Duration,
    /// How long the deletion of a state key is remembered by its bucket, when a time to live ended it.
    pub delete_marker_ttl: Duration,
    /// The hub and the other regions, when there are any.
    pub links: Option<Links>,
}

/// What a region is linked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Links {
    /// The JetStream domain of the hub.
    pub hub: Region,
    /// The other regions.
    pub others: Vec<Region>,
}

/// The size of each stream in bytes at which its discard policy takes effect. `SCHEDULE` has none: the server does not
/// combine schedules with refusal, and dropping the oldest would lose notifications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaxBytes {
    /// `INTAKE`; new notifications are refused (503) when it is full.
    pub intake: u64,
    /// Each of the nine `WORK_<CHANNEL>` streams; fan-out of that channel waits when it is full.
    pub work: u64,
    /// `EVENTS`; the oldest are dropped when it is full, since deliveries must go on.
    pub events: u64,
    /// `DEAD_LETTERS`; new ones are refused when it is full, so that the delivery stays queued.
    pub dead_letters: u64,
    /// `ATTEMPTS`; a channel that must not resend blindly stops when it is full.
    pub attempts: u64,
    /// `INBOX`; new items are refused when it is full.
    pub inbox: u64,
    /// The state bucket; writes are refused when it is full.
    pub state: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            replicas: 1,
            sandbox: false,
            max_bytes: MaxBytes::default(),
            duplicate_window: Duration::from_secs(120),
            intake_max_age: 8 * DAY,
            events_max_age: 30 * DAY,
            dead_letters_max_age: 30 * DAY,
            inbox_max_age: 90 * DAY,
            delete_marker_ttl: HOUR,
            links: None,
        }
    }
}

impl Options {
    /// One server, a sandbox, and streams that fit in about 3 GiB of disk when all are full.
    #[must_use]
    pub fn laptop() -> Self {
        Options { sandbox: true, max_bytes: MaxBytes::laptop(), ..Options::default() }
    }
}

impl Default for MaxBytes {
    fn default() -> Self {
        MaxBytes {
            intake: 16 * GIB,
            work: 2 * GIB,
            events: 8 * GIB,
            dead_letters: 2 * GIB,
            attempts: GIB,
            inbox: 4 * GIB,
            state: 4 * GIB,
        }
    }
}

impl MaxBytes {
    /// See [`Options::laptop`].
    #[must_use]
    pub fn laptop() -> Self {
        MaxBytes {
            intake: 512 * MIB,
            work: 128 * MIB,
            events: 256 * MIB,
            dead_letters: 128 * MIB,
            attempts: 64 * MIB,
            inbox: 256 * MIB,
            state: 256 * MIB,
        }
    }
}
