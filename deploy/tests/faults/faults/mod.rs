//! What can break: a file for each. A new one is a file, its `mod` line, which formats it with the rest, and its name in one
//! of the lists here, whose scenario has it happen.

pub mod cut_dispatcher;
pub mod cut_gateway;
pub mod damage_file;
pub mod delete_consumer;
pub mod jump_clock;
pub mod kill_all;
pub mod kill_dispatcher;
pub mod kill_gateway;
pub mod kill_node;
pub mod kill_server;
pub mod lose_majority;
pub mod partition_node;
pub mod pause_dispatcher;
pub mod pause_gateway;
pub mod pause_node;
pub mod poison;
pub mod replace_dispatcher;
pub mod replace_gateway;
pub mod replace_node;
pub mod restore_state;
pub mod slow_clock_kill;

use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use peal_nats::server::Server;
use rand::rngs::StdRng;

use crate::plan::given;
use crate::region::Region;
use crate::wait::now_ms;

/// What is killed in a region of one server.
pub static KILLS: &[&Fault] = &[&kill_gateway::FAULT, &kill_dispatcher::FAULT, &kill_server::FAULT];

/// What happens to a region of three servers.
pub static CLUSTER: &[&Fault] = &[
    &kill_node::FAULT,
    &pause_node::FAULT,
    &partition_node::FAULT,
    &replace_node::FAULT,
    &lose_majority::FAULT,
    &kill_all::FAULT,
];

/// What happens to a region whose gateways and dispatchers are on hosts of their own.
pub static HOSTS: &[&Fault] = &[
    &cut_gateway::FAULT,
    &cut_dispatcher::FAULT,
    &pause_gateway::FAULT,
    &pause_dispatcher::FAULT,
    &replace_gateway::FAULT,
    &replace_dispatcher::FAULT,
];

/// What else happens to a region.
pub static DAMAGE: &[&Fault] = &[
    &jump_clock::FAULT,
    &slow_clock_kill::FAULT,
    &damage_file::FAULT,
    &restore_state::FAULT,
    &delete_consumer::FAULT,
    &poison::FAULT,
];

/// How long a region may take to take or refuse writes after servers were lost: its servers need up to 9 s to elect.
pub const PROBE_LIMIT: Duration = Duration::from_secs(60);

/// How long one of a cluster's servers is away at least, also when it leads nothing and nobody has to take over.
pub const NODE_AWAY: Duration = Duration::from_secs(3);

/// Starts servers again, all at the same time: one by itself waits for a majority.
pub async fn restart_all(nodes: impl Iterator<Item = &mut Server>) -> anyhow::Result<()> {
    for restarted in join_all(nodes.map(Server::restart)).await {
        restarted?;
    }
    Ok(())
}

/// How long programs stand still: longer than it takes until others are asked instead.
pub fn pause_for() -> Duration {
    Duration::from_secs(given("PEAL_FAULT_PAUSE_SECONDS", 5))
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
#[derive(Debug, Clone)]
pub struct Incident {
    /// What the table calls it.
    pub name: String,
    /// As [`Fault::resends`].
    pub resends: Option<Duration>,
    /// When it was about to break, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// When what broke had been started again.
    pub repaired_ms: i64,
    /// How long after that the other servers, or the other regions and the hub, had everything, where there are any.
    pub converged_after: Option<Duration>,
}

impl Incident {
    /// Something began to break at `at_ms` and is repaired now. It makes nothing be sent twice.
    pub fn repaired(name: &str, at_ms: i64) -> Self {
        Incident { name: name.to_owned(), resends: None, at_ms, repaired_ms: now_ms(), converged_after: None }
    }

    /// That may be sent twice which was in flight until so long after the repair.
    pub fn resending(self, aftermath: Duration) -> Self {
        Incident { resends: Some(aftermath), ..self }
    }
}
