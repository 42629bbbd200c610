//! What the hub missed of notifications.

use std::collections::BTreeSet;

use peal_common::channel::Priority;
use peal_common::clock::Clock;
use peal_nats::connect::Connection;
use peal_nats::follow::Reader;
use peal_nats::missed::{self, Misses};
use peal_nats::publish::Outgoing;
use peal_nats::topology::INTAKE;
use peal_nats::{Subjects, unfinished};

use super::{Place, World};
use crate::support::eventually;

/// What is missing among the notifications that the hub has.
async fn missed_at(hub: &Connection) -> Misses {
    let (misses, mut reader) = (Misses::default(), Reader::open(hub, INTAKE).await.unwrap());
    while reader.peek().await.unwrap().is_some() {
        misses.note(INTAKE, &reader.take());
    }
    misses
}

/// Puts so many notifications into INTAKE, some of which may not leave their region.
async fn accept(at: &Place, count: u64, is_pinned: fn(u64) -> bool) {
    let subjects = Subjects::new(&at.connection.region);
    for number in 1..=count {
        let subject = Subjects::pin(subjects.intake(Priority::High, "shop"), is_pinned(number));
        let outgoing = Outgoing::new(subject, number.to_string()).id(&format!("shop:{number}"));
        at.connection.publish(outgoing.header("Peal-Told", "yes")).await.unwrap();
    }
}

async fn count(at: &Connection) -> u64 {
    at.stream_state(INTAKE).await.map_or(0, |state| state.messages)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_hub_missed_is_written_again_once() {
    let world = World::start().await;
    let (eu, hub) = (&world.eu.connection, &world.hub_connection);
    // The second may not leave its region.
    accept(&world.eu, 5, |number| number == 2).await;
    eventually("the hub has what may leave", || async { count(hub).await == 4 }).await;
    // As if it had never come.
    let stream = hub.jetstream.get_stream_no_info(INTAKE).await.unwrap();
    for sequence in [1, 2] {
        let found = hub.message_at(INTAKE, sequence).await.unwrap().unwrap();
        assert_eq!(found.payload, [b"1", b"3"][sequence as usize - 1][..]);
        if sequence == 2 {
            stream.delete_message(sequence).await.unwrap();
        }
    }

    let _door = world.eu.open_door();
    for _ in 0..2 {
        let misses = missed_at(hub).await;
        assert_eq!(misses.gaps(), 1, "from the second to the third");
        let filling = tokio::spawn(misses.clone().fill(hub.clone(), vec![eu.region.clone()]));
        eventually("the gap is filled", || async { misses.gaps() == 0 }).await;
        filling.abort();
        eventually("the hub has it again", || async { count(hub).await == 4 }).await;
    }
    let again = hub.message_at(INTAKE, 5).await.unwrap().unwrap();
    assert_eq!((again.subject.as_str(), &again.payload[..]), ("peal.eu.intake.again.3", &b"3"[..]));
    assert_eq!(again.header("Peal-Told"), Some("yes"));
    assert_eq!(unfinished::name(&again).unwrap().1.as_str(), "3");
    assert_eq!(count(eu).await, 6, "asked twice, it is written again once");

    // Nothing comes after this one.
    stream.delete_message(5).await.unwrap();
    let filling = tokio::spawn(missed_at(hub).await.fill(hub.clone(), vec![eu.region.clone()]));
    eventually("it is marked", || async { hub.message_at(INTAKE, 6).await.unwrap().is_some() }).await;
    filling.abort();
    let mark = hub.message_at(INTAKE, 6).await.unwrap().unwrap();
    assert_eq!((mark.subject.as_str(), mark.payload.len()), ("peal.eu.intake.again.after-6", 0));
    assert_eq!(missed_at(hub).await.gaps(), 2, "before the fourth, and before the mark");
    let before = count(eu).await;
    let question = br#"{"stream":"INTAKE","gaps":[],"last":0}"#;
    missed::asked(eu, &Clock::System, question).await.unwrap();
    assert_eq!(count(eu).await, before, "one mark is enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wide_gap_is_filled_whole() {
    const ACCEPTED: u64 = 500;
    let world = World::start().await;
    let (eu, hub) = (&world.eu.connection, &world.hub_connection);
    accept(&world.eu, ACCEPTED, |number| number % 10 == 0).await;
    eventually("the hub has what may leave", || async { count(hub).await == ACCEPTED * 9 / 10 }).await;
    let last = hub.stream_state(INTAKE).await.unwrap().last;
    let stream = hub.jetstream.get_stream_no_info(INTAKE).await.unwrap();
    for sequence in 2..last {
        stream.delete_message(sequence).await.unwrap();
    }

    let _door = world.eu.open_door();
    let misses = missed_at(hub).await;
    assert_eq!(misses.gaps(), 1, "between the first and the last");
    let filling = tokio::spawn(misses.clone().fill(hub.clone(), vec![eu.region.clone()]));
    eventually("the hub has it again", || async { count(hub).await == ACCEPTED * 9 / 10 }).await;
    filling.abort();
    let (mut numbers, mut reader) = (BTreeSet::new(), Reader::open(hub, INTAKE).await.unwrap());
    while reader.peek().await.unwrap().is_some() {
        let number = reader.take().and_then(|message| String::from_utf8(message.payload.to_vec()).ok());
        numbers.insert(number.unwrap().parse::<u64>().unwrap());
    }
    assert!(numbers.into_iter().eq((1..=ACCEPTED).filter(|number| number % 10 != 0)));
}
