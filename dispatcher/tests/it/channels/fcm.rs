//! FCM: what Firebase gets, and what its answers mean.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use peal_common::channel::{Channel, Priority};
use peal_common::clock::Clock;
use peal_common::outcome::Outcome;
use peal_common::recipient::Contact;
use peal_common::settings::FcmSettings;
use peal_common::template::{Button, Rendered};
use peal_dispatcher::channels::fcm::{Client, Options};
use peal_dispatcher::channels::{Message, Probe};
use peal_dispatcher::recording::{Answer, Fcm};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

use super::fixture::{
    Fixture, SHORT, SOON, address_dead, clock, fails, permanent, retry, retry_after, unavailable,
};

pub const KEY: &str = include_str!("../../keys/rsa-2048.pem");
pub const EMAIL: &str = "peal@shop-1042.iam.gserviceaccount.com";
pub const TOKEN_URI: &str = "https://oauth2.example.com/token";
const DEVICE: &str = "bk3RNwTe3H0:CI2k_HHwgIpoDKCIZvvDMExUdFQ3P1";

pub fn settings(server: &Fcm) -> FcmSettings {
    let account = json!({
        "type": "service_account",
        "project_id": "shop-1042",
        "private_key_id": "0123abcd",
        "private_key": KEY,
        "client_email": EMAIL,
        "token_uri": TOKEN_URI,
    });
    FcmSettings {
        service_account: Some(account.to_string().into()),
        service_account_file: None,
        project_id: None,
        base_url: server.base_url(),
        token_url: Some(server.token_url()),
        tls_ca_file: None,
        validate_only: false,
        timeout_seconds: 15,
        rate_per_second: 10_000,
    }
}

pub fn client_with(settings: &FcmSettings, clock: Clock) -> Client {
    Client::new(Options::from_settings(settings).unwrap(), clock).unwrap()
}

pub fn client(server: &Fcm) -> Client {
    client_with(&settings(server), clock())
}

/// A push to a device; `n` tells its delivery from others.
pub fn to(token: &str, n: u32) -> Fixture {
    let contact =
        Contact { address: None, token: Some(token.to_owned()), ..Contact::at(Channel::Fcm, String::new()) };
    Fixture { contact, ..Fixture::to(Channel::Fcm, token, n) }
}

pub fn device(n: u32) -> Fixture {
    to(DEVICE, n)
}

/// A push whose metadata has the object `fcm`.
fn with(overrides: Value) -> Fixture {
    let metadata = Map::from_iter([("order".to_owned(), json!(1042)), ("fcm".to_owned(), overrides)]);
    Fixture { metadata, ..device(1) }
}

pub fn sent(number: u32) -> Outcome {
    Outcome::Sent { provider_id: Some(format!("projects/shop-1042/messages/{number}")) }
}

async fn outcome_of(answer: Answer) -> Outcome {
    let server = Fcm::start().await.unwrap();
    server.answer(answer);
    client(&server).send(&device(1).message()).await
}

fn last_push(server: &Fcm) -> Value {
    server.pushes().last().unwrap().json()
}

/// Every option that there is.
pub fn complete() -> Fixture {
    let mut fixture = with(json!({
        "data_only": false,
        "priority": "normal",
        "channel_id": "orders",
        "sound": "bell",
        "icon": "box",
        "image": "https://example.com/i.png",
        "click_action": "OPEN_ORDER",
        "analytics_label": "orders-1",
    }));
    fixture.rendered.url = Some("https://example.com/o/1042".to_owned());
    let button = |name: &str, url: Option<&str>| Button {
        name: name.to_owned(),
        url: url.map(str::to_owned),
        ..Button::default()
    };
    fixture.rendered.buttons = vec![button("Track", Some("https://example.com/t")), button("Later", None)];
    fixture
}

#[tokio::test]
async fn a_push_is_shown_and_brings_along_what_the_app_needs() {
    let server = Fcm::start().await.unwrap();
    let client = client(&server);
    let mut fixture = device(1);
    fixture.rendered.url = Some("https://example.com/o/1042".to_owned());
    fixture.rendered.buttons = complete().rendered.buttons;
    assert_eq!(client.send(&fixture.message()).await, sent(1));
    assert_eq!(client.send(&Message { attempt: 2, ..fixture.message() }).await, sent(2));

    let [first, again] = server.pushes().try_into().unwrap();
    assert_eq!((first.method.as_str(), &first.path[..]), ("POST", "/v1/projects/shop-1042/messages:send"));
    assert_eq!(first.header("authorization"), "Bearer ya29.1");
    assert_eq!(first.header("content-type"), "application/json");
    let delivery = fixture.delivery.as_str();
    assert_eq!(
        first.json(),
        json!({"message": {
            "token": DEVICE,
            "notification": {"title": "Shipped", "body": "Order 1042 left our house."},
            "data": {
                "id": delivery,
                "notification": "order-1042-shipped",
                "url": "https://example.com/o/1042",
                "actions": r#"[{"title":"Track","url":"https://example.com/t"},{"title":"Later"}]"#,
                "metadata": r#"{"order":1042}"#,
            },
            "android": {"priority": "HIGH", "ttl": "86340s", "notification": {"tag": delivery}},
            "webpush": {
                "headers": {"TTL": "86340", "Urgency": "normal", "Topic": delivery},
                "notification": {"tag": delivery},
                "fcm_options": {"link": "https://example.com/o/1042"},
            },
            "apns": {
                "headers": {
                    "apns-push-type": "alert",
                    "apns-priority": "10",
                    // 2026-11-23T11:59:00Z.
                    "apns-expiration": "1795435140",
                    "apns-collapse-id": delivery,
                },
                "payload": {"aps": {"sound": "default"}},
            },
        }})
    );
    assert_eq!(again.body, first.body, "a repetition takes the place of the first");
}

#[tokio::test]
async fn metadata_says_how_a_push_is_shown() {
    let server = Fcm::start().await.unwrap();
    let settings = FcmSettings { validate_only: true, ..settings(&server) };
    let client = client_with(&settings, clock());
    assert_eq!(client.send(&complete().message()).await, sent(1));
    let push = last_push(&server);
    assert_eq!(push["validate_only"], true);
    let message = &push["message"];
    assert_eq!(message["notification"]["image"], "https://example.com/i.png");
    assert_eq!(message["data"]["metadata"], r#"{"order":1042}"#, "without what was meant for Firebase");
    assert_eq!(message["android"]["priority"], "NORMAL");
    let tag = complete().delivery.as_str().to_owned();
    assert_eq!(
        message["android"]["notification"],
        json!({"tag": tag, "channel_id": "orders", "sound": "bell", "icon": "box", "click_action": "OPEN_ORDER"})
    );
    assert_eq!(message["apns"]["payload"], json!({"aps": {"sound": "bell", "mutable-content": 1}}));
    assert_eq!(message["fcm_options"], json!({"analytics_label": "orders-1"}));
}

#[tokio::test]
async fn apples_devices_get_what_is_said_under_apns() {
    let server = Fcm::start().await.unwrap();
    let client = client(&server);
    let apns = json!({
        "badge": 3, "sound": "bell.caf", "interruption_level": "time-sensitive", "category": "ORDER",
        "thread_id": "orders", "content_available": true, "mutable_content": true,
    });
    let all = json!({
        "badge": 3, "sound": "bell.caf", "interruption-level": "time-sensitive", "category": "ORDER",
        "thread-id": "orders", "content-available": 1, "mutable-content": 1,
    });
    let critical = json!({"critical": 1, "name": "default", "volume": 1.0});
    let (alert, background) = (["alert", "10"], ["background", "5"]);
    let (shown, silent) = (device(1).rendered, Rendered::default());
    let cases = [
        (Priority::Normal, &shown, json!({}), apns, alert, all),
        (
            Priority::Critical,
            &shown,
            json!({}),
            json!({}),
            alert,
            json!({"sound": "default", "interruption-level": "time-sensitive"}),
        ),
        (
            Priority::Bulk,
            &shown,
            json!({}),
            json!({"sound": null}),
            ["alert", "5"],
            json!({"interruption-level": "passive"}),
        ),
        (
            Priority::Bulk,
            &shown,
            json!({"sound": "bell"}),
            json!({"interruption_level": "active"}),
            ["alert", "5"],
            json!({"sound": "bell", "interruption-level": "active"}),
        ),
        (
            Priority::Normal,
            &shown,
            json!({"sound": "bell"}),
            json!({"interruption_level": "critical", "sound": "default"}),
            alert,
            json!({"sound": critical, "interruption-level": "critical"}),
        ),
        // What is shown elsewhere is shown on an iPhone.
        (
            Priority::Normal,
            &shown,
            json!({}),
            json!({"push_type": "background"}),
            alert,
            json!({"sound": "default"}),
        ),
        (
            Priority::Normal,
            &silent,
            json!({}),
            json!({"badge": 0}),
            alert,
            json!({"badge": 0, "content-available": 1}),
        ),
        (
            Priority::Normal,
            &silent,
            json!({}),
            json!({"category": "ORDER"}),
            background,
            json!({"content-available": 1}),
        ),
        (
            Priority::Normal,
            &shown,
            json!({"data_only": true}),
            json!({"badge": 1}),
            background,
            json!({"content-available": 1}),
        ),
    ];
    for (n, (priority, rendered, fcm, apns, headers, aps)) in (1..).zip(cases) {
        let mut fixture = Fixture { rendered: rendered.clone(), ..with(fcm) };
        fixture.metadata.insert("apns".to_owned(), apns.clone());
        assert_eq!(client.send(&Message { priority, ..fixture.message() }).await, sent(n));
        let message = last_push(&server)["message"].take();
        assert_eq!(message["apns"]["payload"], json!({"aps": aps}), "{apns}");
        let told = ["apns-push-type", "apns-priority"].map(|name| message["apns"]["headers"][name].clone());
        assert_eq!(told, headers.map(Value::from), "{apns}");
        assert_eq!(message["data"]["metadata"], r#"{"order":1042}"#, "neither provider's is the app's");
    }
    let mut wrong = device(1);
    wrong.metadata.insert("apns".to_owned(), json!({"bagde": 1}));
    assert_eq!(client.send(&wrong.message()).await, permanent("invalid_metadata"));
}

#[tokio::test]
async fn what_is_for_the_app_alone_is_not_shown() {
    let server = Fcm::start().await.unwrap();
    let client = client(&server);
    let mut asked = with(json!({"data_only": true}));
    asked.rendered.url = Some("https://example.com/o/1042".to_owned());
    let message = Message { collapse_key: Some("order-1042"), ..asked.message() };
    assert_eq!(client.send(&message).await, sent(1));
    let message = last_push(&server)["message"].take();
    assert!(message.get("notification").is_none() && message["android"].get("notification").is_none());
    assert_eq!(
        message["data"],
        json!({
            "id": asked.delivery.as_str(),
            "notification": "order-1042-shipped",
            "title": "Shipped",
            "body": "Order 1042 left our house.",
            "tag": "order-1042",
            "url": "https://example.com/o/1042",
            "metadata": r#"{"order":1042}"#,
        })
    );
    assert_eq!(message["android"]["priority"], "NORMAL");
    assert_eq!(message["webpush"].as_object().unwrap().keys().collect::<Vec<_>>(), ["headers"]);
    let apns = &message["apns"];
    assert_eq!(
        (&apns["headers"]["apns-push-type"], &apns["headers"]["apns-priority"]),
        (&json!("background"), &json!("5"))
    );
    assert_eq!(apns["payload"], json!({"aps": {"content-available": 1}}));

    // There is nothing to show.
    let nothing = Rendered { title: Some(" ".to_owned()), text: "\n".to_owned(), ..Rendered::default() };
    let silent = Fixture { rendered: nothing.clone(), metadata: Map::new(), ..device(2) };
    assert_eq!(client.send(&silent.message()).await, sent(2));
    assert!(last_push(&server)["message"].get("notification").is_none());
    let meant = Fixture { rendered: nothing, ..with(json!({"data_only": false})) };
    assert_eq!(client.send(&meant.message()).await, permanent("message_empty"));
}

#[tokio::test]
async fn priority_collapse_key_and_expiry_are_passed_on() {
    let server = Fcm::start().await.unwrap();
    let client = client(&server);
    let long = "o".repeat(65);
    let data = json!({"data_only": true});
    let cases = [
        (Priority::Critical, json!({}), "order-1042", "2026-11-22T12:00:30Z", ["HIGH", "30s", "high", "10"]),
        (Priority::High, json!({}), "order-1042", "2026-11-22T12:00:00Z", ["HIGH", "0s", "high", "10"]),
        (Priority::Normal, json!({}), &*long, "2026-11-22T11:00:00Z", ["HIGH", "0s", "normal", "10"]),
        (Priority::Bulk, json!({}), "주문 1042", "2027-11-22T12:00:00Z", ["NORMAL", "2419200s", "low", "5"]),
        (Priority::Critical, data.clone(), "a", "2026-11-22T12:00:30Z", ["HIGH", "30s", "high", "5"]),
        (Priority::High, data.clone(), "a", "2026-11-22T12:00:30Z", ["NORMAL", "30s", "high", "5"]),
        (Priority::Normal, data, "a", "2026-11-22T12:00:30Z", ["NORMAL", "30s", "normal", "5"]),
        (
            Priority::Bulk,
            json!({"priority": "high"}),
            "a",
            "2026-11-22T12:00:30Z",
            ["HIGH", "30s", "low", "5"],
        ),
    ];
    for (priority, overrides, key, expires_at, expected) in cases {
        let fixture = with(overrides.clone());
        let expires_at = expires_at.parse().unwrap();
        let message = Message { priority, collapse_key: Some(key), expires_at, ..fixture.message() };
        assert!(matches!(client.send(&message).await, Outcome::Sent { .. }));
        let message = last_push(&server)["message"].take();
        let (android, web, apns) = (&message["android"], &message["webpush"], &message["apns"]["headers"]);
        let told =
            [&android["priority"], &android["ttl"], &web["headers"]["Urgency"], &apns["apns-priority"]];
        assert_eq!(told, expected, "{priority:?} {overrides}");
        assert_eq!(web["headers"]["TTL"], android["ttl"].as_str().unwrap().trim_end_matches('s'));
        assert_eq!(android["collapse_key"], key);
        if overrides["data_only"] != true {
            assert_eq!(
                (&android["notification"]["tag"], &web["notification"]["tag"]),
                (&json!(key), &json!(key))
            );
        }
        assert_eq!(web["headers"]["Topic"].as_str().unwrap().len(), 32);
        let id = apns["apns-collapse-id"].as_str().unwrap();
        if key.is_ascii() && key.len() <= 64 {
            assert_eq!(id, key);
        } else {
            assert_eq!(id, web["headers"]["Topic"]);
        }
    }
}

#[tokio::test]
async fn answers_become_outcomes() {
    let (error, code, violation) = (Fcm::error, Fcm::code, Fcm::violation);
    let invalid = || error(400, "INVALID_ARGUMENT", &[code("INVALID_ARGUMENT")]);
    let field = |field| error(400, "INVALID_ARGUMENT", &[code("INVALID_ARGUMENT"), violation(field)]);
    let quota = || error(429, "RESOURCE_EXHAUSTED", &[code("QUOTA_EXCEEDED")]);
    let unavailable_503 = || error(503, "UNAVAILABLE", &[code("UNAVAILABLE")]);
    // A minute after the tests' clock.
    let date = "Sun, 22 Nov 2026 12:01:30 GMT";
    let answers = [
        (error(404, "NOT_FOUND", &[code("UNREGISTERED")]), address_dead("unregistered")),
        (invalid(), address_dead("invalid_token")),
        (field("message.token"), address_dead("invalid_token")),
        (field("message.android.ttl"), permanent("invalid_argument")),
        (error(403, "PERMISSION_DENIED", &[code("SENDER_ID_MISMATCH")]), permanent("sender_id_mismatch")),
        (error(403, "PERMISSION_DENIED", &[]), unavailable("permission_denied")),
        (
            error(401, "UNAUTHENTICATED", &[code("THIRD_PARTY_AUTH_ERROR")]),
            unavailable("third_party_auth_error"),
        ),
        (error(401, "UNAUTHENTICATED", &[]), unavailable("unauthenticated")),
        (quota(), retry_after("http_429", 60)),
        (quota().header("retry-after", "5"), retry_after("http_429", 60)),
        (quota().header("retry-after", "300"), retry_after("http_429", 300)),
        (quota().header("retry-after", date), retry_after("http_429", 90)),
        (quota().header("retry-after", "1000000000"), retry_after("http_429", 1_000_000_000)),
        (unavailable_503(), retry("http_503")),
        (unavailable_503().header("retry-after", "5"), retry_after("http_503", 5)),
        (unavailable_503().header("retry-after", date), retry_after("http_503", 90)),
        (unavailable_503().header("retry-after", "soon"), retry("http_503")),
        (unavailable_503().header("retry-after", "1000000000"), retry_after("http_503", 1_000_000_000)),
        (error(500, "INTERNAL", &[code("INTERNAL")]), retry("http_500")),
        (Answer::status(502).body("<html>Error 502 (Server Error)!!1</html>"), retry("http_502")),
        (Answer::status(200).body("<html>Welcome to the hotel</html>"), retry("unreadable_answer")),
        (Answer::status(200).body("{\"name\":\"proj"), retry("unreadable_answer")),
        (Answer::status(200).endless(), retry("unreadable_answer")),
        (Answer::status(503).endless(), retry("http_503")),
        (Answer::status(302).header("location", "http://127.0.0.1:9/"), unavailable("redirect_refused")),
        (Answer::reset(), retry("connection_lost")),
    ];
    for (answer, expected) in answers {
        let outcome = timeout(SOON, outcome_of(answer.clone())).await.expect("an outcome in time");
        assert_eq!(outcome, expected, "{answer:?}");
    }
}

#[tokio::test]
async fn silence_is_bounded() {
    let server = Fcm::start().await.unwrap();
    let mut options = Options::from_settings(&settings(&server)).unwrap();
    options.timeout = SHORT;
    let client = Client::new(options, clock()).unwrap();
    for (answer, expected) in
        [(Answer::hang(), "timeout"), (Answer::status(200).stalled(), "unreadable_answer")]
    {
        server.answer_next(answer);
        let started = Instant::now();
        assert_eq!(client.send(&device(1).message()).await, retry(expected));
        assert!(started.elapsed() < SHORT + Duration::from_secs(5));
    }
    assert_eq!(client.send(&device(1).message()).await, sent(1), "and the next one goes through");
}

#[tokio::test]
async fn before_anything_is_sent_it_is_a_retry() {
    let server = Fcm::start().await.unwrap();
    let client = client(&server);
    assert_eq!(client.send(&device(1).message()).await, sent(1));
    drop(server);
    let closed = async { while client.send(&device(1).message()).await != retry("connect_failed") {} };
    timeout(SOON, closed).await.expect("the port is closed");
}

#[tokio::test]
async fn what_can_not_be_sent_is_refused_before_anything_is() {
    let server = Fcm::start().await.unwrap();
    let client = client(&server);
    let tokenless = Fixture { contact: Contact::at(Channel::Fcm, "x".to_owned()), ..device(1) };
    for (fixture, reason) in [
        (tokenless, "invalid_address"),
        (to("", 1), "invalid_address"),
        (with(json!({"chanel_id": "orders"})), "invalid_metadata"),
        (with(json!({"data_only": "yes"})), "invalid_metadata"),
        (with(json!("high")), "invalid_metadata"),
    ] {
        assert_eq!(client.send(&fixture.message()).await, permanent(reason));
    }
    assert!(server.pushes().is_empty() && server.grants().is_empty());
}

#[tokio::test]
async fn a_payload_has_so_many_bytes_and_no_more() {
    let server = Fcm::start().await.unwrap();
    let client = client(&server);
    let delivery = device(1).delivery.as_str().len();
    // Keys and values of what the device gets, counted by hand.
    let around = "title".len()
        + "body".len()
        + "tag".len()
        + delivery
        + "id".len()
        + delivery
        + "notification".len()
        + "order-1042-shipped".len()
        + "Shipped".len()
        + "metadata".len()
        + r#"{"order":1042}"#.len();
    let push = |bytes: usize| {
        let mut fixture = device(1);
        fixture.rendered.text = "가".repeat(bytes / 3) + &"a".repeat(bytes % 3);
        fixture
    };
    assert_eq!(client.send(&push(4096 - around).message()).await, sent(1));
    let refused = client.send(&push(4097 - around).message()).await;
    assert_eq!(refused, permanent("payload_too_large: 4097 of 4096 bytes"));
    let mut large = device(1);
    large.metadata.insert("more".to_owned(), json!("x".repeat(4_096)));
    let refused = client.send(&large.message()).await;
    assert!(matches!(refused, Outcome::Permanent { reason } if reason.starts_with("payload_too_large: ")));
    assert_eq!(server.pushes().len(), 1);
}

#[tokio::test]
async fn tokens_of_another_project_are_given_up_until_it_is_seen_that_the_project_is_wrong() {
    let server = Fcm::start().await.unwrap();
    let client = client(&server);
    let mismatch = Fcm::error(403, "PERMISSION_DENIED", &[Fcm::code("SENDER_ID_MISMATCH")]);
    server.answer(mismatch.clone());
    let mut given_up = 0;
    while client.send(&device(1).message()).await == permanent("sender_id_mismatch") {
        given_up += 1;
    }
    assert_eq!(given_up, 9);
    for _ in 0..3 {
        assert_eq!(client.send(&device(1).message()).await, unavailable("sender_id_mismatch"));
    }
    server.answer_next(Answer::status(200).body(r#"{"name":"projects/shop-1042/messages/1"}"#));
    assert_eq!(client.send(&device(1).message()).await, sent(1));
    assert_eq!(client.send(&device(1).message()).await, permanent("sender_id_mismatch"));
}

#[tokio::test]
async fn nothing_secret_is_shown() {
    let server = Fcm::start().await.unwrap();
    let client = client(&server);
    server.answer_next(Answer::reset());
    let outcome = client.send(&device(1).message()).await;
    let shown = format!("{client:?} {outcome:?} {:?}", Options::from_settings(&settings(&server)).unwrap());
    for secret in ["ya29", "MII", EMAIL, DEVICE] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

/// A server with TLS that answers every request with a token and a name at once, and counts those of HTTP/2.
async fn tls_server(
    acceptor: TlsAcceptor,
    listener: TcpListener,
    over_http2: Arc<std::sync::atomic::AtomicUsize>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, over_http2) = (acceptor.clone(), over_http2.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                if request.version() == http::Version::HTTP_2 {
                    over_http2.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
                let body = r#"{"access_token":"a","name":"projects/shop-1042/messages/1"}"#.to_owned();
                async { Ok::<_, io::Error>(http::Response::new(body)) }
            });
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

#[tokio::test]
async fn over_tls_it_is_http2_and_a_private_authority_has_to_be_named() {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let over_http2 = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let serving = tokio::spawn(tls_server(TlsAcceptor::from(Arc::new(config)), listener, over_http2.clone()));

    let authority = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(authority.path(), certificate.pem()).unwrap();
    let server = Fcm::start().await.unwrap();
    let strange =
        FcmSettings { base_url: base.clone(), token_url: Some(base.clone() + "/token"), ..settings(&server) };
    let outcome = client_with(&strange, clock()).send(&device(1).message()).await;
    assert_eq!(outcome, retry("token_connect_failed"));
    let trusted = FcmSettings { tls_ca_file: Some(authority.path().to_owned()), ..strange };
    let client = client_with(&trusted, clock());
    for _ in 0..3 {
        assert_eq!(client.send(&device(1).message()).await, sent(1));
    }
    assert_eq!(over_http2.load(std::sync::atomic::Ordering::Relaxed), 4, "a token and three pushes");
    serving.abort();
}

#[tokio::test]
async fn asked_whether_it_works_it_has_a_message_to_nobody_looked_at() {
    let server = Fcm::start().await.unwrap();
    let client = client(&server);
    server.answer(Fcm::error(400, "INVALID_ARGUMENT", &[Fcm::violation("message.token")]));
    assert_eq!(client.probe().await, Probe::Works);
    server.answer(Fcm::error(403, "PERMISSION_DENIED", &[]));
    assert_eq!(client.probe().await, fails("permission_denied"));
    let pushes = server.pushes();
    assert_eq!(pushes.len(), 2);
    assert!(pushes.iter().all(|push| push.json()["validate_only"] == true));
}
