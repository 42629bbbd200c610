//! Suppressed addresses: made, found, listed, lifted, and what keeps them apart.

use peal_common::channel::Channel;
use peal_common::key::Scope;
use peal_common::suppression::Suppression;
use serde_json::json;

use crate::harness::{Harness, eventually};

#[tokio::test]
async fn a_suppression_lives() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    let contact = json!({"channel": "email", "address": "kim@example.com"});
    client.put("/v1/recipients/u-1", json!({"contacts": [contact]})).await.ok(201);
    let path = "/v1/suppressions/email/kim%40EXAMPLE.com";
    client.get(path).await.problem(404, "not_found");
    let made = client.put(path, json!({"reason": "complaint"})).await;
    assert_eq!(
        (&made.ok(201)["address"], &made.body["reason"]),
        (&json!("kim@example.com"), &json!("complaint"))
    );
    client.put(path, json!({})).await.ok(200);
    assert_eq!(client.get(path).await.ok(200)["channel"], "email");

    // Nobody has this one: no more than a digest of it is kept.
    client.put("/v1/suppressions/sms/%2B82%2010-1234-5678", json!({})).await.ok(201);
    client.put("/v1/suppressions/webhook/https%3A%2F%2Fexample.com%2Fhook%3Fa=1", json!({})).await.ok(201);
    let listed = client.get("/v1/suppressions?limit=2").await;
    let (first, next) = (listed.ok(200)["data"].clone(), listed.body["next"].as_str().unwrap());
    let rest = client.get(&format!("/v1/suppressions?after={next}")).await;
    let mut all =
        [first.as_array().unwrap().clone(), rest.ok(200)["data"].as_array().unwrap().clone()].concat();
    all.sort_by_key(|entry| entry["channel"].to_string());
    let shown: Vec<_> =
        all.iter().map(|it| (it["channel"].as_str().unwrap(), it["address"].as_str())).collect();
    assert_eq!(shown, [("email", Some("kim@example.com")), ("sms", None), ("webhook", None)]);
    let of_channel = client.get("/v1/suppressions?channel=sms").await;
    assert_eq!(of_channel.ok(200)["data"].as_array().unwrap().len(), 1);

    let other = harness.key_of("other", &[Scope::Read, Scope::Manage]).await;
    let other = harness.client(&other);
    other.get(path).await.problem(404, "not_found");
    assert_eq!(other.get("/v1/suppressions").await.ok(200)["data"], json!([]));
    client.delete(path).await.ok(204);
    client.delete(path).await.ok(204);
    client.get(path).await.problem(404, "not_found");
}

#[tokio::test]
async fn what_is_no_address_is_refused() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    for (path, field, code) in [
        ("/v1/suppressions/email/kim", "address", "invalid_email"),
        ("/v1/suppressions/sms/010", "address", "invalid_phone"),
        ("/v1/suppressions/inbox/x", "channel", "invalid_id"),
        ("/v1/suppressions/fax/x", "channel", "invalid_id"),
    ] {
        client.put(path, json!({})).await.field(field, code);
    }
    let path = "/v1/suppressions/email/kim%40example.com";
    client.put(path, json!({"reason": "He said so"})).await.field("reason", "invalid_reason");
    client.put(path, json!({"reasn": "x"})).await.field("reasn", "unknown_field");
    client.get(path).await.problem(404, "not_found");
}

/// What a dispatcher does when a provider says that a device is gone, and the app when it is back.
#[tokio::test]
async fn a_device_that_registers_again_is_alive() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    let body = json!({"contacts": [{"channel": "fcm", "token": "t-1"}]});
    client.put("/v1/recipients/u-1", body.clone()).await.ok(201);
    let registered = || async { harness.recipient("u-1").await.registered_ms };
    let before = registered().await;
    client.put("/v1/recipients/u-1", body.clone()).await.ok(200);
    assert_eq!(registered().await, before, "nothing changed");

    let since = jiff::Timestamp::from_millisecond(i64::try_from(before).unwrap()).unwrap();
    let dead = Suppression { reason: "unregistered".to_owned(), since };
    harness.suppress(Channel::Fcm, "t-1", &dead).await;
    eventually("the token is listed", || async {
        client.get("/v1/suppressions").await.ok(200)["data"][0]["address"] == "t-1"
    })
    .await;
    client.put("/v1/recipients/u-1", body).await.ok(200);
    assert!(!dead.holds_for(Channel::Fcm, registered().await));
}
