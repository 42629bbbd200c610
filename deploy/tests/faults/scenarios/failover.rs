//! A region is lost to its publishers, who go on to the next one with the same ids, as the README tells them to: what the
//! first one accepted is recognised there, even by a gateway that has just been put there with nothing.

use peal_nats::topology::OTHERS_ACCEPTED;
use serde_json::Value;

use crate::audit;
use crate::journal::Journal;
use crate::load::Load;
use crate::plan::WHOLE_MACHINE;
use crate::provider::Provider;
use crate::region::{Hub, LINK_LIMIT, Region};
use crate::wait;

/// What the publisher sent to the first region, and what it could not send there any more.
const BEFORE: u64 = 300;
const AFTER: u64 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_go_on_to_the_next_region() -> anyhow::Result<()> {
    let _machine = WHOLE_MACHINE.lock().await;
    let provider = Provider::start().await?;
    let hub = Hub::start().await?;
    let (mut eu, _link) = hub.region("eu", provider.url()).await?;
    let (mut us, _link_of_us) = hub.region("us", provider.url()).await?;
    let result = run(&mut eu, &mut us, &provider).await;
    result.map_err(|error| error.context(format!("{}\n{}", eu.logs(), us.logs())))
}

async fn run(eu: &mut Region, us: &mut Region, provider: &Provider) -> anyhow::Result<()> {
    let (journal_of_eu, journal) = (Journal::start(&eu.connection), Journal::start(&us.connection));
    let first = Load::new(&eu.api, "f", provider.url()).webhook_only();
    first.send((0..BEFORE).collect()).await?;
    audit::settle(eu, &journal_of_eu, provider, &first.accepted()).await?;

    // Whoever repeats before the link has told it would be taken for somebody new.
    wait::until("the link has told it", LINK_LIMIT, async || {
        let told = us.connection.stream_state(OTHERS_ACCEPTED).await.ok()?.messages;
        (told >= BEFORE).then_some(())
    })
    .await?;

    eu.kill().await?;
    us.gateways[0].replace().await?;
    let second = Load::new(&us.api, "f", provider.url()).webhook_only();
    let repeated = second.batch(&(0..BEFORE + AFTER).collect::<Vec<_>>());
    let answer = us.api.post("/v1/notifications/batch", &repeated).await?;
    let results = answer.body["results"].as_array().cloned().unwrap_or_default();
    anyhow::ensure!(results.len() as u64 == BEFORE + AFTER, "{answer:?}");
    for (number, result) in (0..).zip(&results) {
        let is_known = number < BEFORE;
        anyhow::ensure!(result["status"] == "accepted" && is_known == is_of_eu(result), "{number}: {result}");
    }
    let new = (BEFORE..BEFORE + AFTER).map(|number| second.id(number));
    audit::settle(us, &journal, provider, &new.collect()).await?;
    let calls = provider.calls();
    anyhow::ensure!(calls.len() as u64 == BEFORE + AFTER, "{} were delivered", calls.len());
    anyhow::ensure!(provider.total() == calls.len(), "{} calls for {}", provider.total(), calls.len());
    Ok(())
}

/// Whether an acceptance says that the first region had it before.
fn is_of_eu(accepted: &Value) -> bool {
    accepted["duplicate"] == true && accepted["region"] == "eu"
}
