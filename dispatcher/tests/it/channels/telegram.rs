//! Telegram: what is sent, what answers mean, and the pause of the whole bot.

use std::time::Duration;

use peal_common::channel::Channel;
use peal_common::outcome::Outcome;
use peal_common::settings::TelegramSettings;
use peal_common::template::{Button, ButtonKind};
use peal_dispatcher::channels::telegram::{Client, Options};
use peal_dispatcher::channels::{PROVIDER_PAUSED, Probe, THROTTLED};
use peal_dispatcher::recording::{Answer, Telegram};
use peal_nats::turns::Turns;
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::fixture::{
    Fixture, SHORT, SOON, address_dead, ambiguous, clock, fails, permanent, retry, retry_after, unavailable,
};

const TOKEN: &str = "123456:TEST-token_0";

fn options(base_url: &str) -> Options {
    let settings = TelegramSettings {
        token: Some(TOKEN.to_owned().into()),
        token_file: None,
        base_url: base_url.to_owned(),
    };
    Options::from_settings(&settings).unwrap()
}

fn client(server: &Telegram) -> Client {
    Client::new(options(&server.base_url()), Turns::local(), clock()).unwrap()
}

fn to(chat: &str) -> Fixture {
    Fixture::to(Channel::Telegram, chat, 1)
}

async fn outcome_of(answer: Answer) -> Outcome {
    let server = Telegram::start().await.unwrap();
    server.answer(answer);
    client(&server).send(&to("42").message()).await
}

#[tokio::test]
async fn a_message_is_html_with_its_links_as_buttons() {
    let server = Telegram::start().await.unwrap();
    let client = client(&server);
    let mut fixture = to("-100123");
    fixture.rendered.text = "<b>Shipped</b>\nA &amp; B".to_owned();
    let link = |name: &str, url: Option<&str>| Button {
        name: name.to_owned(),
        kind: ButtonKind::Wl,
        url: url.map(str::to_owned),
        ..Button::default()
    };
    fixture.rendered.buttons = vec![
        link("Track", Some("https://example.com/t?a=1&b=2")),
        link("None", None),
        link("Bad", Some("no")),
    ];
    assert_eq!(client.send(&fixture.message()).await, Outcome::Sent { provider_id: Some("1".to_owned()) });
    client.send(&to("@news").message()).await;

    let [first, second] = server.calls().try_into().unwrap();
    assert_eq!((first.token.as_str(), first.method.as_str()), (TOKEN, "sendMessage"));
    assert_eq!(
        first.parameters,
        json!({
            "chat_id": -100_123,
            "text": "<b>Shipped</b>\nA &amp; B",
            "parse_mode": "HTML",
            "reply_markup": {"inline_keyboard": [[{"text": "Track", "url": "https://example.com/t?a=1&b=2"}]]},
        })
    );
    assert_eq!(second.parameters["chat_id"], "@news");
}

#[tokio::test]
async fn answers_become_outcomes() {
    let error = Telegram::error;
    let answers = [
        (error(403, "Forbidden: bot was blocked by the user", None), address_dead("http_403")),
        (error(400, "Bad Request: chat not found", None), address_dead("chat_not_found")),
        (error(400, "Bad Request: message is too long", None), permanent("message_too_long")),
        (error(401, "Unauthorized", None), unavailable("token_refused")),
        (error(404, "Not Found", None), unavailable("token_refused")),
        (error(429, "Too Many Requests: retry after 35", Some(35)), retry_after("http_429", 35)),
        (error(500, "Internal Server Error", None), retry("http_500")),
        (Answer::status(502).body("<html>Bad Gateway</html>"), retry("http_502")),
        (Answer::status(200).body("<html>Welcome</html>"), ambiguous("unreadable_answer")),
        (Answer::status(200).body("{\"ok\":tru"), ambiguous("unreadable_answer")),
        (Answer::status(200).endless(), ambiguous("unreadable_answer")),
        (Answer::status(302).header("location", "http://127.0.0.1:9/"), unavailable("redirect_refused")),
        (Answer::reset(), ambiguous("no_answer_after_send")),
    ];
    for (answer, expected) in answers {
        let outcome = timeout(SOON, outcome_of(answer.clone())).await.expect("an outcome in time");
        assert_eq!(outcome, expected, "{answer:?}");
    }
}

#[tokio::test]
async fn silence_after_sending_is_ambiguous_and_bounded() {
    let server = Telegram::start().await.unwrap();
    let mut options = options(&server.base_url());
    options.timeout = SHORT;
    let client = Client::new(options, Turns::local(), clock()).unwrap();
    for answer in [Answer::hang(), Answer::status(200).stalled()] {
        server.answer_next(answer);
        let started = Instant::now();
        let outcome = client.send(&to(&server.count().to_string()).message()).await;
        assert!(matches!(outcome, Outcome::Ambiguous { .. }), "{outcome:?}");
        assert!(started.elapsed() < SOON);
    }
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn before_anything_is_sent_it_is_a_retry() {
    let server = Telegram::start().await.unwrap();
    let client = client(&server);
    drop(server);
    // The port closes a moment after its server is gone; each try is another chat, for the limits' sake.
    let closed = async {
        for chat in 1.. {
            if client.send(&to(&chat.to_string()).message()).await == retry("connect_failed") {
                break;
            }
        }
    };
    timeout(SOON, closed).await.expect("the port is closed");
}

#[tokio::test]
async fn after_a_429_nothing_is_sent_until_the_wait_is_over() {
    let server = Telegram::start().await.unwrap();
    let client = client(&server);
    server.answer_next(Telegram::error(429, "Too Many Requests", Some(2)));
    assert_eq!(client.send(&to("1").message()).await, retry_after("http_429", 2));
    let Outcome::HeldBack { reason, after: Some(after) } = client.send(&to("2").message()).await else {
        panic!("the whole bot pauses");
    };
    assert_eq!(reason, PROVIDER_PAUSED);
    assert!(after <= Duration::from_secs(2));
    assert_eq!(server.count(), 1);

    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(2)).await;
    tokio::time::resume();
    let outcome = client.send(&to("3").message()).await;
    assert_eq!(outcome, Outcome::Sent { provider_id: Some("1".to_owned()) });
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn a_chat_gets_a_message_a_second_and_the_rest_waits_or_comes_back() {
    let server = Telegram::start().await.unwrap();
    let patient = client(&server);
    let started = Instant::now();
    for _ in 0..2 {
        assert!(matches!(patient.send(&to("7").message()).await, Outcome::Sent { .. }));
    }
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());

    let mut options = options(&server.base_url());
    options.max_wait = Duration::ZERO;
    let hasty = Client::new(options, Turns::local(), clock()).unwrap();
    assert!(matches!(hasty.send(&to("7").message()).await, Outcome::Sent { .. }));
    let refused = hasty.send(&to("7").message()).await;
    assert!(
        matches!(&refused, Outcome::HeldBack { reason, after: Some(_) } if reason == THROTTLED),
        "{refused:?}"
    );
    assert!(matches!(hasty.send(&to("8").message()).await, Outcome::Sent { .. }));
    assert_eq!(server.count(), 4);
}

#[tokio::test]
async fn what_is_no_chat_is_not_sent() {
    let server = Telegram::start().await.unwrap();
    let client = client(&server);
    for bad in ["", "someone", "@", "1; drop"] {
        assert_eq!(client.send(&to(bad).message()).await, permanent("invalid_address"), "{bad:?}");
    }
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn the_token_is_shown_nowhere() {
    let server = Telegram::start().await.unwrap();
    server.answer(Answer::reset());
    let client = client(&server);
    let outcome = client.send(&to("42").message()).await;
    assert!(!format!("{client:?} {outcome:?}").contains(TOKEN));
}

#[tokio::test]
async fn asked_whether_it_works_it_sends_nothing() {
    let server = Telegram::start().await.unwrap();
    let client = client(&server);
    server.answer(Answer::status(200).body(r#"{"ok":true,"result":{"id":123456,"is_bot":true}}"#));
    assert_eq!(client.probe().await, Probe::Works);
    server.answer(Telegram::error(401, "Unauthorized", None));
    assert_eq!(client.probe().await, fails("http_401"));
    let methods: Vec<_> = server.calls().into_iter().map(|call| (call.token, call.method)).collect();
    assert_eq!(methods, [(); 2].map(|()| (TOKEN.to_owned(), "getMe".to_owned())));
}
