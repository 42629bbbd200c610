//! Accounts at providers that an app brings along, while the dispatcher runs.

use std::time::{Duration, Instant};

use peal_common::channel::Channel;
use peal_common::envelope::Intake;
use peal_common::event::EventType;
use peal_dispatcher::recording::{Answer, Telegram};
use serde_json::json;

use super::region::{Region, eventually, intake};

/// No account that is out of order is asked sooner.
const FIRST_PROBE: Duration = Duration::from_secs(5);

async fn bot() -> Telegram {
    let bot = Telegram::start().await.unwrap();
    bot.answer_with(|call| match call.token.ends_with("wrong") {
        false => Answer::status(200).body(r#"{"ok":true,"result":{"message_id":1}}"#),
        true => Telegram::error(401, "Unauthorized", None),
    });
    bot
}

fn telegram(bot: &Telegram, token: &str) -> serde_json::Value {
    json!({"telegram": {"token": token, "base_url": bot.base_url()}})
}

async fn set_up() -> (Region, u64) {
    let region = Region::start().await;
    region.category("orders", json!({"class": "transactional"})).await;
    let state = region.recipient("u", &[(Channel::Telegram, "4711")], json!({})).await;
    (region, state)
}

fn message(id: &str, state: u64) -> Intake {
    let mut intake = intake(id, &["u"], state);
    intake.notification.channels = Some(serde_json::from_value(json!(["telegram"])).unwrap());
    intake
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_serves_its_app_from_the_moment_it_is_there_until_it_is_gone() {
    let (region, state) = set_up().await;
    let (general, own) = (bot().await, bot().await);
    let dispatcher = region.dispatcher(&format!(
        "[channels.telegram]\ntoken = \"1:general\"\nbase_url = \"{}\"\n",
        general.base_url()
    ));
    let send = async |id: &str, state: u64| {
        region.accept(&message(id, state)).await;
        region.event(id, EventType::Sent).await.provider.unwrap()
    };
    assert_eq!(send("n-1", state).await, "telegram");
    let state = region.account("main", Some(telegram(&own, "2:own"))).await;
    assert_eq!(send("n-2", state).await, "telegram:shop/main");
    // Other credentials count at once.
    let state = region.account("main", Some(telegram(&own, "2:newer"))).await;
    assert_eq!(send("n-3", state).await, "telegram:shop/main");
    let state = region.account("main", None).await;
    assert_eq!(send("n-4", state).await, "telegram");
    let tokens = |bot: &Telegram| bot.calls().into_iter().map(|call| call.token).collect::<Vec<_>>();
    assert_eq!(tokens(&own), ["2:own", "2:newer"]);
    assert_eq!(tokens(&general), ["1:general", "1:general"]);
    region.drained().await;
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_is_served_that_had_no_account_before() {
    let (region, state) = set_up().await;
    let own = bot().await;
    let dispatcher = region.dispatcher("");
    region.accept(&message("n-1", state)).await;
    let failed = region.event("n-1", EventType::Failed).await;
    assert_eq!(failed.reason.as_deref(), Some("no_provider"));
    let state = region.account("main", Some(telegram(&own, "2:own"))).await;
    region.accept(&message("n-2", state)).await;
    region.event("n-2", EventType::Sent).await;
    region.drained().await;
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_meant_for_an_account_that_is_wrong_waits_until_it_is_put_right() {
    let (region, _) = set_up().await;
    let own = bot().await;
    let dispatcher = region.dispatcher("");
    // One that can't be set up, and one whose credentials are refused.
    let mut state = 0;
    for (id, token) in [("n-1", "no/token"), ("n-2", "2:wrong")] {
        state = region.account("main", Some(telegram(&own, token))).await;
        region.accept(&message(id, state)).await;
        let retried = region.event(id, EventType::Retried).await;
        assert_eq!(retried.provider.as_deref(), Some("telegram:shop/main"));
    }
    assert!(state > 0);
    region.account("main", Some(telegram(&own, "2:right"))).await;
    for id in ["n-1", "n-2"] {
        let sent = region.event(id, EventType::Sent).await;
        assert_eq!(sent.attempts, Some(1), "it burnt none");
    }
    region.drained().await;
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_one_account_leaves_the_circuits_of_others_as_they_are() {
    let (region, _) = set_up().await;
    let own = bot().await;
    let dispatcher = region.dispatcher("");
    let began = Instant::now();
    let state = region.account("main", Some(telegram(&own, "2:wrong"))).await;
    region.accept(&message("n-1", state)).await;
    region.event("n-1", EventType::Retried).await;
    let state =
        region.account("mail", Some(json!({"mandrill": {"key": "k", "from": "a@shop.example"}}))).await;
    region.accept(&message("n-2", state)).await;
    eventually("it is asked again", async || own.calls().len() > 1).await;
    assert!(began.elapsed() >= FIRST_PROBE, "the circuit was forgotten");
    region.account("main", Some(telegram(&own, "2:right"))).await;
    for id in ["n-1", "n-2"] {
        region.event(id, EventType::Sent).await;
    }
    region.drained().await;
    dispatcher.end().await;
}
