//! A region of three servers that is linked to a hub loses one of them, and then the link: it goes on, and the hub misses
//! nothing, whichever of the three hands on to it.

use std::time::Duration;

use futures_util::FutureExt as _;
use peal_nats::server::Link;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::audit;
use crate::faults::{Fault, Incident, kill_node};
use crate::journal::Journal;
use crate::load::Load;
use crate::plan::WHOLE_MACHINE;
use crate::provider::Provider;
use crate::region::{Hub, LINK_LIMIT, Region, Wanted};
use crate::wait::now_ms;

/// How long it works before and while something is broken.
const AT_WORK: Duration = Duration::from_secs(3);
/// How soon the hub is to be complete after the link is back.
const LEVEL: Duration = Duration::from_secs(15);
/// How long anything may take until it is given up.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hub_of_three_servers_misses_nothing() -> anyhow::Result<()> {
    let _machine = WHOLE_MACHINE.lock().await;
    let provider = Provider::start().await?;
    let hub = Hub::start().await?;
    let wanted = Wanted { name: "eu", nodes: 3, dispatchers: 2, ..Wanted::new(provider.url()) };
    let (mut eu, link) = hub.linked(wanted).await?;
    let result = run(&hub, &mut eu, &link, &provider).await;
    result.map_err(|error| error.context(eu.logs()))
}

async fn run(hub: &Hub, eu: &mut Region, link: &Link, provider: &Provider) -> anyhow::Result<()> {
    let journal = Journal::start(&eu.connection);
    let load = Load::new(&eu.api, "l", provider.url());
    let (next, before) = load.work(provider, 0, AT_WORK, 0).await?;
    hub.level_with(&[eu], LINK_LIMIT).await?;

    let Fault { resends, strike, .. } = kill_node::FAULT;
    let at_ms = now_ms();
    let mut rng = StdRng::seed_from_u64(0);
    let (struck, worked) = tokio::join!(strike(eu, &mut rng), load.work(provider, next, AT_WORK, 0).boxed());
    struck?;
    let (next, _) = worked?;
    let lost = Incident::repaired("kill -9 one of three, linked to the hub", at_ms);
    let level = hub.level_with(&[eu], LINK_LIMIT).await?;
    let lost = Incident { resends, converged_after: Some(level), ..lost };

    let at_ms = now_ms();
    link.cut();
    let (_, during) = load.work(provider, next, AT_WORK, 0).await?;
    anyhow::ensure!(!hub.is_level_with(&[eu]).await, "the link was not cut");
    link.heal();
    let cut = Incident::repaired("three servers cut off from the hub", at_ms);
    let level = hub.level_with(&[eu], LIMIT).await?;
    println!(
        "{before:.0}/s before, {during:.0}/s while cut off; the hub had everything after {:.1} s",
        level.as_secs_f64()
    );
    anyhow::ensure!(level <= LEVEL, "the hub is complete after {level:?} only");
    let cut = Incident { converged_after: Some(level), ..cut };
    audit::conclude(eu, &journal, provider, &load, &[lost, cut], None).await?;
    Ok(())
}
