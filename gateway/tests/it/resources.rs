//! Recipients, preferences and categories: made, read, listed, changed, deleted, and out of other apps' sight.

use peal_common::key::Scope;
use serde_json::{Value, json};

use crate::harness::Harness;

#[tokio::test]
async fn a_recipient_lives() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    let path = "/v1/recipients/u.42+a@x=~";
    let body = json!({
        "locale": "ko-KR",
        "time_zone": "Asia/Seoul",
        "attributes": {"plan": "gold"},
        "contacts": [
            {"channel": "email", "address": "Kim@EXAMPLE.com"},
            {"channel": "sms", "address": "+82 10-1234-5678"},
            {"channel": "apns", "token": "aabb", "topic": "com.example.app"},
            {"channel": "webpush", "subscription": {"endpoint": "https://push.example.com/x", "keys": {"p256dh": "a", "auth": "b"}}},
        ],
        "groups": ["vip"],
    });
    let made = client.put(path, body.clone()).await;
    assert_eq!(made.ok(201)["contacts"][0]["address"], "Kim@example.com");
    assert_eq!(made.body["contacts"][1]["address"], "+821012345678");
    assert_eq!(made.body["id"], "u.42+a@x=~");
    let read = client.get(path).await;
    assert_eq!(read.ok(200), &made.body);
    client.put(path, body).await.ok(200);
    let changed = client.put(path, json!({"locale": "en"})).await;
    assert_eq!(changed.ok(200)["locale"], "en");
    assert_eq!(client.get(path).await.ok(200)["contacts"], json!([]));

    client.delete(path).await.ok(204);
    client.get(path).await.problem(404, "not_found");
    client.get(&format!("{path}/preferences")).await.problem(404, "not_found");
    client.delete(path).await.ok(204);
    client.delete("/v1/recipients/never-there").await.ok(204);
    client.put(path, json!({})).await.ok(201);
    client.get(path).await.ok(200);
}

#[tokio::test]
async fn preferences_belong_to_a_recipient() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    let path = "/v1/recipients/u-1/preferences";
    let preferences = json!({
        "categories": {"orders": {"channels": {"sms": false}, "enabled": true, "digest": "daily"}},
        "channels": {"email": true},
        "quiet_hours": {"from": "22:00", "to": "08:00", "except_priority": "critical"},
        "channel_order": ["push", "email"],
        "marketing": false,
    });
    client.put(path, preferences.clone()).await.problem(404, "not_found");
    client.put("/v1/recipients/u-1", json!({})).await.ok(201);
    let without = client.get(path).await;
    assert_eq!(without.ok(200)["channel_order"], Value::Null);
    assert_eq!(client.put(path, preferences.clone()).await.ok(200), &preferences);
    assert_eq!(client.get(path).await.ok(200), &preferences);
    client.put("/v1/recipients/u-1", json!({"locale": "en"})).await.ok(200);
    assert_eq!(client.get(path).await.ok(200), &preferences, "a new profile leaves preferences alone");
    assert_eq!(client.put(path, json!({"marketing": true})).await.ok(200), &json!({"marketing": true}));
    client
        .put(path, json!({"quiet_hours": {"from": "25:00", "to": "08:00"}}))
        .await
        .field("quiet_hours.from", "invalid_value");
    client.delete("/v1/recipients/u-1").await.ok(204);
    client.put("/v1/recipients/u-1", json!({})).await.ok(201);
    assert_eq!(client.get(path).await.ok(200), &json!({}), "an erased recipient's preferences are gone");
}

#[tokio::test]
async fn a_category_lives() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    let body =
        json!({"class": "marketing", "mandatory": false, "channels": ["push", "email"], "priority": "bulk"});
    client.get("/v1/categories/news").await.problem(404, "not_found");
    let made = client.put("/v1/categories/news", body).await;
    assert_eq!(made.ok(201)["id"], "news");
    assert_eq!(client.get("/v1/categories/news").await.ok(200), &made.body);
    client.put("/v1/categories/news", json!({"class": "operational"})).await.ok(200);
    assert_eq!(client.get("/v1/categories/news").await.ok(200)["class"], "operational");
    client
        .put("/v1/categories/news", json!({"class": "marketing", "channels": ["email", "email"]}))
        .await
        .field("channels[1]", "repeated");
    client.put("/v1/categories/news", json!({"class": "spam"})).await.field("class", "unknown_value");
    client.delete("/v1/categories/news").await.ok(204);
    client.get("/v1/categories/news").await.problem(404, "not_found");
    client.delete("/v1/categories/news").await.ok(204);
}

#[tokio::test]
async fn lists_come_in_pages_without_what_was_deleted() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    for n in 0..25 {
        client.put(&format!("/v1/recipients/u-{n:02}"), json!({})).await.ok(201);
    }
    for n in 3..20 {
        client.delete(&format!("/v1/recipients/u-{n:02}")).await.ok(204);
    }
    let mut seen = Vec::new();
    let mut path = "/v1/recipients?limit=3".to_owned();
    loop {
        let page = client.get(&path).await;
        let data = page.ok(200)["data"].as_array().unwrap();
        assert!(data.len() <= 3 && !data.is_empty(), "{}", page.text);
        seen.extend(data.iter().map(|entry| entry["id"].as_str().unwrap().to_owned()));
        let Some(next) = page.body["next"].as_str() else { break };
        path = format!("/v1/recipients?limit=3&after={next}");
    }
    assert_eq!(seen, ["u-00", "u-01", "u-02", "u-20", "u-21", "u-22", "u-23", "u-24"]);
    client.get("/v1/recipients?limit=0").await.field("limit", "out_of_range");
    client.get("/v1/recipients?limit=501").await.field("limit", "out_of_range");
    client.get("/v1/recipients?limit=many").await.field("limit", "wrong_type");
    client.get("/v1/recipients?after=!").await.field("after", "invalid_cursor");
    client.get("/v1/recipients?offset=5").await.field("offset", "unknown_field");
}

#[tokio::test]
async fn another_apps_objects_read_as_not_there() {
    let harness = Harness::start().await;
    let shop = harness.admin().await;
    let bank = harness.client(&harness.key_of("bank", &[Scope::Admin]).await);
    shop.put("/v1/recipients/u-1", json!({"locale": "ko"})).await.ok(201);
    shop.put("/v1/categories/c", json!({"class": "marketing"})).await.ok(201);
    shop.put("/v1/templates/t", json!({"channels": {"sms": {"text": "hi"}}})).await.ok(201);
    for path in [
        "/v1/recipients/u-1",
        "/v1/recipients/u-1/preferences",
        "/v1/categories/c",
        "/v1/templates/t",
        "/v1/templates/t/versions",
        "/v1/templates/t/versions/1",
    ] {
        bank.get(path).await.problem(404, "not_found");
        shop.get(path).await.ok(200);
    }
    bank.put("/v1/recipients/u-1/preferences", json!({})).await.problem(404, "not_found");
    bank.post("/v1/templates/t/preview", json!({"channel": "sms"})).await.problem(404, "not_found");
    for list in ["/v1/recipients", "/v1/categories", "/v1/templates"] {
        assert_eq!(bank.get(list).await.ok(200), &json!({"data": [], "next": null}));
    }
    for path in ["/v1/recipients/u-1", "/v1/categories/c", "/v1/templates/t"] {
        bank.delete(path).await.ok(204);
        shop.get(path).await.ok(200);
    }
}

#[tokio::test]
async fn ids_of_inline_addresses_are_reserved_and_not_listed() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    client.put("/v1/recipients/addr:email:x", json!({})).await.field("id", "reserved");
}
