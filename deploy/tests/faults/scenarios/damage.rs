//! What happens to a region besides kills: clocks jump, files are damaged, streams are restored, consumers deleted,
//! and messages come in that nobody can read, while notifications flow.

use peal_nats::server::{find, skipped};

use crate::clock;
use crate::faults::{self, jump_clock, restore_state, slow_clock_kill};
use crate::plan::Plan;
use crate::region::Wanted;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_region_loses_nothing() -> anyhow::Result<()> {
    let mut faults = faults::DAMAGE.to_vec();
    let clocks = clock::library();
    if clocks.is_none() {
        skipped("clocks that jump (install libfaketime)");
        let need_clocks = [jump_clock::FAULT.name, slow_clock_kill::FAULT.name];
        faults.retain(|fault| !need_clocks.contains(&fault.name));
    }
    if find::nats_command()?.is_none() {
        skipped("a restored stream (`deploy/install-nats --cli` installs nats)");
        faults.retain(|fault| fault.name != restore_state::FAULT.name);
    }
    let plan = Plan {
        name: "DAMAGE",
        notifications: 8_000,
        rate: 800,
        times: faults.len(),
        has_texts: false,
        faults,
    };
    plan.run(|webhook| Wanted { dispatchers: 2, clocks, ..Wanted::new(webhook) }).await
}
