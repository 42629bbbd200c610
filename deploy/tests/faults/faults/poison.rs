//! Messages come in that nobody can read: each is put aside with a reason, and the others go on.

use anyhow::Context as _;
use futures_util::FutureExt as _;
use peal_common::channel::{Channel, Priority};
use peal_nats::Subjects;
use peal_nats::publish::Outgoing;
use peal_nats::topology::DEAD_LETTERS;

use super::{Fault, PROBE_LIMIT};
use crate::region::APP;
use crate::wait::Patience;

/// How deep a message is nested that nobody may read to its end by recursion.
const DEPTH: usize = 10_000;

/// Garbage in INTAKE and in a queue of deliveries.
pub const FAULT: Fault = Fault {
    name: "poison messages",
    resends: None,
    strike: |region, _| {
        async {
            let subjects = Subjects::new(&region.connection.region);
            let mut left: u64 = 0;
            for poison in [b"\x00\xff\xfe".to_vec(), Vec::new(), b"[".repeat(DEPTH), b"{\"v\":1}".to_vec()] {
                for subject in [
                    subjects.intake(Priority::Normal, APP),
                    subjects.work(Channel::Webhook, Priority::Normal, APP),
                ] {
                    region.connection.publish(Outgoing::new(subject, poison.clone())).await?;
                    left += 1;
                }
            }
            // Nobody can tell whose they are. The operator has seen them.
            let foreign = subjects.dead_of("none");
            let patience = Patience::new("all of them are put aside", PROBE_LIMIT);
            loop {
                let seen = region.connection.purge(DEAD_LETTERS, &foreign).await?;
                left = left.checked_sub(seen).context("more was put aside than came in")?;
                if left == 0 {
                    return Ok(());
                }
                patience.pause().await?;
            }
        }
        .boxed()
    },
};
