//! A region is cut off from its hub: it goes on as before, an opt-out counts there at once and everywhere after, and the
//! hub misses nothing in the end.
//!
//! `PEAL_FAULT_CUT_SECONDS` says for how long.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use peal_common::id::Region as Name;
use peal_nats::connect::{self, Connection, Options as ConnectOptions};
use peal_nats::server::{Leaf, Link, Login, Server, ServerConfig, free_port};
use peal_nats::topology::{self, ALL_STATE, Current, EVENTS, Links, Topology};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

use super::kills::given;
use crate::audit;
use crate::journal::Journal;
use crate::load::Load;
use crate::provider::Provider;
use crate::region::{CATEGORY, Region, Wanted};
use crate::wait;

/// How long the region works before the cut, for comparison.
const BEFORE: Duration = Duration::from_secs(3);
/// Notifications of one request, and how many may be accepted and not yet delivered.
const BATCH: u64 = 200;
const AHEAD: u64 = 2_000;
/// How long anything may take on a machine that does much else. What it did take is printed.
const LIMIT: Duration = Duration::from_secs(60);
/// What the test's streams may reserve, the hub's among them.
const STORE_BYTES: u64 = 256 << 30;
const LEAVER: &str = "leaver";
const SUPPRESSED: &str = "leaver-while-cut";

/// The hub of two regions.
struct Hub {
    server: Server,
    connection: Connection,
    port: u16,
    _folder: TempDir,
}

fn names() -> [Name; 2] {
    ["eu", "us"].map(|name| name.parse().expect("a name of a region"))
}

fn login(name: &Name) -> Login {
    Login { user: name.to_string(), password: format!("link of {name}") }
}

impl Hub {
    async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (name, port): (Name, _) = ("hub".parse()?, free_port()?);
        let mut config = ServerConfig::new(name.clone(), folder.path());
        config.max_file_store = Some(STORE_BYTES);
        config.leaf = Some(Leaf::Listens { port, regions: names().iter().map(login).collect() });
        let server = Server::start(config).await?;
        let connection =
            connect::connect(&ConnectOptions::new([server.url()], name.clone(), "peal-faults")).await?;
        let wanted = Topology::for_hub(&name, &names(), &topology::Options::default());
        let current = Current::read(&connection.jetstream, &wanted).await?;
        topology::apply(&connection.jetstream, &topology::plan(&current, &wanted), false).await?;
        Ok(Hub { server, connection, port, _folder: folder })
    }

    /// Whether it has every event and every change of state that the regions have.
    async fn is_level_with(&self, regions: &[&Region]) -> bool {
        let [here, there] = self.compared_with(regions).await;
        here == there
    }

    /// How many events and records it has, and how many the regions have.
    async fn compared_with(&self, regions: &[&Region]) -> [(u64, u64); 2] {
        let count = async |connection: &Connection, stream: &str| {
            connection.stream_state(stream).await.map_or(0, |state| state.messages)
        };
        let (mut events, mut state) = (0, 0);
        for region in regions {
            events += count(&region.connection, EVENTS).await;
            let bucket = peal_nats::Subjects::new(&region.connection.region).state_stream();
            state += count(&region.connection, &bucket).await;
        }
        let here = (count(&self.connection, EVENTS).await, count(&self.connection, ALL_STATE).await);
        [here, (events, state)]
    }
}

async fn region(name: &Name, link: &Link, webhook: &str) -> anyhow::Result<Region> {
    let others = names().into_iter().filter(|other| other != name).collect();
    let links = Links { hub: "hub".parse()?, others };
    let leaf = Leaf::Connects { ports: vec![link.port()], login: login(name) };
    Region::start(Wanted { name: name.as_str(), linked: Some((links, leaf)), ..Wanted::new(webhook) }).await
}

/// Sends for some time; returns how many were accepted and how many were delivered in a second.
async fn work(load: &Load, provider: &Provider, from: u64, time: Duration) -> anyhow::Result<(u64, f64)> {
    let mut delivered = provider.deliveries();
    let (began, before) = (Instant::now(), *delivered.borrow());
    let mut next = from;
    while began.elapsed() < time {
        load.send((next..next + BATCH).collect()).await?;
        next += BATCH;
        // Delivering keeps up with accepting, so that the rate is that of both.
        let soon = before + (next - from).saturating_sub(AHEAD);
        tokio::time::timeout(LIMIT, delivered.wait_for(|count| *count >= soon)).await??;
    }
    let all = before + (next - from);
    tokio::time::timeout(LIMIT, delivered.wait_for(|count| *count >= all)).await??;
    Ok((next, (next - from) as f64 / began.elapsed().as_secs_f64()))
}

/// What became of a notification to the one who leaves.
async fn fate(region: &Region, id: &str) -> anyhow::Result<String> {
    let body = json!({
        "id": id, "category": CATEGORY, "to": [{ "recipient": LEAVER }],
        "content": { "title": "Still here?", "body": "…" },
    });
    let answer = region.api.post("/v1/notifications", &body).await?;
    anyhow::ensure!(answer.status == 202, "{answer:?}");
    wait::until("the notification has ended", LIMIT, async || {
        let answer = region.api.get(&format!("/v1/notifications/{id}")).await.ok()?;
        let status = answer.body["status"].as_str()?.to_owned();
        ["suppressed", "delivered"].contains(&status.as_str()).then_some(status)
    })
    .await
}

async fn prefer(region: &Region, webhook: bool) -> anyhow::Result<()> {
    let body = json!({ "channels": { "webhook": webhook } });
    region.api.put(&format!("/v1/recipients/{LEAVER}/preferences"), &body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_is_cut_off_goes_on_as_before() -> anyhow::Result<()> {
    let seconds: u64 = given("PEAL_FAULT_CUT_SECONDS", 8);
    println!("PEAL_FAULT_CUT_SECONDS={seconds}");
    let _machine = super::WHOLE_MACHINE.lock().await;
    let (provider, leaver) = (Provider::start().await?, Provider::start().await?);
    let hub = Hub::start().await?;
    let links = [Link::to(hub.port).await?, Link::to(hub.port).await?];
    let [eu_name, us_name] = names();
    let eu = region(&eu_name, &links[0], provider.url()).await?;
    let mut us = region(&us_name, &links[1], provider.url()).await?;
    let result = run(&hub, &eu, &mut us, &links[1], &provider, &leaver, seconds).await;
    drop(hub.server);
    result.map_err(|error| error.context(format!("{}\n{}", eu.logs(), us.logs())))
}

async fn run(
    hub: &Hub,
    eu: &Region,
    us: &mut Region,
    link: &Link,
    provider: &Provider,
    leaver: &Provider,
    seconds: u64,
) -> anyhow::Result<()> {
    let journal = Journal::start(&us.connection);
    let contact = json!({ "channel": "webhook", "address": format!("{}/0", leaver.url()) });
    eu.api.put(&format!("/v1/recipients/{LEAVER}"), &json!({ "contacts": [contact] })).await?;
    prefer(eu, true).await?;
    wait::until("us knows the recipient", LIMIT, async || {
        let answer = us.api.get(&format!("/v1/recipients/{LEAVER}/preferences")).await.ok()?;
        (answer.body["channels"]["webhook"] == true).then_some(())
    })
    .await?;

    let load = Arc::new(Load::new(&us.api, "c", provider.url()));
    let (next, before) = work(&load, provider, 0, BEFORE).await?;
    link.cut();
    prefer(us, false).await?;
    // Somebody who can't know of it says the opposite, later.
    prefer(eu, true).await?;
    anyhow::ensure!(fate(us, SUPPRESSED).await? == "suppressed", "the opt-out does not count at once");
    let (_, during) = work(&load, provider, next, Duration::from_secs(seconds)).await?;
    anyhow::ensure!(!hub.is_level_with(&[eu, us]).await, "the link was not cut");

    link.heal();
    let healed = Instant::now();
    let in_force = async {
        wait::until("the opt-out is in force in eu", LIMIT, async || {
            let answer = eu.api.get(&format!("/v1/recipients/{LEAVER}/preferences")).await.ok()?;
            (answer.body["channels"]["webhook"] == false).then(|| healed.elapsed())
        })
        .await
    };
    let level = async {
        wait::until("the hub has everything", LIMIT, async || {
            hub.is_level_with(&[eu, us]).await.then(|| healed.elapsed())
        })
        .await
    };
    let (in_force, level) = match tokio::try_join!(in_force, level) {
        Ok(both) => both,
        Err(error) => {
            let counts = hub.compared_with(&[eu, us]).await;
            return Err(
                error.context(format!("events and records at the hub, and in the regions: {counts:?}"))
            );
        }
    };
    anyhow::ensure!(fate(eu, "leaver-after").await? == "suppressed", "the opt-out does not count everywhere");

    let accepted: BTreeSet<String> = load.accepted();
    audit::settle(us, &journal, provider, &accepted).await?;
    // What was suppressed has an end and no call, as it should.
    journal.entries().settled.retain(|_, settled| settled.notification != SUPPRESSED);
    let calls = provider.calls();
    let findings = audit::compare(&accepted, &journal.entries(), &calls, &[]);
    println!(
        "cut off for {seconds} s: {} accepted, {} lost, {} duplicated; {before:.0}/s before, {during:.0}/s \
         while cut off ({:.2}); after healing the opt-out counted in eu after {:.1} s, the hub had everything after \
         {:.1} s",
        accepted.len(),
        findings.lost.len(),
        findings.repeats.len(),
        during / before,
        in_force.as_secs_f64(),
        level.as_secs_f64(),
    );
    findings.check()
}
