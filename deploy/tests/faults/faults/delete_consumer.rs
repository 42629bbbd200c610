//! A consumer is deleted by mistake, and the topology applied again: nothing that it had is skipped.

use anyhow::Context as _;
use futures_util::FutureExt as _;
use peal_nats::inspect::StreamFacts;
use peal_nats::topology;
use rand::seq::IteratorRandom as _;

use super::{Fault, kill_dispatcher};

/// One of the consumers of INTAKE and WORK_WEBHOOK, deleted and made anew.
pub const FAULT: Fault = Fault {
    name: "consumer deleted",
    // What was handed out is handed out again, while the calls of the first time are still on their way.
    resends: Some(kill_dispatcher::ON_ITS_WAY),
    strike: |region, rng| {
        async {
            let facts = region.connection.stream_facts().await?;
            let is_worked =
                |stream: &&StreamFacts| [topology::INTAKE, "WORK_WEBHOOK"].contains(&stream.name.as_str());
            let all = facts.iter().filter(is_worked).flat_map(|stream| {
                stream.consumers.iter().map(move |consumer| (&stream.name, &consumer.name))
            });
            let (stream, consumer) = all.choose(rng).context("there is no consumer")?;
            region.connection.jetstream.delete_consumer_from_stream(consumer, stream).await?;
            region.apply_topology().await
        }
        .boxed()
    },
};
