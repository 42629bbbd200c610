//! Group commit: many publishes in one batch, and nobody answers for another.

use std::collections::HashMap;
use std::time::Duration;

use peal_common::channel::Priority;
use peal_common::settings::GroupCommit;
use peal_nats::group::GroupPublisher;
use peal_nats::publish::Outgoing;
use peal_nats::server::Sync;
use peal_nats::topology::{Current, INTAKE, Options, Topology, apply, plan};
use peal_nats::{Connection, Subjects};
use tokio_util::sync::CancellationToken;

use crate::support;

/// Longer than any machine takes; what is tested is who gets which answer.
const LIMIT: Duration = Duration::from_secs(20);

async fn region() -> (support::Running, Connection) {
    let running = support::start(|config| config.sync = Sync::Always).await;
    let connection = support::connection(&running.server).await;
    let topology = Topology::for_region(&connection.region, &Options::laptop());
    let current = Current::read(&connection.jetstream, &topology).await.unwrap();
    apply(&connection.jetstream, &plan(&current, &topology), false).await.unwrap();
    (running, connection)
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_store_each_message_once_and_tell_its_sequence() {
    let (_running, connection) = region().await;
    let stop = CancellationToken::new();
    let (publisher, task) = GroupPublisher::new(connection.clone(), GroupCommit::Always, LIMIT, stop.clone());
    let task = tokio::spawn(task);
    let subject = Subjects::new(&connection.region).intake(Priority::Normal, "shop");
    let mut sent = Vec::new();
    for number in 0..2_500_u32 {
        // Towards the end some ids come twice, side by side: their batch is refused and its members go alone.
        let id = format!("shop:{}", if number > 2_000 && number % 10 == 1 { number - 1 } else { number });
        let (publisher, subject) = (publisher.clone(), subject.clone());
        sent.push(tokio::spawn(async move {
            let outgoing = Outgoing::new(subject, id.clone()).id(&id);
            (id, publisher.send(outgoing).await.unwrap().await.unwrap())
        }));
    }
    let mut by_id: HashMap<String, Vec<_>> = HashMap::new();
    for sent in sent {
        let (id, published) = sent.await.unwrap();
        by_id.entry(id).or_default().push(published);
    }
    assert!(publisher.batches() > 0, "nothing was gathered");
    assert_eq!(connection.stream_state(INTAKE).await.unwrap().messages, 2_450);
    for (id, published) in by_id {
        let sequence = published[0].sequence;
        assert!(published.iter().all(|one| one.sequence == sequence), "{id}: {published:?}");
        assert_eq!(published.iter().filter(|one| !one.duplicate).count(), 1, "{id}: {published:?}");
        if sequence % 50 == 0 {
            let stored = connection.message_at(INTAKE, sequence).await.unwrap().unwrap();
            assert_eq!(stored.payload, id.as_bytes());
        }
    }
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_is_told_to_everybody_who_waits() {
    let (mut running, connection) = region().await;
    let stop = CancellationToken::new();
    let (publisher, task) = GroupPublisher::new(connection.clone(), GroupCommit::Always, LIMIT, stop.clone());
    let task = tokio::spawn(task);
    let subject = Subjects::new(&connection.region).intake(Priority::Normal, "shop");
    running.server.kill().await.unwrap();
    let attempts = (0..100).map(|number| {
        let (publisher, subject) = (publisher.clone(), subject.clone());
        tokio::spawn(async move {
            match publisher.send(Outgoing::new(subject, "x").id(&format!("shop:{number}"))).await {
                Ok(answer) => answer.await.is_err(),
                Err(_) => true,
            }
        })
    });
    for attempt in attempts.collect::<Vec<_>>() {
        assert!(attempt.await.unwrap(), "nothing is acknowledged by a dead server");
    }
    stop.cancel();
    task.await.unwrap();
}
