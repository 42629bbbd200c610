//! The hub is killed: its regions go on as before, and it misses nothing when it is back.

use std::time::Duration;

use crate::audit;
use crate::faults::Incident;
use crate::journal::Journal;
use crate::load::Load;
use crate::plan::WHOLE_MACHINE;
use crate::provider::Provider;
use crate::region::{Hub, Region};
use crate::wait::now_ms;

/// How long the regions work before, and while the hub is away.
const BEFORE: Duration = Duration::from_secs(4);
const WITHOUT: Duration = Duration::from_secs(4);
/// Notifications a second, and the share of them that the region keeps without the hub.
const RATE: u64 = 200;
const SAME: f64 = 0.9;
/// How soon the hub is to be complete.
const LEVEL: Duration = Duration::from_secs(15);
/// How long anything may take until it is given up.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_killed_misses_nothing() -> anyhow::Result<()> {
    let _machine = WHOLE_MACHINE.lock().await;
    let provider = Provider::start().await?;
    let mut hub = Hub::start().await?;
    let (mut eu, _link) = hub.region("eu", provider.url()).await?;
    let (us, _link_of_us) = hub.region("us", provider.url()).await?;
    let result = run(&mut hub, &mut eu, &us, &provider).await;
    result.map_err(|error| error.context(format!("{}\n{}", eu.logs(), us.logs())))
}

async fn run(hub: &mut Hub, eu: &mut Region, us: &Region, provider: &Provider) -> anyhow::Result<()> {
    let journal = Journal::start(&eu.connection);
    let load = Load::new(&eu.api, "h", provider.url());
    let (next, before) = load.work(provider, 0, BEFORE, RATE).await?;
    let at_ms = now_ms();
    hub.server.kill().await?;
    let (_, without) = load.work(provider, next, WITHOUT, RATE).await?;
    hub.server.restart().await?;
    let incident = Incident::repaired(&format!("hub killed -9 for {} s", WITHOUT.as_secs()), at_ms);
    let level = hub.level_with(&[eu, us], LIMIT).await?;
    anyhow::ensure!(level <= LEVEL, "the hub is complete after {level:?} only");
    let incident = Incident { converged_after: Some(level), ..incident };
    println!("{before:.0}/s before, {without:.0}/s without the hub");
    anyhow::ensure!(without > before * SAME, "without the hub {without:.0}/s instead of {before:.0}/s");
    audit::conclude(eu, &journal, provider, &load, &[incident], None).await?;
    Ok(())
}
