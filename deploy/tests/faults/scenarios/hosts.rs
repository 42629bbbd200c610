//! Several gateways and dispatchers, each on a host of its own, behind a load balancer: hosts are cut off, and programs
//! lost and replaced, while notifications flow.

use peal_nats::server::skipped;

use crate::faults;
use crate::plan::Plan;
use crate::provider::Provider;
use crate::region::{Wanted, balancer, network};

#[test]
fn gateways_and_dispatchers_come_and_go() -> anyhow::Result<()> {
    if !balancer::is_installed() {
        skipped("hosts: there is no load balancer here (install haproxy)");
        return Ok(());
    }
    network::alone(async |network| {
        let faults = faults::HOSTS.to_vec();
        let plan = Plan {
            name: "HOSTS",
            notifications: 8_000,
            rate: 800,
            times: faults.len(),
            has_texts: false,
            faults,
        };
        let provider = Provider::at(network::OWN).await?;
        plan.run_with(provider, |webhook| Wanted {
            gateways: 2,
            dispatchers: 3,
            is_balanced: true,
            network: Some(network),
            ..Wanted::new(webhook)
        })
        .await
    })
}
