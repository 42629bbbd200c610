//! Following a stream.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use peal_nats::follow::{Followed, Follower};

use crate::support::{connected, eventually};

const STREAM: &str = "FOLLOWED";
/// Longer than a follower takes for a sign that nothing is left.
const LONG: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_late_is_waited_for() {
    let (_running, connection) = connected().await;
    let jetstream = &connection.jetstream;
    let config = async_nats::jetstream::stream::Config {
        name: STREAM.to_owned(),
        subjects: vec!["followed.*".to_owned()],
        ..Default::default()
    };
    let stream = jetstream.create_stream(config).await.unwrap();
    let publish = async |subject: &'static str| {
        jetstream.publish(subject, "x".into()).await.unwrap().await.unwrap();
    };
    publish("followed.first").await;
    let mut follower = Follower::new(connection.clone(), STREAM, "", None, 0);
    let Followed::Messages(first) = follower.next().await else { panic!("the first message does not come") };
    assert_eq!(first.len(), 1);

    // A paused consumer is as slow as a server that was just started and reads its files.
    let consumers: Vec<_> = stream.consumer_names().try_collect().await.unwrap();
    let [consumer] = &consumers[..] else { panic!("one consumer, not {consumers:?}") };
    let long_after = async_nats::datetime::from_nanos(4_000_000_000_000_000_000).unwrap();
    let paused = stream.pause_consumer(consumer, long_after).await.unwrap();
    assert!(paused.paused);
    publish("followed.second").await;
    let early = tokio::time::timeout(LONG, follower.next()).await;
    assert!(early.is_err(), "a message is left, and the follower says {early:?}");

    stream.resume_consumer(consumer).await.unwrap();
    let Followed::Messages(second) = follower.next().await else { panic!("the message does not come") };
    assert_eq!(second[0].subject, "followed.second");

    // What is gone is not waited for.
    publish("followed.third").await;
    stream.purge().await.unwrap();
    eventually("nothing is left", || async { stream.get_info().await.unwrap().state.messages == 0 }).await;
    let end = tokio::time::timeout(LONG, async {
        loop {
            if let Followed::Quiet(state) = follower.next().await {
                return state.last;
            }
        }
    });
    assert_eq!(end.await.unwrap(), 3);
}
