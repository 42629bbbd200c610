//! A file that is deleted, damaged or in use, a stream that is made again, foreign messages: the answers are those of
//! the streams.

use std::collections::BTreeMap;
use std::time::Duration;

use peal_common::channel::{Channel, Priority};
use peal_common::clock::Clock;
use peal_common::envelope::{ContactRef, DeadLetter, Envelope as _};
use peal_common::event::{EventType, Status};
use peal_gateway::readmodel::{EventFilter, Filter, ReadModel};
use peal_nats::subjects;
use peal_nats::topology::{DEAD_LETTERS, EVENTS};
use serde_json::{Value, json};

use super::{Streams, about, app, at, fill, found_events, id, intake, recipient, searched};
use crate::harness::{apply_topology, eventually};

/// Everything that can be asked.
fn answers(model: &ReadModel, count: usize) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for name in ["shop", "bank", "nobody"] {
        let app = app(name);
        for number in 0..count {
            let accepted = model.find_accepted(&app, &id(number)).unwrap();
            all.insert(format!("{name} accepted {number}"), json!(format!("{accepted:?}")));
            all.insert(format!("{name} {number}"), json!(model.notification(&app, &id(number)).unwrap()));
        }
        let filters = [
            Filter::default(),
            Filter { recipient: Some(recipient(7)), ..Filter::default() },
            Filter { contact: Some(contact("inline-3")), ..Filter::default() },
            Filter { category: Some("news".parse().unwrap()), ..Filter::default() },
            Filter { status: Some(Status::Delivered), channel: Some(Channel::Sms), ..Filter::default() },
            Filter { from: Some(at(200)), to: Some(at(900)), ..Filter::default() },
        ];
        for (place, filter) in filters.iter().enumerate() {
            all.insert(format!("{name} search {place}"), json!(searched(model, &app, filter)));
        }
        let filters = [
            EventFilter::default(),
            EventFilter { kind: Some(EventType::Failed), ..EventFilter::default() },
            EventFilter { recipient: Some(recipient(3)), from: Some(at(100)), ..EventFilter::default() },
            EventFilter { notification: Some(id(13)), ..EventFilter::default() },
        ];
        for (place, filter) in filters.iter().enumerate() {
            all.insert(format!("{name} events {place}"), json!(found_events(model, &app, filter)));
        }
        for number in 0..20 {
            let items = model.inbox(&app, &recipient(number), None, 1_000, None).unwrap();
            let counts = model.inbox_counts(&app, &recipient(number)).unwrap();
            all.insert(format!("{name} inbox {number}"), json!(format!("{items:?} {counts:?}")));
        }
    }
    all.insert("counts".to_owned(), json!(model.counts().unwrap()));
    all.insert("latest".to_owned(), json!(model.latest(100).unwrap()));
    all
}

fn contact(index: &str) -> ContactRef {
    ContactRef { channel: Channel::Email, index: index.to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_deleted_or_damaged_is_rebuilt_with_the_same_answers() {
    let count = 900;
    let streams = Streams::start().await;
    fill(&streams, count).await;
    let running = streams.model().await;
    let first = answers(&running.model, count);
    running.stop().await;

    // The answers are worth comparing.
    let view = &first["shop 1"];
    assert_eq!(view["status"], "queued", "{view:#}");
    assert_eq!(view["deliveries"].as_array().unwrap().len(), 2);
    let kinds: Vec<_> = view["events"].as_array().unwrap().iter().map(|event| &event["type"]).collect();
    assert_eq!(kinds, ["accepted", "planned", "sent", "delivered", "opened"]);
    assert_eq!(first["shop 10"]["category"], "orders", "its events came before it");
    assert_eq!(first["shop search 0"].as_array().unwrap().len(), count - count / 4);
    assert_eq!(first["nobody search 0"], json!([]));
    assert_eq!(first["bank 1"], Value::Null, "another app's notification");
    let by_recipient = first["shop search 1"].as_array().unwrap();
    assert_eq!(by_recipient.len(), (0..count).filter(|n| n % 20 == 7 && n % 4 != 0).count());
    let inline = first["shop search 2"].as_array().unwrap();
    assert_eq!(inline.len(), (0..count).filter(|n| n % 3 == 0 && n % 5 == 3 && n % 4 != 0).count());
    let total: u64 =
        first["counts"]["notifications"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(total, count as u64);

    std::fs::remove_file(streams.file()).unwrap();
    let running = streams.model().await;
    assert!(answers(&running.model, count) == first, "rebuilt from the streams");
    running.stop().await;

    let sound = std::fs::read(streams.file()).unwrap();
    let mut flipped = sound.clone();
    // All of them: some stand in pages that are free by now, where nobody looks.
    let places: Vec<_> = (0..flipped.len() - 6).filter(|&at| flipped[at..].starts_with(b"orders")).collect();
    assert!(!places.is_empty());
    places.into_iter().for_each(|at| flipped[at] ^= 0x20);
    for (what, damaged) in [
        ("flipped bytes", flipped.as_slice()),
        ("cut in half", &sound[..sound.len() / 2]),
        ("garbage", &[0x5a; 8192][..]),
        ("empty", &[]),
    ] {
        std::fs::write(streams.file(), damaged).unwrap();
        let running = streams.model().await;
        assert!(answers(&running.model, count) == first, "{what}");
        assert!(running.model.folded() > count as u64, "{what}: read from the streams");
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_resumes_where_it_stopped() {
    let streams = Streams::start().await;
    fill(&streams, 300).await;
    let running = streams.model().await;
    assert!(running.model.folded() > 900);
    running.stop().await;

    streams.publish(vec![streams.accepted(&intake("shop", 1_000))]).await;
    let running = streams.model().await;
    assert!(running.model.notification(&app("shop"), &id(1_000)).unwrap().is_some());
    assert!(running.model.notification(&app("shop"), &id(1)).unwrap().is_some());
    assert_eq!(running.model.folded(), 1, "only what is new is read");
    assert_eq!(running.model.lag(), 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_made_again_takes_what_it_held_with_it() {
    let streams = Streams::start().await;
    fill(&streams, 60).await;
    let running = streams.model().await;
    let status =
        || running.model.notification(&app("shop"), &id(2)).map(|found| found.unwrap().summary.status);
    assert_eq!(status(), Ok(Status::Failed));

    streams.connection.jetstream.delete_stream(EVENTS).await.unwrap();
    apply_topology(&streams.connection).await;
    eventually("only the acceptance is left", || async { status() == Ok(Status::Accepted) }).await;

    let sent = about(EventType::Sent, "shop", 2, Channel::Webpush, 5);
    streams.publish(vec![streams.event(&sent)]).await;
    eventually("new events are folded", || async { status() == Ok(Status::Sent) }).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_messages_are_put_aside_once_and_the_others_flow() {
    let streams = Streams::start().await;
    streams
        .publish(vec![
            (streams.subjects.intake(Priority::High, "shop"), b"{\"v\":1}".to_vec()),
            (streams.subjects.event("sent", None, "shop"), b"hello".to_vec()),
            (streams.subjects.inbox("shop", "u-1", subjects::InboxEntry::Item), b"{}".to_vec()),
            streams.accepted(&intake("shop", 2)),
        ])
        .await;
    let running = streams.model().await;
    assert!(running.model.notification(&app("shop"), &id(2)).unwrap().is_some());
    running.stop().await;
    std::fs::remove_file(streams.file()).unwrap();
    streams.model().await.stop().await;

    let dead = || async { streams.connection.stream_state(DEAD_LETTERS).await.unwrap() };
    eventually("three letters", || async { dead().await.messages == 3 }).await;
    let mut reasons = Vec::new();
    for sequence in 1..=3 {
        let letter = streams.connection.message_at(DEAD_LETTERS, sequence).await.unwrap().unwrap();
        reasons.push(DeadLetter::decode(&letter.payload).unwrap().reason);
    }
    reasons.sort();
    assert_eq!(reasons, ["not_a_notification", "not_an_event", "not_an_inbox_entry"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_another_process_uses_is_left_alone() {
    let streams = Streams::start().await;
    fill(&streams, 10).await;
    let first = streams.model().await;
    let second = streams.open(Clock::manual(at(0)));
    assert!(second.model.wait_for_intake(0, Duration::from_millis(700)).await.is_err());
    assert!(second.model.notification(&app("shop"), &id(1)).is_err());
    assert!(first.model.notification(&app("shop"), &id(1)).unwrap().is_some());
    first.stop().await;
    streams.caught_up(&second.model).await;
    assert!(second.model.notification(&app("shop"), &id(1)).unwrap().is_some());
    assert_eq!(second.model.folded(), 0, "the file of the first was good");
    second.stop().await;
}
