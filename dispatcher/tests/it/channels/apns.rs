//! APNs: what Apple gets, and what its answers mean.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use peal_common::channel::{Channel, Priority};
use peal_common::clock::Clock;
use peal_common::outcome::Outcome;
use peal_common::recipient::Contact;
use peal_common::settings::ApnsSettings;
use peal_common::template::Button;
use peal_dispatcher::channels::apns::{Client, Options};
use peal_dispatcher::channels::{Message, Probe};
use peal_dispatcher::recording::{Answer, Apns, Request};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::fixture::{
    Fixture, SHORT, SOON, address_dead, clock, fails, permanent, retry, retry_after, unavailable,
};

pub const DEVICE: &str = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0";

pub fn settings(base_url: &str) -> ApnsSettings {
    settings_with(base_url, &KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap())
}

fn settings_with(base_url: &str, key: &KeyPair) -> ApnsSettings {
    ApnsSettings {
        key: Some(key.serialize_pem().into()),
        key_file: None,
        key_id: "ABC123DEFG".to_owned(),
        team_id: "DEF123GHIJ".to_owned(),
        topic: Some("com.example.shop".to_owned()),
        base_url: base_url.to_owned(),
        tls_ca_file: None,
        timeout_seconds: 15,
    }
}

pub fn client(settings: &ApnsSettings) -> Client {
    Client::new(Options::from_settings(settings).unwrap(), clock()).unwrap()
}

/// A push to a device; `n` tells its delivery from others.
pub fn to(token: &str, n: u32) -> Fixture {
    let contact =
        Contact { address: None, token: Some(token.to_owned()), ..Contact::at(Channel::Apns, String::new()) };
    Fixture { contact, ..Fixture::to(Channel::Apns, token, n) }
}

/// The id that a delivery has at Apple.
pub fn apns_id(fixture: &Fixture) -> String {
    let name = fixture.delivery.as_str();
    let variant = u8::from_str_radix(&name[16..17], 16).unwrap() & 0b11 | 0b1000;
    format!("{}-{}-8{}-{variant:x}{}-{}", &name[..8], &name[8..12], &name[13..16], &name[17..20], &name[20..])
}

pub fn sent(fixture: &Fixture) -> Outcome {
    Outcome::Sent { provider_id: Some(apns_id(fixture)) }
}

async fn outcome_of(answer: Answer) -> Outcome {
    let server = Apns::start().await.unwrap();
    server.answer(answer);
    client(&settings(&server.base_url())).send(&to(DEVICE, 1).message()).await
}

fn headers(request: &Request) -> [&str; 6] {
    ["apns-topic", "apns-push-type", "apns-priority", "apns-expiration", "apns-id", "apns-collapse-id"]
        .map(|name| request.header(name))
}

#[tokio::test]
async fn a_push_is_shown_and_brings_along_what_the_app_needs() {
    let server = Apns::start().await.unwrap();
    let client = client(&settings(&server.base_url()));
    let mut fixture = to(DEVICE, 1);
    fixture.rendered.url = Some("https://example.com/o/1042".to_owned());
    let button = Button {
        name: "Track".to_owned(),
        url: Some("https://example.com/t".to_owned()),
        ..Button::default()
    };
    fixture.rendered.buttons = vec![button];
    assert_eq!(client.send(&fixture.message()).await, sent(&fixture));
    assert_eq!(client.send(&Message { attempt: 2, ..fixture.message() }).await, sent(&fixture));

    let [first, again] = server.received().try_into().unwrap();
    assert_eq!((first.method.as_str(), &first.path[..]), ("POST", &*format!("/3/device/{DEVICE}")));
    assert_eq!(
        first.json(),
        json!({
            "aps": {
                "alert": {"title": "Shipped", "body": "Order 1042 left our house."},
                "sound": "default",
            },
            "id": fixture.delivery.as_str(),
            "notification": "order-1042-shipped",
            "url": "https://example.com/o/1042",
            "actions": [{"title": "Track", "url": "https://example.com/t"}],
            "metadata": {"order": 1042},
        })
    );
    assert_eq!(first.header("content-type"), "application/json");
    let id = apns_id(&fixture);
    // 2026-11-23T11:59:00Z.
    let delivery = fixture.delivery.as_str();
    assert_eq!(headers(&first), ["com.example.shop", "alert", "10", "1795435140", &id, delivery]);
    assert_eq!(headers(&again), headers(&first), "a repetition can be recognised");
    assert_eq!(again.body, first.body);
}

#[tokio::test]
async fn priority_collapse_key_and_topic_are_passed_on() {
    let server = Apns::start().await.unwrap();
    let client = client(&settings(&server.base_url()));
    let mut fixture = to(DEVICE, 1);
    fixture.contact.topic = Some("com.example.own".to_owned());
    let long = "o".repeat(65);
    let of_app = "p".repeat(64);
    let cases = [
        (Priority::Critical, Some("order-1042"), "10", json!("time-sensitive")),
        (Priority::High, Some(&*of_app), "10", Value::Null),
        (Priority::Normal, Some(&*long), "10", Value::Null),
        (Priority::Bulk, Some("주문 1042"), "5", json!("passive")),
    ];
    for (priority, collapse_key, ..) in &cases {
        let message = Message { priority: *priority, collapse_key: *collapse_key, ..fixture.message() };
        assert_eq!(client.send(&message).await, sent(&fixture));
    }
    for (request, (priority, key, number, level)) in server.received().iter().zip(&cases) {
        assert_eq!(request.header("apns-priority"), *number, "{priority:?}");
        assert_eq!(request.json()["aps"]["interruption-level"], *level, "{priority:?}");
        assert_eq!(request.header("apns-topic"), "com.example.own");
        let (key, id) = (key.unwrap(), request.header("apns-collapse-id"));
        if key.len() <= 64 && key.is_ascii() {
            assert_eq!(id, key);
        } else {
            assert!(id.len() == 43 && id.is_ascii() && !id.contains("oo"), "{id}");
        }
    }
}

#[tokio::test]
async fn metadata_says_how_a_push_is_shown() {
    let server = Apns::start().await.unwrap();
    let client = client(&settings(&server.base_url()));
    let alert = json!({"title": "Shipped", "body": "Order 1042 left our house."});
    let cases = [
        (
            json!({"badge": 3, "sound": "bell.caf", "category": "ORDER", "thread_id": "orders",
                   "content_available": true, "mutable_content": true, "interruption_level": "active"}),
            json!({"alert": alert, "badge": 3, "sound": "bell.caf", "category": "ORDER", "thread-id": "orders",
                   "content-available": 1, "mutable-content": 1, "interruption-level": "active"}),
            ["alert", "10"],
        ),
        (
            json!({"sound": null, "content_available": false, "mutable_content": false}),
            json!({"alert": alert}),
            ["alert", "10"],
        ),
        (
            json!({"interruption_level": "critical"}),
            json!({"alert": alert, "interruption-level": "critical",
                   "sound": {"critical": 1, "name": "default", "volume": 1.0}}),
            ["alert", "10"],
        ),
        (json!({"push_type": "background"}), json!({"content-available": 1}), ["background", "5"]),
    ];
    for (n, (overrides, aps, headers)) in cases.into_iter().enumerate() {
        let mut fixture = to(DEVICE, 1);
        fixture.metadata.insert("apns".to_owned(), overrides.clone());
        fixture.metadata.insert("fcm".to_owned(), json!({"channel_id": "orders"}));
        assert_eq!(client.send(&fixture.message()).await, sent(&fixture), "{overrides}");
        let request = &server.received()[n];
        assert_eq!(request.json()["aps"], aps, "{overrides}");
        assert_eq!(request.json()["metadata"], json!({"order": 1042}), "{overrides}");
        assert_eq!(["apns-push-type", "apns-priority"].map(|name| request.header(name)), headers);
    }
}

#[tokio::test]
async fn a_push_with_nothing_for_people_wakes_the_app() {
    let server = Apns::start().await.unwrap();
    let client = client(&settings(&server.base_url()));
    let cases = [
        (json!({"sync": true}), json!({"content-available": 1}), ["background", "5"]),
        (json!({"apns": {"badge": 0}}), json!({"badge": 0}), ["alert", "10"]),
        (json!({"apns": {"sound": "bell.caf"}}), json!({"sound": "bell.caf"}), ["alert", "10"]),
    ];
    for (n, (metadata, aps, headers)) in cases.into_iter().enumerate() {
        let mut fixture = to(DEVICE, 1);
        (fixture.rendered.title, fixture.rendered.text) = (None, " ".to_owned());
        fixture.metadata = metadata.as_object().unwrap().clone();
        assert_eq!(client.send(&fixture.message()).await, sent(&fixture), "{metadata}");
        let request = &server.received()[n];
        assert_eq!(request.json()["aps"], aps);
        assert_eq!(["apns-push-type", "apns-priority"].map(|name| request.header(name)), headers);
        assert_eq!(request.json().get("metadata").is_some(), n == 0, "what is left when `apns` is taken out");
    }
}

#[tokio::test]
async fn the_provider_token_is_signed_and_kept_for_fifty_minutes() {
    let server = Apns::start().await.unwrap();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let clock = clock();
    let options = Options::from_settings(&settings_with(&server.base_url(), &key)).unwrap();
    let client = Client::new(options, clock.clone()).unwrap();
    let issued = clock.now().as_second();
    for minutes in [0, 49, 1, 49] {
        clock.advance(Duration::from_secs(minutes * 60));
        client.send(&to(DEVICE, 1).message()).await;
    }
    let tokens: Vec<String> = server
        .received()
        .iter()
        .map(|request| request.header("authorization").strip_prefix("bearer ").unwrap().to_owned())
        .collect();
    assert!(tokens[0] == tokens[1] && tokens[1] != tokens[2] && tokens[2] == tokens[3]);

    let public = VerifyingKey::from_sec1_bytes(key.public_key_raw()).unwrap();
    for (token, minutes) in [(&tokens[0], 0), (&tokens[2], 50)] {
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        assert_eq!(signature.len(), 64, "both numbers, not their DER form");
        public.verify(signed.as_bytes(), &Signature::from_slice(&signature).unwrap()).unwrap();
        let parts: Vec<Value> = signed
            .split('.')
            .map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap())
            .collect();
        assert_eq!(
            parts,
            [
                json!({"alg": "ES256", "kid": "ABC123DEFG"}),
                json!({"iss": "DEF123GHIJ", "iat": issued + minutes * 60}),
            ]
        );
    }
}

#[tokio::test]
async fn an_expired_provider_token_is_renewed_unless_it_is_young() {
    let server = Apns::start().await.unwrap();
    let clock = clock();
    let options = Options::from_settings(&settings(&server.base_url())).unwrap();
    let client = Client::new(options, clock.clone()).unwrap();
    let fixture = to(DEVICE, 1);
    let expired = || Apns::refusal(403, "ExpiredProviderToken", None);

    assert_eq!(client.send(&fixture.message()).await, sent(&fixture));
    clock.advance(Duration::from_secs(19 * 60));
    server.answer_next(expired());
    assert_eq!(client.send(&fixture.message()).await, unavailable("expired_provider_token"));
    clock.advance(Duration::from_secs(60));
    server.answer_next(expired());
    assert_eq!(client.send(&fixture.message()).await, sent(&fixture));
    // The new one is refused too: there is no second renewal.
    server.answer(expired());
    assert_eq!(client.send(&fixture.message()).await, unavailable("expired_provider_token"));

    let requests = server.received();
    let tokens: Vec<&str> = requests.iter().map(|request| request.header("authorization")).collect();
    assert_eq!(tokens.len(), 5);
    assert!(tokens[0] == tokens[1] && tokens[1] == tokens[2] && tokens[2] != tokens[3]);
    assert_eq!(tokens[3], tokens[4]);
    assert_eq!(headers(&requests[2]), headers(&requests[3]));
}

#[tokio::test]
async fn answers_become_outcomes() {
    let fixture = to(DEVICE, 1);
    let named = |answer: Answer| answer.header("apns-id", &apns_id(&fixture));
    let since: jiff::Timestamp = "2026-11-20T08:00:00Z".parse().unwrap();
    let answers = [
        (named(Answer::status(200)), sent(&fixture)),
        (named(Answer::status(200)).endless(), sent(&fixture)),
        (named(Answer::status(200)).stalled(), sent(&fixture)),
        (Answer::status(200), Outcome::Sent { provider_id: None }),
        (Answer::status(200).body("<html>Welcome</html>"), retry("unreadable_answer")),
        (Answer::status(200).endless(), retry("unreadable_answer")),
        (named(Apns::refusal(400, "BadDeviceToken", None)), address_dead("bad_device_token")),
        (
            Apns::refusal(410, "Unregistered", Some(since.as_millisecond())),
            Outcome::AddressDead { reason: "unregistered".to_owned(), since: Some(since) },
        ),
        (Apns::refusal(410, "ExpiredToken", None), address_dead("expired_token")),
        (Answer::status(410).endless(), address_dead("http_410")),
        (Apns::refusal(400, "BadTopic", None), permanent("bad_topic")),
        (Apns::refusal(413, "PayloadTooLarge", None), permanent("payload_too_large")),
        (Answer::status(400).body("<html>"), permanent("http_400")),
        (Apns::refusal(403, "InvalidProviderToken", None), unavailable("invalid_provider_token")),
        (
            Apns::refusal(429, "TooManyProviderTokenUpdates", None),
            unavailable("too_many_provider_token_updates"),
        ),
        (Apns::refusal(429, "TooManyRequests", None), retry("too_many_requests")),
        (
            Apns::refusal(503, "ServiceUnavailable", None).header("retry-after", "30"),
            retry_after("service_unavailable", 30),
        ),
        (Answer::status(500).endless(), retry("http_500")),
        (Answer::status(307).header("location", "http://127.0.0.1:9/"), unavailable("redirect_refused")),
        (Answer::reset(), retry("connection_lost")),
    ];
    for (answer, expected) in answers {
        let outcome = timeout(SOON, outcome_of(answer.clone())).await.expect("an outcome in time");
        assert_eq!(outcome, expected, "{answer:?}");
    }
}

#[tokio::test]
async fn a_topic_of_the_contacts_own_does_not_stop_the_others() {
    let server = Apns::start().await.unwrap();
    server.answer(Apns::refusal(400, "TopicDisallowed", None));
    let client = client(&settings(&server.base_url()));
    let mut fixture = to(DEVICE, 1);
    assert_eq!(client.send(&fixture.message()).await, unavailable("topic_disallowed"));
    fixture.contact.topic = Some("com.example.other".to_owned());
    assert_eq!(client.send(&fixture.message()).await, permanent("topic_disallowed"));
}

#[tokio::test]
async fn silence_is_bounded() {
    let server = Apns::start().await.unwrap();
    let mut options = Options::from_settings(&settings(&server.base_url())).unwrap();
    options.timeout = SHORT;
    let client = Client::new(options, clock()).unwrap();
    let cases = [
        (Answer::hang(), retry("timeout")),
        (Answer::status(410).stalled(), address_dead("http_410")),
        (Answer::status(200).stalled(), retry("unreadable_answer")),
    ];
    for (answer, expected) in cases {
        server.answer_next(answer);
        let started = Instant::now();
        assert_eq!(client.send(&to(DEVICE, 1).message()).await, expected);
        assert!((SHORT..SOON).contains(&started.elapsed()));
    }
    // The silence of one push is not that of the next.
    assert_eq!(client.send(&to(DEVICE, 2).message()).await, sent(&to(DEVICE, 2)));
    drop(server);
    let closed = async { while client.send(&to(DEVICE, 3).message()).await != retry("connect_failed") {} };
    timeout(SOON, closed).await.expect("the port is closed");
}

#[tokio::test]
async fn what_can_not_be_sent_is_refused_before_anything_is() {
    let server = Apns::start().await.unwrap();
    let client = client(&settings(&server.base_url()));
    let mut large = to(DEVICE, 1);
    large.rendered.text = "x".repeat(4_000);
    let mut topic = to(DEVICE, 1);
    topic.contact.topic = Some("com.example\r\nx: y".to_owned());
    let mut metadata = to(DEVICE, 1);
    metadata.metadata.insert("apns".to_owned(), json!({"bagde": 1}));
    let mut empty = to(DEVICE, 1);
    (empty.rendered.title, empty.rendered.text) = (None, String::new());
    empty.metadata.insert("apns".to_owned(), json!({"push_type": "alert"}));
    for (fixture, reason) in [
        (large, "payload_too_large: 4167 of 4096 bytes"),
        (topic, "invalid_topic"),
        (metadata, "invalid_metadata"),
        (empty, "message_empty"),
        (to("", 1), "invalid_address"),
        (to("..", 1), "invalid_address"),
    ] {
        assert_eq!(client.send(&fixture.message()).await, permanent(reason));
    }
    let topicless = ApnsSettings { topic: None, ..settings(&server.base_url()) };
    let topicless = self::client(&topicless);
    let mut fixture = to(DEVICE, 1);
    assert_eq!(topicless.send(&fixture.message()).await, permanent("missing_topic"));
    assert_eq!(server.count(), 0);

    fixture.contact.topic = Some("com.example.own".to_owned());
    assert_eq!(topicless.send(&fixture.message()).await, sent(&fixture));
    let strange = to("../a b?c", 1);
    assert_eq!(client.send(&strange.message()).await, sent(&strange));
    assert_eq!(server.received()[1].path, "/3/device/..%2Fa%20b%3Fc");
}

#[tokio::test]
async fn a_payload_of_just_the_limit_is_sent() {
    let server = Apns::start().await.unwrap();
    let client = client(&settings(&server.base_url()));
    let mut fixture = to(DEVICE, 1);
    fixture.rendered.text = "x".repeat(3_929);
    assert_eq!(client.send(&fixture.message()).await, sent(&fixture));
    assert_eq!(server.received()[0].body.len(), 4_096);
    fixture.rendered.text.push('x');
    assert_eq!(client.send(&fixture.message()).await, permanent("payload_too_large: 4097 of 4096 bytes"));
}

#[tokio::test]
async fn neither_key_nor_token_are_shown() {
    let server = Apns::start().await.unwrap();
    server.answer(Answer::reset());
    let client =
        Client::new(Options::from_settings(&settings(&server.base_url())).unwrap(), Clock::System).unwrap();
    let outcome = client.send(&to(DEVICE, 1).message()).await;
    let shown = format!("{client:?} {outcome:?}");
    assert!(!shown.contains("bearer") && !shown.contains(DEVICE) && !shown.contains("ABC123DEFG"), "{shown}");
}

#[tokio::test]
async fn asked_whether_it_works_it_pushes_to_nobody() {
    let server = Apns::start().await.unwrap();
    let client = client(&settings(&server.base_url()));
    server.answer(Apns::refusal(400, "BadDeviceToken", None));
    assert_eq!(client.probe().await, Probe::Works);
    server.answer(Apns::refusal(400, "TopicDisallowed", None));
    assert_eq!(client.probe().await, fails("topic_disallowed"));
    server.answer(Apns::refusal(403, "InvalidProviderToken", None));
    assert_eq!(client.probe().await, fails("invalid_provider_token"));
    let asked = &server.received()[0];
    assert_eq!(asked.path, format!("/3/device/{}", "0".repeat(64)));
    assert_eq!(asked.header("apns-topic"), "com.example.shop");

    let without = ApnsSettings { topic: None, ..settings(&server.base_url()) };
    assert_eq!(self::client(&without).probe().await, Probe::Unknown);
    assert_eq!(server.count(), 3);
}
