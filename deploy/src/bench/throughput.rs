//! Rates: publishing into JetStream as it is, and accepting notifications over HTTP.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use peal_common::channel::Priority;
use peal_nats::topology::INTAKE;
use serde::Serialize;

use super::deployment::{Deployment, RAW_SUBJECT};
use super::process::Busy;
use super::role::load::{self, Pace, Recipients, What};
use super::role::{Role, Worker, publisher};
use super::seed;
use super::statistics::{Latency, median};

/// How long a worker may take beyond its task.
const WORKER_LIMIT: Duration = Duration::from_secs(60);
/// How long the gateway may take to index what it accepted in one measurement.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);

/// The recipients of throughput measurements.
#[must_use]
pub fn recipients(count: u64) -> Recipients {
    Recipients { prefix: "r".to_owned(), count }
}

/// How one rate is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Straight into the stream.
    Raw {
        /// Messages unacknowledged at once.
        window: usize,
    },
    /// One notification in a request.
    Single {
        /// Connections, each of which waits for its answer.
        connections: usize,
    },
    /// Many notifications in a request.
    Batched {
        /// Notifications in a request.
        size: u64,
        /// Connections, each of which waits for its answer.
        connections: usize,
    },
}

impl Shape {
    /// In words, for the table.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Shape::Raw { window } => format!("{window} in flight"),
            Shape::Single { connections } => format!("{connections} connections"),
            Shape::Batched { size, connections } => format!("{size} a batch, {connections} connections"),
        }
    }

    fn is_raw(self) -> bool {
        matches!(self, Shape::Raw { .. })
    }
}

/// What repeated measurements of one shape gave.
#[derive(Debug, Clone, Serialize)]
pub struct Series {
    /// How it was measured.
    pub shape: Shape,
    /// The median.
    pub per_second: f64,
    /// Each measurement.
    pub runs: Vec<f64>,
    /// How long requests took in the last one.
    pub latency: Option<Latency>,
    /// Processors that each process kept busy in the last one.
    pub processors: BTreeMap<String, f64>,
    /// How long the processes were still at work after the load of the last one, in seconds.
    pub settled_after_seconds: f64,
    /// What was refused, over all of them.
    pub refused: u64,
    /// The first refusal.
    pub example: Option<String>,
}

impl Series {
    pub(super) fn new(shape: Shape) -> Self {
        Series {
            shape,
            per_second: 0.0,
            runs: Vec::new(),
            latency: None,
            processors: BTreeMap::new(),
            settled_after_seconds: 0.0,
            refused: 0,
            example: None,
        }
    }
}

/// What one measurement takes.
pub struct Measurement<'a> {
    /// What is measured.
    pub deployment: &'a Deployment,
    /// A message as the gateway writes it.
    pub payload: &'a str,
    /// Recipients to send to.
    pub recipients: u64,
    /// How long before counting.
    pub warm_up: Duration,
    /// How long to count.
    pub measure: Duration,
}

/// Measures all shapes in turn, each where it belongs, `rounds` times over, so that a machine that changes its pace
/// changes it for all.
///
/// # Errors
/// When a process fails.
pub async fn all(
    shapes: &[(&Measurement<'_>, Shape)],
    rounds: usize,
    label: &str,
    progress: &(impl Fn(&str) + Send + Sync),
) -> anyhow::Result<Vec<Series>> {
    let mut all: Vec<_> = shapes.iter().map(|(_, shape)| Series::new(*shape)).collect();
    for round in 0..rounds {
        for (index, (series, (measurement, _))) in all.iter_mut().zip(shapes).enumerate() {
            let prefix = format!("{label}{index}{round}");
            measurement.one(series, &prefix).await.with_context(|| series.shape.words())?;
            let last = series.runs.last().copied().unwrap_or_default();
            let kind = if series.shape.is_raw() { "raw" } else { "gateway" };
            progress(&format!("{kind}, {}: {last:.0}/s", series.shape.words()));
        }
    }
    for series in &mut all {
        series.per_second = median(&series.runs);
    }
    Ok(all)
}

impl Measurement<'_> {
    async fn one(&self, series: &mut Series, prefix: &str) -> anyhow::Result<()> {
        let limit = self.warm_up + self.measure + WORKER_LIMIT;
        let mut worker = match series.shape {
            Shape::Raw { window } => {
                let mut worker = Worker::start(Role::Publisher)?;
                worker.tell(&self.publisher(prefix, window)).await?;
                worker
            }
            Shape::Single { connections } => self.load(prefix, None, connections).await?,
            Shape::Batched { size, connections } => self.load(prefix, Some(size), connections).await?,
        };
        worker.started(limit).await?;
        let mut pids = self.deployment.pids();
        let name = if series.shape.is_raw() { "publisher" } else { "load generator" };
        pids.extend(worker.pid().map(|pid| (name.to_owned(), pid)));
        let busy = Busy::start(pids);
        tokio::time::sleep(self.measure).await;
        series.processors = busy.processors();
        if series.shape.is_raw() {
            let done: publisher::Done = worker.hear(limit).await?;
            series.runs.push(done.acknowledged as f64 / done.seconds);
            series.refused += done.failed;
        } else {
            let done: load::Done = worker.hear(limit).await?;
            series.runs.push(done.accepted as f64 / done.seconds);
            series.refused += done.refused;
            series.latency = done.latency;
            series.example = series.example.take().or(done.example);
        }
        series.settled_after_seconds = self.deployment.settle(SETTLE_LIMIT).await?.as_secs_f64();
        Ok(())
    }

    fn publisher(&self, prefix: &str, window: usize) -> publisher::Task {
        publisher::Task {
            url: self.deployment.server.url(),
            region: self.deployment.connection.region.clone(),
            subject: RAW_SUBJECT.to_owned(),
            payload: self.payload.to_owned(),
            prefix: format!("bench:{prefix}-"),
            window,
            warm_up_ms: millis(self.warm_up),
            measure_ms: millis(self.measure),
        }
    }

    async fn load(&self, prefix: &str, batch: Option<u64>, connections: usize) -> anyhow::Result<Worker> {
        let pace =
            Pace::Window { connections, warm_up_ms: millis(self.warm_up), measure_ms: millis(self.measure) };
        let to = recipients(self.recipients);
        start_load(self.deployment, notifications(prefix, seed::CATEGORY, Priority::Normal, to, batch), pace)
            .await
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Notifications of a series.
#[must_use]
pub fn notifications(
    series: &str,
    category: &str,
    priority: Priority,
    to: Recipients,
    batch: Option<u64>,
) -> What {
    What::Notifications { series: series.to_owned(), category: category.to_owned(), priority, to, batch }
}

/// Starts a load generator with a task.
///
/// # Errors
/// When it can't be started.
pub async fn start_load(deployment: &Deployment, what: What, pace: Pace) -> anyhow::Result<Worker> {
    let task = load::Task {
        address: deployment.gateway,
        authorization: deployment.authorization.clone(),
        what,
        pace,
    };
    let mut worker = Worker::start(Role::Load)?;
    worker.tell(&task).await?;
    Ok(worker)
}

/// Sends one notification and gives the message that the gateway wrote for it: the raw rate is measured with the same.
///
/// # Errors
/// When it is not accepted.
pub async fn sample(deployment: &Deployment, recipients: Recipients) -> anyhow::Result<String> {
    let what = notifications("sample", seed::CATEGORY, Priority::Normal, recipients, None);
    let mut worker = start_load(deployment, what, Pace::Total { connections: 1, total: 1 }).await?;
    worker.started(WORKER_LIMIT).await?;
    let done: load::Done = worker.hear(WORKER_LIMIT).await?;
    anyhow::ensure!(
        done.accepted == 1,
        "the gateway does not accept a notification: {}",
        done.example.unwrap_or_default()
    );
    let subject = deployment.subjects.intake(Priority::Normal, super::deployment::APP);
    let stored = deployment.connection.last_of(INTAKE, &subject).await?;
    let stored = stored.context("the notification is not in INTAKE")?;
    Ok(String::from_utf8(stored.payload.to_vec())?)
}
