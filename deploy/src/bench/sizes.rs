//! How much is measured, and for how long.

use std::time::Duration;

/// The sizes of all measurements.
#[derive(Debug, Clone)]
pub struct Sizes {
    /// How often each throughput is measured; the median counts.
    pub rounds: usize,
    /// How long load runs before it is counted.
    pub warm_up: Duration,
    /// How long it is counted.
    pub measure: Duration,
    /// How long the best shapes of accepting are counted once more: long enough that the gateway's index, which lets
    /// acceptance go first, has to be kept up meanwhile.
    pub sustained: Duration,
    /// Unacknowledged messages of the raw publisher.
    pub raw_windows: &'static [usize],
    /// Connections with single requests.
    pub single_connections: &'static [usize],
    /// Notifications in a batch, and connections with batches.
    pub batches: &'static [(u64, usize)],
    /// Recipients that notifications go to.
    pub recipients: u64,
    /// Notifications of one end-to-end measurement.
    pub end_to_end: u64,
    /// Critical notifications in a second while latency is measured.
    pub steady_per_second: u64,
    /// Critical notifications of one latency measurement.
    pub steady_total: u64,
    /// Bulk notifications in front of them.
    pub backlog: u64,
    /// Pushes of one measurement.
    pub pushes: u64,
    /// Recipients in the mirror, unless the arguments say otherwise.
    pub many_recipients: u64,
    /// Recipients that are put through the API before and after the others.
    pub api_recipients: u64,
    /// Notifications to many recipients before memory is looked at.
    pub many_notifications: u64,
    /// Waiting requests when every write is forced to disk.
    pub always_waiting: &'static [usize],
}

impl Sizes {
    /// What figures are worth reporting with.
    #[must_use]
    pub fn full() -> Self {
        Sizes {
            rounds: 3,
            warm_up: Duration::from_millis(1_000),
            measure: Duration::from_millis(3_000),
            sustained: Duration::from_secs(30),
            raw_windows: &[1_000, 2_000, 5_000],
            single_connections: &[16, 64, 256],
            batches: &[(100, 8), (500, 8), (1_000, 8)],
            recipients: 1_000,
            end_to_end: 40_000,
            steady_per_second: 200,
            steady_total: 2_000,
            backlog: 200_000,
            pushes: 50_000,
            many_recipients: 1_000_000,
            api_recipients: 20_000,
            many_notifications: 20_000,
            always_waiting: &[1, 32, 256, 1_000, 2_000],
        }
    }

    /// Enough to see that everything works.
    #[must_use]
    pub fn quick() -> Self {
        Sizes {
            rounds: 1,
            warm_up: Duration::from_millis(100),
            measure: Duration::from_millis(300),
            sustained: Duration::from_millis(300),
            raw_windows: &[1_000],
            single_connections: &[16],
            batches: &[(100, 4)],
            recipients: 50,
            end_to_end: 500,
            steady_per_second: 50,
            steady_total: 50,
            backlog: 1_000,
            pushes: 500,
            many_recipients: 2_000,
            api_recipients: 100,
            many_notifications: 200,
            always_waiting: &[1, 32],
        }
    }
}
