//! What can break: a file for each. A new one is a file and its line in [`RANDOM`], or in the scenario that wants it.

pub mod kill_all;
pub mod kill_dispatcher;
pub mod kill_gateway;
pub mod kill_node;
pub mod kill_server;
pub mod lose_majority;
pub mod pause_node;

use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use peal_nats::server::Server;
use rand::rngs::StdRng;

use crate::region::Region;

/// The faults of the random run.
pub static RANDOM: [&Fault; 3] = [&kill_gateway::FAULT, &kill_dispatcher::FAULT, &kill_server::FAULT];

/// The faults of a region of three servers.
pub static CLUSTER: [&Fault; 4] =
    [&kill_node::FAULT, &pause_node::FAULT, &lose_majority::FAULT, &kill_all::FAULT];

/// How long a region may take to take or refuse writes after servers were lost: its servers need up to 9 s to elect.
pub const PROBE_LIMIT: Duration = Duration::from_secs(60);

/// Starts servers again, all at the same time: one by itself waits for a majority.
pub async fn restart_all(nodes: impl Iterator<Item = &mut Server>) -> anyhow::Result<()> {
    for restarted in join_all(nodes.map(Server::restart)).await {
        restarted?;
    }
    Ok(())
}

/// Something that can break, and how it is repaired.
pub struct Fault {
    /// What the table calls it.
    pub name: &'static str,
    /// For how long after the repair its effects may last, if it can make a delivery be sent twice at all.
    pub resends: Option<Duration>,
    /// Breaks it and repairs it at once.
    pub strike: for<'a> fn(&'a mut Region, &'a mut StdRng) -> BoxFuture<'a, anyhow::Result<()>>,
}

/// A fault that happened.
#[derive(Clone, Copy)]
pub struct Incident {
    /// What broke.
    pub fault: &'static Fault,
    /// When it was about to break, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// When what broke had been started again.
    pub repaired_ms: i64,
}
