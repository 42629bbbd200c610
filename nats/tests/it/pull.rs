//! Lanes of durable consumers: when what was handed out may have been forgotten.

use std::time::Duration;

use async_nats::jetstream::{consumer, stream};
use futures_util::StreamExt as _;
use peal_nats::connect::Connection;
use peal_nats::publish::Outgoing;
use peal_nats::pull::{Job, Lane};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::support::{connected, eventually};

const LIMIT: Duration = Duration::from_secs(30);

/// What comes on a lane that has one message in hand at most, as long as the handle is kept.
async fn jobs(connection: &Connection) -> (UnboundedReceiver<Job>, AbortOnDropHandle<()>) {
    let jobs = stream::Config { name: "JOBS".into(), subjects: vec!["jobs".into()], ..Default::default() };
    let all = consumer::Config { durable_name: Some("all".into()), ..Default::default() };
    connection.jetstream.create_stream(jobs).await.unwrap();
    connection.jetstream.create_consumer_on_stream(all, "JOBS").await.unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    let lane = Lane { stream: "JOBS".to_owned(), consumer: "all".to_owned(), permits: 1 };
    let (connection, stop) = (connection.clone(), CancellationToken::new());
    let run = async move {
        let handle = |job| {
            let _ = sender.send(job);
        };
        lane.run(&connection, &stop, handle).await;
    };
    (receiver, AbortOnDropHandle::new(tokio::spawn(run)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_back_before_it_is_missed_begins_a_session() {
    let (mut running, connection) = connected().await;
    let (mut jobs, _lane) = jobs(&connection).await;
    for number in 0..2 {
        connection.publish(Outgoing::new("jobs".to_owned(), number.to_string())).await.unwrap();
    }
    let first = timeout(LIMIT, jobs.recv()).await.unwrap().unwrap();

    let (killed, connects) = (Instant::now(), connection.connects());
    running.server.kill().await.unwrap();
    running.server.restart().await.unwrap();
    eventually("it is connected again", || async {
        connection.is_connected() && connection.connects() > connects
    })
    .await;
    assert!(!first.is_ours(), "somebody else may have it");
    // Only now the lane can ask again.
    drop(first);
    let next = timeout(LIMIT, jobs.recv()).await.unwrap().unwrap();
    assert!(next.is_ours());
    assert!(next.session.began > killed, "what the server forgot would be taken for new");
    assert!(next.session.began_ms >= next.at_ms);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_told_that_a_message_is_still_in_hand() {
    let (_running, connection) = connected().await;
    let (mut jobs, _lane) = jobs(&connection).await;
    let mut told = connection.client.subscribe("$JS.ACK.>").await.unwrap();
    connection.publish(Outgoing::new("jobs".to_owned(), "long")).await.unwrap();
    let job = timeout(LIMIT, jobs.recv()).await.unwrap().unwrap();
    let first = job.keep(timeout(LIMIT, told.next())).await.unwrap().unwrap();
    assert_eq!(first.payload, "+WPI");
}
