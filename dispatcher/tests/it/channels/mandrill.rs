//! Mailchimp Transactional: what it gets, and what its answers mean.

use std::time::Duration;

use peal_common::attachment::Attachment;
use peal_common::channel::Channel;
use peal_common::outcome::Outcome;
use peal_common::settings::MandrillSettings;
use peal_common::template::Rendered;
use peal_dispatcher::channels::Probe;
use peal_dispatcher::channels::email::mandrill::{Client, Options};
use peal_dispatcher::recording::{Answer, Mandrill};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::fixture::{
    Fixture, SOON, address_dead, ambiguous, attachments, clock, fails, message_id, permanent, retry,
    retry_after, unavailable,
};

const KEY: &str = "md-TEST_key_0";

fn settings(server: &Mandrill) -> MandrillSettings {
    MandrillSettings {
        key: Some(KEY.to_owned().into()),
        key_file: None,
        from: "\"가게 Shop\" <no-reply@example.com>".to_owned(),
        base_url: server.base_url(),
        subaccount: None,
        track_opens: false,
        track_clicks: false,
        tls_ca_file: None,
        timeout_seconds: 15,
        rate_per_second: None,
    }
}

fn client_with(settings: &MandrillSettings) -> Client {
    Client::new(Options::from_settings(settings).unwrap(), clock()).unwrap()
}

fn client(server: &Mandrill) -> Client {
    client_with(&settings(server))
}

fn to(address: &str) -> Fixture {
    Fixture::to(Channel::Email, address, 1)
}

fn sent(id: &str) -> Outcome {
    Outcome::Sent { provider_id: Some(id.to_owned()) }
}

async fn outcome_of(answer: Answer) -> Outcome {
    let server = Mandrill::start().await.unwrap();
    server.answer(answer);
    client(&server).send(&to("kim@example.org").message()).await
}

#[tokio::test]
async fn an_email_is_handed_over_whole() {
    let server = Mandrill::start().await.unwrap();
    let mut fixture = to("kim@example.org");
    fixture.rendered.html = Some("<p>Order 1042</p>".to_owned());
    assert_eq!(client(&server).send(&fixture.message()).await, sent("1"));
    let more = MandrillSettings {
        subaccount: Some("shop".to_owned()),
        track_opens: true,
        track_clicks: true,
        from: "no-reply@example.com".to_owned(),
        ..settings(&server)
    };
    assert_eq!(client_with(&more).send(&to("kim@example.org").message()).await, sent("2"));

    let [first, second] = server.requests().try_into().unwrap();
    assert_eq!((first.method.as_str(), first.path.as_str()), ("POST", "/api/1.0/messages/send.json"));
    assert_eq!(first.header("content-type"), "application/json");
    let peal_ref = format!("eu.shop.order-1042-shipped.{}", fixture.delivery);
    assert_eq!(
        first.json(),
        json!({
            "key": KEY,
            "message": {
                "html": "<p>Order 1042</p>",
                "text": "Order 1042 left our house.",
                "subject": "Your order is on its way",
                "from_email": "no-reply@example.com",
                "from_name": "가게 Shop",
                "to": [{"email": "kim@example.org", "type": "to"}],
                "headers": {"Message-ID": message_id(&fixture), "Auto-Submitted": "auto-generated"},
                "metadata": {"peal_ref": peal_ref},
                "track_opens": false,
                "track_clicks": false,
            },
            "async": false,
        })
    );
    let second = &second.json()["message"];
    assert_eq!((&second["subaccount"], &second["track_opens"]), (&json!("shop"), &json!(true)));
    assert!(second.get("from_name").is_none() && second.get("html").is_none(), "{second}");
}

#[tokio::test]
async fn attachments_arrive_as_they_were_handed_in() {
    let server = Mandrill::start().await.unwrap();
    let mut fixture = Fixture { attachments: attachments(), ..to("kim@example.org") };
    assert_eq!(client(&server).send(&fixture.message()).await, sent("1"));
    let body = server.requests()[0].json();
    let [page, table] = [&fixture.attachments[0], &fixture.attachments[1]];
    let expected = json!([
        {"type": "application/pdf", "name": "invoice.pdf", "content": page.content},
        {"type": "text/csv", "name": "청구서.csv", "content": table.content},
    ]);
    assert_eq!(body["message"]["attachments"], expected);
    assert_eq!((&body["key"], &body["async"]), (&json!(KEY), &json!(false)), "the rest is there too");

    fixture.attachments = [Attachment { content: "=".to_owned(), ..page.clone() }].into_iter().collect();
    assert_eq!(client(&server).send(&fixture.message()).await, permanent("invalid_attachment"));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_link_to_unsubscribe_is_a_header() {
    let server = Mandrill::start().await.unwrap();
    let link = Some("https://peal.example.com/u/x".to_owned());
    let fixture = Fixture { unsubscribe: link, ..to("kim@example.org") };
    assert_eq!(client(&server).send(&fixture.message()).await, sent("1"));
    assert_eq!(
        server.requests()[0].json()["message"]["headers"],
        json!({
            "Message-ID": message_id(&fixture),
            "Auto-Submitted": "auto-generated",
            "List-Unsubscribe": "<https://peal.example.com/u/x>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        })
    );
}

#[tokio::test]
async fn answers_become_outcomes() {
    let answers = [
        (Answer::status(200).body("<html>Welcome</html>"), ambiguous("unreadable_answer")),
        (Answer::status(200).body("[{\"stat"), ambiguous("unreadable_answer")),
        (Answer::status(200).endless(), ambiguous("unreadable_answer")),
        (Answer::status(302).header("location", "http://127.0.0.1:9/"), unavailable("redirect_refused")),
        (Mandrill::rejected("hard-bounce"), address_dead("rejected_hard_bounce")),
        (Mandrill::rejected("rule"), permanent("rejected_rule")),
        (Mandrill::rejected("unsigned"), unavailable("unsigned")),
        (Mandrill::error(500, -1, "Invalid_Key"), unavailable("invalid_key")),
        (Mandrill::error(401, -1, "Invalid_Key"), unavailable("invalid_key")),
        (Mandrill::error(500, -2, "ValidationError"), permanent("validation_error")),
        (Mandrill::error(500, 12, "Unknown_Subaccount"), unavailable("unknown_subaccount")),
        (Mandrill::error(500, -99, "GeneralError"), retry("http_500")),
        (Answer::status(429).header("retry-after", "7"), retry_after("http_429", 7)),
        (
            Answer::status(429).header("retry-after", "Sun, 22 Nov 2026 12:00:30 GMT"),
            retry_after("http_429", 30),
        ),
        (Answer::status(429).header("retry-after", "soon"), retry("http_429")),
        (Answer::status(502).body("<html>Bad Gateway</html>"), retry("http_502")),
        (Answer::reset(), ambiguous("no_answer_after_send")),
    ];
    for (answer, expected) in answers {
        let outcome = timeout(SOON, outcome_of(answer.clone())).await.expect("an outcome in time");
        assert_eq!(outcome, expected, "{answer:?}");
    }
}

#[tokio::test]
async fn silence_after_sending_is_ambiguous_and_bounded() {
    let server = Mandrill::start().await.unwrap();
    let client = client_with(&MandrillSettings { timeout_seconds: 1, ..settings(&server) });
    let waits = [
        (Answer::hang(), ambiguous("no_answer_after_send")),
        (Answer::status(200).stalled(), ambiguous("unreadable_answer")),
    ];
    for (answer, expected) in waits {
        server.answer(answer);
        let started = Instant::now();
        assert_eq!(client.send(&to("kim@example.org").message()).await, expected);
        assert!(started.elapsed() < Duration::from_secs(5));
    }
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn before_anything_is_sent_it_is_a_retry() {
    let server = Mandrill::start().await.unwrap();
    let client = client(&server);
    drop(server);
    // The port closes a moment after its server is gone.
    let closed = async {
        while client.send(&to("kim@example.org").message()).await != retry("connect_failed") {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, closed).await.expect("the port is closed");
}

#[tokio::test]
async fn what_can_not_be_written_is_not_sent() {
    let server = Mandrill::start().await.unwrap();
    let client = client(&server);
    for (address, reason) in [
        ("kim", "invalid_address"),
        ("kim@example.org\r\nBcc: b@example.org", "invalid_header"),
        ("kim\0@example.org", "invalid_header"),
    ] {
        assert_eq!(client.send(&to(address).message()).await, permanent(reason), "{address:?}");
    }
    let rendered = Rendered { subject: Some("x\r\nBcc: b@example.org".to_owned()), ..Rendered::default() };
    let smuggled = Fixture { rendered, ..to("kim@example.org") };
    assert_eq!(client.send(&smuggled.message()).await, permanent("invalid_header"));
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn the_key_is_shown_nowhere() {
    let server = Mandrill::start().await.unwrap();
    server.answer(Answer::reset());
    let client = client(&server);
    let outcome = client.send(&to("kim@example.org").message()).await;
    assert!(!format!("{client:?} {outcome:?}").contains(KEY));
}

#[tokio::test]
async fn asked_whether_it_works_it_sends_nothing() {
    let server = Mandrill::start().await.unwrap();
    let client = client(&server);
    server.answer(Answer::status(200).body(r#"{"PING":"PONG!"}"#));
    assert_eq!(client.probe().await, Probe::Works);
    server.answer(Mandrill::error(500, -1, "Invalid_Key"));
    assert_eq!(client.probe().await, fails("http_500"));
    let [asked, _] = server.requests().try_into().unwrap();
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/api/1.0/users/ping.json"));
    assert_eq!(asked.json(), json!({"key": KEY}));
}
