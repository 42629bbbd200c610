//! Webhooks: what is sent and what answers mean.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use peal_common::channel::Channel;
use peal_common::clock::Clock;
use peal_common::outcome::Outcome;
use peal_dispatcher::channels::Hosts;
use peal_dispatcher::channels::webhook::{Client, Options, Secrets, SigningSecret};
use peal_dispatcher::recording::{Answer, Webhooks};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout};

use super::fixture::{Fixture, SHORT, SOON, address_dead, clock, permanent, retry, retry_after};

const KEY: [u8; 32] = [7; 32];
const OTHER_KEY: [u8; 24] = [9; 24];

fn options(timeout: Duration) -> Options {
    Options { timeout, allowed_networks: vec!["127.0.0.0/8".parse().unwrap()], hosts: Hosts::default() }
}

fn secret(key: &[u8]) -> SigningSecret {
    SigningSecret::from_bytes(key).unwrap()
}

fn client(timeout: Duration, clock: Clock) -> Client {
    Client::new(options(timeout), Secrets::Fixed(vec![secret(&KEY)]), clock).unwrap()
}

/// RFC 2104, written out.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let pad = |byte: u8| -> Vec<u8> {
        let mut block = [byte; 64];
        block.iter_mut().zip(key).for_each(|(pad, key)| *pad ^= key);
        block.to_vec()
    };
    let inner = Sha256::digest([pad(0x36), message.to_vec()].concat());
    Sha256::digest([pad(0x5c), inner.to_vec()].concat()).to_vec()
}

async fn outcome_of(answer: Answer) -> Outcome {
    let server = Webhooks::start().await.unwrap();
    server.answer(answer);
    let fixture = Fixture::to(Channel::Webhook, &server.url("/hook"), 1);
    client(SOON, clock()).send(&fixture.message()).await
}

#[tokio::test]
async fn a_request_carries_the_message_and_its_signatures() {
    let server = Webhooks::start().await.unwrap();
    let both = Secrets::Fixed(vec![secret(&KEY), secret(&OTHER_KEY)]);
    let client = Client::new(options(SOON), both, clock()).unwrap();
    let fixture = Fixture::to(Channel::Webhook, &server.url("/hook?a=1"), 1);
    assert_eq!(client.send(&fixture.message()).await, Outcome::Delivered { provider_id: None });

    let [request] = server.received().try_into().unwrap();
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/hook?a=1"));
    assert_eq!(request.header("content-type"), "application/json");
    assert!(request.header("user-agent").starts_with("Peal/"));
    assert_eq!(
        request.json(),
        json!({
            "type": "notification",
            "id": fixture.delivery.as_str(),
            "timestamp": "2026-11-22T11:59:00Z",
            "data": {
                "notification": "order-1042-shipped",
                "delivery": fixture.delivery.as_str(),
                "app": "shop",
                "category": "orders",
                "class": "transactional",
                "priority": "normal",
                "recipient": "u-42",
                "title": "Shipped",
                "body": "Order 1042 left our house.",
                "expires_at": "2026-11-23T11:59:00Z",
                "metadata": {"order": 1042},
            }
        })
    );

    let (id, timestamp) = (request.header("webhook-id"), request.header("webhook-timestamp"));
    assert_eq!(id, fixture.delivery.as_str());
    assert_eq!(timestamp, "1795348800");
    let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", &request.body].concat();
    let expected =
        [&KEY[..], &OTHER_KEY[..]].map(|key| format!("v1,{}", STANDARD.encode(hmac(key, &signed))));
    assert_eq!(request.header("webhook-signature"), expected.join(" "));
    assert!(Webhooks::verify(&request, &secret(&OTHER_KEY).to_text()));
    assert!(!Webhooks::verify(&request, &secret(&[1; 32]).to_text()));
}

#[tokio::test]
async fn a_repetition_is_the_same_but_for_time_and_signature() {
    let server = Webhooks::start().await.unwrap();
    let clock = clock();
    let client = client(SOON, clock.clone());
    let fixture = Fixture::to(Channel::Webhook, &server.url("/"), 1);
    client.send(&fixture.message()).await;
    clock.advance(Duration::from_secs(60));
    let again = peal_dispatcher::channels::Message { attempt: 2, ..fixture.message() };
    client.send(&again).await;
    let [first, second] = server.received().try_into().unwrap();
    assert_eq!(first.body, second.body);
    assert_eq!(first.header("webhook-id"), second.header("webhook-id"));
    assert_eq!(second.header("webhook-timestamp"), "1795348860");
    assert_ne!(first.header("webhook-signature"), second.header("webhook-signature"));
}

#[tokio::test]
async fn each_app_is_signed_for_with_its_own_secret() {
    let server = Webhooks::start().await.unwrap();
    let of_app =
        |app: &peal_common::id::AppId| SigningSecret::from_bytes(format!("{:-<32}", app.as_str()).as_bytes());
    let client = Client::new(options(SOON), Secrets::PerApp(Box::new(of_app)), clock()).unwrap();
    let shop = Fixture::to(Channel::Webhook, &server.url("/"), 1);
    let bank = Fixture { app: "bank".parse().unwrap(), ..Fixture::to(Channel::Webhook, &server.url("/"), 2) };
    client.send(&shop.message()).await;
    client.send(&bank.message()).await;
    let [first, second] = server.received().try_into().unwrap();
    let text = |fixture: &Fixture| of_app(&fixture.app).unwrap().to_text();
    assert!(Webhooks::verify(&first, &text(&shop)) && !Webhooks::verify(&first, &text(&bank)));
    assert!(Webhooks::verify(&second, &text(&bank)));
}

#[tokio::test]
async fn answers_become_outcomes() {
    let answers = [
        (Answer::status(200).body("<html>hello</html>"), Outcome::Delivered { provider_id: None }),
        (Answer::status(202), Outcome::Delivered { provider_id: None }),
        (Answer::status(410), address_dead("http_410")),
        (Answer::status(400), permanent("http_400")),
        (Answer::status(404), permanent("http_404")),
        (Answer::status(503), retry("http_503")),
        (Answer::status(429).header("retry-after", "30"), retry_after("http_429", 30)),
        (Answer::status(503).header("retry-after", "1000000000"), retry_after("http_503", 1_000_000_000)),
        (
            Answer::status(503).header("retry-after", "Sun, 22 Nov 2026 12:02:00 GMT"),
            retry_after("http_503", 120),
        ),
        (
            Answer::status(503).header("retry-after", "Sun, 22 Nov 2026 11:00:00 GMT"),
            retry_after("http_503", 0),
        ),
        (Answer::status(503).header("retry-after", "later"), retry("http_503")),
    ];
    for (answer, expected) in answers {
        assert_eq!(outcome_of(answer.clone()).await, expected, "{answer:?}");
    }
}

#[tokio::test]
async fn redirects_are_refused() {
    let elsewhere = Webhooks::start().await.unwrap();
    for status in [301, 302, 303, 307, 308] {
        let answer = Answer::status(status).header("location", &elsewhere.url("/"));
        assert_eq!(outcome_of(answer).await, permanent("redirect_refused"), "{status}");
    }
    assert_eq!(elsewhere.count(), 0);
}

#[tokio::test]
async fn the_status_decides_even_if_the_body_never_ends() {
    for answer in [Answer::status(200).endless(), Answer::status(200).stalled()] {
        let outcome = timeout(SOON, outcome_of(answer)).await.expect("nobody should wait for such a body");
        assert_eq!(outcome, Outcome::Delivered { provider_id: None });
    }
    let large = Answer::status(500).body(vec![b'x'; 10_000_000]);
    assert_eq!(timeout(SOON, outcome_of(large)).await.unwrap(), retry("http_500"));
}

#[tokio::test]
async fn an_endpoint_that_hangs_costs_no_more_than_the_time_limit() {
    let server = Webhooks::start().await.unwrap();
    server.answer(Answer::hang());
    let fixture = Fixture::to(Channel::Webhook, &server.url("/"), 1);
    let started = Instant::now();
    assert_eq!(client(SHORT, clock()).send(&fixture.message()).await, retry("timeout"));
    assert!((SHORT..SOON).contains(&started.elapsed()));
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn a_broken_connection_is_tried_again_with_the_same_id() {
    let server = Webhooks::start().await.unwrap();
    server.answer_next(Answer::reset());
    let client = client(SOON, clock());
    let fixture = Fixture::to(Channel::Webhook, &server.url("/"), 1);
    assert_eq!(client.send(&fixture.message()).await, retry("connection_lost"));
    assert_eq!(client.send(&fixture.message()).await, Outcome::Delivered { provider_id: None });
    let ids: Vec<String> =
        server.received().iter().map(|request| request.header("webhook-id").to_owned()).collect();
    assert_eq!(ids, [fixture.delivery.as_str(), fixture.delivery.as_str()]);
}

#[tokio::test]
async fn nobody_listening_is_a_failure_to_connect() {
    let server = Webhooks::start().await.unwrap();
    let url = server.url("/");
    drop(server);
    let fixture = Fixture::to(Channel::Webhook, &url, 1);
    let client = client(SOON, clock());
    // The port closes a moment after its server is gone.
    let closed = async {
        while client.send(&fixture.message()).await != retry("connect_failed") {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, closed).await.expect("the port is closed");
}

#[tokio::test]
async fn one_client_keeps_its_connections_and_serves_many_at_once() {
    let server = Webhooks::start().await.unwrap();
    let client = client(SOON, clock());
    let fixtures: Vec<Fixture> =
        (0..200).map(|n| Fixture::to(Channel::Webhook, &server.url("/"), n)).collect();
    let sends = fixtures.iter().map(|fixture| async { client.send(&fixture.message()).await });
    for outcome in futures_util::future::join_all(sends).await {
        assert_eq!(outcome, Outcome::Delivered { provider_id: None });
    }
    let mut ids: Vec<String> =
        server.wait_for(200, SOON).await.unwrap().iter().map(|r| r.header("webhook-id").to_owned()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 200);
}
