//! The in-app inbox: read, marked, and watched.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use peal_common::channel::Channel;
use peal_common::envelope::{ENVELOPE_VERSION, InboxChange, InboxEntry, inbox_place};
use peal_common::id::{AppId, DeliveryId, NotificationId, RecipientId};
use peal_nats::subjects::InboxEntry as InboxSubject;
use peal_nats::topology::{EVENTS, INBOX};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{APP, Client, Harness, LIMIT, eventually};

/// Puts an item into an inbox as the dispatcher does.
async fn item(harness: &Harness, recipient: &str, notification: &str) -> String {
    let app: AppId = APP.parse().unwrap();
    let recipient_id: RecipientId = recipient.parse().unwrap();
    let notification: NotificationId = notification.parse().unwrap();
    let item = DeliveryId::derive(&app, &notification, &recipient_id, Channel::Inbox, "", 0);
    let text = json!({"title": "Shipped", "text": format!("Order {notification}")}).to_string();
    let place = inbox_place(&app, &recipient_id, &item);
    let data_keys = harness.recipient(recipient).await.data_keys;
    let sealed = data_keys.seal(text.as_bytes(), &place, &mut rand::rng()).unwrap();
    let now = harness.clock.now();
    let expires_at = now + jiff::SignedDuration::from_hours(1);
    let what = InboxChange::Item { category: "orders".parse().unwrap(), expires_at, sealed };
    let subject = harness.subjects.inbox(APP, recipient, InboxSubject::Item);
    let entry = InboxEntry {
        v: ENVELOPE_VERSION,
        at: now,
        app,
        recipient: recipient_id,
        item: item.clone(),
        notification,
        what,
    };
    harness.publish(subject, &entry).await;
    item.to_string()
}

async fn list(client: &Client, path: &str, count: usize) -> Value {
    eventually("the inbox has its items", || async {
        client.get(path).await.body["data"].as_array().map(Vec::len) == Some(count)
    })
    .await;
    client.get(path).await.body
}

#[tokio::test]
async fn items_are_listed_and_marked_once() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    client.get("/v1/recipients/u-1/inbox").await.problem(404, "not_found");
    client.put("/v1/recipients/u-1", json!({})).await.ok(201);
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(item(&harness, "u-1", &format!("n-{n}")).await);
    }
    let inbox = list(&client, "/v1/recipients/u-1/inbox", 3).await;
    assert_eq!(inbox["data"][0]["text"], "Order n-2");
    assert_eq!((&inbox["data"][0]["title"], &inbox["data"][0]["id"]), (&json!("Shipped"), &json!(ids[2])));
    assert_eq!(inbox["counts"], json!({"unread": 3, "unseen": 3, "total": 3}));
    let page = client.get("/v1/recipients/u-1/inbox?limit=2").await;
    let next = page.ok(200)["next"].as_str().unwrap();
    let rest = client.get(&format!("/v1/recipients/u-1/inbox?limit=2&after={next}")).await;
    assert_eq!(rest.ok(200)["data"][0]["text"], "Order n-0");
    assert_eq!(rest.body["next"], Value::Null);

    let mark = |id: &str, mark: &str| format!("/v1/recipients/u-1/inbox/{id}/{mark}");
    for path in
        [mark(&ids[0], "seen"), mark(&ids[0], "read"), mark(&ids[1], "read"), mark(&ids[2], "archive")]
    {
        client.post(&path, json!({})).await.ok(204);
        client.post(&path, json!({})).await.ok(204);
    }
    let inbox = client.get("/v1/recipients/u-1/inbox").await;
    assert_eq!(inbox.ok(200)["counts"], json!({"unread": 0, "unseen": 0, "total": 2}));
    assert_eq!(inbox.body["data"].as_array().unwrap().len(), 2);
    assert!(inbox.body["data"][1]["seen_at"].is_string() && inbox.body["data"][1]["read_at"].is_string());
    assert_eq!(list(&client, "/v1/recipients/u-1/inbox?archived=true", 1).await["data"][0]["id"], ids[2]);

    // Each mark once in the stream, one event for each item that was looked at, none for what was only put away.
    let stored = |stream| harness.connection.stream_state(stream);
    assert_eq!(stored(INBOX).await.unwrap().messages, 3 + 4);
    assert_eq!(stored(EVENTS).await.unwrap().messages, 2);

    client.post(&mark(&"0".repeat(32), "read"), json!({})).await.problem(404, "not_found");
    client.post(&mark("xyz", "read"), json!({})).await.field("item", "invalid_id");
    client.post("/v1/recipients/u-2/inbox/x/read", json!({})).await.field("item", "invalid_id");
    let bank = harness.client(&harness.key_of("bank", &[peal_common::key::Scope::Admin]).await);
    bank.post(&mark(&ids[0], "archive"), json!({})).await.problem(404, "not_found");
    bank.get("/v1/recipients/u-1/inbox").await.problem(404, "not_found");
    client.delete("/v1/recipients/u-1").await.ok(204);
    client.get("/v1/recipients/u-1/inbox").await.problem(404, "not_found");
    client.put("/v1/recipients/u-1", json!({})).await.ok(201);
    assert_eq!(client.get("/v1/recipients/u-1/inbox").await.ok(200)["data"], json!([]));
}

/// An open stream of events.
struct Watch {
    body: Pin<Box<dyn Stream<Item = reqwest::Result<bytes::Bytes>>>>,
    text: String,
}

impl Watch {
    async fn open(client: &Client, last: Option<&str>) -> Self {
        let mut request = client.request(Method::GET, "/v1/recipients/u-1/inbox/stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Watch { body: Box::pin(response.bytes_stream()), text: String::new() }
    }

    /// The next event: its name, id and data.
    async fn next(&mut self) -> (String, String, Value) {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let line = event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                    line.unwrap_or_default().to_owned()
                };
                let found = (field("event"), field("id"), field("data"));
                self.text = rest.to_owned();
                if found.2.is_empty() {
                    continue;
                }
                return (found.0, found.1, serde_json::from_str(&found.2).unwrap());
            }
            let bytes = tokio::time::timeout(LIMIT, self.body.next()).await.expect("no event came in time");
            self.text.push_str(std::str::from_utf8(&bytes.unwrap().unwrap()).unwrap());
        }
    }
}

#[tokio::test]
async fn a_stream_tells_what_changes_and_resumes_where_it_broke_off() {
    let mut harness = Harness::start().await;
    let client = harness.admin().await;
    for recipient in ["u-1", "u-2"] {
        client.put(&format!("/v1/recipients/{recipient}"), json!({})).await.ok(201);
    }
    item(&harness, "u-1", "before").await;
    list(&client, "/v1/recipients/u-1/inbox", 1).await;

    let mut watch = Watch::open(&client, None).await;
    item(&harness, "u-2", "elsewhere").await;
    let first = item(&harness, "u-1", "first").await;
    let (name, id, data) = watch.next().await;
    assert_eq!((name.as_str(), &data["id"], &data["text"]), ("item", &json!(first), &json!("Order first")));
    client.post(&format!("/v1/recipients/u-1/inbox/{first}/read"), json!({})).await.ok(204);
    let (name, _, data) = watch.next().await;
    assert_eq!((name.as_str(), &data["id"], data["read_at"].is_string()), ("change", &json!(first), true));
    drop(watch);

    let second = item(&harness, "u-1", "second").await;
    list(&client, "/v1/recipients/u-1/inbox", 3).await;
    let mut watch = Watch::open(&client, Some(&id)).await;
    assert_eq!(watch.next().await.2["id"], first, "the mark came after the last event that was got");
    let (name, last, data) = watch.next().await;
    assert_eq!((name.as_str(), &data["id"]), ("item", &json!(second)));
    let third = item(&harness, "u-1", "third").await;
    assert_eq!(watch.next().await.2["id"], third);

    let bad = client.request(Method::GET, "/v1/recipients/u-1/inbox/stream").header("last-event-id", "x");
    crate::harness::Answer::of(bad).await.field("Last-Event-ID", "invalid_value");
    client.get("/v1/recipients/nobody/inbox/stream").await.problem(404, "not_found");

    // An open stream does not keep the gateway from ending, and another gateway goes on from where it was.
    harness.stop_gateway().await;
    harness.start_gateway().await;
    harness.ready().await;
    let client = harness.admin().await;
    let mut watch = Watch::open(&client, Some(&last)).await;
    assert_eq!(watch.next().await.2["id"], third);
}
