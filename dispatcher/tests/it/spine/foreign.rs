//! Messages that are none of ours: aside with them, and the others flow.

use peal_common::channel::{Channel, Priority};
use peal_common::envelope::Intake;
use peal_common::event::EventType;
use peal_nats::publish::Outgoing;
use peal_nats::topology::{INTAKE, fanout_consumer};
use serde_json::json;

use super::region::{Region, intake, work};

#[tokio::test(flavor = "multi_thread")]
async fn foreign_messages_go_to_the_dead_letters_with_a_reason() {
    let region = Region::start().await;
    region.category("orders", json!({"class": "transactional", "channels": ["inbox"]})).await;
    let state = region.recipient("u", &[], json!({})).await;
    let in_intake = region.subjects.intake(Priority::Normal, "shop");
    let in_work = region.subjects.work(Channel::Inbox, Priority::Normal, "shop");
    let due = region.subjects.due(&["work", "inbox", "normal", "shop"]);
    let mut lost = work(&region.sealer, "lost", "u", Channel::Webhook, "x", state);
    lost.channel = Channel::Webhook;
    let foreign = [
        (in_intake.clone(), b"hello".to_vec()),
        (in_intake, br#"{"v": 9, "region": "mars"}"#.to_vec()),
        (in_work.clone(), vec![0xff; 1_000]),
        (in_work.clone(), Vec::new()),
        (in_work, serde_json::to_vec(&lost).unwrap()),
        (due, b"[]".to_vec()),
    ];
    let count = foreign.len();
    for (subject, payload) in foreign {
        region.connection.publish(Outgoing::new(subject, payload)).await.unwrap();
    }
    region.accept(&intake("n-1", &["u"], state)).await;
    let dispatcher = region.dispatcher("[dispatcher]\nupgrade_seconds = 0");
    region.event("n-1", EventType::Delivered).await;
    region.drained().await;
    let letters = region.dead_letters().await;
    assert_eq!(letters.len(), count);
    let mut reasons: Vec<_> = letters.iter().map(|letter| letter.reason.as_str()).collect();
    reasons.sort_unstable();
    reasons.dedup();
    assert!(reasons.iter().any(|reason| reason.contains("version 9")), "{reasons:?}");
    assert!(reasons.contains(&"the delivery belongs to another channel"), "{reasons:?}");
    assert!(letters.iter().all(|letter| letter.raw.is_some()));
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_a_later_version_is_left_to_newer_dispatchers() {
    let region = Region::start().await;
    region.category("orders", json!({"class": "transactional", "channels": ["inbox"]})).await;
    let state = region.recipient("u", &[], json!({})).await;
    let newer = Intake { v: 9, ..intake("newer", &["u"], state) };
    region.accept(&newer).await;
    region.accept(&intake("n-1", &["u"], state)).await;
    let dispatcher = region.dispatcher("");
    region.event("n-1", EventType::Delivered).await;
    let stream = region.connection.jetstream.get_stream(INTAKE).await.unwrap();
    let info = stream.consumer_info(fanout_consumer(Priority::Normal)).await.unwrap();
    assert_eq!((info.num_pending, info.num_ack_pending), (0, 1));
    dispatcher.end().await;
    assert!(region.dead_letters().await.is_empty());
}
