//! The other end of the webhook sink.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep};

use super::role::sink::{Listening, Question, Summary};
use super::role::{Role, Worker};

const ANSWER_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(25);

/// A running sink.
pub struct Sink {
    worker: Worker,
    listening: Listening,
}

impl Sink {
    /// Starts a sink.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start() -> anyhow::Result<Self> {
        let mut worker = Worker::start(Role::Sink)?;
        let listening: Listening = worker.hear(ANSWER_LIMIT).await?;
        Ok(Sink { worker, listening })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.worker.pid()
    }

    /// The URL of its webhook.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/webhook", self.listening.port)
    }

    /// Where it takes pushes.
    #[must_use]
    pub fn pushes_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.listening.pushes_port)
    }

    /// What who pushes has to trust, as PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.listening.certificate
    }

    /// How many webhooks or pushes of a series came.
    ///
    /// # Errors
    /// When the sink is gone.
    pub async fn count(&mut self, series: &str) -> anyhow::Result<u64> {
        self.worker.tell(&Question::Count(series.to_owned())).await?;
        self.worker.hear(ANSWER_LIMIT).await
    }

    /// Waits until at least so many webhooks of a series came.
    ///
    /// # Errors
    /// When they don't come within `limit`.
    pub async fn wait_for(&mut self, series: &str, count: u64, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let found = self.count(series).await?;
            if found >= count {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "{found} of {count} webhooks came within {limit:?}");
            sleep(POLL).await;
        }
    }

    /// What came of a series.
    ///
    /// # Errors
    /// When the sink is gone.
    pub async fn summary(&mut self, series: &str) -> anyhow::Result<Summary> {
        self.worker.tell(&Question::Summary(series.to_owned())).await?;
        self.worker.hear(ANSWER_LIMIT).await
    }

    /// When each notification of a series came first, by number, in nanoseconds since the Unix epoch.
    ///
    /// # Errors
    /// When the sink is gone.
    pub async fn times(&mut self, series: &str) -> anyhow::Result<HashMap<u64, u64>> {
        self.worker.tell(&Question::Times(series.to_owned())).await?;
        let times: Vec<(u64, u64)> = self.worker.hear(ANSWER_LIMIT).await.context("times of arrival")?;
        let mut first = HashMap::with_capacity(times.len());
        for (number, at_ns) in times {
            let known = first.entry(number).or_insert(at_ns);
            *known = at_ns.min(*known);
        }
        Ok(first)
    }
}
