//! Twilio: what is sent, and what becomes of answers and of their absence.

use peal_common::channel::Channel;
use peal_common::outcome::Outcome;
use peal_common::settings::TwilioSettings;
use peal_dispatcher::channels::Probe;
use peal_dispatcher::channels::sms::twilio::{Client, Options};
use peal_dispatcher::recording::{Answer, Twilio};
use tokio::time::timeout;

use super::fixture::{
    Fixture, SOON, address_dead, ambiguous, clock, fails, permanent, retry, retry_after, unavailable,
};

const TOKEN: &str = "t0ken";
const FIRST: &str = "SM00000000000000000000000000000001";

pub fn settings(base_url: &str) -> TwilioSettings {
    let text = format!(
        "account_sid = \"AC01\"\nauth_token = \"{TOKEN}\"\nfrom = \"+14155550100\"\nbase_url = \"{base_url}\"\n\
         timeout_seconds = 1"
    );
    toml::from_str(&text).unwrap()
}

fn client_with(server: &Twilio, change: impl FnOnce(&mut TwilioSettings)) -> Client {
    let mut settings = settings(&server.base_url());
    change(&mut settings);
    Client::new(Options::from_settings(&settings).unwrap(), clock()).unwrap()
}

fn client(server: &Twilio) -> Client {
    client_with(server, |_| ())
}

fn to(address: &str) -> Fixture {
    Fixture::to(Channel::Sms, address, 1)
}

fn sent(id: &str) -> Outcome {
    Outcome::Sent { provider_id: Some(id.to_owned()) }
}

#[tokio::test]
async fn a_message_is_a_form() {
    let server = Twilio::start().await.unwrap();
    let mut fixture = to("+821012345678");
    fixture.rendered.text = "주문 1042 & more + 100%".to_owned();
    assert_eq!(client(&server).send(&fixture.message()).await, sent(FIRST));
    let by_service = client_with(&server, |it| {
        (it.from, it.messaging_service_sid) = (None, Some("MG7".to_owned()));
        (it.auth_token, it.api_key) = (None, Some("SK9".to_owned()));
        it.api_key_secret = Some("s3cret".to_owned().into());
        it.receipts_url = Some("https://peal.example.com/v1/callbacks/twilio?x=1".to_owned());
    });
    by_service.send(&fixture.message()).await;

    let [first, second] = server.received().try_into().unwrap();
    assert_eq!(
        (first.method.as_str(), first.path.as_str()),
        ("POST", "/2010-04-01/Accounts/AC01/Messages.json")
    );
    assert_eq!(first.header("authorization"), "Basic QUMwMTp0MGtlbg==");
    assert_eq!(first.header("content-type"), "application/x-www-form-urlencoded");
    assert_eq!(
        std::str::from_utf8(&first.body).unwrap(),
        "To=%2B821012345678&Body=%EC%A3%BC%EB%AC%B8+1042+%26+more+%2B+100%25&From=%2B14155550100&ValidityPeriod=36000"
    );
    assert_eq!(second.header("authorization"), "Basic U0s5OnMzY3JldA==");
    let fields: Vec<_> = url::form_urlencoded::parse(&second.body).into_owned().skip(2).collect();
    let callback = format!(
        "https://peal.example.com/v1/callbacks/twilio?x=1&ref=eu.shop.order-1042-shipped.{}",
        fixture.delivery.as_str()
    );
    let expected =
        [("MessagingServiceSid", "MG7"), ("ValidityPeriod", "36000"), ("StatusCallback", callback.as_str())];
    assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[tokio::test]
async fn answers_become_outcomes() {
    let busy = |wait: &str| Twilio::error(429, 20429).header("retry-after", wait);
    let answers = [
        (Twilio::error(400, 21211), address_dead("twilio_21211")),
        (Twilio::error(400, 21608), unavailable("twilio_21608")),
        (Twilio::error(400, 21408), permanent("twilio_21408")),
        (Twilio::error(401, 20003), unavailable("twilio_20003")),
        (busy("9"), retry_after("twilio_20429", 9)),
        (busy("Sun, 22 Nov 2026 12:00:30 GMT"), retry_after("twilio_20429", 30)),
        (busy("1000000000"), retry_after("twilio_20429", 1_000_000_000)),
        (busy("soon"), retry("twilio_20429")),
        (Twilio::error(500, 20500), ambiguous("http_500")),
        (Answer::status(503).header("retry-after", "3"), retry_after("http_503", 3)),
        (Answer::status(503), ambiguous("http_503")),
        (Answer::status(200).body("<html>Welcome</html>"), ambiguous("unreadable_answer")),
        (Answer::status(201).endless(), ambiguous("unreadable_answer")),
        (Answer::status(201).stalled(), ambiguous("unreadable_answer")),
        (Answer::status(302).header("location", "http://127.0.0.1:9/"), unavailable("http_302")),
        (Answer::reset(), ambiguous("no_answer_after_send")),
        (Answer::hang(), ambiguous("no_answer_after_send")),
    ];
    for (answer, expected) in answers {
        let server = Twilio::start().await.unwrap();
        server.answer(answer.clone());
        let client = client(&server);
        let fixture = to("+821012345678");
        let message = fixture.message();
        let outcome = timeout(SOON, client.send(&message)).await.expect("an outcome in time");
        assert_eq!(outcome, expected, "{answer:?}");
        assert_eq!(server.count(), 1, "{answer:?}");
        assert!(!format!("{client:?} {outcome:?}").contains(TOKEN));
    }
}

#[tokio::test]
async fn before_anything_is_sent_it_is_a_retry() {
    let server = Twilio::start().await.unwrap();
    let client = client(&server);
    drop(server);
    let fixture = to("+821012345678");
    // The port closes a moment after its server is gone.
    let closed = async { while client.send(&fixture.message()).await != retry("connect_failed") {} };
    timeout(SOON, closed).await.expect("the port is closed");
}

#[tokio::test]
async fn what_can_not_be_sent_is_not_sent() {
    let server = Twilio::start().await.unwrap();
    let client = client(&server);
    for bad in ["", "821012345678", "+", "+82x", "+82 10"] {
        assert_eq!(client.send(&to(bad).message()).await, permanent("invalid_address"), "{bad:?}");
    }
    let mut fixture = to("+821012345678");
    for (text, reason) in [
        (" \n".to_owned(), "message_empty"),
        ("x".repeat(1531), "too_many_segments: 11 of 10"),
        ("가".repeat(671), "too_many_segments: 11 of 10"),
    ] {
        fixture.rendered.text = text;
        assert_eq!(client.send(&fixture.message()).await, permanent(reason));
    }
    assert_eq!(server.count(), 0);
    for text in ["x".repeat(1530), "가".repeat(670)] {
        fixture.rendered.text = text;
        assert!(matches!(client.send(&fixture.message()).await, Outcome::Sent { .. }));
    }
}

#[tokio::test]
async fn asked_whether_it_works_it_sends_nothing() {
    let server = Twilio::start().await.unwrap();
    let client = client(&server);
    server.answer(Answer::status(200).body(r#"{"messages":[]}"#));
    assert_eq!(client.probe().await, Probe::Works);
    server.answer(Answer::status(401).body(r#"{"code":20003}"#));
    assert_eq!(client.probe().await, fails("http_401"));
    let [asked, _] = server.received().try_into().unwrap();
    assert_eq!(
        (asked.method.as_str(), asked.path.as_str()),
        ("GET", "/2010-04-01/Accounts/AC01/Messages.json?PageSize=1")
    );
    assert_eq!(asked.header("authorization"), "Basic QUMwMTp0MGtlbg==");
}
