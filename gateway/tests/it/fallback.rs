//! Fallbacks: what is accepted, and what dispatchers are told of how a notification stands.

use std::time::Duration;

use peal_common::channel::Channel;
use peal_common::envelope::{Envelope as _, Intake};
use peal_common::event::{Event, EventType, PlannedDelivery};
use peal_common::fallback::{Fallback, FallbackUntil, NotificationStanding};
use peal_common::id::DeliveryId;
use peal_nats::fallback::{DOOR, Question, subject};
use peal_nats::publish::Outgoing;
use peal_nats::topology::{INTAKE, SCHEDULE};
use serde_json::json;

use crate::harness::{APP, Harness};
use crate::lookup;

#[tokio::test]
async fn a_notification_goes_by_its_own_fallback_or_its_categorys() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    let rules = json!({"after_seconds": 600, "until": "seen"});
    let category = json!({"class": "transactional", "fallback": rules});
    client.put("/v1/categories/orders", category.clone()).await.ok(201);
    assert_eq!(client.get("/v1/categories/orders").await.ok(200)["fallback"], rules);
    client.put("/v1/recipients/u-1", json!({})).await.ok(201);
    let notification = |id: &str| {
        json!({
            "id": id, "category": "orders", "to": [{"recipient": "u-1"}], "content": {"title": "t", "body": "b"}
        })
    };
    client.post("/v1/notifications", notification("n-1")).await.ok(202);
    let mut own = notification("n-2");
    own["fallback"] = json!({"after_seconds": 60, "until": "acknowledged"});
    client.post("/v1/notifications", own.clone()).await.ok(202);
    let mut found = Vec::new();
    for sequence in 1..=2 {
        let stored = harness.connection.message_at(INTAKE, sequence).await.unwrap().unwrap();
        found.push(Intake::decode(&stored.payload).unwrap().notification.fallback.unwrap());
    }
    let expected = [(600, FallbackUntil::Seen), (60, FallbackUntil::Acknowledged)];
    assert_eq!(found, expected.map(|(after_seconds, until)| Fallback { after_seconds, until }));

    own["id"] = json!("n-3");
    for (wrong, field, code) in [
        (json!({"after_seconds": 0, "until": "seen"}), "fallback.after_seconds", "out_of_range"),
        (json!({"after_seconds": 604_801, "until": "seen"}), "fallback.after_seconds", "out_of_range"),
    ] {
        own["fallback"] = wrong.clone();
        client.post("/v1/notifications", own.clone()).await.field(field, code);
        let mut category = category.clone();
        category["fallback"] = wrong;
        client.put("/v1/categories/orders", category).await.field(field, code);
    }
    own["fallback"] = json!({"after_seconds": 60, "until": "read"});
    assert_eq!(client.post("/v1/notifications", own).await.status, 422);
}

#[tokio::test]
async fn dispatchers_are_told_how_a_notification_stands() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    lookup::intake(&harness, "n-1").await;
    let now = harness.clock.now();
    let about = |kind| Event::new(kind, now, APP.parse().unwrap(), "n-1".parse().unwrap());
    let recipient = "u-1".parse().unwrap();
    let delivery = |channel| {
        DeliveryId::derive(&APP.parse().unwrap(), &"n-1".parse().unwrap(), &recipient, channel, "c", 0)
    };
    let mut planned = about(EventType::Planned);
    let channels = [Channel::Email, Channel::Sms, Channel::Telegram];
    planned.deliveries = channels
        .map(|channel| PlannedDelivery {
            delivery: delivery(channel),
            recipient: "u-1".parse().unwrap(),
            channel,
            contact: "c".to_owned(),
        })
        .to_vec();
    harness.publish(harness.subjects.of_event(&planned), &planned).await;
    let steps = [
        (Channel::Email, EventType::Sent),
        (Channel::Email, EventType::Opened),
        (Channel::Sms, EventType::Delivered),
    ];
    for (channel, kind) in steps {
        let mut event = about(kind);
        event.delivery = Some(delivery(channel));
        event.recipient = Some("u-1".parse().unwrap());
        event.channel = Some(channel);
        harness.publish(harness.subjects.of_event(&event), &event).await;
    }
    let ask = async |id: &str| {
        let question = Question { app: APP.parse().unwrap(), notification: id.parse().unwrap() };
        let question = serde_json::to_vec(&question).unwrap().into();
        harness.connection.ask(harness.subjects.api(DOOR), question, Duration::from_secs(10)).await
    };
    let told =
        async |id: &str| -> NotificationStanding { serde_json::from_slice(&ask(id).await.unwrap()).unwrap() };
    let standing = told("n-1").await;
    assert!(!standing.acknowledged);
    let reached =
        |channel| standing.deliveries.iter().find(|it| it.channel == Some(channel)).unwrap().reached;
    let expected = [Some(FallbackUntil::Seen), Some(FallbackUntil::Delivered), None];
    assert_eq!(channels.map(reached), expected);
    client.post("/v1/notifications/n-1/acknowledge", json!({})).await.ok(202);
    assert!(told("n-1").await.acknowledged);
    assert!(ask("n-9").await.is_err(), "it is asked again");
}

#[tokio::test]
async fn what_is_cancelled_has_no_fallback_any_more() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    lookup::intake(&harness, "n-1").await;
    let mut sent =
        Event::new(EventType::Sent, harness.clock.now(), APP.parse().unwrap(), "n-1".parse().unwrap());
    let recipient = "u-1".parse().unwrap();
    sent.delivery =
        Some(DeliveryId::derive(&sent.app, &sent.notification, &recipient, Channel::Email, "c", 0));
    sent.recipient = Some(recipient);
    sent.channel = Some(Channel::Email);
    harness.publish(harness.subjects.of_event(&sent), &sent).await;
    crate::harness::eventually("it is sent", || async {
        client.get("/v1/notifications/n-1").await.body["status"] == "sent"
    })
    .await;
    client.post("/v1/notifications/n-1/cancel", json!({})).await.problem(409, "too_late");

    let waits = subject(&harness.subjects, &sent.app, &sent.notification);
    let later = harness.clock.now() + jiff::SignedDuration::from_hours(1);
    let target = harness.subjects.due(&["fallback", "normal", APP]);
    harness.connection.publish(Outgoing::new(waits, "{}").at(later, &target)).await.unwrap();
    client.post("/v1/notifications/n-1/cancel", json!({})).await.ok(202);
    assert_eq!(harness.connection.stream_state(SCHEDULE).await.unwrap().messages, 0);
}
