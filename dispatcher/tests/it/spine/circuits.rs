//! An account at a provider that is out of order.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use peal_common::channel::Channel;
use peal_common::event::EventType;
use peal_dispatcher::recording::{Answer, Mandrill, Sendgrid, Telegram};
use serde_json::{Value, json};

use super::region::{Region, eventually, intake};

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_while_a_provider_is_down_waits_and_burns_no_attempt() {
    let region = Region::start().await;
    let bot = Telegram::start().await.unwrap();
    let is_down = Arc::new(AtomicBool::new(true));
    let down = Arc::clone(&is_down);
    bot.answer_with(move |_| match down.load(Ordering::Relaxed) {
        true => Answer::status(502),
        false => Answer::status(200).body(r#"{"ok":true,"result":{"message_id":1}}"#),
    });
    region.category("orders", json!({"class": "transactional"})).await;
    let mut state = 0;
    for number in 0..20 {
        state = region
            .recipient(&format!("u-{number}"), &[(Channel::Telegram, &format!("10{number}"))], json!({}))
            .await;
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let dispatcher = region.dispatcher(&format!(
        "[dispatcher]\nlisten = \"127.0.0.1:{port}\"\nmax_attempts = 20\n\
         [channels.telegram]\ntoken = \"1:secret\"\nbase_url = \"{}\"\n",
        bot.base_url()
    ));
    let accounts = async || {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let answer = reqwest::get(format!("http://127.0.0.1:{port}/readyz")).await.ok()?;
        // The other channels work.
        let is_ready = answer.status().is_success();
        let mut body: Value = serde_json::from_slice(&answer.bytes().await.ok()?).ok()?;
        let telegram = body["accounts"].as_array_mut()?.drain(..).find(|it| it["channel"] == "telegram");
        telegram.filter(|_| is_ready)
    };
    for number in 0..15 {
        region.accept(&intake(&format!("n-{number}"), &[&format!("u-{number}")], state)).await;
    }
    eventually("the circuit is open", async || {
        accounts().await.is_some_and(|account| {
            account["circuit"] == "open" && account["reason"] == "http_502" && account["since"].is_string()
        })
    })
    .await;
    let metrics =
        async || reqwest::get(format!("http://127.0.0.1:{port}/metrics")).await.unwrap().text().await;
    let metrics = metrics().await.unwrap();
    let line = metrics
        .lines()
        .find(|line| line.starts_with("peal_dispatcher_circuit_open") && line.contains("telegram"));
    assert!(line.is_some_and(|line| line.ends_with(" 1")), "{metrics}");
    let called = bot.count();
    // Each was called once, and those nine that had failed before it opened may have been admitted again by then.
    assert!((10..=24).contains(&called), "{called} calls");
    for number in 15..20 {
        region.accept(&intake(&format!("n-{number}"), &[&format!("u-{number}")], state)).await;
    }
    region.event("n-19", EventType::Planned).await;
    // It was looked after in between.
    let called = bot.count();
    is_down.store(false, Ordering::Relaxed);
    for number in 0..20 {
        let sent = region.event(&format!("n-{number}"), EventType::Sent).await;
        assert_eq!(sent.provider.as_deref(), Some("telegram"));
        if number >= 15 {
            assert_eq!(sent.attempts, Some(1), "it waited in hand");
        }
    }
    assert_eq!(accounts().await.unwrap()["circuit"], "closed");
    assert_eq!(bot.count(), called + 20);
    region.drained().await;
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_put_right_while_it_runs() {
    let region = Region::start().await;
    let bot = Telegram::start().await.unwrap();
    bot.answer_with(|call| match call.token.as_str() {
        "1:right" => Answer::status(200).body(r#"{"ok":true,"result":{"message_id":1}}"#),
        _ => Telegram::error(401, "Unauthorized", None),
    });
    region.category("orders", json!({"class": "transactional"})).await;
    let state = region.recipient("u", &[(Channel::Telegram, "4711")], json!({})).await;
    let with =
        |token: &str, url: &str| format!("[channels.telegram]\ntoken = \"{token}\"\nbase_url = \"{url}\"\n");
    let (dispatcher, reload) = region.reloading_dispatcher(&with("1:wrong", &bot.base_url()));
    region.accept(&intake("n-1", &["u"], state)).await;
    let retried = region.event("n-1", EventType::Retried).await;
    assert_eq!(retried.reason.as_deref(), Some("token_refused"));

    // What can't be used changes nothing.
    reload.send(region.settings("")).await.unwrap();
    reload.send(region.settings(&with("no/token", &bot.base_url()))).await.unwrap();
    reload.send(region.settings(&with("1:right", &bot.base_url()))).await.unwrap();
    let sent = region.event("n-1", EventType::Sent).await;
    assert_eq!(sent.attempts, Some(1), "it burnt none");
    region.drained().await;
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_account_is_asked_whether_it_works() {
    let region = Region::start().await;
    let bot = Telegram::start().await.unwrap();
    bot.answer(Telegram::error(401, "Unauthorized", None));
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let dispatcher = region.dispatcher(&format!(
        "[dispatcher]\nlisten = \"127.0.0.1:{port}\"\n\
         [channels.telegram]\ntoken = \"1:secret\"\nbase_url = \"{}\"\n",
        bot.base_url()
    ));
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ask = async || {
        let answer = reqwest::get(format!("http://127.0.0.1:{port}/accounts")).await.ok()?;
        serde_json::from_slice::<Vec<Value>>(&answer.bytes().await.ok()?).ok()
    };
    eventually("the bot is refused, and a webhook can't be asked", async || {
        let accounts = ask().await.unwrap_or_default();
        let has = |account: Value| accounts.contains(&account);
        has(json!({"channel": "telegram", "provider": "telegram", "status": "fails", "reason": "http_401"}))
            && has(json!({"channel": "webhook", "provider": "webhook", "status": "unknown"}))
    })
    .await;
    ask().await.unwrap();
    assert_eq!(bot.count(), 1, "it was just asked");
    region.drained().await;
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_account_takes_what_one_refuses_and_none_takes_what_was_meant_for_others() {
    let region = Region::start().await;
    let (general, first, second) = (bot("g").await, bot("a").await, bot("b").await);
    for (category, class) in [("orders", "transactional"), ("news", "marketing")] {
        region.category(category, json!({ "class": class })).await;
    }
    let state = region.recipient("u", &[(Channel::Telegram, "4711")], json!({})).await;
    let telegram = |token: &str, bot: &Telegram| {
        format!("telegram = {{ token = \"1:{token}\", base_url = \"{}\" }}\n", bot.base_url())
    };
    let dispatcher = region.dispatcher(&format!(
        "[channels]\n{}\
         [channels.accounts.a]\nfor = {{ classes = [\"marketing\"] }}\n{}\
         [channels.accounts.b]\nfor = {{ classes = [\"marketing\"] }}\n{}",
        telegram("g", &general),
        telegram("wrong", &first),
        telegram("b", &second),
    ));
    let provider = async |id: &str, category: &str| {
        let mut intake = intake(id, &["u"], state);
        intake.notification.category = category.parse().unwrap();
        region.accept(&intake).await;
        region.event(id, EventType::Sent).await.provider
    };
    assert_eq!(provider("n-1", "orders").await.as_deref(), Some("telegram"));
    assert_eq!(provider("n-2", "news").await.as_deref(), Some("telegram:b"));
    // The first one of them is left alone by now.
    assert_eq!(provider("n-3", "news").await.as_deref(), Some("telegram:b"));
    assert_eq!((general.count(), first.count(), second.count()), (1, 1, 2));

    // An advertisement rather waits than go out through the account of the others.
    second.answer_with(|_| Telegram::error(401, "Unauthorized", None));
    let mut advertisement = intake("n-4", &["u"], state);
    advertisement.notification.category = "news".parse().unwrap();
    region.accept(&advertisement).await;
    let retried = region.event("n-4", EventType::Retried).await;
    assert_eq!(retried.reason.as_deref(), Some("token_refused"));
    assert_eq!(general.count(), 1);
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_e_mail_that_may_be_out_is_not_passed_on() {
    let region = Region::start().await;
    let (sendgrid, mandrill) = (Sendgrid::start().await.unwrap(), Mandrill::start().await.unwrap());
    region.category("orders", json!({ "class": "transactional" })).await;
    let state = region.recipient("u", &[(Channel::Email, "u@example.com")], json!({})).await;
    let settings = format!(
        "[channels.email.sendgrid]\nkey = \"SG.k\"\nfrom = \"shop@example.com\"\nbase_url = \"{}\"\n\
         [channels.email.mandrill]\nkey = \"k\"\nfrom = \"shop@example.com\"\nbase_url = \"{}\"\n",
        sendgrid.base_url(),
        mandrill.base_url()
    );
    let dispatcher = region.dispatcher(&settings);
    for (id, answer) in [
        ("n-1", Sendgrid::error(429, None)),
        ("n-2", Sendgrid::error(503, None).header("retry-after", "1")),
        ("n-3", Sendgrid::error(401, None)),
    ] {
        sendgrid.answer(answer);
        region.accept(&intake(id, &["u"], state)).await;
        let sent = region.event(id, EventType::Sent).await;
        assert_eq!(sent.provider.as_deref(), Some("mandrill"), "{id}");
    }
    dispatcher.end().await;

    // Its circuit is open; another process has one of its own.
    let dispatcher = region.dispatcher(&settings);
    sendgrid.answer(Sendgrid::error(502, None));
    region.accept(&intake("n-4", &["u"], state)).await;
    let retried = region.event("n-4", EventType::Retried).await;
    assert_eq!(retried.provider.as_deref(), Some("sendgrid"));
    sendgrid.answer(Answer::status(202).header("x-message-id", "m-4"));
    let sent = region.event("n-4", EventType::Sent).await;
    assert_eq!(sent.provider.as_deref(), Some("sendgrid"));
    assert_eq!(mandrill.requests().len(), 3);
    dispatcher.end().await;
}

/// A bot that knows only its own token.
async fn bot(token: &str) -> Telegram {
    let bot = Telegram::start().await.unwrap();
    let known = format!("1:{token}");
    bot.answer_with(move |call| match call.token == known {
        true => Answer::status(200).body(r#"{"ok":true,"result":{"message_id":1}}"#),
        false => Telegram::error(401, "Unauthorized", None),
    });
    bot
}
