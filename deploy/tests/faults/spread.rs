//! How long a change of the region's state takes until it counts everywhere: one change after the other is written, and
//! each is followed until every gateway and every dispatcher has it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use peal_nats::mirror::SEQUENCE_METRIC;
use peal_nats::{Connection, Subjects};
use reqwest::Client;
use serde_json::json;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::region::{Api, plain_client};
use crate::wait::{self, now_ms};

/// Between two changes, and between two questions whether one has arrived.
const PAUSE: Duration = Duration::from_millis(100);
const POLL: Duration = Duration::from_millis(20);
/// A program that is cut off doesn't answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// The recipient that is changed.
const PATH: &str = "/v1/recipients/spread";
/// How long a change may take in a region that has settled.
const LIMIT: Duration = Duration::from_secs(60);

/// A change that every gateway and every dispatcher has.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    /// When it was sent, in milliseconds since the Unix epoch.
    pub sent_ms: i64,
    /// When the last of them had it.
    pub everywhere_ms: i64,
}

/// Writes and follows changes until it is dropped.
pub struct Spread {
    changes: Arc<Mutex<Vec<Change>>>,
    task: AbortHandle,
}

impl Spread {
    /// Begins, with changes that are sent through `api` to the region of `connection`, and with its gateways and
    /// dispatchers at `programs`. A program that runs and does not tell what it has is an older build and left out.
    ///
    /// # Errors
    /// When there is no HTTP client.
    pub fn start(api: &Api, connection: &Connection, programs: Vec<SocketAddr>) -> anyhow::Result<Self> {
        let changes = Arc::new(Mutex::new(Vec::new()));
        let writer = Writer {
            api: api.clone(),
            connection: connection.clone(),
            stream: Subjects::new(&connection.region).state_stream(),
            http: plain_client()?,
            programs,
        };
        let written = Arc::clone(&changes);
        let task = tokio::spawn(async move {
            loop {
                if let Some(change) = writer.change().await {
                    written.lock().unwrap_or_else(PoisonError::into_inner).push(change);
                }
                sleep(PAUSE).await;
            }
        });
        Ok(Spread { changes, task: task.abort_handle() })
    }

    /// Waits until a change is everywhere that was sent after `at_ms`, and gives all until then.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn after(&self, at_ms: i64) -> anyhow::Result<Vec<Change>> {
        wait::until("a change of the state is in every gateway and dispatcher", LIMIT, async || {
            let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            changes.last().is_some_and(|last| last.sent_ms >= at_ms).then(|| changes.clone())
        })
        .await
    }
}

impl Drop for Spread {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Who writes the changes.
struct Writer {
    api: Api,
    connection: Connection,
    stream: String,
    http: Client,
    programs: Vec<SocketAddr>,
}

impl Writer {
    /// Writes a change and waits until it is everywhere. `None` when it was not taken.
    async fn change(&self) -> Option<Change> {
        let sent_ms = now_ms();
        let answer = self.api.send_put(PATH, &json!({ "attributes": { "sent": sent_ms } })).await.ok()?;
        if !(200..300).contains(&answer.status) {
            return None;
        }
        let sequence = self.connection.stream_state(&self.stream).await.ok()?.last;
        for &program in &self.programs {
            while !self.has(program, sequence).await {
                sleep(POLL).await;
                // A stream that was set back has not got it any more.
                if self.connection.stream_state(&self.stream).await.ok()?.last < sequence {
                    return None;
                }
            }
        }
        Some(Change { sent_ms, everywhere_ms: now_ms() })
    }

    /// Whether a program has what the state had at `sequence`.
    async fn has(&self, program: SocketAddr, sequence: u64) -> bool {
        let asked = self.http.get(format!("http://{program}/metrics")).timeout(ANSWER_LIMIT).send();
        let Ok(answer) = asked.await.and_then(reqwest::Response::error_for_status) else { return false };
        let Ok(text) = answer.text().await else { return false };
        let told =
            text.lines().find_map(|line| line.strip_prefix(SEQUENCE_METRIC)?.trim().parse::<u64>().ok());
        told.is_none_or(|told| told >= sequence)
    }
}
