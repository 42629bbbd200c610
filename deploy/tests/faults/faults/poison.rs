//! Messages come in that nobody can read: each is put aside with a reason, and the others go on.

use std::collections::HashSet;

use futures_util::FutureExt as _;
use peal_common::channel::{Channel, Priority};
use peal_nats::Subjects;
use peal_nats::dead_letter::dead_letter_id;
use peal_nats::follow::{Followed, Follower};
use peal_nats::publish::Outgoing;
use peal_nats::topology::{DEAD_LETTERS, INTAKE, work_stream};

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
            region.is_poisoned = true;
            let subjects = Subjects::new(&region.connection.region);
            let mut left = HashSet::new();
            for poison in [b"\x00\xff\xfe".to_vec(), Vec::new(), b"[".repeat(DEPTH), b"{\"v\":1}".to_vec()] {
                for (stream, subject) in [
                    (INTAKE.to_owned(), subjects.intake(Priority::Normal, APP)),
                    (work_stream(Channel::Webhook), subjects.work(Channel::Webhook, Priority::Normal, APP)),
                ] {
                    let published = region.connection.publish(Outgoing::new(subject, poison.clone())).await?;
                    left.insert(dead_letter_id(&stream, published.sequence));
                }
            }
            // Those of an earlier time may be put aside again: a server that was killed forgets that they were.
            let foreign = subjects.dead_of("none");
            let mut letters = Follower::new(region.connection.clone(), DEAD_LETTERS, &foreign, None, 0);
            let patience = Patience::new("all of them are put aside", PROBE_LIMIT);
            while !left.is_empty() {
                if let Followed::Messages(messages) = letters.next().await {
                    for id in messages.iter().filter_map(|message| message.header("Nats-Msg-Id")) {
                        left.remove(id);
                    }
                }
                patience.pause().await?;
            }
            Ok(())
        }
        .boxed()
    },
};
