//! What follows when a provider does not take a message.

use std::time::Duration;

use peal_common::channel::Channel;
use peal_common::envelope::{DeadLetter, Envelope as _, Work};
use peal_common::event::{Event, EventType};
use peal_dispatcher::recording::{Answer, Telegram, Webhooks};
use peal_nats::publish::Outgoing;
use peal_nats::topology::SCHEDULE;
use serde_json::json;

use super::LIMIT;
use super::region::{Region, intake, kinds};

async fn set_up(answers: impl IntoIterator<Item = Answer>) -> (Region, Webhooks, u64) {
    let region = Region::start().await;
    let webhooks = Webhooks::start().await.unwrap();
    answers.into_iter().for_each(|answer| webhooks.answer_next(answer));
    region.category("orders", json!({"class": "transactional"})).await;
    let url = webhooks.url("/");
    let state = region.recipient("u", &[(Channel::Webhook, &url)], json!({})).await;
    (region, webhooks, state)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_endpoint_is_tried_again_until_it_works() {
    let (region, webhooks, state) = set_up([Answer::status(503), Answer::reset()]).await;
    let dispatcher = region.dispatcher("");
    region.accept(&intake("n-1", &["u"], state)).await;
    let delivered = region.event("n-1", EventType::Delivered).await;
    assert_eq!(delivered.attempts, Some(3));
    let requests = webhooks.wait_for(3, LIMIT).await.unwrap();
    let ids: std::collections::HashSet<_> =
        requests.iter().map(|request| request.header("webhook-id")).collect();
    assert_eq!(ids.len(), 1, "the same id on every attempt");
    region.drained().await;
    let happened = kinds(&region.events().await, "n-1");
    assert_eq!(happened, [EventType::Planned, EventType::Retried, EventType::Retried, EventType::Delivered]);
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wait_that_an_endpoint_asks_for_is_kept() {
    let (region, webhooks, state) = set_up([Answer::status(429).header("retry-after", "2")]).await;
    let dispatcher = region.dispatcher("");
    region.accept(&intake("n-1", &["u"], state)).await;
    region.event("n-1", EventType::Delivered).await;
    let events = region.events().await;
    let at = |kind| events.iter().find(|event| event.kind == kind).unwrap().at;
    let waited = at(EventType::Delivered).duration_since(at(EventType::Retried));
    assert!(Duration::try_from(waited).unwrap() >= Duration::from_millis(1_900), "waited {waited:?}");
    assert_eq!(webhooks.count(), 2);
    region.drained().await;
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_last_attempt_it_is_a_dead_letter_that_can_be_replayed() {
    let (region, webhooks, state) = set_up([]).await;
    webhooks.answer(Answer::status(500));
    let dispatcher = region.dispatcher("");
    region.accept(&intake("n-1", &["u"], state)).await;
    let event = region.event("n-1", EventType::DeadLettered).await;
    assert_eq!(event.attempts, Some(3));
    assert_eq!(webhooks.count(), 3);
    region.drained().await;
    let letters = region.dead_letters().await;
    assert_eq!(letters.len(), 1);
    let DeadLetter { reason, work, subject, .. } = letters.into_iter().next().unwrap();
    assert!(reason.contains("attempts_exhausted") && reason.contains("500"), "{reason}");

    webhooks.answer(Answer::status(200));
    let mut work = work.unwrap();
    (work.attempts, work.replays) = (0, work.replays + 1);
    region.connection.publish(Outgoing::new(subject, work.encode().unwrap())).await.unwrap();
    let delivered = region.event("n-1", EventType::Delivered).await;
    assert_eq!(delivered.replays, Some(1));
    region.drained().await;
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_for_good_is_not_tried_again() {
    let (region, webhooks, state) = set_up([Answer::status(400)]).await;
    let dispatcher = region.dispatcher("");
    region.accept(&intake("n-1", &["u"], state)).await;
    assert_eq!(region.event("n-1", EventType::Failed).await.reason.as_deref(), Some("http_400"));
    region.drained().await;
    assert_eq!(webhooks.count(), 1);
    assert_eq!(region.dead_letters().await.len(), 1);
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_receipt_settles_meanwhile_is_not_sent_again() {
    let region = Region::start().await;
    let bot = Telegram::start().await.unwrap();
    bot.answer_with(|_| Answer::reset());
    region.category("orders", json!({"class": "transactional"})).await;
    let state = region.recipient("u", &[(Channel::Telegram, "4711")], json!({})).await;
    let settings = format!("[channels.telegram]\ntoken = \"1:t\"\nbase_url = \"{}\"\n", bot.base_url());
    let dispatcher = region.dispatcher(&settings);
    let mut intake = intake("n-1", &["u"], state);
    intake.notification.channels = Some(serde_json::from_value(json!(["telegram"])).unwrap());
    region.accept(&intake).await;
    let retried = region.event("n-1", EventType::Retried).await;
    assert_eq!(retried.reason.as_deref(), Some("ambiguous: no_answer_after_send"));

    // Its time comes, after its receipt.
    let name = region.subjects.schedule(&["work", retried.delivery.as_ref().unwrap().as_str()]);
    let waiting = region.connection.last_of(SCHEDULE, &name).await.unwrap().unwrap();
    region.say(&Event { kind: EventType::Delivered, ..retried }).await;
    region.connection.purge(SCHEDULE, &name).await.unwrap();
    let work = Work::decode(&waiting.payload).unwrap();
    assert!(work.repeat && work.repeat_since.is_some(), "it is looked up what became of it");
    region.queue(&work).await;
    region.drained().await;
    assert_eq!(bot.calls().len(), 1);
    dispatcher.end().await;
}
