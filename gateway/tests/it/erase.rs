//! An erased recipient leaves nothing that can be read.

use peal_common::envelope::{ENVELOPE_VERSION, Envelope as _, InboxChange, InboxEntry};
use peal_common::id::DeliveryId;
use peal_nats::publish::Outgoing;
use peal_nats::subjects::InboxEntry as InboxSubject;
use peal_nats::topology::INBOX;
use serde_json::json;

use crate::harness::{APP, Client, Harness, eventually};

const ADDRESS: &str = "kim.plain-address@example.com";
const PHONE: &str = "+821055512345";

#[tokio::test]
async fn addresses_are_never_in_the_clear_on_disk_and_an_erasure_takes_the_inbox_along() {
    let mut harness = Harness::start().await;
    let client = harness.admin().await;
    let body = json!({
        "attributes": {"nickname": "plain-nickname"},
        "contacts": [{"channel": "email", "address": ADDRESS}, {"channel": "sms", "address": PHONE}],
    });
    client.put("/v1/recipients/u-1", body).await.ok(201);
    client.put("/v1/recipients/u-2", json!({})).await.ok(201);
    for recipient in ["u-1", "u-2"] {
        item(&harness, recipient).await;
    }
    let clear = |harness: &Harness| [ADDRESS, PHONE, "plain-nickname"].map(|text| harness.files_with(text));
    assert_eq!(clear(&harness), [const { Vec::<String>::new() }; 3]);
    // The search does find what is there: ids stand in subjects.
    assert!(!harness.files_with("inbox.shop.u-1.item").is_empty());

    client.delete("/v1/recipients/u-1").await.ok(204);
    client.get("/v1/recipients/u-1").await.problem(404, "not_found");
    let left = harness.connection.stream_state(INBOX).await.unwrap();
    assert_eq!(left.messages, 1, "the other recipient's item stays, and only that");
    harness.stop_gateway().await;
    assert_eq!(clear(&harness), [const { Vec::<String>::new() }; 3]);

    // What the stream holds of the record has no data key any more.
    let subject = harness.subjects.state(&format!("recipient.{APP}.u-1"));
    let record =
        harness.connection.last_of(&harness.subjects.state_stream(), &subject).await.unwrap().unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record.payload).unwrap();
    assert_eq!(record["facets"], json!({}));
    assert!(record["era"].is_string());
}

#[tokio::test]
async fn every_gateway_of_the_region_forgets() {
    let mut harness = Harness::start().await;
    let client = harness.admin().await;
    let other = client.at(&harness.start_another().await);
    client.put("/v1/recipients/u-1", json!({})).await.ok(201);
    item(&harness, "u-1").await;
    let total =
        async |client: &Client| client.get("/v1/recipients/u-1/inbox").await.body["counts"]["total"].as_u64();
    for client in [&client, &other] {
        eventually("the item is there", || async { total(client).await == Some(1) }).await;
    }
    client.delete("/v1/recipients/u-1").await.ok(204);
    client.put("/v1/recipients/u-1", json!({})).await.ok(201);
    for client in [&client, &other] {
        eventually("the item is gone", || async { total(client).await == Some(0) }).await;
    }
}

async fn item(harness: &Harness, recipient: &str) {
    let (app, recipient) = (APP.parse().unwrap(), recipient.parse().unwrap());
    let notification = "n-1".parse().unwrap();
    let item =
        DeliveryId::derive(&app, &notification, &recipient, peal_common::channel::Channel::Inbox, "", 0);
    let now = harness.clock.now();
    let expires_at = now + jiff::SignedDuration::from_hours(1);
    let what = InboxChange::Item { category: "c".parse().unwrap(), expires_at, sealed: "…".to_owned() };
    let subject = harness.subjects.inbox(APP, recipient.as_str(), InboxSubject::Item);
    let entry =
        InboxEntry { v: ENVELOPE_VERSION, at: now, app, recipient, item: item.clone(), notification, what };
    let outgoing = Outgoing::new(subject, entry.encode().unwrap()).id(item.as_str());
    harness.connection.publish(outgoing).await.unwrap();
}
