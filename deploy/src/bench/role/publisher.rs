//! Publishes straight into a stream, with ids, as fast as a number of unacknowledged messages allows: the raw rate that
//! everything else is compared with.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use peal_common::id::Region;
use peal_nats::connect::{Options, connect};
use peal_nats::publish::{Outgoing, Pending};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// A task of the publisher.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// The server.
    pub url: String,
    /// The JetStream domain.
    pub region: Region,
    /// The subject to publish to.
    pub subject: String,
    /// What to publish.
    pub payload: String,
    /// How the message ids begin; no other task has the same.
    pub prefix: String,
    /// Messages that may be unacknowledged at once.
    pub window: usize,
    /// How long to publish before counting, in milliseconds.
    pub warm_up_ms: u64,
    /// How long to count, in milliseconds.
    pub measure_ms: u64,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {
    /// Messages that the stream acknowledged while it was counted, none of them a duplicate.
    pub acknowledged: u64,
    /// Messages that it did not take.
    pub failed: u64,
    /// How long it was counted, in seconds.
    pub seconds: f64,
}

pub(super) async fn run(task: Task) -> anyhow::Result<()> {
    let options = Options::new([task.url.as_str()], task.region.clone(), "peal-bench-publisher");
    let connection = connect(&options).await?;
    let payload = Bytes::from(task.payload.clone());
    let mut waiting: VecDeque<Pending> = VecDeque::with_capacity(task.window);
    let mut number = 0_u64;
    let mut measured = Done { acknowledged: 0, failed: 0, seconds: 0.0 };
    let mut counting: Option<Instant> = None;
    let warm_up_end = Instant::now() + Duration::from_millis(task.warm_up_ms);
    let measure = Duration::from_millis(task.measure_ms);
    loop {
        let now = Instant::now();
        match counting {
            None if now >= warm_up_end => {
                super::say(&super::STARTED)?;
                counting = Some(now);
            }
            Some(since) if now.duration_since(since) >= measure => {
                measured.seconds = now.duration_since(since).as_secs_f64();
                break;
            }
            _ => {}
        }
        while waiting.len() < task.window {
            number += 1;
            let id = format!("{}{number}", task.prefix);
            let outgoing = Outgoing::new(task.subject.clone(), payload.clone()).id(&id);
            waiting.push_back(connection.send(outgoing).await?);
        }
        // Acknowledgements come in order. Taking a share of the window at once keeps the clock out of the measurement;
        // the window is refilled long before it is empty.
        for _ in 0..task.window.div_ceil(16) {
            let Some(pending) = waiting.pop_front() else { break };
            let taken = pending.acknowledged().await.is_ok_and(|published| !published.duplicate);
            if counting.is_some() {
                measured.acknowledged += u64::from(taken);
                measured.failed += u64::from(!taken);
            }
        }
    }
    for pending in waiting {
        // Those were sent too late to count; they must be gone before the next task starts.
        let _ = pending.acknowledged().await;
    }
    super::say(&measured)?;
    Ok(())
}
