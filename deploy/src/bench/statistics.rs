//! Medians and percentiles.

use serde::{Deserialize, Serialize};

/// The middle value; of an even number the mean of the two in the middle; 0 of none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        even if even % 2 == 0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

/// How long something took, many times over, in milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Latency {
    /// How many were measured.
    pub count: usize,
    /// Half were faster.
    pub p50_ms: f64,
    /// 90 % were faster.
    pub p90_ms: f64,
    /// 99 % were faster.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

impl Latency {
    /// From durations in nanoseconds; `None` when there are none.
    #[must_use]
    pub fn of(mut nanos: Vec<u64>) -> Option<Self> {
        nanos.sort_unstable();
        let at = |percent: usize| {
            // Nearest rank: the smallest value that at least this many per cent do not exceed.
            let rank = (nanos.len() * percent).div_ceil(100).max(1);
            nanos.get(rank - 1).map(|nanos| *nanos as f64 / 1e6)
        };
        Some(Latency {
            count: nanos.len(),
            p50_ms: at(50)?,
            p90_ms: at(90)?,
            p99_ms: at(99)?,
            max_ms: at(100)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_numbers() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let latency = Latency::of((1..=200).map(|ms| ms * 1_000_000).collect()).unwrap();
        assert_eq!(
            (latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.max_ms),
            (100.0, 180.0, 198.0, 200.0)
        );
        assert!(Latency::of(Vec::new()).is_none());
        assert_eq!(Latency::of(vec![5_000_000]).unwrap().p99_ms, 5.0);
    }
}
