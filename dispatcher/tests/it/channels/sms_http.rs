//! Other gateways: what the settings make of a message and of an answer.

use std::time::Duration;

use peal_common::channel::Channel;
use peal_common::outcome::Outcome;
use peal_common::settings::SmsHttpSettings;
use peal_dispatcher::channels::sms::http::{Client, Options};
use peal_dispatcher::recording::{Answer, Webhooks};
use serde_json::json;
use tokio::time::timeout;

use super::fixture::{Fixture, SOON, ambiguous, clock, permanent, retry, retry_after, unavailable};

const JSON: &str = r#"
    body = '{"to": "{{ to }}", "text": "{{ text }}", "from": "{{ from }}", "id": "{{ id }}"}'
    from = "Shop"
    headers = { Authorization = "Bearer s3cret" }
    success = { json_pointer = "/status", equals = "OK" }
    provider_id = { json_pointer = "/id" }
"#;

fn client(server: &Webhooks, path: &str, more: &str) -> Client {
    let text = format!("url = \"{}\"\ntimeout_seconds = 1\n{more}", server.url(path));
    let settings: SmsHttpSettings = toml::from_str(&text).unwrap();
    Client::new(Options::from_settings(&settings).unwrap(), clock()).unwrap()
}

fn fixture() -> Fixture {
    let mut fixture = Fixture::to(Channel::Sms, "+821012345678", 1);
    fixture.rendered.text = "\"a\" & b\n주문 {{ to }}".to_owned();
    fixture
}

#[tokio::test]
async fn json_forms_and_urls_take_a_message() {
    let server = Webhooks::start().await.unwrap();
    let fixture = fixture();
    let (message, id) = (fixture.message(), fixture.delivery.as_str());
    server.answer_next(Answer::status(200).body(r#"{"status":"OK","id":42}"#));
    let outcome = client(&server, "/send", JSON).send(&message).await;
    assert_eq!(outcome, Outcome::Sent { provider_id: Some("42".to_owned()) });
    let form = "content_type = \"application/x-www-form-urlencoded\"\nbody = \"to={{ to }}&text={{ text }}\"";
    assert_eq!(client(&server, "/", form).send(&message).await, Outcome::Sent { provider_id: None });
    let url = "/{{ to }}?text={{ text }}&ref={{ reference }}";
    assert_eq!(
        client(&server, url, "method = \"GET\"").send(&message).await,
        Outcome::Sent { provider_id: None }
    );

    for method in ["PUT", "PATCH"] {
        let client = client(&server, "/{{ id }}", &format!("method = \"{method}\"\n{form}"));
        assert_eq!(client.send(&message).await, Outcome::Sent { provider_id: None });
    }

    let [first, second, third, put, patch] = server.received().try_into().unwrap();
    assert_eq!((first.method.as_str(), first.path.as_str()), ("POST", "/send"));
    assert_eq!(first.header("authorization"), "Bearer s3cret");
    assert_eq!(first.header("content-type"), "application/json");
    let text = &fixture.rendered.text;
    assert_eq!(first.json(), json!({"to": "+821012345678", "text": text, "from": "Shop", "id": id}));
    let escaped = "%22a%22%20%26%20b%0A%EC%A3%BC%EB%AC%B8%20%7B%7B%20to%20%7D%7D";
    assert_eq!(second.body, format!("to=%2B821012345678&text={escaped}"));
    assert_eq!(second.header("content-type"), "application/x-www-form-urlencoded");
    assert_eq!(second.method, "POST");
    for (request, method) in [(put, "PUT"), (patch, "PATCH")] {
        assert_eq!((request.method.as_str(), request.path), (method, format!("/{id}")));
        assert_eq!(request.body, second.body, "{method}");
    }
    assert_eq!((third.method.as_str(), third.body.len()), ("GET", 0));
    assert_eq!(third.header("content-type"), "");
    assert_eq!(third.path, format!("/%2B821012345678?text={escaped}&ref=eu.shop.order-1042-shipped.{id}"));
}

#[tokio::test]
async fn answers_become_outcomes() {
    let answers = [
        (Answer::status(200).body(r#"{"status":"NO"}"#), permanent("not_accepted")),
        (Answer::status(200).body("<html>Welcome</html>"), ambiguous("unreadable_answer")),
        (Answer::status(200).endless(), ambiguous("unreadable_answer")),
        (Answer::status(200).stalled(), ambiguous("unreadable_answer")),
        (Answer::status(401), unavailable("http_401")),
        (Answer::status(302).header("location", "http://127.0.0.1:9/"), unavailable("http_302")),
        (Answer::status(400), permanent("http_400")),
        (Answer::status(429).header("retry-after", "9"), retry_after("http_429", 9)),
        (Answer::status(503).header("retry-after", "soon"), retry("http_503")),
        (Answer::status(500), ambiguous("http_500")),
        (Answer::reset(), ambiguous("no_answer_after_send")),
        (Answer::hang(), ambiguous("no_answer_after_send")),
    ];
    for (answer, expected) in answers {
        let server = Webhooks::start().await.unwrap();
        server.answer(answer.clone());
        let client = client(&server, "/send", JSON);
        let fixture = fixture();
        let message = fixture.message();
        let outcome = timeout(SOON, client.send(&message)).await.expect("an outcome in time");
        assert_eq!(outcome, expected, "{answer:?}");
        assert_eq!(server.count(), 1, "{answer:?}");
        assert!(!format!("{client:?} {outcome:?}").contains("s3cret"));
    }
}

#[tokio::test]
async fn a_number_that_is_not_found_waits_alone_while_the_gateway_takes_others() {
    let server = Webhooks::start().await.unwrap();
    let form = "content_type = \"application/x-www-form-urlencoded\"\nbody = \"to={{ to }}&text={{ text }}\"";
    let client = client(&server, "/send", form);
    let (fixture, other) = (fixture(), Fixture::to(Channel::Sms, "+821087654321", 2));
    let not_found = async || {
        server.answer_next(Answer::status(404));
        client.send(&fixture.message()).await
    };
    // It has not taken any yet: the URL may be wrong.
    assert_eq!(not_found().await, unavailable("http_404"));
    for wait in [60, 120, 240, 480] {
        assert_eq!(client.send(&other.message()).await, Outcome::Sent { provider_id: None });
        let waits = Some(Duration::from_secs(wait));
        assert_eq!(not_found().await, Outcome::HeldBack { reason: "http_404".to_owned(), after: waits });
    }
    assert_eq!(client.send(&other.message()).await, Outcome::Sent { provider_id: None });
    assert_eq!(not_found().await, permanent("http_404"));
    server.answer_next(Answer::status(405));
    assert_eq!(
        client.send(&other.message()).await,
        unavailable("http_405"),
        "the method is wrong for everybody"
    );
}

#[tokio::test]
async fn before_anything_is_sent_it_is_a_retry() {
    let server = Webhooks::start().await.unwrap();
    let client = client(&server, "/send", JSON);
    drop(server);
    let fixture = fixture();
    // The port closes a moment after its server is gone.
    let closed = async { while client.send(&fixture.message()).await != retry("connect_failed") {} };
    timeout(SOON, closed).await.expect("the port is closed");
}
