//! Bad input gets a clear error and changes nothing.

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{Answer, Client, Harness};

async fn put(client: &Client, path: &str, body: impl Into<reqwest::Body>) -> Answer {
    let request = client.request(Method::PUT, path).header("content-type", "application/json");
    Answer::of(request.body(body)).await
}

#[tokio::test]
async fn what_is_no_json_text_is_refused_by_name() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    let path = "/v1/recipients/u-1";
    for (body, code) in [
        (b"".to_vec(), "invalid_json"),
        (b"{".to_vec(), "invalid_json"),
        (b"{} {}".to_vec(), "invalid_json"),
        (b"{'locale':'ko'}".to_vec(), "invalid_json"),
        (b"{\"locale\":\"\xff\"}".to_vec(), "invalid_utf8"),
        (b"{\"attributes\":{\"a\":\"\\u0000\"}}".to_vec(), "nul_character"),
        (b"{\"attributes\":{\"a\":\"\\ud800\"}}".to_vec(), "lone_surrogate"),
        (b"{\"attributes\":{\"\\udc00\":1}}".to_vec(), "lone_surrogate"),
        ("[".repeat(10_000).into_bytes(), "too_deep"),
        (
            format!("{{\"attributes\":{}1{}}}", "{\"a\":".repeat(10_000), "}".repeat(10_000)).into_bytes(),
            "too_deep",
        ),
    ] {
        put(&client, path, body).await.problem(400, code);
    }
    let large = format!("{{\"attributes\":{{\"a\":\"{}\"}}}}", "x".repeat(10 * 1024 * 1024));
    put(&client, path, large).await.problem(413, "too_large");
    let nearly = format!("{{\"attributes\":{{\"a\":\"{}\"}}}}", "x".repeat(400 * 1024));
    put(&client, path, nearly).await.field("attributes", "too_large");
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"] {
        let request = client.request(Method::PUT, path).header("content-type", kind).body("{}");
        Answer::of(request).await.problem(415, "not_json");
    }
    Answer::of(client.request(Method::PUT, path).body("{}")).await.problem(415, "not_json");
    client.get(path).await.problem(404, "not_found");
}

#[tokio::test]
async fn nobody_is_registered_at_an_address_inside_the_network() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    for url in
        ["http://169.254.169.254/x", "http://127.1/x", "http://[::ffff:10.0.0.1]/x", "http://2130706433/x"]
    {
        let keys = json!({"p256dh": "a", "auth": "b"});
        for (contact, field) in [
            (json!({"channel": "webhook", "address": url}), "contacts[0].address"),
            (
                json!({"channel": "webpush", "subscription": {"endpoint": url, "keys": keys}}),
                "contacts[0].subscription.endpoint",
            ),
        ] {
            client
                .put("/v1/recipients/u-1", json!({"contacts": [contact]}))
                .await
                .field(field, "private_target");
        }
    }
    client.get("/v1/recipients/u-1").await.problem(404, "not_found");
}

#[tokio::test]
async fn a_large_body_without_a_length_is_refused_too() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    let chunks = (0..64).map(|_| Ok::<_, std::io::Error>(vec![b' '; 64 * 1024]));
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
    put(&client, "/v1/recipients/u-1", body).await.problem(413, "too_large");
}

#[tokio::test]
async fn fields_that_do_not_fit_are_named_and_their_values_are_not_repeated() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    let path = "/v1/recipients/u-1";
    for (body, field, code) in [
        (json!({"lokale": "private"}), "lokale", "unknown_field"),
        (json!({"locale": 1}), "locale", "wrong_type"),
        (json!({"locale": "x private"}), "locale", "invalid_locale"),
        (json!({"time_zone": "Mars/private"}), "time_zone", "unknown_time_zone"),
        (json!({"contacts": {"private": 1}}), "contacts", "wrong_type"),
        (json!({"contacts": [{"channel": "pigeon-private"}]}), "contacts[0].channel", "unknown_value"),
        (json!({"contacts": [{"address": "private"}]}), "contacts[0].channel", "missing_field"),
        (
            json!({"contacts": [{"channel": "email", "address": "private"}]}),
            "contacts[0].address",
            "invalid_email",
        ),
        (
            json!({"contacts": [{"channel": "email", "address": "private@x.de\r\nBcc: a@x.de"}]}),
            "contacts[0].address",
            "invalid_email",
        ),
        (
            json!({"contacts": [{"channel": "sms", "address": "010-private"}]}),
            "contacts[0].address",
            "invalid_phone",
        ),
        (
            json!({"contacts": [{"channel": "email", "address": "private@x.de", "topic": "t"}]}),
            "contacts[0].topic",
            "unexpected_field",
        ),
        (json!({"groups": ["private group"]}), "groups[0]", "invalid_value"),
        (json!([]), "", "wrong_type"),
        (json!(null), "", "wrong_type"),
    ] {
        let answer = client.put(path, body.clone()).await;
        answer.field(field, code);
        assert!(!answer.text.contains("private"), "{body} comes back in {}", answer.text);
    }
    let twice = r#"{"locale":"ko","locale":"en"}"#;
    put(&client, path, twice).await.field("locale", "duplicate_field");
    client.get(path).await.problem(404, "not_found");
}

#[tokio::test]
async fn ids_that_break_the_rules_are_refused_everywhere() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    let long = "x".repeat(10_000);
    let body = |path: &str| match path.split('/').nth(2) {
        Some("categories") => json!({"class": "marketing"}),
        Some("templates") => json!({"channels": {"sms": {"text": "x"}}}),
        _ => json!({}),
    };
    for path in ["/v1/recipients/", "/v1/categories/", "/v1/templates/"] {
        for bad in ["a*", "a>", "a%20b", "a%2Fb", "a%00", "%E2%82%AC", "a%0D%0Ab", long.as_str()] {
            let path = format!("{path}{bad}");
            client.put(&path, body(&path)).await.field("id", "invalid_id");
            client.get(&path).await.field("id", "invalid_id");
            client.delete(&path).await.field("id", "invalid_id");
        }
        client.put(&format!("{path}%ff"), body(path)).await.problem(400, "invalid_path");
    }
    for path in ["/v1/categories/a.b", "/v1/templates/a.b"] {
        client.put(path, body(path)).await.field("id", "invalid_id");
    }
    client.get("/v1/keys/pk.x").await.field("key", "invalid_id");
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_too() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    client.get("/v1/nothing").await.problem(404, "no_route");
    harness.anonymous().get("/nothing").await.problem(404, "no_route");
    let answer = client.post("/v1/categories/a", json!({})).await;
    answer.problem(405, "method_not_allowed");
    let mut allowed: Vec<_> = answer.header("allow").split(',').map(str::trim).collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["DELETE", "GET", "HEAD", "PUT"]);
}

#[tokio::test]
async fn a_request_has_an_id_that_a_client_may_choose() {
    let harness = Harness::start().await;
    let client = harness.anonymous();
    let made = client.get("/v1/recipients").await;
    assert_eq!(made.header("x-request-id").len(), 32);
    let with =
        |id: &'static str| Answer::of(client.request(Method::GET, "/livez").header("x-request-id", id));
    assert_eq!(with("order-1042.a").await.header("x-request-id"), "order-1042.a");
    assert_ne!(with("a b").await.header("x-request-id"), "a b");
}

#[tokio::test]
async fn a_body_that_never_comes_ends_with_an_answer() {
    let harness = Harness::start().await;
    let key = harness.key(&[peal_common::key::Scope::Admin]).await;
    let mut stream = tokio::net::TcpStream::connect(harness.address()).await.unwrap();
    let head = format!(
        "PUT /v1/recipients/u-1 HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{",
        key.basic()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = tokio::time::timeout(crate::harness::LIMIT, stream.read(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("timed_out"), "{answer}");
    assert!(answer.contains("retry-after"), "{answer}");
}
