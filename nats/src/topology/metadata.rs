//! Metadata on streams and consumers: whose they are, and the thresholds that `nats server check` reads.
//!
//! The `io.nats.monitor.*` keys are those of the stock `nats` command 0.4 (`nats server check stream|consumer`). Its
//! `msgs-warn` and `msgs-critical` alert on too few messages, so that they are of no use for a queue and stay unset.
//! The command documents the consumers' keys and reads only the streams' (tried with 0.4.0), so that the guide for
//! operators gives a consumer's thresholds as flags.

use std::collections::HashMap;

use crate::subjects::Region;

/// The region that owns the stream or consumer. What lacks it is not Peal's.
pub const REGION: &str = "peal.region";

/// The version of Peal that last created or changed the stream or consumer. A difference in this key alone is no
/// reason for a change: otherwise two versions at work during an upgrade would overwrite each other.
pub const VERSION: &str = "peal.version";

/// The prefix of all keys that Peal sets for itself.
pub const OWN_PREFIX: &str = "peal.";

/// The prefix of the keys that `nats server check` reads.
pub const MONITOR_PREFIX: &str = "io.nats.monitor.";

/// How far a replica may lag before the check is critical, in operations.
const PEER_LAG_CRITICAL: &str = "10000";

/// How long a replica may be silent before the check is critical.
const PEER_SEEN_CRITICAL: &str = "10s";

/// Whether Peal decides on this key; the server's own keys (`_nats.…`) and other people's are kept as they are.
#[must_use]
pub fn is_ours(key: &str) -> bool {
    key.starts_with(OWN_PREFIX) || key.starts_with(MONITOR_PREFIX)
}

fn owned(region: &Region) -> HashMap<String, String> {
    HashMap::from([
        (REGION.to_owned(), region.to_string()),
        (VERSION.to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        (format!("{MONITOR_PREFIX}enabled"), "true".to_owned()),
    ])
}

pub(super) fn for_stream(region: &Region, replicas: usize) -> HashMap<String, String> {
    let mut metadata = owned(region);
    // With one copy there are no peers, and the check calls any expectation of peers unmet.
    if replicas > 1 {
        metadata.insert(format!("{MONITOR_PREFIX}peer-expect"), replicas.to_string());
        metadata.insert(format!("{MONITOR_PREFIX}peer-lag-critical"), PEER_LAG_CRITICAL.to_owned());
        metadata.insert(format!("{MONITOR_PREFIX}peer-seen-critical"), PEER_SEEN_CRITICAL.to_owned());
    }
    metadata
}

pub(super) fn for_consumer(
    region: &Region,
    max_ack_pending: i64,
    unprocessed_critical: u64,
) -> HashMap<String, String> {
    let mut metadata = owned(region);
    // At this number the server delivers nothing more: the consumer is blocked.
    metadata.insert(format!("{MONITOR_PREFIX}outstanding-ack-critical"), max_ack_pending.to_string());
    metadata.insert(format!("{MONITOR_PREFIX}unprocessed-critical"), unprocessed_critical.to_string());
    metadata
}
