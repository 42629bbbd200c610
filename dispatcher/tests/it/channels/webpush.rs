//! Web Push: what a push service and a browser get, and what answers mean.

use std::time::Duration;

use aes_gcm::aead::{Aead as _, KeyInit as _, Nonce};
use aes_gcm::{Aes128Gcm, Key};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hkdf::Hkdf;
use p256::{PublicKey, SecretKey};
use peal_common::channel::{Channel, Priority};
use peal_common::clock::Clock;
use peal_common::outcome::Outcome;
use peal_common::recipient::{Contact, Subscription, SubscriptionKeys};
use peal_common::settings::WebpushSettings;
use peal_common::template::Button;
use peal_common::vapid::VapidKey;
use peal_dispatcher::channels::Message;
use peal_dispatcher::channels::webpush::{Client, Options};
use peal_dispatcher::recording::{Answer, Request, Webhooks};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::time::{Instant, timeout};

use super::fixture::{Fixture, SHORT, SOON, address_dead, clock, permanent, retry, retry_after};
use super::peers::Peer;

const AUTH: [u8; 16] = [3; 16];

/// A browser with a subscription.
struct Browser {
    key: SecretKey,
}

impl Browser {
    fn new() -> Self {
        Browser { key: SecretKey::from_slice(&[5; 32]).unwrap() }
    }

    fn subscribed(&self, endpoint: &str) -> Fixture {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let keys =
            SubscriptionKeys { p256dh: encode(&self.key.public_key().to_sec1_bytes()), auth: encode(&AUTH) };
        let subscription = Subscription { endpoint: endpoint.to_owned(), keys };
        let contact = Contact {
            address: None,
            subscription: Some(subscription),
            ..Contact::at(Channel::Webpush, String::new())
        };
        Fixture { contact, ..Fixture::to(Channel::Webpush, endpoint, 1) }
    }

    /// RFC 8291 §3 and RFC 8188 §2, from the other side.
    fn read(&self, body: &[u8]) -> Vec<u8> {
        let (salt, rest) = body.split_at(16);
        let (size, rest) = rest.split_at(4);
        let (length, rest) = rest.split_at(1);
        let (server, sealed) = rest.split_at(length[0].into());
        assert_eq!((size, length), (&4096_u32.to_be_bytes()[..], &[65][..]));
        let shared = self.key.diffie_hellman(&PublicKey::from_sec1_bytes(server).unwrap());
        let derive = |salt: &[u8], secret: &[u8], info: &[u8], length: usize| {
            let mut key = vec![0; length];
            Hkdf::<Sha256>::new(Some(salt), secret).expand(info, &mut key).unwrap();
            key
        };
        let info = [b"WebPush: info\0", &*self.key.public_key().to_sec1_bytes(), server].concat();
        let secret = derive(&AUTH, shared.raw_secret_bytes(), &info, 32);
        let key = derive(salt, &secret, b"Content-Encoding: aes128gcm\0", 16);
        let nonce = derive(salt, &secret, b"Content-Encoding: nonce\0", 12);
        let cipher = Aes128Gcm::new(&Key::<Aes128Gcm>::try_from(&key[..]).unwrap());
        let mut plain = cipher.decrypt(&Nonce::<Aes128Gcm>::try_from(&nonce[..]).unwrap(), sealed).unwrap();
        assert_eq!(plain.pop(), Some(2), "the last record");
        plain
    }

    fn json(&self, request: &Request) -> Value {
        serde_json::from_slice(&self.read(&request.body)).unwrap()
    }
}

fn options() -> Options {
    options_with(&VapidKey::generate())
}

fn options_with(key: &VapidKey) -> Options {
    Options::from_settings(&WebpushSettings {
        private_key: Some(key.private().to_string().into()),
        private_key_file: None,
        subject: "mailto:ops@example.com".to_owned(),
        timeout_seconds: 15,
        allowed_networks: vec!["127.0.0.0/8".to_owned()],
    })
    .unwrap()
}

fn client() -> Client {
    Client::new(options(), clock()).unwrap()
}

async fn outcome_of(answer: Answer) -> Outcome {
    let server = Webhooks::start().await.unwrap();
    server.answer(answer);
    client().send(&Browser::new().subscribed(&server.url("/s/1")).message()).await
}

#[tokio::test]
async fn a_browser_can_read_what_the_push_service_can_not() {
    let server = Webhooks::start().await.unwrap();
    server.answer(Answer::status(201));
    let (browser, key) = (Browser::new(), VapidKey::generate());
    let mut fixture = browser.subscribed(&server.url("/s/1?x=1"));
    fixture.rendered.url = Some("https://example.com/o/1042".to_owned());
    let button = Button {
        name: "Track".to_owned(),
        url: Some("https://example.com/t".to_owned()),
        ..Button::default()
    };
    fixture.rendered.buttons = vec![button];
    let client = Client::new(options_with(&key), clock()).unwrap();
    assert_eq!(client.send(&fixture.message()).await, Outcome::Sent { provider_id: None });
    let collapsed = Message {
        collapse_key: Some("order-1042"),
        priority: Priority::Critical,
        expires_at: "2026-11-22T11:00:00Z".parse().unwrap(),
        ..fixture.message()
    };
    client.send(&collapsed).await;

    let [first, second] = server.received().try_into().unwrap();
    assert_eq!((first.method.as_str(), first.path.as_str()), ("POST", "/s/1?x=1"));
    let delivery = fixture.delivery.as_str();
    assert_eq!(
        browser.json(&first),
        json!({
            "id": delivery,
            "notification": "order-1042-shipped",
            "title": "Shipped",
            "body": "Order 1042 left our house.",
            "url": "https://example.com/o/1042",
            "actions": [{"title": "Track", "url": "https://example.com/t"}],
            "metadata": {"order": 1042},
        })
    );
    assert_eq!(browser.json(&second)["tag"], "order-1042");
    assert_eq!(first.header("content-encoding"), "aes128gcm");
    let told = |request: &Request| ["ttl", "urgency"].map(|name| request.header(name).to_owned());
    assert_eq!(told(&first), ["86340", "normal"]);
    assert_eq!(told(&second), ["0", "high"]);
    let authorization = first.header("authorization");
    assert!(
        authorization.starts_with("vapid t=ey") && authorization.ends_with(&format!(", k={}", key.public()))
    );
    // What is sent again replaces what was not fetched yet.
    assert_eq!(first.header("topic"), delivery);
    let topic = second.header("topic");
    assert!(topic.len() == 32 && topic != delivery && !topic.contains("1042"), "{topic}");
}

#[tokio::test]
async fn answers_become_outcomes() {
    let answers = [
        (
            Answer::status(201).header("location", "https://push.example.com/m/1"),
            Outcome::Sent { provider_id: None },
        ),
        (Answer::status(202), Outcome::Sent { provider_id: None }),
        (Answer::status(404), address_dead("http_404")),
        (Answer::status(410), address_dead("http_410")),
        (Answer::status(400), permanent("http_400")),
        (Answer::status(413), permanent("payload_too_large")),
        (Answer::status(403), retry("http_403")),
        (Answer::status(429).header("retry-after", "60"), retry_after("http_429", 60)),
        (Answer::status(503), retry("http_503")),
        (Answer::status(307).header("location", "http://127.0.0.1:9/"), permanent("redirect_refused")),
        (Answer::status(201).endless(), Outcome::Sent { provider_id: None }),
        (Answer::status(201).stalled(), Outcome::Sent { provider_id: None }),
        (Answer::reset(), retry("connection_lost")),
    ];
    for (answer, expected) in answers {
        let outcome = timeout(SOON, outcome_of(answer.clone())).await.expect("an outcome in time");
        assert_eq!(outcome, expected, "{answer:?}");
    }
}

#[tokio::test]
async fn silence_is_bounded() {
    let server = Webhooks::start().await.unwrap();
    server.answer(Answer::hang());
    let mut hasty = options();
    hasty.timeout = SHORT;
    let client = Client::new(hasty, clock()).unwrap();
    let started = Instant::now();
    let outcome = client.send(&Browser::new().subscribed(&server.url("/s/1")).message()).await;
    assert_eq!(outcome, retry("timeout"));
    assert!(started.elapsed() < SHORT + Duration::from_secs(5));
}

#[tokio::test]
async fn what_can_not_be_sent_is_refused_before_anything_is() {
    let server = Webhooks::start().await.unwrap();
    let (browser, client) = (Browser::new(), client());
    let url = server.url("/s/1");
    let mut large = browser.subscribed(&url);
    large.rendered.text = "x".repeat(4_000);
    let mut keyless = browser.subscribed(&url);
    keyless.contact.subscription.as_mut().unwrap().keys.p256dh = "AAAA".to_owned();
    let mut addressless = browser.subscribed(&url);
    addressless.contact.subscription = None;
    for (fixture, reason) in [
        (large, "payload_too_large: 4131 of 3993 bytes"),
        (keyless, "invalid_subscription_keys"),
        (addressless, "invalid_address"),
        (browser.subscribed("push.example.com"), "invalid_address"),
    ] {
        assert_eq!(client.send(&fixture.message()).await, permanent(reason));
    }
    let mut strict = options();
    strict.allowed_networks.clear();
    let strict = Client::new(strict, clock()).unwrap();
    for url in [url, format!("http://localhost:{}/", server.address().port())] {
        assert_eq!(strict.send(&browser.subscribed(&url).message()).await, permanent("private_target"));
    }
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn a_push_service_of_others_takes_the_word_and_its_browser_reads_the_message() {
    let Some(peer) = Peer::start("push_service.js", &[]).await else { return };
    let key = VapidKey::generate();
    let options = json!({"userVisibleOnly": "true", "applicationServerKey": key.public()});
    let subscribed = peer.post("/subscribe", &options).await["data"].take();
    let mut fixture = Browser::new().subscribed("https://push.example.com/");
    fixture.contact.subscription = Some(serde_json::from_value(subscribed.clone()).unwrap());
    // It looks at the clock for how long the word counts.
    let client = |key: &VapidKey| Client::new(options_with(key), Clock::System).unwrap();
    assert_eq!(client(&key).send(&fixture.message()).await, Outcome::Sent { provider_id: None });

    let browser = json!({"clientHash": subscribed["clientHash"]});
    let read = peer.post("/get-notifications", &browser).await;
    let message: Value = serde_json::from_str(read["data"]["messages"][0].as_str().unwrap()).unwrap();
    assert_eq!(message["body"], "Order 1042 left our house.");

    let other = client(&VapidKey::generate()).send(&fixture.message()).await;
    assert_eq!(other, permanent("http_400"), "another key than the one that the browser subscribed with");
    let hash = subscribed["clientHash"].as_str().unwrap();
    peer.post(&format!("/expire-subscription/{hash}"), &json!({})).await;
    assert_eq!(client(&key).send(&fixture.message()).await, address_dead("http_410"));
    peer.end().await;
}
