//! Webhooks as the libraries of Standard Webhooks, for JavaScript and Python, verify them.

use std::slice::from_ref;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use jiff::SignedDuration;
use peal_common::channel::Channel;
use peal_common::clock::Clock;
use peal_common::outcome::Outcome;
use peal_dispatcher::channels::Hosts;
use peal_dispatcher::channels::webhook::{Client, Options, Secrets, SigningSecret};
use peal_dispatcher::recording::{Request, Webhooks};
use serde_json::{Value, json};

use super::fixture::{Fixture, SOON, permanent};
use super::peers::Peer;

/// Secrets of all the lengths that there may be; the last one is somebody else's.
fn secrets() -> [SigningSecret; 3] {
    [&[7; 32][..], &[9; 24], &[1; 64]].map(|key| SigningSecret::from_bytes(key).unwrap())
}

fn client(secrets: &[SigningSecret], clock: Clock) -> Client {
    let options = Options {
        timeout: SOON,
        allowed_networks: vec!["127.0.0.0/8".parse().unwrap()],
        hosts: Hosts::default(),
    };
    Client::new(options, Secrets::Fixed(secrets.to_vec()), clock).unwrap()
}

/// A library at work: it verifies with the secret that the path names.
struct Receiver(Peer);

impl Receiver {
    async fn start(script: &str) -> Option<Self> {
        let secrets = secrets().map(|secret| secret.to_text().to_string());
        Peer::start(script, &secrets.each_ref().map(String::as_str)).await.map(Receiver)
    }

    fn url(&self, secret: usize) -> String {
        format!("http://127.0.0.1:{}/{secret}", self.0.port)
    }

    fn fixture(&self, secret: usize) -> Fixture {
        let mut fixture = Fixture::to(Channel::Webhook, &self.url(secret), 1);
        fixture.rendered.text = "주문 1042가 발송되었습니다 🎉 – \"déjà\"".to_owned();
        fixture
    }

    async fn said(&mut self) -> Value {
        serde_json::from_str(&self.0.line().await).unwrap()
    }

    async fn takes(&mut self, client: &Client, secret: usize) {
        let fixture = self.fixture(secret);
        assert_eq!(client.send(&fixture.message()).await, Outcome::Delivered { provider_id: None });
        let verified = self.said().await["verified"].take();
        assert_eq!(verified["data"]["body"], fixture.rendered.text.as_str(), "{verified}");
        assert_eq!(verified["id"], fixture.delivery.as_str());
    }

    async fn refuses(&mut self, client: &Client, secret: usize, why: &str) {
        assert_eq!(client.send(&self.fixture(secret).message()).await, permanent("http_401"));
        assert_eq!(self.said().await, json!({"refused": why}));
    }

    /// Hands on a request that somebody else got; what became of it.
    async fn forwarded(&mut self, request: &Request) -> (u16, Value) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let signed: HeaderMap = request
            .headers
            .iter()
            .filter(|(name, _)| name.as_str().starts_with("webhook-"))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let post = reqwest::Client::new().post(self.url(0)).headers(signed).body(request.body.clone());
        let status = post.send().await.unwrap().status().as_u16();
        (status, self.said().await)
    }
}

const NO_MATCH: &str = "No matching signature found";

async fn verifies_what_is_sent(mut receiver: Receiver) {
    let [current, previous, _] = secrets();
    let alone = client(from_ref(&current), Clock::System);
    receiver.takes(&alone, 0).await;
    receiver.refuses(&alone, 1, NO_MATCH).await;

    // While a secret is being replaced, whoever knows one of the two can verify.
    let both = client(&[current, previous], Clock::System);
    receiver.takes(&both, 0).await;
    receiver.takes(&both, 1).await;
    receiver.refuses(&both, 2, NO_MATCH).await;
    assert_eq!(receiver.0.end().await, Vec::<String>::new());
}

async fn refuses_what_was_changed(mut receiver: Receiver) {
    let server = Webhooks::start().await.unwrap();
    let [current, previous, _] = secrets();
    let mut fixture = receiver.fixture(0);
    fixture.contact.address = Some(server.url("/"));
    client(&[current, previous], Clock::System).send(&fixture.message()).await;
    let [request] = server.received().try_into().unwrap();
    assert_eq!(receiver.forwarded(&request).await.0, 204);

    let text = String::from_utf8(request.body.to_vec()).unwrap();
    for body in [text.replace("1042", "1043"), format!("{text} "), text.replace(':', ": "), String::new()] {
        let changed = Request { body: body.clone().into(), ..request.clone() };
        assert_eq!(receiver.forwarded(&changed).await, (401, json!({"refused": NO_MATCH})), "{body}");
    }
    let later = (Clock::System.now().as_second() + 1).to_string();
    let (_, of_the_other) = request.header("webhook-signature").split_once(' ').unwrap();
    for (name, value, why) in [
        ("webhook-id", "another", NO_MATCH),
        ("webhook-timestamp", later.as_str(), NO_MATCH),
        ("webhook-timestamp", "soon", "Invalid Signature Headers"),
        ("webhook-signature", of_the_other, NO_MATCH),
        ("webhook-signature", "", "Missing required headers"),
    ] {
        let mut changed = request.clone();
        changed.headers.insert(name, HeaderValue::from_str(value).unwrap());
        assert_eq!(receiver.forwarded(&changed).await, (401, json!({"refused": why})), "{name}: {value}");
    }
    assert_eq!(receiver.0.end().await, Vec::<String>::new());
}

async fn tells_the_time(mut receiver: Receiver) {
    let [current, ..] = secrets();
    let at = |offset: SignedDuration| client(from_ref(&current), Clock::manual(Clock::System.now() + offset));
    let minutes = SignedDuration::from_mins;
    receiver.takes(&at(minutes(-4)), 0).await;
    receiver.takes(&at(minutes(4)), 0).await;
    receiver.refuses(&at(minutes(-6)), 0, "Message timestamp too old").await;
    receiver.refuses(&at(minutes(6)), 0, "Message timestamp too new").await;

    // An attempt that is made again an hour later is signed anew.
    let clock = Clock::manual(Clock::System.now() - minutes(60));
    let client = client(from_ref(&current), clock.clone());
    receiver.refuses(&client, 0, "Message timestamp too old").await;
    clock.advance(Duration::from_secs(60 * 60));
    receiver.takes(&client, 0).await;
    assert_eq!(receiver.0.end().await, Vec::<String>::new());
}

#[tokio::test]
async fn the_library_for_javascript_verifies_what_is_sent() {
    let Some(receiver) = Receiver::start("webhook_receiver.js").await else { return };
    verifies_what_is_sent(receiver).await;
}

#[tokio::test]
async fn the_library_for_python_verifies_what_is_sent() {
    let Some(receiver) = Receiver::start("webhook_receiver.py").await else { return };
    verifies_what_is_sent(receiver).await;
}

#[tokio::test]
async fn the_library_for_javascript_refuses_what_was_changed() {
    let Some(receiver) = Receiver::start("webhook_receiver.js").await else { return };
    refuses_what_was_changed(receiver).await;
}

#[tokio::test]
async fn the_library_for_python_refuses_what_was_changed() {
    let Some(receiver) = Receiver::start("webhook_receiver.py").await else { return };
    refuses_what_was_changed(receiver).await;
}

#[tokio::test]
async fn the_library_for_javascript_agrees_about_the_time() {
    let Some(receiver) = Receiver::start("webhook_receiver.js").await else { return };
    tells_the_time(receiver).await;
}

#[tokio::test]
async fn the_library_for_python_agrees_about_the_time() {
    let Some(receiver) = Receiver::start("webhook_receiver.py").await else { return };
    tells_the_time(receiver).await;
}
