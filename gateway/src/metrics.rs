//! The gateway's metrics: every name, what it counts, and its labels.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use peal_nats::mirror::{SEQUENCE_METRIC, SEQUENCE_METRIC_MEANS};

/// A metric. Labels have few values: a route is its pattern, never a path that somebody sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Answered requests, by `method`, `route` and `status`.
    HttpRequests,
    /// Time until the head of an answer was ready, in seconds, by `route`.
    HttpRequestSeconds,
    /// Requests without credentials that work.
    AuthRefused,
    /// 1 while `/readyz` says yes.
    Ready,
    /// Open streams of inboxes.
    InboxStreams,
    /// What providers reported of deliveries, by `provider` and `outcome`.
    Receipts,
    /// The sequence of the last message of the region's state that is in the mirror.
    StateSequence,
}

impl Metric {
    /// Every metric.
    pub const ALL: [Metric; 7] = [
        Metric::HttpRequests,
        Metric::HttpRequestSeconds,
        Metric::AuthRefused,
        Metric::Ready,
        Metric::InboxStreams,
        Metric::Receipts,
        Metric::StateSequence,
    ];

    /// The name under which it is scraped.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Metric::HttpRequests => "peal_http_requests_total",
            Metric::HttpRequestSeconds => "peal_http_request_seconds",
            Metric::AuthRefused => "peal_auth_refused_total",
            Metric::Ready => "peal_ready",
            Metric::InboxStreams => "peal_inbox_streams",
            Metric::Receipts => "peal_receipts_total",
            Metric::StateSequence => SEQUENCE_METRIC,
        }
    }

    fn describe(self) {
        match self {
            Metric::HttpRequests => {
                metrics::describe_counter!(self.name(), "Answered requests by method, route and status");
            }
            Metric::HttpRequestSeconds => {
                metrics::describe_histogram!(self.name(), "Seconds until the head of an answer was ready");
            }
            Metric::AuthRefused => {
                metrics::describe_counter!(self.name(), "Requests without credentials that work");
            }
            Metric::Ready => metrics::describe_gauge!(self.name(), "1 while the gateway is ready"),
            Metric::InboxStreams => metrics::describe_gauge!(self.name(), "Open streams of inboxes"),
            Metric::Receipts => {
                metrics::describe_counter!(
                    self.name(),
                    "Reports of providers about deliveries, and whether they were new"
                );
            }
            Metric::StateSequence => metrics::describe_gauge!(self.name(), SEQUENCE_METRIC_MEANS),
        }
    }
}

/// Upper bounds of the time histograms, in seconds: from an answer out of memory to the time limit of a request.
const SECONDS: [f64; 14] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// The process's recorder, installed at the first call: metrics belong to a process, however many gateways a test runs
/// in it.
///
/// # Errors
/// When another recorder has been installed.
pub fn recorder() -> Result<PrometheusHandle, BuildError> {
    if let Some(handle) = RECORDER.get() {
        return Ok(handle.clone());
    }
    static INSTALLING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _installing = INSTALLING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(handle) = RECORDER.get() {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .install_recorder()?;
    for metric in Metric::ALL {
        metric.describe();
    }
    Ok(RECORDER.get_or_init(|| handle).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_say_their_unit() {
        let names: std::collections::BTreeSet<_> = Metric::ALL.into_iter().map(Metric::name).collect();
        assert_eq!(names.len(), Metric::ALL.len());
        assert!(names.iter().all(|name| name.starts_with("peal_")));
    }
}
