//! Leaving a server that is cut off from the other ones of its cluster.
//!
//! Such a server keeps its clients and answers their pings, but JetStream has no majority there: nothing that is
//! published is stored. The client has no reason of its own to try another one of its servers.

use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::Context;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

/// How often JetStream is asked.
const EVERY: Duration = Duration::from_secs(2);
/// How long JetStream may be silent: electing a leader takes up to 9 s (nats-server 2.15, `raft.go`).
const FIRST_PATIENCE: Duration = Duration::from_secs(10);
/// Where no server is better, changing has a pause that grows to this.
const MAX_PATIENCE: Duration = Duration::from_secs(60);

/// Changes servers while JetStream stays silent, until it is dropped. `limit` is for one request.
pub(crate) fn start(jetstream: Context, limit: Duration) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(watch(jetstream, limit)))
}

async fn watch(jetstream: Context, limit: Duration) {
    let client = jetstream.client();
    let mut patience = FIRST_PATIENCE;
    let mut silent_since = None;
    loop {
        tokio::time::sleep(EVERY).await;
        if client.connection_state() != State::Connected {
            silent_since = None;
            continue;
        }
        // The leader of all servers answers this.
        if matches!(timeout(limit, jetstream.query_account()).await, Ok(Ok(_))) {
            (silent_since, patience) = (None, FIRST_PATIENCE);
            continue;
        }
        if silent_since.get_or_insert_with(Instant::now).elapsed() < patience {
            continue;
        }
        tracing::warn!("JetStream has been silent through this NATS server, trying another");
        if client.force_reconnect().await.is_err() {
            return;
        }
        (silent_since, patience) = (None, MAX_PATIENCE.min(patience * 2));
    }
}
