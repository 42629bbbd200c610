//! Gateway, dispatchers and nats-server are killed at random moments while notifications flow.

use std::str::FromStr;
use std::sync::Arc;

use peal_common::clock::Clock;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;

use crate::audit;
use crate::faults::{self, Fault};
use crate::journal::Journal;
use crate::load::Load;
use crate::provider::Provider;
use crate::region::{Region, Wanted};
use crate::report;
use crate::schedule::Schedule;

/// How many notifications the gateway is asked about afterwards, besides those that were delivered twice.
const SAMPLE: usize = 500;

pub fn given<T: FromStr>(variable: &str, default: T) -> T {
    match std::env::var(variable) {
        Ok(text) => text.parse().ok().unwrap_or_else(|| panic!("{variable} is no number")),
        Err(_) => default,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_accepted_notification_ends_once_whatever_is_killed() -> anyhow::Result<()> {
    let seed: u64 = given("PEAL_FAULT_SEED", Clock::System.now_ms().unsigned_abs());
    let total: u64 = given("PEAL_FAULT_NOTIFICATIONS", 50_000);
    let kills: usize = given("PEAL_FAULT_KILLS", 30);
    println!("PEAL_FAULT_SEED={seed} PEAL_FAULT_NOTIFICATIONS={total} PEAL_FAULT_KILLS={kills}");

    let _machine = super::WHOLE_MACHINE.lock().await;
    let provider = Provider::start().await?;
    let mut region = Region::start(Wanted { dispatchers: 2, ..Wanted::new(provider.url()) }).await?;
    let journal = Journal::start(&region.connection);
    let load = Arc::new(Load::new(&region.api, "n", provider.url()));
    let result =
        run(&mut region, &journal, &provider, &load, Run { seed, total, kills, faults: &faults::RANDOM })
            .await;
    result.map_err(|error| error.context(format!("PEAL_FAULT_SEED={seed}\n{}", region.logs())))
}

/// A random run.
pub struct Run {
    /// What it follows from.
    pub seed: u64,
    /// How many notifications.
    pub total: u64,
    /// How many faults, and of which kinds.
    pub kills: usize,
    pub faults: &'static [&'static Fault],
}

/// Sends everything while things break, waits until all is settled, and compares.
pub async fn run(
    region: &mut Region,
    journal: &Journal,
    provider: &Provider,
    load: &Arc<Load>,
    Run { seed, total, kills, faults }: Run,
) -> anyhow::Result<()> {
    let mut sending = tokio::spawn(Arc::clone(load).run(total, seed, provider.deliveries()));
    let schedule = Schedule::new(seed, faults, kills, total);
    let mut delivered = provider.deliveries();
    let incidents = tokio::select! {
        incidents = schedule.run(region, &mut delivered) => incidents?,
        Err(error) = async { (&mut sending).await? } => return Err(error),
    };
    if !sending.is_finished() {
        sending.await??;
    }
    let accepted = load.accepted();
    assert_eq!(accepted.len() as u64, total);
    audit::settle(region, journal, provider, &accepted).await?;

    let calls = provider.calls();
    let findings = audit::compare(&accepted, &journal.entries(), &calls, &incidents);
    println!("{}", report::table(&load.log(), &calls, &incidents, &findings));
    findings.check()?;

    let mut rng = StdRng::seed_from_u64(seed);
    let sample = accepted.iter().sample(&mut rng, SAMPLE);
    let repeated: Vec<_> =
        findings.repeats.iter().map(|repeat| calls[&repeat.delivery].notification.clone()).collect();
    audit::ask(&region.api, sample.into_iter().chain(&repeated)).await
}
