//! What is not called twice: a dispatcher that is killed in the middle of a call leaves an intent behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use peal_common::channel::Channel;
use peal_common::event::EventType;
use peal_dispatcher::recording::{Answer, Telegram};
use peal_nats::topology::ATTEMPTS;
use serde_json::json;

use super::LIMIT;
use super::region::{Dispatcher, Region, eventually, intake, kinds, work};

const CHAT: &str = "4711";
/// Short, so that what was in hand comes again soon.
const ACK_WAIT: Duration = Duration::from_secs(2);

async fn set_up(class: &str) -> (Region, Telegram, String, u64) {
    let region = Region::start_with_ack_wait(ACK_WAIT).await;
    let bot = Telegram::start().await.unwrap();
    region.category("orders", json!({ "class": class })).await;
    let state = region.recipient("u", &[(Channel::Telegram, CHAT)], json!({})).await;
    let settings = format!("[channels.telegram]\ntoken = \"1:secret\"\nbase_url = \"{}\"\n", bot.base_url());
    (region, bot, settings, state)
}

/// Kills a dispatcher in the middle of its first call, and starts another one.
async fn interrupted(region: &Region, bot: &Telegram, settings: &str, state: u64) -> Dispatcher {
    let is_first = Arc::new(AtomicBool::new(true));
    bot.answer_with(move |_| match is_first.swap(false, Ordering::Relaxed) {
        true => Answer::hang(),
        false => Answer::status(200).body(r#"{"ok":true,"result":{"message_id":1}}"#),
    });
    let doomed = region.doomed_dispatcher(settings);
    region.accept(&intake("n-1", &["u"], state)).await;
    bot.wait_for(1, LIMIT).await.unwrap();
    doomed.shutdown_background();
    region.dispatcher(settings)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_advertisement_that_may_have_been_sent_is_not_sent_again() {
    let (region, bot, settings, state) = set_up("marketing").await;
    let dispatcher = interrupted(&region, &bot, &settings, state).await;
    let ambiguous = region.event("n-1", EventType::Ambiguous).await;
    assert_eq!(ambiguous.reason.as_deref(), Some("dispatcher_lost"));
    region.drained().await;
    assert_eq!(bot.count(), 1);
    assert_eq!(kinds(&region.events().await, "n-1"), [EventType::Planned, EventType::Ambiguous]);
    assert_eq!(region.dead_letters().await.len(), 1);

    // Whoever replays it wants it sent.
    let mut replayed = work(&region.sealer, "n-1", "u", Channel::Telegram, CHAT, state);
    (replayed.replays, replayed.repeat) = (1, true);
    region.queue(&replayed).await;
    region.event("n-1", EventType::Sent).await;
    assert_eq!(bot.count(), 2);
    eventually("the intent is settled", async || {
        let subject = region.subjects.attempt(Channel::Telegram, replayed.delivery.as_str());
        let last = region.connection.last_of(ATTEMPTS, &subject).await.unwrap();
        last.is_some_and(|last| *last.payload == *b"-")
    })
    .await;
    region.drained().await;
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_that_may_have_been_sent_is_sent_again() {
    let (region, bot, settings, state) = set_up("transactional").await;
    let dispatcher = interrupted(&region, &bot, &settings, state).await;
    let sent = region.event("n-1", EventType::Sent).await;
    assert_eq!(sent.attempts, Some(1), "of the first one no event tells");
    region.drained().await;
    assert_eq!(bot.count(), 2);
    assert_eq!(region.connection.stream_state(ATTEMPTS).await.unwrap().messages, 0, "no write for it");
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_certainly_nobody_heard_is_called_again() {
    let (region, bot, settings, state) = set_up("marketing").await;
    // With a wait it says that nothing was done.
    bot.answer_next(Answer::status(503).header("retry-after", "1"));
    bot.answer_next(Answer::status(503).header("retry-after", "1"));
    let dispatcher = region.dispatcher(&settings);
    region.accept(&intake("n-1", &["u"], state)).await;
    let sent = region.event("n-1", EventType::Sent).await;
    assert_eq!(sent.attempts, Some(3));
    assert_eq!(bot.count(), 3);
    region.drained().await;
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_advertisement_that_somebody_on_the_way_gave_up_on_is_not_sent_again() {
    let (region, bot, settings, state) = set_up("marketing").await;
    bot.answer_next(Answer::status(502));
    let dispatcher = region.dispatcher(&settings);
    region.accept(&intake("n-1", &["u"], state)).await;
    let ambiguous = region.event("n-1", EventType::Ambiguous).await;
    assert_eq!(ambiguous.reason.as_deref(), Some("http_502"));
    region.drained().await;
    assert_eq!((bot.count(), region.dead_letters().await.len()), (1, 1));
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_advertisement_that_asks_whether_the_account_is_back_is_not_sent_again_either() {
    let (region, bot, settings, state) = set_up("marketing").await;
    bot.answer_with(|_| Answer::status(502));
    let dispatcher = region.dispatcher(&settings);
    // So many open the circuit.
    for n in 0..10 {
        region.accept(&intake(&format!("n-{n}"), &["u"], state)).await;
    }
    for n in 0..10 {
        region.event(&format!("n-{n}"), EventType::Ambiguous).await;
    }
    assert_eq!(bot.count(), 10);
    region.accept(&intake("probe", &["u"], state)).await;
    let ambiguous = region.event("probe", EventType::Ambiguous).await;
    assert_eq!(ambiguous.reason.as_deref(), Some("http_502"));
    region.drained().await;
    assert_eq!((bot.count(), region.dead_letters().await.len()), (11, 11));
    dispatcher.end().await;
}
