//! What has to wait: for its time, for the end of quiet hours, for a provider.

use jiff::tz::TimeZone;
use peal_common::channel::Channel;
use peal_common::event::EventType;
use peal_dispatcher::recording::{Answer, Webhooks};
use serde_json::json;

use super::LIMIT;
use super::region::{Region, from_now, intake, kinds};

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_waits_for_its_time() {
    let region = Region::start().await;
    region.category("orders", json!({"class": "transactional", "channels": ["inbox"]})).await;
    let state = region.recipient("u", &[], json!({})).await;
    let dispatcher = region.dispatcher("");
    let mut later = intake("later", &["u"], state);
    let at = from_now(2);
    later.send_at = Some(at);
    region.accept(&later).await;
    assert_eq!(region.event("later", EventType::Scheduled).await.until, Some(at));
    let delivered = region.event("later", EventType::Delivered).await;
    assert!(delivered.at >= at, "not before its time");
    region.drained().await;
    let happened = kinds(&region.events().await, "later");
    assert_eq!(happened, [EventType::Scheduled, EventType::Planned, EventType::Delivered]);
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quiet_hours_hold_a_message_until_their_end() {
    let region = Region::start().await;
    let webhooks = Webhooks::start().await.unwrap();
    let url = webhooks.url("/");
    region.category("orders", json!({"class": "transactional"})).await;
    // Quiet from an hour ago until an hour from now, where the recipient is.
    let there = |seconds| {
        from_now(seconds).to_zoned(TimeZone::get("Asia/Seoul").unwrap()).strftime("%H:%M").to_string()
    };
    let quiet = json!({"quiet_hours": {"from": there(-3_600), "to": there(3_600)}});
    let state = region.recipient("u", &[(Channel::Webhook, &url)], quiet).await;
    let dispatcher = region.dispatcher("");
    region.accept(&intake("quiet", &["u"], state)).await;
    let held = region.event("quiet", EventType::Held).await;
    let until = held.until.unwrap();
    assert!(until > from_now(3_400) && until <= from_now(3_600), "{until}");
    let mut critical = intake("critical", &["u"], state);
    critical.notification.priority = peal_common::channel::Priority::Critical;
    region.accept(&critical).await;
    region.event("critical", EventType::Delivered).await;
    assert_eq!(webhooks.count(), 1);
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_waits_outside_its_queue_comes_back_with_its_attempts() {
    let region = Region::start().await;
    let webhooks = Webhooks::start().await.unwrap();
    let url = webhooks.url("/");
    webhooks.answer_next(Answer::status(503).header("retry-after", "61"));
    region.category("orders", json!({"class": "transactional"})).await;
    let state = region.recipient("u", &[(Channel::Webhook, &url)], json!({})).await;
    let dispatcher = region.dispatcher("");
    region.accept(&intake("n-1", &["u"], state)).await;
    region.event("n-1", EventType::Retried).await;
    // What waits is in SCHEDULE; its time is brought forward by hand.
    let schedule = peal_nats::topology::SCHEDULE;
    let waiting = region.connection.jetstream.get_stream(schedule).await.unwrap();
    let subject =
        region.subjects.schedule(&["work", region.events().await[1].delivery.as_ref().unwrap().as_str()]);
    let message = waiting.get_last_raw_message_by_subject(&subject).await.unwrap();
    let due = region.subjects.due(&["work", "webhook", "normal", "shop"]);
    region.connection.publish(peal_nats::publish::Outgoing::new(due, message.payload)).await.unwrap();
    region.connection.purge(schedule, &subject).await.unwrap();
    let delivered = region.event("n-1", EventType::Delivered).await;
    assert_eq!(delivered.attempts, Some(2));
    webhooks.wait_for(2, LIMIT).await.unwrap();
    region.drained().await;
    dispatcher.end().await;
}
