//! Two linked regions work at the same time while each loses its dispatcher in turn: what the one settles must not settle
//! anything of the other, whose messages have the same numbers in streams of the same names.
//!
//! `PEAL_FAULT_BOTH_ROUNDS` says how often each of them is struck.

use std::time::Duration;

use peal_nats::server::Link;
use tokio::time::Instant;

use crate::audit;
use crate::faults::{Incident, kill_dispatcher};
use crate::journal::Journal;
use crate::load::Load;
use crate::plan::{WHOLE_MACHINE, given, replay};
use crate::provider::Provider;
use crate::region::{Hub, LINK_LIMIT, Region, Wanted};
use crate::wait::{self, now_ms};

/// Short, so that what was in hand comes again soon.
const ACK_WAIT: Duration = Duration::from_secs(4);
/// Deliveries in hand when the dispatcher is killed.
const IN_HAND: u64 = 20;
/// How long both work at once after the dispatcher was killed.
const TOGETHER: Duration = Duration::from_secs(2);
/// How long anything may take until it is given up.
const LIMIT: Duration = Duration::from_secs(60);
const FAULT: &str = "kill -9 dispatcher of one of two regions at work";

struct Side {
    region: Region,
    provider: Provider,
    journal: Journal,
    load: Load,
    /// The number of its next notification.
    next: u64,
    incidents: Vec<Incident>,
    _link: Link,
}

impl Side {
    async fn start(hub: &Hub, name: &str) -> anyhow::Result<Self> {
        let provider = Provider::start().await?;
        // Whoever starts last has the say over the recipients, which are the same in both: none is written to.
        let unused = format!("{}/unused", provider.url());
        let wanted = Wanted { name, ack_wait: Some(ACK_WAIT), ..Wanted::new(&unused) };
        let (region, link) = hub.linked(wanted).await?;
        let journal = Journal::start(&region.connection);
        let load = Load::new(&region.api, name, provider.url()).webhook_only();
        Ok(Side { region, provider, journal, load, next: 0, incidents: Vec::new(), _link: link })
    }

    async fn work(&mut self, time: Duration) -> anyhow::Result<()> {
        (self.next, _) = self.load.work(&self.provider, self.next, time, 0).await?;
        Ok(())
    }

    /// Has some deliveries in hand that nobody answers yet.
    async fn take_in_hand(&mut self) -> anyhow::Result<()> {
        let deliveries = self.provider.deliveries();
        let all = *deliveries.borrow() + IN_HAND;
        self.provider.hold();
        self.load.send((self.next..self.next + IN_HAND).collect()).await?;
        self.next += IN_HAND;
        wait::until("all calls are in hand", LIMIT, async || (*deliveries.borrow() >= all).then_some(()))
            .await
    }

    async fn lose_dispatcher(&mut self) -> anyhow::Result<()> {
        let at_ms = now_ms();
        self.region.dispatchers[0].kill().await?;
        self.provider.release();
        self.region.dispatchers[0].start()?;
        self.incidents.push(Incident::repaired(FAULT, at_ms).resending(kill_dispatcher::ON_ITS_WAY));
        Ok(())
    }

    async fn conclude(&mut self) -> anyhow::Result<()> {
        let Side { region, journal, provider, load, incidents, .. } = self;
        audit::conclude(region, journal, provider, load, incidents, None).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_at_work_lose_nothing_to_each_other() -> anyhow::Result<()> {
    let rounds: u64 = given("PEAL_FAULT_BOTH_ROUNDS", 1);
    println!("{}", replay("both_loaded", &[("PEAL_FAULT_BOTH_ROUNDS", rounds.to_string())]));
    let _machine = WHOLE_MACHINE.lock().await;
    let hub = Hub::start().await?;
    let (mut eu, mut us) = (Side::start(&hub, "eu").await?, Side::start(&hub, "us").await?);
    let result = async {
        for _ in 0..rounds {
            strike(&mut eu, &mut us).await?;
            strike(&mut us, &mut eu).await?;
        }
        eu.conclude().await?;
        us.conclude().await?;
        hub.level_with(&[&eu.region, &us.region], LINK_LIMIT).await
    };
    let level = result.await.map_err(|error: anyhow::Error| {
        error.context(format!("{}\n{}", eu.region.logs(), us.region.logs()))
    })?;
    let [here, there] = hub.compared_with(&[&eu.region, &us.region]).await;
    let again = [0, 1].map(|stream| there[stream].saturating_sub(here[stream]));
    println!(
        "the hub had everything after another {:.1} s; notifications and events that were written again for it: {again:?}",
        level.as_secs_f64()
    );
    Ok(())
}

/// One region loses its dispatcher with deliveries in hand, after the other has settled messages of the same numbers.
async fn strike(struck: &mut Side, other: &mut Side) -> anyhow::Result<()> {
    struck.take_in_hand().await?;
    let began = Instant::now();
    while other.next <= struck.next {
        anyhow::ensure!(began.elapsed() < LIMIT, "the other region is at {} only", other.next);
        other.work(Duration::from_millis(500)).await?;
    }
    struck.lose_dispatcher().await?;
    tokio::try_join!(struck.work(TOGETHER), other.work(TOGETHER))?;
    Ok(())
}
