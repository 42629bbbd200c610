//! From the first request to the last webhook: the delivered rate, and how long a critical notification takes, with
//! nothing and with a backlog in front of it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use peal_common::channel::Priority;
use serde::Serialize;

use super::deployment::Deployment;
use super::process::Busy;
use super::role::load::{self, Pace};
use super::seed::CATEGORY;
use super::sink::Sink;
use super::statistics::{Latency, median};
use super::throughput::{notifications, recipients, start_load};

/// Notifications in a batch, and connections, of measurements that are not about accepting.
const BATCH: u64 = 500;
const CONNECTIONS: usize = 4;
/// How long a load may take.
const LOAD_LIMIT: Duration = Duration::from_secs(180);
/// How long deliveries may take.
pub const DELIVERY_LIMIT: Duration = Duration::from_secs(300);
/// How long processes may take to have nothing left to do.
pub const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// One end-to-end measurement, or all deliveries of one load.
#[derive(Debug, Clone, Serialize)]
pub struct Delivered {
    /// Notifications that were accepted.
    pub accepted: u64,
    /// Notifications that came.
    pub arrived: u64,
    /// Webhooks that came beyond one for each.
    pub repeated: u64,
    /// From the first request to the last webhook, in seconds.
    pub seconds: f64,
    /// Notifications delivered in a second.
    pub per_second: f64,
}

impl Delivered {
    /// Whether each came exactly once.
    #[must_use]
    pub fn exactly_once(&self) -> bool {
        self.accepted == self.arrived && self.repeated == 0
    }
}

/// What repeated end-to-end measurements gave.
#[derive(Debug, Clone, Serialize)]
pub struct EndToEnd {
    /// The median of the delivered rate.
    pub per_second: f64,
    /// Each measurement.
    pub runs: Vec<Delivered>,
    /// Processors that each process kept busy in the last one. The load generator is gone before its end.
    pub processors: BTreeMap<String, f64>,
}

/// How long critical notifications took.
#[derive(Debug, Clone, Serialize)]
pub struct CriticalLatency {
    /// Requests in a second.
    pub per_second: u64,
    /// From the begin of the request to the webhook.
    pub to_provider: Latency,
    /// From the begin of the request to its answer.
    pub to_answer: Option<Latency>,
    /// What came of them.
    pub delivered: Delivered,
}

/// Critical notifications behind a backlog.
#[derive(Debug, Clone, Serialize)]
pub struct Backlog {
    /// Bulk notifications in front when the dispatcher started.
    pub bulk: u64,
    /// How many were not delivered yet when the first critical one was sent.
    pub waiting_at_start: u64,
    /// How many were not delivered yet after the last critical one.
    pub waiting_at_end: u64,
    /// The critical ones.
    pub critical: CriticalLatency,
    /// What came of the bulk ones, timed from the start of the dispatcher.
    pub delivered: Delivered,
}

/// Measures the delivered rate, `rounds` times.
///
/// # Errors
/// When a process fails or deliveries do not come.
pub async fn end_to_end(
    deployment: &Deployment,
    sink: &mut Sink,
    people: u64,
    total: u64,
    rounds: usize,
) -> anyhow::Result<EndToEnd> {
    let mut runs = Vec::with_capacity(rounds);
    let mut processors = BTreeMap::new();
    // The first one opens connections and fills caches, and is not counted.
    for round in 0..=rounds {
        let total = if round == 0 { total / 10 } else { total };
        let series = format!("e2e-{round}");
        let mut pids = deployment.pids();
        pids.extend(sink.pid().map(|pid| ("sink".to_owned(), pid)));
        let busy = Busy::start(pids);
        let done = batched(deployment, &series, CATEGORY, Priority::Normal, people, total).await?;
        let delivered = collect(sink, &series, done.accepted, done.first_ns).await?;
        processors = busy.processors();
        deployment.settle(SETTLE_LIMIT).await?;
        if round > 0 {
            runs.push(delivered);
        }
    }
    let rates: Vec<_> = runs.iter().map(|run| run.per_second).collect();
    Ok(EndToEnd { per_second: median(&rates), runs, processors })
}

/// Measures critical notifications at light load.
///
/// # Errors
/// When a process fails or deliveries do not come.
pub async fn light(
    deployment: &Deployment,
    sink: &mut Sink,
    people: u64,
    per_second: u64,
    total: u64,
) -> anyhow::Result<CriticalLatency> {
    // Connections are opened before anything counts.
    critical(deployment, sink, "light-0", people, per_second, total.div_ceil(10)).await?;
    critical(deployment, sink, "light-1", people, per_second, total).await
}

/// Measures critical notifications while a backlog of bulk ones is being delivered.
///
/// # Errors
/// When a process fails or deliveries do not come.
pub async fn backlog(
    deployment: &mut Deployment,
    sink: &mut Sink,
    people: u64,
    (per_second, total): (u64, u64),
    bulk: u64,
) -> anyhow::Result<Backlog> {
    const SERIES: &str = "bulk-0";
    deployment.stop_dispatcher().await?;
    let done = batched(deployment, SERIES, CATEGORY, Priority::Bulk, people, bulk).await?;
    deployment.settle(SETTLE_LIMIT).await?;
    let start_ns = super::wall::nanos();
    deployment.start_dispatcher().await?;
    // It is at work when the first of them have come.
    sink.wait_for(SERIES, (bulk / 1_000).max(1), DELIVERY_LIMIT).await?;
    let waiting_at_start = done.accepted.saturating_sub(sink.count(SERIES).await?);
    let critical = critical(deployment, sink, "critical-0", people, per_second, total).await?;
    let waiting_at_end = done.accepted.saturating_sub(sink.count(SERIES).await?);
    let delivered = collect(sink, SERIES, done.accepted, start_ns).await?;
    Ok(Backlog { bulk: done.accepted, waiting_at_start, waiting_at_end, critical, delivered })
}

/// Sends notifications in batches and waits for the answers.
///
/// # Errors
/// When not all are accepted.
pub async fn batched(
    deployment: &Deployment,
    series: &str,
    category: &str,
    priority: Priority,
    people: u64,
    total: u64,
) -> anyhow::Result<load::Done> {
    let what = notifications(series, category, priority, recipients(people), Some(BATCH));
    let mut worker = start_load(deployment, what, Pace::Total { connections: CONNECTIONS, total }).await?;
    worker.started(LOAD_LIMIT).await?;
    let done: load::Done = worker.hear(LOAD_LIMIT).await?;
    all_accepted(&done, total)?;
    Ok(done)
}

fn all_accepted(done: &load::Done, total: u64) -> anyhow::Result<()> {
    anyhow::ensure!(
        done.accepted == total,
        "{} of {total} were accepted; the first refusal: {}",
        done.accepted,
        done.example.as_deref().unwrap_or("none")
    );
    Ok(())
}

/// Waits until every notification of a series came, and says what came.
///
/// # Errors
/// When the sink is gone. Deliveries that don't come are part of the result.
pub async fn collect(
    sink: &mut Sink,
    series: &str,
    accepted: u64,
    start_ns: u64,
) -> anyhow::Result<Delivered> {
    let waited = sink.wait_for(series, accepted, DELIVERY_LIMIT).await;
    let summary = sink.summary(series).await?;
    if summary.received == 0 {
        waited.context("nothing was delivered")?;
    }
    let seconds = summary.last_ns.saturating_sub(start_ns) as f64 / 1e9;
    Ok(Delivered {
        accepted,
        arrived: summary.notifications,
        repeated: summary.received - summary.notifications,
        seconds,
        per_second: summary.notifications as f64 / seconds,
    })
}

async fn critical(
    deployment: &Deployment,
    sink: &mut Sink,
    series: &str,
    people: u64,
    per_second: u64,
    total: u64,
) -> anyhow::Result<CriticalLatency> {
    let what = notifications(series, CATEGORY, Priority::Critical, recipients(people), None);
    let mut worker = start_load(deployment, what, Pace::Steady { per_second, total }).await?;
    worker.started(LOAD_LIMIT).await?;
    let done: load::Done = worker.hear(LOAD_LIMIT).await?;
    all_accepted(&done, total)?;
    let delivered = collect(sink, series, done.accepted, done.first_ns).await?;
    let arrived = sink.times(series).await?;
    let nanos = done
        .begun
        .iter()
        .filter_map(|(number, begun_ns)| arrived.get(number).map(|at_ns| at_ns.saturating_sub(*begun_ns)));
    let to_provider = Latency::of(nanos.collect()).context("no critical notification was delivered")?;
    Ok(CriticalLatency { per_second, to_provider, to_answer: done.latency, delivered })
}
