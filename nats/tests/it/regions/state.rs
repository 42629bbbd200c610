//! State on its way through the hub.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use peal_common::clock::{Clock, HybridClock, Stamp};
use peal_common::id::AppId;
use peal_common::state::{Kind, Record, RecordKey};
use peal_nats::Subjects;
use peal_nats::connect::Connection;
use peal_nats::publish::Outgoing;
use peal_nats::state::{StateWriter, WriteError};
use peal_nats::topology::{ALL_STATE, Current, OTHERS_STATE, apply, plan, state_to};
use serde_json::{Value, json};

use super::{Place, World, applied, busy, hub_topology, named, recipient};
use crate::support::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_when_a_link_is_cut_outlives_what_is_written_again_and_again() {
    let world = World::start().await;
    world.us.set("marketing", Some(true)).await;
    eventually("eu knows what us wrote", || async { world.eu.allowed("marketing") == Some(true) }).await;

    // Sent before the servers notice that nobody hears it. In a bucket, whatever replaces a message that is on its way
    // counts as its acknowledgement, and as that of all before it.
    world.us.link.silence();
    world.us.set("marketing", Some(false)).await;
    for number in 0..200 {
        world.us.write(&busy(), number).await;
    }
    world.us.link.cut();
    for number in 200..400 {
        world.us.write(&busy(), number).await;
    }
    world.us.link.heal();
    eventually("the opt-out is in force in eu", || async { world.eu.allowed("marketing") == Some(false) })
        .await;
    eventually("eu has the last of the others", || async {
        world.eu.mirror.get(&busy()).unwrap().is_some_and(|found| found.get("number") == Some(&json!(399)))
    })
    .await;
    // What has arrived waits no longer.
    for (connection, to) in [(&world.us.connection, "hub"), (&world.hub_connection, "eu")] {
        eventually("nothing is on its way", || async {
            connection.stream_state(&state_to(&named(to))).await.is_ok_and(|state| state.messages == 0)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_on_its_way_to_the_hub_is_brought() {
    let world = World::start().await;
    world.us.look_after_state();
    world.us.set("marketing", Some(true)).await;
    eventually("eu knows what us wrote", || async { world.eu.allowed("marketing") == Some(true) }).await;
    world.us.link.cut();
    world.us.set("marketing", Some(false)).await;
    lose_on_its_way(&world.us.connection, "hub").await;
    world.us.link.heal();
    eventually("the opt-out is in force in eu", || async { world.eu.allowed("marketing") == Some(false) })
        .await;
    assert_eq!(world.us.written().await, 2, "nothing is written again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_on_its_way_from_the_hub_is_brought() {
    let world = World::start().await;
    world.eu.look_after_state();
    world.us.set("marketing", Some(true)).await;
    eventually("eu knows what us wrote", || async { world.eu.allowed("marketing") == Some(true) }).await;
    world.eu.link.cut();
    world.us.set("marketing", Some(false)).await;
    lose_on_its_way(&world.hub_connection, "eu").await;
    world.eu.link.heal();
    eventually("the opt-out is in force in eu", || async { world.eu.allowed("marketing") == Some(false) })
        .await;
}

/// As after a link has healed, until both ends have found each other again; or for good, where what was sent meanwhile
/// counts as delivered.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_servers_do_not_hand_on_is_brought_in_whatever_order_it_comes() {
    const COUNT: u64 = 50;
    let key =
        |number: u64| RecordKey::new(Kind::Recipient, &"shop".parse().unwrap(), &format!("other-{number}"));
    let world = World::start().await;
    world.us.set("marketing", Some(true)).await;
    eventually("eu knows what us wrote", || async { world.eu.allowed("marketing") == Some(true) }).await;
    for (connection, to) in [(&world.us.connection, "hub"), (&world.hub_connection, "eu")] {
        pause(connection, to, json!({ "pause_until": "2100-01-01T00:00:00Z" })).await;
    }
    for number in 0..COUNT {
        world.us.write(&key(number), number).await;
    }
    world.us.set("marketing", Some(false)).await;
    world.us.look_after_state();
    world.eu.look_after_state();
    eventually("the opt-out is in force in eu", || async { world.eu.allowed("marketing") == Some(false) })
        .await;
    for number in 0..COUNT {
        eventually("so is the rest", || async { world.eu.mirror.get(&key(number)).unwrap().is_some() }).await;
    }
    world.us.write(&busy(), 1).await;
    for (connection, to) in [(&world.us.connection, "hub"), (&world.hub_connection, "eu")] {
        pause(connection, to, json!({})).await;
    }
    // It comes a second time, and changes nothing.
    eventually("nothing is on its way", || async {
        let (us, hub) = (&world.us.connection, &world.hub_connection);
        let waiting = (
            us.stream_state(&state_to(&named("hub"))).await,
            hub.stream_state(&state_to(&named("eu"))).await,
        );
        matches!(waiting, (Ok(us), Ok(hub)) if us.messages + hub.messages == 0)
    })
    .await;
    for (connection, stream) in [(&world.hub_connection, ALL_STATE), (&world.eu.connection, OTHERS_STATE)] {
        eventually("there is one message of each key", || async {
            connection.stream_state(stream).await.is_ok_and(|state| state.messages == COUNT + 2)
        })
        .await;
    }
    assert_eq!(world.eu.allowed("marketing"), Some(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_version_that_comes_late_does_not_stay_in_the_place_of_what_was_brought() {
    let world = World::start().await;
    let (us, hub) = (&world.us.connection, &world.hub_connection);
    world.us.set("marketing", Some(true)).await;
    eventually("eu knows what us wrote", || async { world.eu.allowed("marketing") == Some(true) }).await;
    pause(us, "hub", json!({ "pause_until": "2100-01-01T00:00:00Z" })).await;
    world.us.set("email", Some(true)).await;
    world.us.set("marketing", Some(false)).await;
    world.us.look_after_state();
    eventually("the opt-out is in force in eu", || async { world.eu.allowed("marketing") == Some(false) })
        .await;
    // The servers skip the newest one alone.
    let queue = state_to(&named("hub"));
    let newest = us.stream_state(&queue).await.unwrap().last;
    let stream = us.jetstream.get_stream_no_info(&queue).await.unwrap();
    stream.delete_message(newest).await.unwrap();
    pause(us, "hub", json!({})).await;
    eventually("nothing is on its way", || async {
        us.stream_state(&queue).await.is_ok_and(|state| state.messages == 0)
    })
    .await;
    let subject = Subjects::new(&us.region).state(recipient().as_str());
    eventually("the hub has the opt-out", || async {
        let found = hub.last_of(ALL_STATE, &subject).await.unwrap().unwrap();
        let record: Record = serde_json::from_slice(&found.payload).unwrap();
        record.allowed("marketing") == Some(false) && record.allowed("email") == Some(true)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_version_takes_the_place_of_no_newer_one() {
    let world = World::start().await;
    let (us, hub) = (&world.us.connection, &world.hub_connection);
    let subject = Subjects::new(&us.region).state(recipient().as_str());
    world.us.set("marketing", Some(true)).await;
    let older = us.last_of(&Subjects::new(&us.region).state_stream(), &subject).await.unwrap().unwrap();
    world.us.set("marketing", Some(false)).await;
    eventually("eu knows what us wrote", || async { world.eu.allowed("marketing") == Some(false) }).await;
    // As when a bucket was restored that had lost its end: what it says last is not what it said last.
    pause(us, "hub", json!({ "pause_until": "2100-01-01T00:00:00Z" })).await;
    us.publish(Outgoing::new(subject.clone(), older.payload)).await.unwrap();
    world.us.look_after_state();
    // The second one is looked for after everything before it was seen to.
    for number in 1..=2 {
        world.us.write(&busy(), number).await;
        eventually("what was written after it is brought", || async {
            let found = world.eu.mirror.get(&busy()).unwrap();
            found.is_some_and(|found| found.get("number") == Some(&json!(number)))
        })
        .await;
    }
    let found = hub.last_of(ALL_STATE, &subject).await.unwrap().unwrap();
    let record: Record = serde_json::from_slice(&found.payload).unwrap();
    assert_eq!(record.allowed("marketing"), Some(false));
}

/// Has the servers hand on nothing until a time; from now on again where there is none.
async fn pause(connection: &Connection, to: &str, until: Value) {
    let subject = format!("$JS.API.CONSUMER.PAUSE.{}.{to}", state_to(&named(to)));
    let answer = connection.client.request(subject, until.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null(), "{answer}");
}

/// Takes away what waits for a link, as if it had been sent to nobody.
async fn lose_on_its_way(connection: &Connection, to: &str) {
    let queue = state_to(&named(to));
    eventually("it waits for the link", || async {
        connection.stream_state(&queue).await.is_ok_and(|state| state.messages > 0)
    })
    .await;
    connection.purge(&queue, ">").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_knows_whether_the_hub_has_told_it_everything() {
    let world = World::start().await;
    let us = &world.us.connection;
    let missing = async || us.state_missing(&named("hub")).await;
    eventually("there is nothing to tell", async || matches!(missing().await, Ok(Some(0)))).await;
    // Each its own key, so that none leaves the streams by being replaced.
    let write = async |number: u64| {
        let app: AppId = "shop".parse().unwrap();
        world.eu.write(&RecordKey::new(Kind::Recipient, &app, &format!("u-{number}")), number).await;
    };
    write(0).await;
    eventually("us has the first", async || us.stream_state(OTHERS_STATE).await.unwrap().messages == 1).await;
    world.us.link.cut();
    assert!(missing().await.is_err(), "nobody knows while the hub is out of reach");
    for number in 1..300 {
        write(number).await;
    }
    eventually("the hub has all", async || {
        world.hub_connection.stream_state(ALL_STATE).await.unwrap().messages == 300
    })
    .await;
    world.us.link.heal();
    eventually("it is told", async || matches!(missing().await, Ok(Some(0)))).await;
    assert_eq!(us.stream_state(OTHERS_STATE).await.unwrap().messages, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_lost_is_filled_again_with_what_came_long_ago() {
    let world = World::start().await;
    world.eu.set("marketing", Some(false)).await;
    eventually("us knows of the opt-out", || async { world.us.allowed("marketing") == Some(false) }).await;
    for (connection, topology, stream) in [
        (&world.us.connection, &world.us.topology, OTHERS_STATE),
        (&world.hub_connection, &hub_topology(), ALL_STATE),
    ] {
        connection.jetstream.delete_stream(stream).await.unwrap();
        applied(&connection.jetstream, topology).await;
        eventually("it is filled again", || async {
            connection.stream_state(stream).await.is_ok_and(|state| state.messages == 1)
        })
        .await;
    }
    eventually("the opt-out counts again", || async { world.us.allowed("marketing") == Some(false) }).await;
    // What comes now goes on from there.
    world.eu.set("email", Some(false)).await;
    eventually("us knows the next one", || async { world.us.allowed("email") == Some(false) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_made_again_hands_on_everything_once_more() {
    let world = World::start().await;
    let app: AppId = "shop".parse().unwrap();
    let write = async |number: u64| {
        let key = RecordKey::new(Kind::Recipient, &app, &format!("u-{number}"));
        world.eu.write(&key, number).await;
    };
    let us_has = async |messages: u64| {
        let others = world.us.connection.stream_state(OTHERS_STATE).await;
        others.is_ok_and(|others| others.messages == messages)
    };
    for number in 10..60 {
        write(number).await;
    }
    eventually("us has them", async || us_has(50).await).await;
    let hub = &world.hub_connection;
    world.eu.connection.jetstream.delete_stream(state_to(&named("hub"))).await.unwrap();
    hub.jetstream.delete_stream(state_to(&named("us"))).await.unwrap();
    for number in 10..20 {
        write(number).await;
    }
    world.eu.set("marketing", Some(false)).await;
    // As the guide says.
    for (connection, stream) in [(hub, ALL_STATE), (&world.us.connection, OTHERS_STATE)] {
        eventually("the other side has noticed", async || {
            let sources = connection.sources(stream).await.unwrap();
            let silent = sources.iter().filter_map(|source| source.silent_for).max();
            silent.is_some_and(|silent| silent > Duration::from_secs(20))
        })
        .await;
    }
    applied(&world.eu.connection.jetstream, &world.eu.topology).await;
    applied(&hub.jetstream, &hub_topology()).await;
    eventually("the opt-out is in force in us", async || world.us.allowed("marketing") == Some(false)).await;
    write(60).await;
    eventually("us has what came last", async || us_has(52).await).await;
    let missing = async || world.us.connection.state_missing(&named("hub")).await;
    eventually("nothing is missing", async || matches!(missing().await, Ok(Some(0)))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_state_than_has_room_on_its_way_waits_in_the_bucket() {
    let world = World::start().await;
    world.eu.link.cut();
    let large = "x".repeat(800 << 10);
    let app: AppId = "shop".parse().unwrap();
    for number in 1..100 {
        let key = RecordKey::new(Kind::Recipient, &app, &format!("u-large-{number}"));
        let change = |record: &mut Record, stamp: &_| {
            record.set("large", json!(large), stamp);
            Ok::<_, WriteError>(())
        };
        world.eu.writer.update(&key, change).await.unwrap();
    }
    world.eu.set("marketing", Some(false)).await;
    let on_its_way = async || {
        let queue = world.eu.connection.stream_state(&state_to(&named("hub"))).await.unwrap();
        queue.messages
    };
    eventually("the queue is full", async || on_its_way().await >= 80).await;
    assert!(on_its_way().await < 100, "not everything fits");
    world.eu.link.heal();
    eventually("the opt-out is in force in us", async || world.us.allowed("marketing") == Some(false)).await;
    eventually("us has all of it", async || {
        world.us.connection.stream_state(OTHERS_STATE).await.unwrap().messages == 100
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_not_made_while_what_it_missed_cannot_be_sent_again() {
    let world = World::start().await;
    world.eu.set("marketing", Some(false)).await;
    eventually("us knows of the opt-out", async || world.us.allowed("marketing") == Some(false)).await;
    let us = &world.us;
    us.connection.jetstream.delete_stream(OTHERS_STATE).await.unwrap();
    us.link.cut();
    let current = Current::read(&us.connection.jetstream, &us.topology).await.unwrap();
    let refused = apply(&us.connection.jetstream, &plan(&current, &us.topology), false).await.unwrap_err();
    assert!(refused.to_string().starts_with("hub does not answer"), "{refused}");
    us.link.heal();
    applied(&us.connection.jetstream, &us.topology).await;
    eventually("the opt-out is there again", async || {
        us.connection.stream_state(OTHERS_STATE).await.is_ok_and(|state| state.messages == 1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_writes_later_than_what_stands_there() {
    let world = World::start().await;
    let eu = &world.eu;
    eu.write(&recipient(), 1).await;
    eventually("the mirror has it", async || eu.record(&recipient()).is_some()).await;
    // A gateway that was started again, with what its mirror held and a clock that is wrong.
    let slow = Arc::new(HybridClock::new(Clock::manual(Timestamp::UNIX_EPOCH), named("eu")));
    let writer = StateWriter::new(eu.connection.clone(), eu.mirror.clone(), slow);
    let change = |record: &mut Record, stamp: &Stamp| {
        record.set("number", json!(2), stamp);
        Ok::<_, WriteError>(())
    };
    writer.update(&recipient(), change).await.unwrap();
    let number = |place: &Place| place.record(&recipient())?.get("number").cloned();
    for place in [eu, &world.us] {
        eventually("everybody has what was written last", async || number(place) == Some(json!(2))).await;
    }
}
