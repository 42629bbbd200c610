//! Vonage: what is sent, and what becomes of answers and of their absence.

use peal_common::channel::Channel;
use peal_common::outcome::Outcome;
use peal_common::settings::VonageSettings;
use peal_dispatcher::channels::Probe;
use peal_dispatcher::channels::sms::vonage::{Client, Options};
use peal_dispatcher::recording::{Answer, Vonage};
use tokio::time::timeout;

use super::fixture::{
    Fixture, SOON, address_dead, ambiguous, clock, fails, permanent, retry, retry_after, unavailable,
};

fn client(server: &Vonage, more: &str) -> Client {
    let text = format!(
        "api_key = \"abcd1234\"\napi_secret = \"s3cret\"\nfrom = \"Shop\"\nbase_url = \"{}\"\n\
         timeout_seconds = 1\n{more}",
        server.base_url()
    );
    let settings: VonageSettings = toml::from_str(&text).unwrap();
    Client::new(Options::from_settings(&settings).unwrap(), clock()).unwrap()
}

fn fixture() -> Fixture {
    Fixture::to(Channel::Sms, "+821012345678", 1)
}

#[tokio::test]
async fn a_message_is_a_form() {
    let server = Vonage::start().await.unwrap();
    let mut fixture = fixture();
    fixture.rendered.text = "50% off: €5 & up".to_owned();
    let outcome = client(&server, "").send(&fixture.message()).await;
    assert_eq!(outcome, Outcome::Sent { provider_id: Some("0000000000000001".to_owned()) });
    fixture.rendered.text = "주문".to_owned();
    fixture.notification = "n".repeat(64).parse().unwrap();
    let receipts = "receipts_url = \"https://peal.example.com/v1/callbacks/vonage\"";
    client(&server, receipts).send(&fixture.message()).await;

    let [first, second] = server.received().try_into().unwrap();
    assert_eq!((first.method.as_str(), first.path.as_str()), ("POST", "/sms/json"));
    assert_eq!(first.header("content-type"), "application/x-www-form-urlencoded");
    assert_eq!(
        std::str::from_utf8(&first.body).unwrap(),
        format!(
            "api_key=abcd1234&api_secret=s3cret&from=Shop&to=821012345678&text=50%25+off%3A+%E2%82%AC5+%26+up&\
             ttl=86340000&client-ref=eu.shop.order-1042-shipped.{}",
            fixture.delivery.as_str()
        )
    );
    // The reference would have 105 characters.
    assert_eq!(
        std::str::from_utf8(&second.body).unwrap(),
        "api_key=abcd1234&api_secret=s3cret&from=Shop&to=821012345678&text=%EC%A3%BC%EB%AC%B8&type=unicode&\
         ttl=86340000&callback=https%3A%2F%2Fpeal.example.com%2Fv1%2Fcallbacks%2Fvonage"
    );
}

#[tokio::test]
async fn answers_become_outcomes() {
    let answers = [
        (Vonage::parts(&[7]), address_dead("vonage_7")),
        (Vonage::parts(&[1]), retry("vonage_1")),
        (Vonage::parts(&[1]).header("retry-after", "2"), retry_after("vonage_1", 2)),
        (Vonage::parts(&[4]), unavailable("vonage_4")),
        (Vonage::parts(&[6]), permanent("vonage_6")),
        (Vonage::parts(&[0, 0, 1]), ambiguous("partly_sent")),
        (Answer::status(401), unavailable("http_401")),
        (Answer::status(429).header("retry-after", "soon"), retry("http_429")),
        (Answer::status(502).body("<html>Bad Gateway</html>"), ambiguous("http_502")),
        (Answer::status(200).body("<html>Welcome</html>"), ambiguous("unreadable_answer")),
        (Answer::status(200).endless(), ambiguous("unreadable_answer")),
        (Answer::status(200).stalled(), ambiguous("unreadable_answer")),
        (Answer::reset(), ambiguous("no_answer_after_send")),
        (Answer::hang(), ambiguous("no_answer_after_send")),
    ];
    for (answer, expected) in answers {
        let server = Vonage::start().await.unwrap();
        server.answer(answer.clone());
        let client = client(&server, "");
        let fixture = fixture();
        let message = fixture.message();
        let outcome = timeout(SOON, client.send(&message)).await.expect("an outcome in time");
        assert_eq!(outcome, expected, "{answer:?}");
        assert_eq!(server.count(), 1, "{answer:?}");
        assert!(!format!("{client:?} {outcome:?}").contains("s3cret"));
    }
}

#[tokio::test]
async fn before_anything_is_sent_it_is_a_retry() {
    let server = Vonage::start().await.unwrap();
    let client = client(&server, "");
    drop(server);
    let fixture = fixture();
    // The port closes a moment after its server is gone.
    let closed = async { while client.send(&fixture.message()).await != retry("connect_failed") {} };
    timeout(SOON, closed).await.expect("the port is closed");
}

#[tokio::test]
async fn asked_whether_it_works_it_sends_nothing() {
    let server = Vonage::start().await.unwrap();
    let client = client(&server, "");
    server.answer(Answer::status(200).body(r#"{"value":3.14}"#));
    assert_eq!(client.probe().await, Probe::Works);
    server.answer(Answer::status(401));
    assert_eq!(client.probe().await, fails("http_401"));
    let [asked, _] = server.received().try_into().unwrap();
    assert_eq!(
        (asked.method.as_str(), asked.path.as_str()),
        ("GET", "/account/get-balance?api_key=abcd1234&api_secret=s3cret")
    );
}
