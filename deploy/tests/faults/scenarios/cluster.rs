//! A region of three servers: one of them is killed, stands still or is cut off from the others, two are lost, all are
//! killed, while notifications flow.

use crate::faults;
use crate::plan::Plan;
use crate::region::Wanted;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_of_three_servers_loses_nothing() -> anyhow::Result<()> {
    let faults = faults::CLUSTER.to_vec();
    let plan = Plan {
        name: "CLUSTER",
        notifications: 8_000,
        rate: 800,
        times: faults.len(),
        has_texts: false,
        faults,
    };
    plan.run(|webhook| Wanted { dispatchers: 2, nodes: 3, ..Wanted::new(webhook) }).await
}
