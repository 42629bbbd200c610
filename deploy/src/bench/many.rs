//! A million recipients: what adding them costs at the start and at the end, and what memory they take.

use std::collections::BTreeMap;
use std::time::Duration;

use peal_common::channel::Priority;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::delivery::{Delivered, collect};
use super::deployment::Deployment;
use super::process::Memory;
use super::role::load::{self, Pace, Recipients, What};
use super::seed;
use super::sink::Sink;
use super::throughput::{notifications, start_load};

/// In how many parts recipients are added: the first and the last are compared.
const PARTS: u64 = 10;
const LIMIT: Duration = Duration::from_secs(300);
const SETTLE_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);
/// Connections that put recipients through the API.
const CONNECTIONS: usize = 16;

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Many {
    /// Recipients in the end.
    pub recipients: u64,
    /// Recipients in a second, of each tenth: written straight into the state, and looked up by gateway and dispatcher
    /// before the next tenth begins.
    pub per_second_by_tenth: Vec<f64>,
    /// Recipients in a second through the API, with none there.
    pub api_first_per_second: f64,
    /// Recipients in a second through the API, with all there.
    pub api_last_per_second: f64,
    /// Memory when all were there and nothing went on.
    pub idle: BTreeMap<String, Memory>,
    /// Memory after notifications to recipients all over.
    pub used: BTreeMap<String, Memory>,
    /// Those notifications.
    pub delivered: Delivered,
}

/// Sizes of this measurement.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Recipients that are written straight into the state.
    pub recipients: u64,
    /// Recipients through the API, before and after.
    pub through_api: u64,
    /// Notifications in the end.
    pub notifications: u64,
}

/// Adds recipients and looks at what that costs.
///
/// # Errors
/// When a process fails, or does not see what was written.
pub async fn measure(
    deployment: &Deployment,
    sink: &mut Sink,
    sizes: Sizes,
    progress: &(impl Fn(&str) + Send + Sync),
) -> anyhow::Result<Many> {
    let hook = sink.url();
    let many = Recipients { prefix: "many".to_owned(), count: sizes.recipients };
    // The first ones through the API open connections.
    through_api(deployment, "warm", sizes.through_api.div_ceil(10), &hook).await?;
    deployment.settle(SETTLE_LIMIT).await?;
    let api_first_per_second = through_api(deployment, "first", sizes.through_api, &hook).await?;
    let mut per_second_by_tenth = Vec::new();
    for part in 0..PARTS {
        let from = sizes.recipients * part / PARTS;
        let to = sizes.recipients * (part + 1) / PARTS;
        let start = Instant::now();
        seed::recipients(deployment, &many, from..to, &hook).await?;
        visible(deployment, sink, &many, to - 1, part).await?;
        let rate = (to - from) as f64 / start.elapsed().as_secs_f64();
        progress(&format!("{to} recipients, the last tenth at {rate:.0}/s"));
        per_second_by_tenth.push(rate);
    }
    // Both are measured while nothing else goes on.
    deployment.settle(SETTLE_LIMIT).await?;
    let api_last_per_second = through_api(deployment, "last", sizes.through_api, &hook).await?;
    deployment.settle(SETTLE_LIMIT).await?;
    let idle = deployment.memory();
    let delivered = everywhere(deployment, sink, &many, sizes.notifications).await?;
    deployment.settle(SETTLE_LIMIT).await?;
    let used = deployment.memory();
    let recipients = sizes.recipients + 2 * sizes.through_api + sizes.through_api.div_ceil(10);
    Ok(Many {
        recipients,
        per_second_by_tenth,
        api_first_per_second,
        api_last_per_second,
        idle,
        used,
        delivered,
    })
}

async fn through_api(deployment: &Deployment, prefix: &str, total: u64, hook: &str) -> anyhow::Result<f64> {
    let these = Recipients { prefix: prefix.to_owned(), count: total };
    let what = What::Recipients { these, hook: hook.to_owned() };
    let mut worker = start_load(deployment, what, Pace::Total { connections: CONNECTIONS, total }).await?;
    worker.started(LIMIT).await?;
    let done: load::Done = worker.hear(LIMIT).await?;
    anyhow::ensure!(
        done.accepted == total,
        "{} of {total} recipients were stored: {}",
        done.accepted,
        done.example.unwrap_or_default()
    );
    Ok(done.accepted as f64 / done.seconds)
}

/// Waits until the gateway knows a recipient and the dispatcher delivers to it: a notification names the position of
/// the state that its decision must have seen.
async fn visible(
    deployment: &Deployment,
    sink: &mut Sink,
    many: &Recipients,
    last: u64,
    part: u64,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + LIMIT;
    let path = format!("/v1/recipients/{}", many.id(last));
    while deployment.get(&path).await? != 200 {
        anyhow::ensure!(Instant::now() < deadline, "the gateway does not see a recipient after {LIMIT:?}");
        sleep(POLL).await;
    }
    let series = format!("visible-{part}");
    // The first notification goes to number 0, which exists; what counts is the position that it names.
    let what = notifications(&series, seed::CATEGORY, Priority::Critical, many.clone(), None);
    let mut worker = start_load(deployment, what, Pace::Total { connections: 1, total: 1 }).await?;
    worker.started(LIMIT).await?;
    let done: load::Done = worker.hear(LIMIT).await?;
    anyhow::ensure!(
        done.accepted == 1,
        "a notification was not accepted: {}",
        done.example.unwrap_or_default()
    );
    sink.wait_for(&series, 1, LIMIT).await
}

/// Sends notifications to recipients all over, so that no cache holds them all.
async fn everywhere(
    deployment: &Deployment,
    sink: &mut Sink,
    many: &Recipients,
    total: u64,
) -> anyhow::Result<Delivered> {
    const SERIES: &str = "everywhere-0";
    let what = notifications(SERIES, seed::CATEGORY, Priority::Normal, many.clone(), Some(500));
    let mut worker = start_load(deployment, what, Pace::Total { connections: 4, total }).await?;
    worker.started(LIMIT).await?;
    let done: load::Done = worker.hear(LIMIT).await?;
    anyhow::ensure!(
        done.accepted == total,
        "{} of {total} were accepted: {}",
        done.accepted,
        done.example.unwrap_or_default()
    );
    collect(sink, SERIES, done.accepted, done.first_ns).await
}
