//! Everything that a region consists of is replaced, one after another, while notifications flow: servers, dispatchers and
//! gateways.
//!
//! `PEAL_FAULT_OLD_PROGRAMS` names a folder with the programs of an older build, which it is upgraded from; without it
//! the same build takes over from itself.

use std::sync::Arc;
use std::time::Duration;

use peal_nats::server::skipped;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::audit;
use crate::faults::{Incident, kill_node};
use crate::journal::Journal;
use crate::load::{Flow, Load};
use crate::plan::{WHOLE_MACHINE, given_folder};
use crate::provider::Provider;
use crate::region::{Api, CATEGORY, Region, Wanted, balancer};
use crate::wait::{self, now_ms};

/// How many notifications there are in a second.
const RATE: u64 = 500;
/// How many of them only a new build can read.
const PINNED: u64 = 20;
/// How long anything may take on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_is_upgraded_while_it_works() -> anyhow::Result<()> {
    if !balancer::is_installed() {
        skipped("an upgrade: there is no load balancer here (install haproxy)");
        return Ok(());
    }
    let _machine = WHOLE_MACHINE.lock().await;
    let provider = Provider::start().await?;
    let wanted = Wanted {
        nodes: 3,
        gateways: 2,
        dispatchers: 2,
        is_balanced: true,
        old_programs: given_folder("PEAL_FAULT_OLD_PROGRAMS"),
        ..Wanted::new(provider.url())
    };
    let mut region = Region::start(wanted).await?;
    let result = run(&mut region, &provider).await;
    result.map_err(|error| error.context(region.logs()))
}

async fn run(region: &mut Region, provider: &Provider) -> anyhow::Result<()> {
    let journal = Journal::start(&region.connection);
    let load = Arc::new(Load::new(&region.api, "u", provider.url()));
    let over = CancellationToken::new();
    let flow = Flow { at_least: 0, rate: RATE, seed: 7, over: over.clone() };
    let mut sending = tokio::spawn(Arc::clone(&load).flow(flow, provider.deliveries()));
    let upgraded = tokio::select! {
        incidents = upgrade(region, &load) => incidents,
        ended = &mut sending => {
            ended??;
            anyhow::bail!("nothing is sent any more");
        }
    };
    over.cancel();
    let incidents = upgraded?;
    sending.await??;
    audit::conclude(region, &journal, provider, &load, &incidents, None).await?;
    Ok(())
}

/// Servers, one dispatcher, gateways, the other dispatcher: harder than the order that the README gives, since the last
/// one is still old when gateways write what it can't read.
async fn upgrade(region: &mut Region, load: &Load) -> anyhow::Result<Vec<Incident>> {
    let mut incidents = Vec::new();
    for number in 0..region.nodes.len() {
        let at_ms = now_ms();
        region.nodes[number].stop().await?;
        region.nodes[number].restart().await?;
        region.until_recovered().await?;
        // A consumer's new leader hands out again what was not acknowledged to the old one.
        let incident = Incident::repaired("server restarted", at_ms).resending(kill_node::ELECTED);
        incidents.push(Incident { converged_after: region.copied_after.take(), ..incident });
    }
    let at_ms = now_ms();
    region.dispatchers[0].upgrade().await?;
    incidents.push(Incident::repaired("dispatcher upgraded", at_ms));
    for gateway in &mut region.gateways {
        let at_ms = now_ms();
        gateway.upgrade().await?;
        incidents.push(Incident::repaired("gateway upgraded", at_ms));
    }
    // Written by a new gateway, handed to old and new dispatchers.
    for number in 0..PINNED {
        let id = pinned(&region.api, &region.connection.region.to_string(), number).await?;
        load.log().accepted.insert(id);
    }
    let at_ms = now_ms();
    region.dispatchers[1].upgrade().await?;
    incidents.push(Incident::repaired("dispatcher upgraded", at_ms));
    Ok(incidents)
}

/// Hands in a notification whose envelope has a later version than the others.
async fn pinned(api: &Api, region: &str, number: u64) -> anyhow::Result<String> {
    let id = format!("pinned-{number}");
    let notification = json!({
        "id": id, "category": CATEGORY, "to": [{ "recipient": "u-1" }], "pinned_to": region,
        "content": { "title": "Shipped", "body": "Stays here" },
    });
    wait::until("the notification is accepted", LIMIT, async || {
        let answer = api.post("/v1/notifications", &notification).await.ok()?;
        (answer.status == 202).then_some(())
    })
    .await?;
    Ok(id)
}
