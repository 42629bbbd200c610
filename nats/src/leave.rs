//! Leaving a server that is cut off from the other ones of its cluster.
//!
//! Such a server keeps its clients and answers their pings, but JetStream has no majority there: nothing that is
//! published is stored. The client has no reason of its own to try another one of its servers, and when told to, it
//! prefers those that it never failed to reach, the one that it leaves among them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::account::Account;
use async_nats::jetstream::context::{AccountError, AccountErrorKind};
use async_nats::jetstream::{Context, ErrorCode};
use async_nats::{Client, ReconnectToServer, Server};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::connect::connects;

/// How often JetStream is asked.
const EVERY: Duration = Duration::from_secs(2);
/// How long JetStream may be silent: electing a leader takes up to 9 s (nats-server 2.15, `raft.go`).
const FIRST_PATIENCE: Duration = Duration::from_secs(10);
/// Where no server is better, changing has a pause that grows to this.
const MAX_PATIENCE: Duration = Duration::from_secs(60);
/// How long the change may take for each server: longer than an attempt to connect (`Options::connect_limit`).
const CHANGE_LIMIT: Duration = Duration::from_secs(10);
/// More than there are servers in a region.
const MAX_SERVERS: usize = 1 << 16;
/// How often it is looked whether the connection stands.
const POLL: Duration = Duration::from_millis(50);
/// The pause before each attempt to connect while servers are changed.
const PAUSE: Duration = Duration::from_millis(100);

/// Whose turn it is while a connection changes its server.
#[derive(Debug)]
pub(crate) struct Turns {
    changes: AtomicBool,
    next: AtomicUsize,
}

impl Turns {
    /// Begins with a server by `seed`, so that not all who leave one go to the same one.
    pub(crate) fn new(seed: u64) -> Self {
        Turns { changes: AtomicBool::new(false), next: AtomicUsize::new(seed as usize % MAX_SERVERS) }
    }

    /// The server to connect to; `None` leaves the choice to the client.
    pub(crate) fn choose(&self, servers: &[Server]) -> Option<ReconnectToServer> {
        if !self.changes.load(Ordering::Relaxed) {
            return None;
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let addr = servers.get(turn.checked_rem(servers.len())?)?.addr.clone();
        Some(ReconnectToServer { addr, delay: Some(PAUSE) })
    }
}

/// Changes servers while JetStream stays silent, until it is dropped. `limit` is for one request, `servers` says how many
/// there are.
pub(crate) fn start(
    jetstream: Context,
    turns: Arc<Turns>,
    servers: usize,
    limit: Duration,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move { watch(&jetstream, &turns, servers, limit).await }))
}

async fn watch(jetstream: &Context, turns: &Turns, servers: usize, limit: Duration) {
    let client = jetstream.client();
    let mut patience = FIRST_PATIENCE;
    let mut silent_since = None;
    loop {
        sleep(EVERY).await;
        if client.connection_state() != State::Connected {
            silent_since = None;
            continue;
        }
        // The leader of all servers answers this, whatever the answer is.
        if !is_silent(timeout(limit, jetstream.query_account()).await) {
            (silent_since, patience) = (None, FIRST_PATIENCE);
            continue;
        }
        if silent_since.get_or_insert_with(Instant::now).elapsed() < patience {
            continue;
        }
        tracing::warn!("JetStream has been silent through this NATS server, trying another");
        turns.changes.store(true, Ordering::Relaxed);
        change(&client, servers).await;
        turns.changes.store(false, Ordering::Relaxed);
        (silent_since, patience) = (None, MAX_PATIENCE.min(patience * 2));
    }
}

/// Whether nobody answered, or a server that knows of no leader.
fn is_silent(asked: Result<Result<Account, AccountError>, Elapsed>) -> bool {
    let Ok(answered) = asked else { return true };
    answered.is_err_and(|error| match error.kind() {
        AccountErrorKind::JetStream(error) => error.error_code() == ErrorCode::CLUSTER_NOT_AVAILABLE,
        _ => true,
    })
}

/// Connects again until that is another server, or all have had their turn. What does not answer the client passes over by
/// itself, which takes its time.
async fn change(client: &Client, servers: usize) {
    let left = client.server_info().server_id;
    let deadline = Instant::now() + CHANGE_LIMIT * u32::try_from(servers).unwrap_or(u32::MAX);
    let mut leaving = None;
    while Instant::now() < deadline {
        let connects = connects(client);
        // Asked for while there is no connection, it would end the next one, whichever that is.
        if client.connection_state() == State::Connected && leaving != Some(connects) {
            if leaving.is_some() && client.server_info().server_id != left {
                return;
            }
            leaving = Some(connects);
            if client.force_reconnect().await.is_err() {
                return;
            }
        }
        sleep(POLL).await;
    }
}
