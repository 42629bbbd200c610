//! SendGrid: what it gets, and what its answers mean.

use std::time::Duration;

use peal_common::attachment::Attachment;
use peal_common::channel::Channel;
use peal_common::outcome::Outcome;
use peal_common::settings::SendgridSettings;
use peal_common::template::Rendered;
use peal_dispatcher::channels::Probe;
use peal_dispatcher::channels::email::sendgrid::{Client, Options};
use peal_dispatcher::recording::{Answer, Sendgrid};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::fixture::{
    Fixture, SOON, ambiguous, attachments, clock, fails, message_id, permanent, retry, retry_after,
    unavailable,
};

const KEY: &str = "SG.TEST-key_0";

fn settings(server: &Sendgrid) -> SendgridSettings {
    SendgridSettings {
        key: Some(KEY.to_owned().into()),
        key_file: None,
        from: "\"가게 Shop\" <no-reply@example.com>".to_owned(),
        base_url: server.base_url(),
        sandbox_mode: false,
        tls_ca_file: None,
        timeout_seconds: 15,
        rate_per_second: None,
    }
}

fn client_with(settings: &SendgridSettings) -> Client {
    Client::new(Options::from_settings(settings).unwrap(), clock()).unwrap()
}

fn client(server: &Sendgrid) -> Client {
    client_with(&settings(server))
}

fn to(address: &str) -> Fixture {
    Fixture::to(Channel::Email, address, 1)
}

fn sent(id: Option<&str>) -> Outcome {
    Outcome::Sent { provider_id: id.map(str::to_owned) }
}

async fn outcome_of(answer: Answer) -> Outcome {
    let server = Sendgrid::start().await.unwrap();
    server.answer(answer);
    client(&server).send(&to("kim@example.org").message()).await
}

#[tokio::test]
async fn an_email_is_handed_over_whole() {
    let server = Sendgrid::start().await.unwrap();
    let client = client(&server);
    let mut fixture = to("kim@example.org");
    fixture.rendered.html = Some("<p>Order 1042</p>".to_owned());
    assert_eq!(client.send(&fixture.message()).await, sent(Some("message-1")));
    fixture.rendered.text = String::new();
    assert_eq!(client.send(&fixture.message()).await, sent(Some("message-2")));

    let [first, second] = server.requests().try_into().unwrap();
    assert_eq!((first.method.as_str(), first.path.as_str()), ("POST", "/v3/mail/send"));
    assert_eq!(first.header("authorization"), format!("Bearer {KEY}"));
    assert_eq!(first.header("content-type"), "application/json");
    assert_eq!(
        first.json(),
        json!({
            "personalizations": [{"to": [{"email": "kim@example.org"}]}],
            "from": {"email": "no-reply@example.com", "name": "가게 Shop"},
            "subject": "Your order is on its way",
            "content": [
                {"type": "text/plain", "value": "Order 1042 left our house."},
                {"type": "text/html", "value": "<p>Order 1042</p>"},
            ],
            "headers": {"Message-ID": message_id(&fixture), "Auto-Submitted": "auto-generated"},
            "custom_args": {"peal_ref": format!("eu.shop.order-1042-shipped.{}", fixture.delivery)},
        })
    );
    assert_eq!(second.json()["content"], json!([{"type": "text/html", "value": "<p>Order 1042</p>"}]));
}

#[tokio::test]
async fn attachments_arrive_as_they_were_handed_in() {
    let server = Sendgrid::start().await.unwrap();
    let mut fixture = Fixture { attachments: attachments(), ..to("kim@example.org") };
    assert_eq!(client(&server).send(&fixture.message()).await, sent(Some("message-1")));
    let body = server.requests()[0].json();
    let [page, table] = [&fixture.attachments[0], &fixture.attachments[1]];
    let expected = json!([
        {"content": page.content, "type": "application/pdf", "filename": "invoice.pdf", "disposition": "attachment"},
        {"content": table.content, "type": "text/csv", "filename": "청구서.csv", "disposition": "attachment"},
    ]);
    assert_eq!(body["attachments"], expected);
    assert_eq!(body["subject"], "Your order is on its way", "the rest is there too");

    fixture.attachments =
        [Attachment { filename: "a\r\nb".to_owned(), ..page.clone() }].into_iter().collect();
    assert_eq!(client(&server).send(&fixture.message()).await, permanent("invalid_attachment"));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn the_sandbox_mode_is_passed_on() {
    let server = Sendgrid::start().await.unwrap();
    let client = client_with(&SendgridSettings { sandbox_mode: true, ..settings(&server) });
    assert_eq!(client.send(&to("kim@example.org").message()).await, sent(None));
    assert_eq!(server.requests()[0].json()["mail_settings"], json!({"sandbox_mode": {"enable": true}}));
}

#[tokio::test]
async fn a_link_to_unsubscribe_is_a_header() {
    let server = Sendgrid::start().await.unwrap();
    let link = Some("https://peal.example.com/u/x".to_owned());
    let fixture = Fixture { unsubscribe: link, ..to("kim@example.org") };
    assert_eq!(client(&server).send(&fixture.message()).await, sent(Some("message-1")));
    assert_eq!(
        server.requests()[0].json()["headers"],
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
    let limited = || Answer::status(429);
    let answers = [
        (Answer::status(202), sent(None)),
        (Answer::status(202).header("x-message-id", "a.b-c").endless(), sent(Some("a.b-c"))),
        (Answer::status(200).body("<html>Welcome</html>"), ambiguous("unreadable_answer")),
        (Answer::status(200).endless(), ambiguous("unreadable_answer")),
        (Answer::status(302).header("location", "http://127.0.0.1:9/"), unavailable("redirect_refused")),
        (Sendgrid::error(400, Some("personalizations.0.to.0.email")), permanent("invalid_address")),
        (Sendgrid::error(400, None), permanent("http_400")),
        (Sendgrid::error(401, None), unavailable("key_refused")),
        (Sendgrid::error(403, Some("from")), unavailable("forbidden")),
        (Sendgrid::error(413, None), permanent("payload_too_large")),
        (limited(), retry("http_429")),
        (limited().header("retry-after", "7"), retry_after("http_429", 7)),
        (limited().header("retry-after", "Sun, 22 Nov 2026 12:00:30 GMT"), retry_after("http_429", 30)),
        (limited().header("retry-after", "soon"), retry("http_429")),
        // 2026-11-22T12:01:00Z.
        (limited().header("x-ratelimit-reset", "1795348860"), retry_after("http_429", 60)),
        (Answer::status(500), retry("http_500")),
        (Answer::status(503).endless(), retry("http_503")),
        (Answer::reset(), ambiguous("no_answer_after_send")),
    ];
    for (answer, expected) in answers {
        let outcome = timeout(SOON, outcome_of(answer.clone())).await.expect("an outcome in time");
        assert_eq!(outcome, expected, "{answer:?}");
    }
}

#[tokio::test]
async fn silence_after_sending_is_ambiguous_and_bounded() {
    let server = Sendgrid::start().await.unwrap();
    let client = client_with(&SendgridSettings { timeout_seconds: 1, ..settings(&server) });
    let waits = [
        (Answer::hang(), ambiguous("no_answer_after_send")),
        (Answer::status(200).stalled(), ambiguous("unreadable_answer")),
        // What the head says counts.
        (Answer::status(202).stalled(), sent(None)),
    ];
    for (answer, expected) in waits {
        server.answer(answer);
        let started = Instant::now();
        assert_eq!(client.send(&to("kim@example.org").message()).await, expected);
        assert!(started.elapsed() < Duration::from_secs(5));
    }
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn before_anything_is_sent_it_is_a_retry() {
    let server = Sendgrid::start().await.unwrap();
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
    let server = Sendgrid::start().await.unwrap();
    let client = client(&server);
    for (address, reason) in [
        ("", "invalid_address"),
        ("kim", "invalid_address"),
        ("Kim <kim@example.org>", "invalid_address"),
        ("kim@example.org\r\nBcc: b@example.org", "invalid_header"),
        ("kim\0@example.org", "invalid_header"),
    ] {
        assert_eq!(client.send(&to(address).message()).await, permanent(reason), "{address:?}");
    }
    let with = |rendered| Fixture { rendered, ..to("kim@example.org") };
    for subject in ["x\r\nBcc: b@example.org", "x\ny", "x\0y"] {
        let rendered =
            Rendered { subject: Some(subject.to_owned()), text: "t".to_owned(), ..Rendered::default() };
        assert_eq!(client.send(&with(rendered).message()).await, permanent("invalid_header"), "{subject:?}");
    }
    assert_eq!(client.send(&with(Rendered::default()).message()).await, permanent("message_empty"));
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn the_key_is_shown_nowhere() {
    let server = Sendgrid::start().await.unwrap();
    server.answer(Answer::reset());
    let client = client(&server);
    let outcome = client.send(&to("kim@example.org").message()).await;
    assert!(!format!("{client:?} {outcome:?}").contains(KEY));
}

#[tokio::test]
async fn asked_whether_it_works_it_sends_nothing() {
    let server = Sendgrid::start().await.unwrap();
    let client = client(&server);
    server.answer(Answer::status(200).body(r#"{"scopes":["mail.send"]}"#));
    assert_eq!(client.probe().await, Probe::Works);
    server.answer(Answer::status(401));
    assert_eq!(client.probe().await, fails("http_401"));
    let [asked, _] = server.requests().try_into().unwrap();
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("GET", "/v3/scopes"));
    assert_eq!(asked.header("authorization"), format!("Bearer {KEY}"));
}
