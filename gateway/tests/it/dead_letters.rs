//! Dead letters: listed, replayed, deleted, each app its own.

use peal_common::channel::{Channel, Priority};
use peal_common::envelope::{Accepted, DeadLetter, Envelope as _, Work};
use peal_common::event::Event;
use peal_common::id::{AppId, DeliveryId};
use peal_common::key::Scope;
use peal_nats::topology::{DEAD_LETTERS, EVENTS, work_stream};
use serde_json::{Value, json};

use crate::harness::{APP, Harness};
use crate::lookup::accepted;

async fn letter(harness: &Harness, app: &str, notification: &str, channel: Channel, reason: &str) -> u64 {
    let mut notification = accepted(harness, notification);
    notification.app = app.parse().unwrap();
    letter_of(harness, notification, channel, reason).await
}

/// A dead letter of a notification.
pub async fn letter_of(harness: &Harness, notification: Accepted, channel: Channel, reason: &str) -> u64 {
    let app: AppId = notification.app.clone();
    let recipient = "u-1".parse().unwrap();
    let delivery = DeliveryId::derive(&app, &notification.id, &recipient, channel, "c", 0);
    let work: Work = serde_json::from_value(json!({
        "v": notification.version(), "delivery": delivery, "recipient": recipient, "channel": channel, "contact": "c",
        "state_seq": 0, "attempts": 9, "notification": notification,
    }))
    .unwrap();
    let letter = DeadLetter {
        v: DeadLetter::version_with(&work),
        at: harness.clock.now(),
        reason: reason.to_owned(),
        stream: work_stream(channel),
        subject: harness.subjects.work(channel, Priority::Normal, app.as_str()),
        attempts: 10,
        work: Some(Box::new(work)),
        raw: None,
    };
    harness.publish(harness.subjects.dead(Some(channel), app.as_str()), &letter).await
}

fn ids(body: &Value) -> Vec<u64> {
    body["data"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().parse().unwrap()).collect()
}

#[tokio::test]
async fn they_are_listed_the_newest_first_and_only_the_callers_own() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    assert_eq!(client.get("/v1/dead-letters").await.ok(200), &json!({"data": [], "next": null}));
    let mut own = Vec::new();
    for n in 0..23 {
        let channel = if n % 2 == 0 { Channel::Email } else { Channel::Webhook };
        let reason = if n % 3 == 0 { "attempts_exhausted" } else { "expired_certificate" };
        own.push(letter(&harness, APP, &format!("n-{n}"), channel, reason).await);
        letter(&harness, "bank", &format!("b-{n}"), channel, reason).await;
    }
    own.reverse();
    for limit in [1, 3, 7, 22, 23, 500] {
        let (mut seen, mut path) = (Vec::new(), format!("/v1/dead-letters?limit={limit}"));
        loop {
            let page = client.get(&path).await;
            let found = ids(page.ok(200));
            assert!(found.len() <= limit, "{}", page.text);
            seen.extend(found);
            let Some(next) = page.body["next"].as_str() else { break };
            path = format!("/v1/dead-letters?limit={limit}&after={next}");
        }
        assert_eq!(seen, own, "in pages of {limit}");
    }
    let first = client.get("/v1/dead-letters?limit=1").await;
    let entry = &first.ok(200)["data"][0];
    assert_eq!(entry["notification"], "n-22");
    assert_eq!(
        (&entry["channel"], &entry["attempts"], &entry["recipient"]),
        (&json!("email"), &json!(10), &json!("u-1"))
    );
    assert_eq!(ids(client.get("/v1/dead-letters?channel=webhook").await.ok(200)).len(), 11);
    assert_eq!(ids(client.get("/v1/dead-letters?reason=attempts_exhausted").await.ok(200)).len(), 8);
    assert_eq!(
        ids(client.get("/v1/dead-letters?reason=attempts_exhausted&channel=email").await.ok(200)).len(),
        4
    );
    client.get("/v1/dead-letters?channel=pigeon").await.field("channel", "unknown_value");
}

#[tokio::test]
async fn a_replay_queues_the_delivery_again_and_says_so() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    let first = letter(&harness, APP, "n-1", Channel::Webhook, "attempts_exhausted").await;
    let others = letter(&harness, "bank", "b-1", Channel::Webhook, "attempts_exhausted").await;
    let replay = |body: Value| {
        let client = client.clone();
        async move { client.post("/v1/dead-letters/replay", body).await }
    };
    let answer = replay(json!({"ids": [first.to_string(), others.to_string(), "x", "0"]})).await;
    assert_eq!(answer.ok(200)["replayed"], 1);
    let failed: Vec<_> = answer.body["failed"].as_array().unwrap().iter().map(|one| &one["id"]).collect();
    assert_eq!(failed, [&json!(others.to_string()), &json!("x"), &json!("0")]);
    assert_eq!(client.get("/v1/dead-letters").await.ok(200)["data"], json!([]));

    let queue = work_stream(Channel::Webhook);
    let subject = harness.subjects.work(Channel::Webhook, Priority::Normal, APP);
    let queued = harness.connection.last_of(&queue, &subject).await.unwrap().unwrap();
    let work = Work::decode(&queued.payload).unwrap();
    assert_eq!((work.attempts, work.replays, work.notification.id.as_str()), (0, 1, "n-1"));
    let subject = harness.subjects.event("replayed", Some(Channel::Webhook), APP);
    let event = harness.connection.last_of(EVENTS, &subject).await.unwrap().unwrap();
    assert_eq!(Event::decode(&event.payload).unwrap().replays, Some(1));
    assert_eq!(replay(json!({"ids": [first.to_string()]})).await.ok(200)["failed"][0]["code"], "not_found");
    assert_eq!(
        harness.connection.stream_state(DEAD_LETTERS).await.unwrap().messages,
        1,
        "the other app's stays"
    );

    for n in 0..6 {
        let channel = if n < 4 { Channel::Email } else { Channel::Webhook };
        letter(
            &harness,
            APP,
            &format!("m-{n}"),
            channel,
            if n == 0 { "other" } else { "attempts_exhausted" },
        )
        .await;
    }
    let some =
        replay(json!({"filter": {"channel": "email", "reason": "attempts_exhausted", "app": APP}})).await;
    assert_eq!(some.ok(200), &json!({"replayed": 3, "failed": [], "more": false}));
    assert_eq!(replay(json!({"filter": {}})).await.ok(200)["replayed"], 3);
    assert_eq!(harness.connection.stream_state(DEAD_LETTERS).await.unwrap().messages, 1);

    replay(json!({})).await.field("ids", "required");
    replay(json!({"ids": [], "filter": {}})).await.field("ids", "required");
    replay(json!({"ids": []})).await.field("ids", "out_of_range");
    replay(json!({"filter": {"app": "bank"}})).await.field("filter.app", "other_app");
    let reader = harness.client(&harness.key(&[Scope::Read]).await);
    reader.post("/v1/dead-letters/replay", json!({"filter": {}})).await.problem(403, "forbidden");
}

#[tokio::test]
async fn a_dead_letter_is_deleted_by_its_own_app_only() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    let own = letter(&harness, APP, "n-1", Channel::Email, "x").await;
    let others = letter(&harness, "bank", "b-1", Channel::Email, "x").await;
    for id in [own, own, others, 999] {
        client.delete(&format!("/v1/dead-letters/{id}")).await.ok(204);
    }
    client.delete("/v1/dead-letters/x").await.field("id", "invalid_id");
    let bank = harness.client(&harness.key_of("bank", &[Scope::Admin]).await);
    assert_eq!(ids(bank.get("/v1/dead-letters").await.ok(200)), [others]);
}
