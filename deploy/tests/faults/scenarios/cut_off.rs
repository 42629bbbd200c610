//! A region is cut off from its hub, so that both are told and without a word: it goes on as before, an opt-out counts there
//! at once and everywhere after, and the hub misses nothing in the end.
//!
//! `PEAL_FAULT_CUT_SECONDS` says for how long, several times where it names several, `PEAL_FAULT_CUT_RATE` how many
//! notifications a second there are meanwhile.

use std::time::Duration;

use anyhow::Context as _;
use peal_nats::server::Link;
use serde_json::json;
use tokio::time::Instant;

use crate::audit;
use crate::faults::Incident;
use crate::journal::Journal;
use crate::load::Load;
use crate::plan::{WHOLE_MACHINE, given, replay};
use crate::provider::Provider;
use crate::region::{CATEGORY, Hub, LINK_LIMIT, Region};
use crate::wait::{self, now_ms};

/// How long the region works before the cut, for comparison.
const BEFORE: Duration = Duration::from_secs(3);
/// How long anything may take until it is given up.
const LIMIT: Duration = Duration::from_secs(60);
/// How long it takes until both ends have noticed a link that was lost without a word. What is promised is counted from
/// when it is whole again, or from there. It is also longer than the servers take a silent source for one that has
/// nothing to say (10 s): after that they look for each other anew.
const NOTICED: Duration = Duration::from_secs(16);
/// What is promised: how soon an opt-out of a region that was cut off counts everywhere, how soon the hub is complete, and
/// the share of its rate that the region keeps.
const IN_FORCE: Duration = Duration::from_secs(5);
const LEVEL: Duration = Duration::from_secs(15);
const SAME: f64 = 0.95;
const LEAVER: &str = "leaver";
const SUPPRESSED: &str = "leaver-while-cut";
const MADE_TWICE: &str = "made-in-both";
const MADE_LAST: u64 = 3;

/// How the link is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Connections are closed.
    Told,
    /// Whatever is said is lost, also over the old connections when the network is whole again.
    Silent,
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
    let times: String = given("PEAL_FAULT_CUT_SECONDS", NOTICED.as_secs().to_string());
    let rate: u64 = given("PEAL_FAULT_CUT_RATE", 200);
    let own = [("PEAL_FAULT_CUT_SECONDS", times.clone()), ("PEAL_FAULT_CUT_RATE", rate.to_string())];
    println!("{}", replay("cut_off", &own));
    let _machine = WHOLE_MACHINE.lock().await;
    for seconds in times.split_whitespace() {
        let seconds: u64 = seconds.parse().context("PEAL_FAULT_CUT_SECONDS: write numbers")?;
        Box::pin(cut_off_for(Cut::Told, seconds, rate)).await?;
        Box::pin(cut_off_for(Cut::Silent, seconds.max(NOTICED.as_secs()), rate)).await?;
    }
    Ok(())
}

async fn cut_off_for(cut: Cut, seconds: u64, rate: u64) -> anyhow::Result<()> {
    let (provider, leaver) = (Provider::start().await?, Provider::start().await?);
    let hub = Hub::start().await?;
    let (eu, _link) = hub.region("eu", provider.url()).await?;
    let (mut us, link) = hub.region("us", provider.url()).await?;
    let result = run(&hub, &eu, &mut us, &link, &provider, &leaver, (cut, seconds, rate)).await;
    match result {
        Ok(()) => Ok(()),
        Err(error) => {
            let standing = hub.standing(&[&eu, &us]).await;
            Err(error.context(format!("{}\n{}\n{standing}", eu.logs(), us.logs())))
        }
    }
}

async fn run(
    hub: &Hub,
    eu: &Region,
    us: &mut Region,
    link: &Link,
    provider: &Provider,
    leaver: &Provider,
    (cut, seconds, rate): (Cut, u64, u64),
) -> anyhow::Result<()> {
    let journal = Journal::start(&us.connection);
    let contact = json!({ "channel": "webhook", "address": format!("{}/0", leaver.url()) });
    eu.api.put(&format!("/v1/recipients/{LEAVER}"), &json!({ "contacts": [contact] })).await?;
    prefer(eu, true).await?;
    wait::until("us knows the recipient", LINK_LIMIT, async || {
        let answer = us.api.get(&format!("/v1/recipients/{LEAVER}/preferences")).await.ok()?;
        (answer.body["channels"]["webhook"] == true).then_some(())
    })
    .await?;

    let load = Load::new(&us.api, "c", provider.url());
    let (next, before) = load.work(provider, 0, BEFORE, rate).await?;
    let at_ms = now_ms();
    match cut {
        Cut::Told => link.cut(),
        Cut::Silent => link.lose(),
    }
    prefer(us, false).await?;
    // Somebody who can't know of it opts out as well, and changes their mind, later.
    prefer(eu, false).await?;
    prefer(eu, true).await?;
    // Both make a recipient that the other one has not heard of. The key that us made is not the one that sealed last.
    for (region, number) in [(eu, 1), (&*us, 2), (eu, MADE_LAST)] {
        let body = json!({ "attributes": { "number": number } });
        region.api.put(&format!("/v1/recipients/{MADE_TWICE}"), &body).await?;
    }
    anyhow::ensure!(fate(us, SUPPRESSED).await? == "suppressed", "the opt-out does not count at once");
    let (_, during) = load.work(provider, next, Duration::from_secs(seconds), rate).await?;
    anyhow::ensure!(!hub.is_level_with(&[eu, us]).await, "the link was not cut");

    link.heal();
    let name = match cut {
        Cut::Told => format!("region cut off for {seconds} s"),
        Cut::Silent => format!("region cut off for {seconds} s, silently"),
    };
    let incident = Incident::repaired(&name, at_ms);
    let healed = Instant::now();
    let in_force = async {
        wait::until("the opt-out is in force in eu", LIMIT, async || {
            let answer = eu.api.get(&format!("/v1/recipients/{LEAVER}/preferences")).await.ok()?;
            (answer.body["channels"]["webhook"] == false).then(|| healed.elapsed())
        })
        .await
    };
    let regions = [eu, &*us];
    let (in_force, level) = tokio::try_join!(in_force, hub.level_with(&regions, LIMIT))?;
    for region in regions {
        wait::until("both know what was written last", LIMIT, async || {
            let answer = region.api.get(&format!("/v1/recipients/{MADE_TWICE}")).await.ok()?;
            (answer.body["attributes"]["number"] == MADE_LAST).then_some(())
        })
        .await?;
    }
    anyhow::ensure!(fate(eu, "leaver-after").await? == "suppressed", "the opt-out does not count everywhere");

    audit::settle(us, &journal, provider, &load.accepted()).await?;
    // What was suppressed has an end and no call, as it should.
    journal.entries().settled.retain(|_, settled| settled.notification != SUPPRESSED);
    println!(
        "{name}: {before:.0}/s before, {during:.0}/s while cut off ({:.2}); after healing the opt-out \
         counted in eu after {:.1} s, the hub had everything after {:.1} s",
        during / before,
        in_force.as_secs_f64(),
        level.as_secs_f64(),
    );
    anyhow::ensure!(in_force <= IN_FORCE, "the opt-out is in force in eu after {in_force:?} only");
    anyhow::ensure!(level <= LEVEL, "the hub is complete after {level:?} only");
    anyhow::ensure!(during > before * SAME, "while cut off {during:.0}/s instead of {before:.0}/s");
    let incident = Incident { converged_after: Some(level.max(in_force)), ..incident };
    audit::conclude(us, &journal, provider, &load, &[incident], None).await?;
    Ok(())
}
