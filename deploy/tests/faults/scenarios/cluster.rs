//! A region of three servers: one of them is killed or stands still, two are lost, all are killed, while notifications
//! flow.
//!
//! `PEAL_FAULT_SEED`, `PEAL_FAULT_CLUSTER_NOTIFICATIONS` and `PEAL_FAULT_CLUSTER_FAULTS` repeat or scale it.

use std::sync::Arc;

use peal_common::clock::Clock;

use super::kills::{Run, given, run};
use crate::faults;
use crate::journal::Journal;
use crate::load::Load;
use crate::provider::Provider;
use crate::region::{Region, Wanted};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_of_three_servers_loses_nothing() -> anyhow::Result<()> {
    let seed: u64 = given("PEAL_FAULT_SEED", Clock::System.now_ms().unsigned_abs());
    let total: u64 = given("PEAL_FAULT_CLUSTER_NOTIFICATIONS", 8_000);
    let kills: usize = given("PEAL_FAULT_CLUSTER_FAULTS", faults::CLUSTER.len());
    println!(
        "PEAL_FAULT_SEED={seed} PEAL_FAULT_CLUSTER_NOTIFICATIONS={total} PEAL_FAULT_CLUSTER_FAULTS={kills}"
    );

    let _machine = super::WHOLE_MACHINE.lock().await;
    let provider = Provider::start().await?;
    let mut region =
        Region::start(Wanted { dispatchers: 2, nodes: 3, ..Wanted::new(provider.url()) }).await?;
    let journal = Journal::start(&region.connection);
    let load = Arc::new(Load::new(&region.api, "r", provider.url()));
    let faults = &faults::CLUSTER;
    let result = run(&mut region, &journal, &provider, &load, Run { seed, total, kills, faults }).await;
    result.map_err(|error| error.context(format!("PEAL_FAULT_SEED={seed}\n{}", region.logs())))
}
