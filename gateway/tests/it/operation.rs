//! What operators look at: health, metrics, the description of the API; and how a gateway ends.

use peal_common::clock::Clock;
use serde_json::json;
use tokio::sync::mpsc;

use crate::harness::{Answer, Harness};

#[tokio::test]
async fn health_and_metrics_are_open_and_say_what_they_must() {
    let harness = Harness::start().await;
    let anonymous = harness.anonymous();
    anonymous.get("/livez").await.ok(200);
    let ready = anonymous.get("/readyz").await;
    assert_eq!(ready.ok(200)["ready"], true);
    for check in ["nats", "mirror", "model", "storage", "running"] {
        assert_eq!(ready.body[check], json!({"ok": true}), "{check}");
    }
    let client = harness.admin().await;
    client.get("/v1/recipients/u-1").await.problem(404, "not_found");
    let metrics = anonymous.get("/metrics").await;
    assert!(metrics.header("content-type").starts_with("text/plain"));
    let line = r#"peal_http_requests_total{method="GET",route="/v1/recipients/{id}",status="404"}"#;
    assert!(metrics.text.contains(line), "{}", metrics.text);
    assert!(metrics.text.contains("peal_http_request_seconds_bucket"));
    // Its value is that of whichever gateway of this process was asked last.
    assert!(metrics.text.contains("\npeal_state_sequence "), "{}", metrics.text);
    assert!(!metrics.text.contains("u-1"), "a path that somebody sent is no label");
}

#[tokio::test]
async fn the_description_names_every_route_and_can_be_browsed() {
    let harness = Harness::start().await;
    let anonymous = harness.anonymous();
    let document = anonymous.get("/openapi.json").await;
    assert_eq!(document.ok(200)["openapi"].as_str().map(|version| &version[..3]), Some("3.1"));
    for (path, methods) in [
        ("/v1/keys", &["get", "post"][..]),
        ("/v1/keys/{key}", &["get", "delete"]),
        ("/v1/keys/{key}/rotate", &["post"]),
        ("/v1/recipients", &["get"]),
        ("/v1/recipients/{id}", &["get", "put", "delete"]),
        ("/v1/recipients/{id}/preferences", &["get", "put"]),
        ("/v1/categories", &["get"]),
        ("/v1/categories/{id}", &["get", "put", "delete"]),
        ("/v1/templates/{id}", &["get", "put", "delete"]),
        ("/v1/templates/{id}/versions", &["get"]),
        ("/v1/templates/{id}/preview", &["post"]),
        ("/readyz", &["get"]),
    ] {
        for method in methods {
            let operation = &document.body["paths"][path][method];
            assert!(operation["summary"].is_string(), "{method} {path} is not described: {operation}");
        }
    }
    let schemas = document.body["components"]["schemas"].as_object().unwrap();
    for schema in ["RecipientBody", "Preferences", "Category", "Template", "ProblemBody"] {
        assert!(schemas.contains_key(schema), "{schema}");
    }
    let text = &document.text;
    let mut rest = text.as_str();
    while let Some(at) = rest.find("#/components/schemas/") {
        rest = &rest[at + "#/components/schemas/".len()..];
        let name = rest.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "the description refers to {name}, which it does not have");
    }
    let page = Answer::of(anonymous.request(reqwest::Method::GET, "/docs/")).await;
    page.ok(200);
    assert!(page.text.contains("swagger"), "{}", page.text);
    assert!(!page.text.contains("https://"), "the page needs another server");
}

#[tokio::test]
async fn a_gateway_ends_softly_and_its_folder_has_one_owner() {
    let mut harness = Harness::start().await;
    let client = harness.admin().await;
    client.put("/v1/categories/c", json!({"class": "marketing"})).await.ok(201);

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let second = peal_gateway::run_on(
        listener,
        harness.settings.clone(),
        Clock::System,
        mpsc::channel(1).1,
        Default::default(),
    );
    let error = second.await.unwrap_err().to_string();
    assert!(error.contains("another gateway uses"), "{error}");

    harness.stop_gateway().await;
    harness.start_gateway().await;
    harness.ready().await;
    harness.admin().await.get("/v1/categories/c").await.ok(200);
}
