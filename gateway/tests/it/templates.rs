//! Templates: versions that stay, and previews.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::Harness;

fn sms(text: &str) -> Value {
    json!({
        "channels": {"sms": {"text": text}, "email": {"subject": "Order", "text": text, "html": "<b>{{ order }}</b>"}},
        "locales": {"ko-KR": {"channels": {"sms": {"text": "주문 {{ order }}"}}}},
        "variables": {"order": {"type": "string", "required": true, "example": "1042"}},
    })
}

#[tokio::test]
async fn every_change_makes_a_version_and_old_ones_stay() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    let path = "/v1/templates/shipped";
    assert_eq!(
        client.put(path, sms("one {{ order }}")).await.ok(201),
        &json!({"id": "shipped", "version": 1})
    );
    assert_eq!(
        client.put(path, sms("one {{ order }}")).await.ok(200)["version"],
        1,
        "the same texts make no version"
    );
    assert_eq!(client.put(path, sms("two {{ order }}")).await.ok(200)["version"], 2);
    let current = client.get(path).await;
    assert_eq!(current.ok(200)["channels"]["sms"]["text"], "two {{ order }}");
    assert_eq!(current.body["version"], 2);
    let first = client.get(&format!("{path}/versions/1")).await;
    assert_eq!(first.ok(200)["channels"]["sms"]["text"], "one {{ order }}");
    client.get(&format!("{path}/versions/3")).await.problem(404, "not_found");
    client.get(&format!("{path}/versions/x")).await.field("version", "invalid_id");
    let versions = client.get(&format!("{path}/versions?limit=1")).await;
    assert_eq!(versions.ok(200)["data"][0]["version"], 2);
    assert_eq!(versions.body["data"][0]["current"], true);
    let next = versions.body["next"].as_str().unwrap();
    let rest = client.get(&format!("{path}/versions?limit=1&after={next}")).await;
    assert_eq!((&rest.ok(200)["data"][0]["version"], &rest.body["next"]), (&json!(1), &Value::Null));

    client.delete(path).await.ok(204);
    client.get(path).await.problem(404, "not_found");
    client.get(&format!("{path}/versions")).await.problem(404, "not_found");
    assert_eq!(client.get("/v1/templates").await.ok(200)["data"], json!([]));
    client.get(&format!("{path}/versions/2")).await.ok(200);
    assert_eq!(
        client.put(path, sms("three {{ order }}")).await.ok(201)["version"],
        3,
        "a number is never used again"
    );
}

#[tokio::test]
async fn changes_at_the_same_time_get_numbers_of_their_own() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    let texts: Vec<_> = (0..12).map(|n| format!("text {n} {{{{ order }}}}")).collect();
    let answers = join_all(texts.iter().map(|text| client.put("/v1/templates/t", sms(text)))).await;
    let mut versions = Vec::new();
    for (answer, text) in answers.iter().zip(&texts) {
        assert!(matches!(answer.status, 200 | 201), "{}", answer.text);
        let version = answer.body["version"].as_u64().unwrap();
        let kept = client.get(&format!("/v1/templates/t/versions/{version}")).await;
        assert_eq!(kept.ok(200)["channels"]["sms"]["text"], *text);
        versions.push(version);
    }
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), texts.len(), "two texts share a number");
    let current = client.get("/v1/templates/t").await;
    assert_eq!(current.ok(200)["version"].as_u64(), versions.last().copied());
}

#[tokio::test]
async fn a_preview_shows_text_size_and_warnings() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    client.put("/v1/templates/t", sms("Order {{ order }}")).await.ok(201);
    client.put("/v1/recipients/u-42", json!({"locale": "ko-KR"})).await.ok(201);
    let preview = |body: Value| {
        let client = client.clone();
        async move { client.post("/v1/templates/t/preview", body).await }
    };
    let shown = preview(json!({"channel": "sms", "data": {"order": "7"}})).await;
    assert_eq!(shown.ok(200)["rendered"]["text"], "Order 7");
    assert_eq!(shown.body["size"], json!({"bytes": 7, "segments": 1, "encoding": "gsm7"}));
    assert_eq!(shown.body["warnings"], json!([]));
    assert_eq!(preview(json!({"channel": "sms"})).await.ok(200)["rendered"]["text"], "Order 1042");
    let korean = preview(json!({"channel": "sms", "recipient": "u-42"})).await;
    assert_eq!(korean.ok(200)["rendered"]["text"], "주문 1042");
    let english = preview(json!({"channel": "sms", "recipient": "u-42", "locale": "en"})).await;
    assert_eq!(english.ok(200)["rendered"]["text"], "Order 1042");
    let email = preview(json!({"channel": "email", "data": {"order": "<x>"}})).await;
    assert_eq!(email.ok(200)["rendered"]["html"], "<b>&lt;x&gt;</b>");

    preview(json!({"channel": "fcm"})).await.field("channel", "no_text");
    preview(json!({"channel": "sms", "recipient": "nobody"})).await.field("recipient", "unknown_recipient");
    let missing = preview(json!({"channel": "sms", "data": {}})).await;
    assert_eq!(missing.problem(422, "invalid")["errors"][0]["field"], "data.order");
    let wrong = client.put("/v1/templates/bad", json!({"channels": {"sms": {"text": "{{ nope }}"}}})).await;
    assert!(
        wrong.problem(422, "invalid")["errors"][0]["field"].as_str().unwrap().starts_with("channels.sms")
    );
}
