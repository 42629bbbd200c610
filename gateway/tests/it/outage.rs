//! Without NATS the gateway answers, says why, and goes on by itself.

use std::time::{Duration, Instant};

use peal_common::clock::Clock;
use serde_json::json;

use crate::harness::{Harness, apply_topology, eventually};

#[tokio::test]
async fn a_dead_server_is_answered_for_in_time_and_everything_resumes() {
    let mut harness = Harness::start().await;
    let client = harness.admin().await;
    client.put("/v1/categories/c", json!({"class": "marketing"})).await.ok(201);
    harness.server.kill().await.unwrap();

    let started = Instant::now();
    let refused = client.put("/v1/categories/d", json!({"class": "marketing"})).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    refused.problem(503, "jetstream_unavailable");
    assert!(!refused.header("retry-after").is_empty());
    let ready = harness.readyz().await;
    assert_eq!(ready.ok(503)["nats"]["reason"], "not connected to a NATS server");
    // What the mirror knows is still answered.
    client.get("/v1/categories/c").await.ok(200);
    client.get("/v1/categories/d").await.problem(404, "not_found");

    harness.server.restart().await.unwrap();
    harness.ready().await;
    client.put("/v1/categories/d", json!({"class": "marketing"})).await.ok(201);
    client.get("/v1/categories/d").await.ok(200);
}

#[tokio::test]
async fn a_server_that_stands_still_is_noticed() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    harness.server.pause().await.unwrap();
    let started = Instant::now();
    client.put("/v1/categories/d", json!({"class": "marketing"})).await.problem(503, "jetstream_unavailable");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    eventually("readiness says so", || async { harness.readyz().await.status == 503 }).await;
    harness.server.resume().await.unwrap();
    harness.ready().await;
}

#[tokio::test]
async fn a_gateway_comes_up_before_its_server() {
    let mut harness = Harness::prepare("", Clock::System).await;
    let key = harness.key(&[peal_common::key::Scope::Admin]).await;
    harness.server.kill().await.unwrap();
    harness.start_gateway().await;
    eventually("it answers", || async { harness.readyz().await.status == 503 }).await;
    let client = harness.client(&key);
    // Nobody is refused by a guess while keys can't be looked up.
    let answer = client.get("/v1/categories").await;
    answer.problem(503, "not_ready");
    assert!(!answer.header("retry-after").is_empty());
    harness.anonymous().get("/livez").await.ok(200);

    harness.server.restart().await.unwrap();
    harness.ready().await;
    client.get("/v1/categories").await.ok(200);
}

#[tokio::test]
async fn missing_streams_are_said_and_waited_for() {
    let mut harness = Harness::prepare("", Clock::System).await;
    let jetstream = &harness.connection.jetstream;
    jetstream.delete_stream("INTAKE").await.unwrap();
    jetstream.delete_stream(harness.subjects.state_stream()).await.unwrap();
    harness.start_gateway().await;
    eventually("readiness names the topology", || async {
        let ready = harness.readyz().await;
        ready.status == 503
            && ready.body["nats"]["reason"].as_str().unwrap_or_default().contains("topology apply")
    })
    .await;
    apply_topology(&harness.connection).await;
    harness.ready().await;
}
