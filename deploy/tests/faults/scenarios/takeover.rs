//! A region is lost with work in every stage, and another one takes it over; then the lost one comes back.

use std::collections::BTreeSet;
use std::time::Duration;

use peal_nats::server::Link;

use crate::load::Load;
use crate::plan::WHOLE_MACHINE;
use crate::provider::Provider;
use crate::region::{Hub, LINK_LIMIT, Region};
use crate::wait::Patience;

/// Delivered before; called without an answer when the dispatcher died; accepted only; accepted behind a cut link.
const DONE: u64 = 200;
const CALLED: u64 = 40;
const ACCEPTED: u64 = 300;
const UNHEARD: u64 = 20;
/// How long anything may take on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_region_is_taken_over_and_may_come_back() -> anyhow::Result<()> {
    let _machine = WHOLE_MACHINE.lock().await;
    let provider = Provider::start().await?;
    let hub = Hub::start().await?;
    let (mut eu, link) = hub.region("eu", provider.url()).await?;
    let (mut us, _link) = hub.region("us", provider.url()).await?;
    let result = run(&hub, &mut eu, &link, &mut us, &provider).await;
    result.map_err(|error| error.context(format!("{}\n{}", eu.logs(), us.logs())))
}

async fn run(
    hub: &Hub,
    eu: &mut Region,
    link: &Link,
    us: &mut Region,
    provider: &Provider,
) -> anyhow::Result<()> {
    let load = Load::new(&eu.api, "t", provider.url());
    let mut next = 0;
    let mut numbers = |count: u64| {
        next += count;
        (next - count..next).collect::<Vec<_>>()
    };
    load.send(numbers(DONE)).await?;
    until_called(provider, DONE).await?;
    hub.level_with(&[eu, us], LINK_LIMIT).await?;
    // Called is not answered: what came of the calls has to be stored before answers are kept back.
    until_idle(eu).await?;

    let (succeeded, told) = us.peal(&["region", "takeover", "eu"]).await?;
    anyhow::ensure!(
        !succeeded && told.contains("still answers"),
        "a region that lives was taken over: {told}"
    );

    provider.hold();
    load.send(numbers(CALLED)).await?;
    until_called(provider, DONE + CALLED).await?;
    let called: BTreeSet<_> = provider.calls().into_keys().collect();
    eu.dispatchers[0].kill().await?;
    provider.release();
    load.send(numbers(ACCEPTED)).await?;
    hub.level_with(&[eu, us], LINK_LIMIT).await?;
    link.cut();
    load.send(numbers(UNHEARD)).await?;
    eu.kill().await?;
    link.heal();

    let taken = take_over(us, "eu").await?;
    anyhow::ensure!(taken.contains(&format!("taken over by us: {}", CALLED + ACCEPTED)), "{taken}");
    until_called(provider, DONE + CALLED + ACCEPTED).await?;
    until_idle(us).await?;
    let again = take_over(us, "eu").await?;
    anyhow::ensure!(
        again.contains("taken over by us: 0"),
        "what was taken over is taken over again: {again}"
    );

    eu.restart().await?;
    until_called(provider, DONE + CALLED + ACCEPTED + UNHEARD).await?;
    until_idle(eu).await?;
    let answer = eu.api.get(&format!("/v1/notifications/t-{:06}", DONE + CALLED)).await?;
    anyhow::ensure!(answer.body["status"] == "cancelled", "the lost region does not know it: {answer:?}");

    let calls = provider.calls();
    anyhow::ensure!(calls.len() as u64 == DONE + CALLED + ACCEPTED + UNHEARD, "{} deliveries", calls.len());
    let repeated: BTreeSet<_> = calls
        .iter()
        .filter(|(_, calls)| calls.at_ms.len() > 1)
        .map(|(delivery, _)| delivery.clone())
        .collect();
    anyhow::ensure!(
        repeated.is_subset(&called),
        "{} deliveries came twice that nobody had called for",
        repeated.difference(&called).count()
    );
    let accepted = load.accepted();
    let delivered: BTreeSet<_> = calls.into_values().map(|calls| calls.notification).collect();
    anyhow::ensure!(
        accepted == delivered,
        "lost: {:?}",
        accepted.difference(&delivered).take(8).collect::<Vec<_>>()
    );
    println!(
        "taken over: {} accepted, 0 lost, {} repeated of {CALLED} that were called when the dispatcher died",
        accepted.len(),
        repeated.len()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_over_is_taken_back_when_that_region_is_lost_too() -> anyhow::Result<()> {
    let _machine = WHOLE_MACHINE.lock().await;
    let provider = Provider::start().await?;
    let hub = Hub::start().await?;
    let (mut eu, _link) = hub.region("eu", provider.url()).await?;
    let (mut us, _link_of_us) = hub.region("us", provider.url()).await?;
    let result = back_and_forth(&hub, &mut eu, &mut us, &provider).await;
    result.map_err(|error| error.context(format!("{}\n{}", eu.logs(), us.logs())))
}

async fn back_and_forth(
    hub: &Hub,
    eu: &mut Region,
    us: &mut Region,
    provider: &Provider,
) -> anyhow::Result<()> {
    let load = Load::new(&eu.api, "b", provider.url());
    eu.dispatchers[0].kill().await?;
    us.dispatchers[0].kill().await?;
    load.send((0..CALLED).collect()).await?;
    hub.level_with(&[eu, us], LINK_LIMIT).await?;
    eu.kill().await?;
    let taken = take_over(us, "eu").await?;
    anyhow::ensure!(taken.contains(&format!("taken over by us: {CALLED}")), "{taken}");
    hub.level_with(&[us], LINK_LIMIT).await?;
    us.kill().await?;

    eu.restart().await?;
    until_idle(eu).await?;
    anyhow::ensure!(provider.total() == 0, "what us had taken over was delivered by eu");
    let taken = take_over(eu, "us").await?;
    anyhow::ensure!(taken.contains(&format!("taken over by eu: {CALLED}")), "{taken}");
    until_called(provider, CALLED).await?;
    until_idle(eu).await?;
    anyhow::ensure!(provider.total() as u64 == CALLED, "{} calls for {CALLED} deliveries", provider.total());
    Ok(())
}

/// Takes a region over, as soon as it has been silent for long enough.
async fn take_over(by: &Region, lost: &str) -> anyhow::Result<String> {
    let patience = Patience::new("it is taken over", LIMIT);
    loop {
        let (succeeded, told) = by.peal(&["region", "takeover", lost]).await?;
        if succeeded {
            return Ok(told);
        }
        anyhow::ensure!(told.contains("silence_seconds"), "{told}");
        patience.pause().await?;
    }
}

async fn until_called(provider: &Provider, count: u64) -> anyhow::Result<()> {
    let mut delivered = provider.deliveries();
    let called = tokio::time::timeout(LIMIT, delivered.wait_for(|called| *called >= count)).await;
    anyhow::ensure!(called.is_ok(), "{} of {count} deliveries came", *provider.deliveries().borrow());
    Ok(())
}

async fn until_idle(region: &mut Region) -> anyhow::Result<()> {
    let patience = Patience::new("the region has nothing left to do", LINK_LIMIT);
    loop {
        region.check()?;
        if region.left_over(0).await.is_ok_and(|left| left.is_empty()) {
            return Ok(());
        }
        patience.pause().await?;
    }
}
