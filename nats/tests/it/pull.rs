//! Lanes of durable consumers: when what was handed out may have been forgotten.

use std::time::Duration;

use async_nats::jetstream::{consumer, stream};
use futures_util::StreamExt as _;
use jiff::SignedDuration;
use peal_common::clock::Clock;
use peal_nats::connect::Connection;
use peal_nats::publish::Outgoing;
use peal_nats::pull::{Job, Lane, Spare};
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::support::{connected, eventually};

const LIMIT: Duration = Duration::from_secs(30);

/// What comes on a lane that has one message in hand at most, as long as the handle is kept.
async fn jobs(connection: &Connection) -> (UnboundedReceiver<Job>, AbortOnDropHandle<()>) {
    let (receiver, _, lane) = jobs_at_once(connection, 1).await;
    (receiver, lane)
}

/// The same with so many in hand at most, and what the lane shows of its spare permits.
async fn jobs_at_once(
    connection: &Connection,
    permits: usize,
) -> (UnboundedReceiver<Job>, Spare, AbortOnDropHandle<()>) {
    let jobs = stream::Config { name: "JOBS".into(), subjects: vec!["jobs".into()], ..Default::default() };
    let all = consumer::Config { durable_name: Some("all".into()), ..Default::default() };
    connection.jetstream.create_stream(jobs).await.unwrap();
    connection.jetstream.create_consumer_on_stream(all, "JOBS").await.unwrap();
    lane(connection, permits)
}

/// Another lane of the same consumer.
fn lane(connection: &Connection, permits: usize) -> (UnboundedReceiver<Job>, Spare, AbortOnDropHandle<()>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let spare = Spare::default();
    let lane = Lane { stream: "JOBS".to_owned(), consumer: "all".to_owned(), permits, spare: spare.clone() };
    let (connection, stop) = (connection.clone(), CancellationToken::new());
    let run = async move {
        let handle = |job| {
            let _ = sender.send(job);
        };
        lane.run(&connection, &stop, handle).await;
    };
    (receiver, spare, AbortOnDropHandle::new(tokio::spawn(run)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_shows_whether_it_has_all_that_waits() {
    let (_running, connection) = connected().await;
    let (mut jobs, spare, _lane) = jobs_at_once(&connection, 2).await;
    eventually("nothing waits", || async { spare.count() == 2 }).await;
    for number in 0..3 {
        connection.publish(Outgoing::new("jobs".to_owned(), number.to_string())).await.unwrap();
    }
    let mut in_hand = Vec::new();
    for _ in 0..2 {
        in_hand.push(timeout(LIMIT, jobs.recv()).await.unwrap().unwrap());
    }
    eventually("one waits", || async { spare.count() == 0 }).await;
    for job in in_hand.drain(..) {
        job.ack().await.unwrap();
    }
    in_hand.push(timeout(LIMIT, jobs.recv()).await.unwrap().unwrap());
    eventually("nothing waits any more", || async { spare.count() == 1 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_lane_has_nothing_to_spare() {
    let (_running, connection) = connected().await;
    let (_jobs, spare, first) = jobs_at_once(&connection, 2).await;
    eventually("nothing waits", || async { spare.count() == 2 }).await;
    pause(&connection, Some(2)).await;
    eventually("the pause was heard of", || async { spare.count() == 0 }).await;
    eventually("it is over by itself", || async { spare.count() == 2 }).await;

    drop(first);
    pause(&connection, Some(600)).await;
    let all = connection.jetstream.get_stream("JOBS").await.unwrap();
    eventually("nobody asks", || async { all.consumer_info("all").await.unwrap().num_waiting == 0 }).await;
    let (_jobs, spare, _second) = lane(&connection, 2);
    eventually("somebody asks", || async { all.consumer_info("all").await.unwrap().num_waiting > 0 }).await;
    assert_eq!(spare.count(), 0, "whoever starts later knows, too");
    pause(&connection, None).await;
    eventually("it goes on", || async { spare.count() == 2 }).await;
}

/// Pauses the consumer for some seconds, or ends its pause.
async fn pause(connection: &Connection, seconds: Option<i64>) {
    let until = seconds.map(|seconds| (Clock::System.now() + SignedDuration::from_secs(seconds)).to_string());
    let until = json!({ "pause_until": until });
    let answer: Value =
        connection.jetstream.request("CONSUMER.PAUSE.JOBS.all".to_owned(), &until).await.unwrap();
    assert_eq!(answer["paused"], seconds.is_some(), "{answer}");
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
