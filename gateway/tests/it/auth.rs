//! Who gets in, and who does not.

use std::sync::atomic::{AtomicU32, Ordering};

use peal_common::clock::Clock;
use peal_common::key::Scope;
use peal_nats::topology::EVENTS;
use reqwest::Method;
use serde_json::json;

use crate::harness::{Answer, Client, Credentials, Harness, eventually};

async fn with_header(
    client: &Client,
    method: Method,
    path: &str,
    header: &str,
    body: &'static str,
) -> Answer {
    let request = client.request(method, path).header("authorization", header);
    Answer::of(request.header("content-type", "application/json").body(body)).await
}

#[tokio::test]
async fn only_a_live_key_with_its_own_secret_gets_in() {
    let clock = Clock::manual("2026-12-01T00:00:00Z".parse().unwrap());
    let harness = Harness::start_with("", clock.clone()).await;
    let credentials = harness.key(&[Scope::Read]).await;
    let other = harness.key(&[Scope::Read]).await;
    let in_an_hour = clock.now() + jiff::SignedDuration::from_hours(1);
    let expiring =
        harness.key_with("shop", &[Scope::Read], |grant| grant.expires_at = Some(in_an_hour)).await;
    let anonymous = harness.anonymous();
    harness.client(&credentials).get("/v1/recipients").await.ok(200);
    eventually("the expiring key is known", || async {
        harness.client(&expiring).get("/v1/recipients").await.status == 200
    })
    .await;

    let wrong =
        |key: &str, secret: &str| Credentials { key: key.to_owned(), secret: secret.to_owned() }.basic();
    let mut refused = Vec::new();
    refused.push(anonymous.get("/v1/recipients").await);
    for header in [
        wrong(&credentials.key, &other.secret),
        wrong(&credentials.key, ""),
        wrong(&credentials.key, &credentials.secret[..credentials.secret.len() - 1]),
        wrong("pk_unknown", &credentials.secret),
        wrong("p*k.>", &credentials.secret),
        wrong(&"x".repeat(10_000), &credentials.secret),
        "Basic".to_owned(),
        "Basic !".to_owned(),
        "Basic bm9jb2xvbg==".to_owned(),
        format!("Bearer {}", credentials.secret),
        "PEAL-HMAC-SHA256 nonsense".to_owned(),
    ] {
        refused.push(with_header(&anonymous, Method::GET, "/v1/recipients", &header, "").await);
    }
    clock.advance(std::time::Duration::from_secs(3_600));
    refused.push(harness.client(&expiring).get("/v1/recipients").await);
    for answer in &refused {
        answer.problem(401, "unauthorized");
        assert_eq!(answer.body["detail"], refused[0].body["detail"], "all refusals read the same");
        let schemes: Vec<_> = answer.headers.get_all("www-authenticate").iter().collect();
        assert_eq!(schemes.len(), 2);
    }
}

#[tokio::test]
async fn a_signature_counts_once_for_what_was_signed() {
    let clock = Clock::manual("2026-12-01T00:00:00Z".parse().unwrap());
    let harness = Harness::start_with("", clock.clone()).await;
    let key = harness.key(&[Scope::Admin]).await;
    let anonymous = harness.anonymous();
    let now = clock.now().as_second();
    let path = "/v1/categories/orders";
    let body = r#"{"class":"transactional"}"#;
    let signed = |nonce: &str, at: i64| key.signed("PUT", path, body.as_bytes(), at, nonce);
    let put = |header: String, body: &'static str| {
        let anonymous = anonymous.clone();
        async move { with_header(&anonymous, Method::PUT, path, &header, body).await }
    };

    put(signed("nonce-0000000001", now), body).await.ok(201);
    put(signed("nonce-0000000001", now), body).await.problem(401, "replayed_signature");
    put(signed("nonce-0000000001", now + 1), body).await.problem(401, "replayed_signature");
    put(signed("nonce-0000000002", now), r#"{"class":"marketing"}"#).await.problem(401, "unauthorized");
    put(signed("nonce-0000000003", now - 360), body).await.problem(401, "stale_signature");
    put(signed("nonce-0000000004", now + 360), body).await.problem(401, "stale_signature");
    put(signed("nonce-0000000005", now - 290), body).await.ok(200);
    put(signed("short", now), body).await.problem(401, "unauthorized");
    let other_method = key.signed("POST", path, body.as_bytes(), now, "nonce-0000000006");
    put(other_method, body).await.problem(401, "unauthorized");
    let other_path = key.signed("PUT", "/v1/categories/other", body.as_bytes(), now, "nonce-0000000007");
    put(other_path, body).await.problem(401, "unauthorized");
    // A wrong signature has not used up the nonce.
    put(signed("nonce-0000000002", now), body).await.ok(200);

    let header = key.signed("GET", "/v1/categories?limit=5&after=b3JkZXJz", b"", now, "nonce-0000000008");
    let reordered = "/v1/categories?after=b3JkZXJz&limit=5";
    with_header(&anonymous, Method::GET, reordered, &header, "").await.ok(200);
    let header = key.signed("GET", "/v1/categories?limit=5", b"", now, "nonce-0000000009");
    with_header(&anonymous, Method::GET, "/v1/categories?limit=6", &header, "")
        .await
        .problem(401, "unauthorized");

    // The signature covers large bodies up to the route's limit and not beyond.
    let large: &'static str = Box::leak(" ".repeat(600 * 1024).into_boxed_str());
    let header = key.signed("PUT", path, large.as_bytes(), now, "nonce-0000000010");
    put(header, large).await.problem(413, "too_large");
}

#[tokio::test]
async fn a_signature_that_one_gateway_took_is_refused_by_another() {
    let mut harness = Harness::start().await;
    let key = harness.key(&[Scope::Admin]).await;
    let one = harness.anonymous();
    let url = harness.start_another().await;
    let (other, knows) = (one.at(&url), harness.client(&key).at(&url));
    eventually("the other gateway knows the key", || async {
        knows.get("/v1/categories").await.status == 200
    })
    .await;
    let path = "/v1/categories";
    let heard =
        harness.connection.broadcast(harness.subjects.nonces(), harness.subjects.nonces()).await.unwrap();
    // The server answers in order: with this answer it knows that the test listens.
    harness.connection.stream_state(EVENTS).await.unwrap();
    let heard = tokio::sync::Mutex::new(heard);
    let number = AtomicU32::new(0);
    // The test hears of it at about the same time as the other gateway. One that takes it as well tells that, too.
    eventually("the other gateway refuses what this one took", || async {
        let nonce = format!("nonce-{:010}", number.fetch_add(1, Ordering::Relaxed));
        let header = key.signed("GET", path, b"", harness.clock.now().as_second(), &nonce);
        with_header(&one, Method::GET, path, &header, "").await.ok(200);
        heard.lock().await.hear().await.unwrap();
        let replayed = with_header(&other, Method::GET, path, &header, "").await;
        if replayed.status == 200 {
            heard.lock().await.hear().await.unwrap();
        }
        replayed.status == 401 && replayed.body["code"] == "replayed_signature"
    })
    .await;
}

#[tokio::test]
async fn each_route_needs_its_scope() {
    let harness = Harness::start().await;
    let send = harness.client(&harness.key(&[Scope::Send]).await);
    let read = harness.client(&harness.key(&[Scope::Read]).await);
    let manage = harness.client(&harness.key(&[Scope::Manage]).await);
    let admin = harness.admin().await;
    let category = json!({"class": "transactional"});

    read.get("/v1/categories").await.ok(200);
    for client in [&send, &manage] {
        client.get("/v1/categories").await.problem(403, "forbidden");
    }
    manage.put("/v1/categories/a", category.clone()).await.ok(201);
    for client in [&send, &read] {
        client.put("/v1/categories/a", category.clone()).await.problem(403, "forbidden");
        // The scope is looked at before the body, and before whether the object is there.
        client.put("/v1/categories/a", json!({"nonsense": 1})).await.problem(403, "forbidden");
        client.delete("/v1/categories/none").await.problem(403, "forbidden");
    }
    for client in [&send, &read, &manage] {
        client.get("/v1/keys").await.problem(403, "forbidden");
        client.post("/v1/keys", json!({"name": "x", "scopes": ["admin"]})).await.problem(403, "forbidden");
    }
    admin.get("/v1/keys").await.ok(200);
    admin.get("/v1/categories").await.ok(200);
    admin.put("/v1/categories/b", category).await.ok(201);
}

#[tokio::test]
async fn a_key_has_its_own_rate_limit() {
    let harness = Harness::start().await;
    let slow = harness.key_with("shop", &[Scope::Read], |grant| grant.rate_limit_per_second = Some(2)).await;
    let fast = harness.client(&harness.key(&[Scope::Read]).await);
    let client = harness.client(&slow);
    let mut limited = None;
    for _ in 0..20 {
        let answer = client.get("/v1/categories").await;
        assert_eq!(answer.header("ratelimit-policy"), "\"key\";q=2;w=1");
        assert!(answer.header("ratelimit").starts_with("\"key\";r="), "{}", answer.header("ratelimit"));
        if answer.status == 429 {
            limited = Some(answer);
            break;
        }
        answer.ok(200);
    }
    let limited = limited.expect("20 requests in a moment passed a limit of 2 a second");
    limited.problem(429, "rate_limited");
    assert_eq!((limited.header("retry-after"), limited.header("ratelimit")), ("1", "\"key\";r=0;t=1"));
    fast.get("/v1/categories").await.ok(200);
    eventually("the limit lets requests through again", || async {
        client.get("/v1/categories").await.status == 200
    })
    .await;
}
