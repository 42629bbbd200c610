//! The nats-server is away, or stands still: the gateway says so quickly, and everything resumes by itself.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::audit;
use crate::journal::Journal;
use crate::load::Load;
use crate::provider::Provider;
use crate::region::{Answer, Api, Region, Wanted};
use crate::wait;

/// How soon the gateway must say that it can't.
const PROMISED: Duration = Duration::from_secs(2);
/// How long the gateway may take to notice, and afterwards to work again.
const NOTICED: Duration = Duration::from_secs(10);
const RESUMED: Duration = Duration::from_secs(30);
/// Requests of each kind while the server is away, and how many of them at a time.
const ROUNDS: u64 = 10;
const AT_ONCE: u64 = 5;
/// Notifications before and after.
const BEFORE: u64 = 600;

/// What asks for something that a server is needed for, by name.
async fn ask_everything(api: &Api, load: &Load, number: u64) -> Vec<(&'static str, anyhow::Result<Answer>)> {
    let single = load.notification(number);
    let mut address = load.notification(number);
    // An address that nobody has used: it has to be written to the state first.
    address["to"] = json!([{ "webhook": format!("http://127.0.0.1:1/{number}") }]);
    address["id"] = Value::from(format!("address-{number}"));
    let batch: Vec<_> = (0..100).map(|offset| load.notification(number + 1 + offset)).collect();
    let batch = json!({ "notifications": batch });
    let recipient = json!({ "contacts": [] });
    let path = format!("/v1/recipients/new-{number}");
    let (single, address, batch, recipient) = tokio::join!(
        api.post("/v1/notifications", &single),
        api.post("/v1/notifications", &address),
        api.post("/v1/notifications/batch", &batch),
        api.send_put(&path, &recipient),
    );
    vec![("single", single), ("new address", address), ("batch", batch), ("recipient", recipient)]
}

/// Every request is answered in time, with 503 and when to come back; a batch may say so for each of its items.
async fn expect_refusals(region: &Region, load: &Arc<Load>, from: u64) -> anyhow::Result<()> {
    let mut slowest = Duration::ZERO;
    for round in 0..ROUNDS {
        let asked =
            (0..AT_ONCE).map(|one| ask_everything(&region.api, load, from + (round * AT_ONCE + one) * 101));
        for (what, answer) in futures_util::future::join_all(asked).await.into_iter().flatten() {
            let answer = answer.map_err(|error| error.context(format!("{what}: no answer")))?;
            slowest = slowest.max(answer.took);
            anyhow::ensure!(answer.is_come_back(), "{what}: {answer:?}");
            anyhow::ensure!(answer.took < PROMISED, "{what} took {:?}", answer.took);
        }
        // What has been read before can be shown without a server; what matters is that nobody waits.
        for path in ["/v1/notifications/b-000001", "/v1/notifications?limit=10", "/v1/recipients/u-1"] {
            let answer = region.api.get(path).await?;
            slowest = slowest.max(answer.took);
            anyhow::ensure!(answer.status == 200 || answer.is_come_back(), "{path}: {answer:?}");
            anyhow::ensure!(answer.took < PROMISED, "{path} took {:?}", answer.took);
        }
        let alive = region.api.get("/livez").await?;
        anyhow::ensure!(alive.status == 200 && alive.took < PROMISED, "/livez: {alive:?}");
    }
    println!("{} requests of each kind were refused, the slowest after {slowest:?}", ROUNDS * AT_ONCE);
    Ok(())
}

/// Waits until `/readyz` names the side that is wrong.
async fn expect_not_ready(region: &Region, side: &str) -> anyhow::Result<()> {
    let said = wait::until("/readyz says that it is not ready", NOTICED, async || {
        let answer = region.api.get("/readyz").await.ok()?;
        let reason = answer.body[side]["reason"].as_str()?.to_owned();
        (answer.status == 503 && answer.body[side]["ok"] == false && answer.took < PROMISED).then_some(reason)
    });
    println!("/readyz: {side}: {}", said.await?);
    Ok(())
}

async fn expect_ready(region: &mut Region) -> anyhow::Result<()> {
    region.check()?;
    wait::until("/readyz says that it is ready", RESUMED, async || {
        let answer = region.api.get("/readyz").await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await
}

/// A region with traffic behind it.
struct Trial {
    region: Region,
    journal: Journal,
    provider: Provider,
    load: Arc<Load>,
}

impl Trial {
    async fn start() -> anyhow::Result<Self> {
        let provider = Provider::start().await?;
        let region =
            Region::start(Wanted { ack_wait: Some(Duration::from_secs(5)), ..Wanted::new(provider.url()) })
                .await?;
        let journal = Journal::start(&region.connection);
        let load = Arc::new(Load::new(&region.api, "b", provider.url()));
        Arc::clone(&load).run(BEFORE, 1, provider.deliveries()).await?;
        Ok(Trial { region, journal, provider, load })
    }

    /// After the server is back: what was refused is taken, and everything accepted arrives.
    async fn expect_resumption(&mut self, refused: Vec<u64>) -> anyhow::Result<()> {
        expect_ready(&mut self.region).await?;
        for chunk in refused.chunks(100) {
            self.load.send(chunk.to_vec()).await?;
        }
        let accepted = self.load.accepted();
        // A new address and a recipient may have been stored although nobody was told so; that is no acceptance.
        audit::settle(&mut self.region, &self.journal, &self.provider, &accepted).await?;
        let calls = self.provider.calls();
        audit::compare(&self.load, &self.journal.entries(), &calls, &[]).check()?;
        audit::ask(&self.region.api, &self.journal, accepted.iter().step_by(37)).await
    }

    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        error.context(self.region.logs())
    }
}

/// The numbers that [`expect_refusals`] used, so that their notifications can be sent again.
fn numbers(from: u64) -> Vec<u64> {
    (from..from + ROUNDS * AT_ONCE * 101).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_is_told_at_once_and_everything_resumes() -> anyhow::Result<()> {
    let mut trial = Trial::start().await?;
    let result = async {
        trial.region.nodes[0].stop().await?;
        expect_not_ready(&trial.region, "nats").await?;
        expect_refusals(&trial.region, &trial.load, BEFORE).await?;
        trial.region.nodes[0].restart().await?;
        trial.expect_resumption(numbers(BEFORE)).await
    }
    .await;
    result.map_err(|error| trial.explain(error))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_is_told_in_time_and_everything_resumes() -> anyhow::Result<()> {
    let mut trial = Trial::start().await?;
    let result = async {
        trial.region.nodes[0].pause().await?;
        // The very first requests must be told in time too, before anybody has noticed.
        expect_refusals(&trial.region, &trial.load, BEFORE).await?;
        expect_not_ready(&trial.region, "nats").await?;
        trial.region.nodes[0].resume().await?;
        trial.expect_resumption(numbers(BEFORE)).await
    }
    .await;
    result.map_err(|error| trial.explain(error))
}
