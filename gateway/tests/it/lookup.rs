//! Looking up notifications and events.

use peal_common::attachment::Attachments;
use peal_common::channel::{Channel, Priority};
use peal_common::envelope::{Accepted, ENVELOPE_VERSION, Intake, ResolvedTarget, Text};
use peal_common::event::{Event, EventType, PlannedDelivery};
use peal_common::id::DeliveryId;
use peal_common::key::Scope;
use serde_json::json;

use crate::harness::{APP, Harness, eventually, region};

/// A notification as the gateway puts it into INTAKE.
pub fn accepted(harness: &Harness, id: &str) -> Accepted {
    let now = harness.clock.now();
    Accepted {
        app: APP.parse().unwrap(),
        id: id.parse().unwrap(),
        category: "orders".parse().unwrap(),
        priority: Priority::Normal,
        accepted_at: now,
        expires_at: now + jiff::SignedDuration::from_hours(1),
        text: Text::Content(serde_json::from_value(json!({"title": "t", "body": "b"})).unwrap()),
        channels: None,
        collapse_key: None,
        metadata: serde_json::Map::new(),
        pinned: false,
        fallback: None,
        attachments: Attachments::default(),
    }
}

/// Accepts a notification past the gateway.
pub async fn intake(harness: &Harness, id: &str) {
    let message = Intake {
        v: ENVELOPE_VERSION,
        region: region().as_str().parse().unwrap(),
        state_seq: 0,
        fingerprint: "00".repeat(32),
        send_at: None,
        targets: vec![ResolvedTarget { recipient: "u-1".parse().unwrap(), only: None }],
        notification: accepted(harness, id),
        takeover: None,
    };
    harness.publish(harness.subjects.intake(Priority::Normal, APP), &message).await;
}

#[tokio::test]
async fn what_was_accepted_is_found_at_once_and_only_by_its_app() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    intake(&harness, "n-1").await;
    let found = client.get("/v1/notifications/n-1").await;
    assert_eq!((&found.ok(200)["id"], &found.body["status"]), (&json!("n-1"), &json!("accepted")));
    assert_eq!((&found.body["category"], &found.body["priority"]), (&json!("orders"), &json!("normal")));
    client.get("/v1/notifications/n-2").await.problem(404, "not_found");
    let bank = harness.client(&harness.key_of("bank", &[Scope::Admin]).await);
    bank.get("/v1/notifications/n-1").await.problem(404, "not_found");
    assert_eq!(bank.get("/v1/notifications").await.ok(200)["data"], json!([]));
    assert_eq!(bank.get("/v1/events").await.ok(200)["data"], json!([]));
}

#[tokio::test]
async fn searches_filter_and_go_by_pages() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    for n in 0..5 {
        intake(&harness, &format!("n-{n}")).await;
    }
    let mut sent =
        Event::new(EventType::Sent, harness.clock.now(), APP.parse().unwrap(), "n-3".parse().unwrap());
    let recipient = "u-1".parse().unwrap();
    sent.delivery =
        Some(DeliveryId::derive(&sent.app, &sent.notification, &recipient, Channel::Email, "c", 0));
    sent.recipient = Some(recipient);
    sent.channel = Some(Channel::Email);
    harness.publish(harness.subjects.event("sent", Some(Channel::Email), APP), &sent).await;
    let mut planned = Event::new(EventType::Planned, sent.at, sent.app.clone(), sent.notification.clone());
    planned.deliveries = vec![PlannedDelivery {
        delivery: sent.delivery.clone().unwrap(),
        recipient: sent.recipient.clone().unwrap(),
        channel: Channel::Email,
        contact: harness.sealer.blind_index(&sent.app, Channel::Email, "kim@example.com"),
    }];
    harness.publish(harness.subjects.event("planned", None, APP), &planned).await;
    eventually("the events are folded", || async {
        client.get("/v1/notifications/n-3").await.body["events"].as_array().map(Vec::len) == Some(3)
    })
    .await;

    let count = |query: &'static str| {
        let client = client.clone();
        async move { client.get(query).await.ok(200)["data"].as_array().unwrap().len() }
    };
    assert_eq!(count("/v1/notifications").await, 5);
    assert_eq!(count("/v1/notifications?category=orders&recipient=u-1").await, 5);
    assert_eq!(count("/v1/notifications?category=news").await, 0);
    assert_eq!(count("/v1/notifications?channel=email").await, 1);
    assert_eq!(count("/v1/notifications?address=kim@EXAMPLE.com").await, 1);
    assert_eq!(count("/v1/notifications?address=kim@example.com&channel=webpush&status=queued").await, 0);
    assert_eq!(count("/v1/notifications?address=lee@example.com").await, 0);
    assert_eq!(count("/v1/notifications?to=2020-01-01T00:00:00Z").await, 0);
    assert_eq!(count("/v1/events?type=sent&channel=email").await, 1);
    assert_eq!(count("/v1/events?notification=n-3").await, 2 + 1);
    assert_eq!(count("/v1/events?type=bounced").await, 0);

    let (mut seen, mut path) = (Vec::new(), "/v1/notifications?limit=2".to_owned());
    loop {
        let page = client.get(&path).await;
        seen.extend(
            page.ok(200)["data"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page.body["next"].as_str() else { break };
        path = format!("/v1/notifications?limit=2&after={next}");
    }
    seen.sort();
    assert_eq!(seen, ["n-0", "n-1", "n-2", "n-3", "n-4"]);

    client.get("/v1/notifications?status=lost").await.field("status", "unknown_value");
    client.get("/v1/notifications?recipient=a%20b").await.field("recipient", "invalid_value");
    client.get("/v1/notifications?address=@").await.field("address", "invalid_telegram_chat");
    client.get("/v1/notifications?from=yesterday").await.field("from", "invalid_value");
    client.get("/v1/notifications?after=x").await.field("after", "invalid_cursor");
    client.get("/v1/events?limit=0").await.field("limit", "out_of_range");
}
