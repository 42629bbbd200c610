//! What is acknowledged and still there is removed, and nothing else.

use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::PullConsumer;
use futures_util::StreamExt as _;
use peal_common::channel::{Channel, Priority};
use peal_nats::publish::Outgoing;
use peal_nats::sweep::Quiet;
use peal_nats::topology::{
    Current, Links, Options, Topology, apply, deliver_consumer, plan, state_to, work_stream,
};
use peal_nats::{Connection, Region, Subjects};

use crate::support;

const CHANNEL: Channel = Channel::Webhook;
const LEFT: u64 = 10;

struct Lanes {
    connection: Connection,
    stream: String,
}

impl Lanes {
    async fn publish(&self, priority: Priority, count: u64) {
        let subject = Subjects::new(&self.connection.region).work(CHANNEL, priority, "shop");
        for _ in 0..count {
            self.connection.publish(Outgoing::new(subject.clone(), "x")).await.unwrap();
        }
    }

    /// One message, not acknowledged yet.
    async fn take(&self, priority: Priority) -> async_nats::jetstream::Message {
        let stream = self.connection.jetstream.get_stream(&self.stream).await.unwrap();
        let consumer: PullConsumer = stream.get_consumer(&deliver_consumer(priority)).await.unwrap();
        let mut batch =
            consumer.batch().max_messages(1).expires(Duration::from_secs(20)).messages().await.unwrap();
        batch.next().await.unwrap().unwrap()
    }

    async fn leave_behind(&self, priority: Priority, next: u64) {
        leave_behind(&self.connection, &self.stream, &deliver_consumer(priority), next).await;
    }

    async fn sweep(&self, priority: Priority, before: Option<Quiet>) -> (Option<Quiet>, u64) {
        let consumer = deliver_consumer(priority);
        let swept = self.connection.sweep(&self.stream, &consumer, before).await.unwrap();
        (swept.quiet, swept.purged)
    }

    async fn messages(&self) -> u64 {
        self.connection.stream_state(&self.stream).await.unwrap().messages
    }
}

/// Puts a consumer at a sequence, as if everything before had been acknowledged, and leaves the messages there: what a
/// server does that comes back with a consumer's state and without the removals that belong to it.
async fn leave_behind(connection: &Connection, stream: &str, consumer: &str, next: u64) {
    let subject = format!("$JS.{}.API.CONSUMER.RESET.{stream}.{consumer}", connection.region);
    let request = format!("{{\"seq\":{next}}}");
    let answer = connection.client.request(subject, request.into()).await.unwrap();
    assert!(!String::from_utf8_lossy(&answer.payload).contains("error"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_over_goes_and_what_waits_stays() {
    let running = support::start(|_| {}).await;
    let connection = support::connection(&running.server).await;
    let topology = Topology::for_region(&connection.region, &Options::laptop());
    let current = Current::read(&connection.jetstream, &topology).await.unwrap();
    apply(&connection.jetstream, &plan(&current, &topology), false).await.unwrap();
    let lanes = Lanes { connection, stream: work_stream(CHANNEL) };
    let (swept, other) = (Priority::Normal, Priority::High);

    // Nothing was ever acknowledged: neither what waits nor what is in hand may go, and an ack floor of 0 is no limit.
    lanes.publish(other, 2).await;
    assert_eq!(lanes.sweep(other, None).await, (None, 0));
    let in_hand = [lanes.take(other).await, lanes.take(other).await];
    assert_eq!(lanes.sweep(other, None).await, (None, 0));
    let (empty, _) = lanes.sweep(swept, None).await;
    assert_eq!(lanes.sweep(swept, empty).await, (empty, 0));

    // A lane that has leftovers and is at work is left alone.
    lanes.publish(swept, LEFT).await;
    lanes.leave_behind(swept, 2 + LEFT + 1).await;
    lanes.publish(swept, 1).await;
    assert_eq!(lanes.sweep(swept, empty).await, (None, 0));
    let last = lanes.take(swept).await;
    assert_eq!(lanes.sweep(swept, empty).await, (None, 0));
    last.double_ack().await.unwrap();
    assert_eq!(lanes.messages().await, 2 + LEFT);

    // It takes two looks that find the same.
    let (first, purged) = lanes.sweep(swept, empty).await;
    assert!(first.is_some() && first != empty && purged == 0);
    assert_eq!(lanes.sweep(swept, first).await, (first, LEFT));
    assert_eq!(lanes.sweep(swept, first).await.1, 0);

    // What is not acknowledged is still there, and so is what comes after a look.
    assert_eq!(lanes.messages().await, 2);
    for message in in_hand {
        message.ack_with(AckKind::Nak(Some(Duration::ZERO))).await.unwrap();
        lanes.take(other).await.double_ack().await.unwrap();
    }
    lanes.publish(swept, 1).await;
    assert_eq!(lanes.sweep(swept, first).await, (None, 0));
    lanes.take(swept).await.double_ack().await.unwrap();
    assert_eq!(lanes.messages().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_whose_consumer_takes_everything_is_swept_as_well() {
    let (running, connection) = support::connected().await;
    let hub: Region = "hub".parse().unwrap();
    let links = Links { hub: hub.clone(), others: Vec::new() };
    let options = Options { links: Some(links), ..Options::laptop() };
    let topology = Topology::for_region(&connection.region, &options);
    let current = Current::read(&connection.jetstream, &topology).await.unwrap();
    apply(&connection.jetstream, &plan(&current, &topology), false).await.unwrap();

    let (queue, subjects) = (state_to(&hub), Subjects::new(&connection.region));
    let write = async |key: &str| {
        connection.publish(Outgoing::new(subjects.state(key), "{}")).await.unwrap();
    };
    for key in ["recipient.shop.u-1", "recipient.shop.u-2"] {
        write(key).await;
    }
    let state = async || connection.stream_state(&queue).await.unwrap();
    support::eventually("both are on their way", async || state().await.messages == 2).await;
    assert_eq!(connection.sweep(&queue, hub.as_str(), None).await.unwrap().quiet, None);
    leave_behind(&connection, &queue, hub.as_str(), state().await.last + 1).await;
    let quiet = connection.sweep(&queue, hub.as_str(), None).await.unwrap().quiet;
    assert_eq!(connection.sweep(&queue, hub.as_str(), quiet).await.unwrap().purged, 2);
    write("recipient.shop.u-3").await;
    support::eventually("the next one stays", async || state().await.messages == 1).await;
    assert_eq!(connection.sweep(&queue, hub.as_str(), quiet).await.unwrap().purged, 0);
    drop(running);
}
