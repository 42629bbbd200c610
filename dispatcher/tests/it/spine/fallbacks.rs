//! The next channel, when one failed or nobody reacted in time.

use std::sync::Arc;

use futures_util::StreamExt as _;
use peal_common::channel::Channel;
use peal_common::envelope::Intake;
use peal_common::event::{Event, EventType, Status};
use peal_common::fallback::{DeliveryStanding, Fallback, FallbackUntil, NotificationStanding};
use peal_common::id::DeliveryId;
use peal_dispatcher::recording::{Answer, Telegram, Webhooks};
use peal_nats::fallback::{DOOR, Question};
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

use super::region::{Region, intake, kinds};

/// Answers like a gateway: what the events of the region say.
pub async fn gateway(region: &Arc<Region>) -> AbortOnDropHandle<()> {
    let mut questions = region.connection.client.subscribe(region.subjects.api(DOOR)).await.unwrap();
    region.connection.client.flush().await.unwrap();
    let region = Arc::clone(region);
    AbortOnDropHandle::new(tokio::spawn(async move {
        while let Some(message) = questions.next().await {
            let question: Question = serde_json::from_slice(&message.payload).unwrap();
            let events = region.events().await;
            let own: Vec<_> =
                events.into_iter().filter(|event| event.notification == question.notification).collect();
            let answer = serde_json::to_vec(&standing(&own)).unwrap();
            region.connection.client.publish(message.reply.unwrap(), answer.into()).await.unwrap();
        }
    }))
}

fn standing(events: &[Event]) -> NotificationStanding {
    let planned = events.iter().flat_map(|event| &event.deliveries);
    let planned = planned.map(|planned| DeliveryStanding {
        recipient: planned.recipient.clone(),
        channel: Some(planned.channel),
        status: status(events, &planned.delivery),
        reached: reached(events, &planned.delivery),
    });
    NotificationStanding {
        acknowledged: events.iter().any(|event| event.kind == EventType::Acknowledged),
        deliveries: planned.collect(),
    }
}

fn status(events: &[Event], delivery: &DeliveryId) -> Status {
    let own = events.iter().filter(|event| event.delivery.as_ref() == Some(delivery));
    own.filter_map(|event| event.kind.status()).max().unwrap_or(Status::Planned)
}

fn reached(events: &[Event], delivery: &DeliveryId) -> Option<FallbackUntil> {
    let own = events.iter().filter(|event| event.delivery.as_ref() == Some(delivery));
    let steps = own.filter_map(|event| match event.kind {
        EventType::Seen => Some(FallbackUntil::Seen),
        EventType::Delivered => Some(FallbackUntil::Delivered),
        _ => None,
    });
    steps.max()
}

struct Set {
    region: Arc<Region>,
    bot: Telegram,
    hook: Webhooks,
    state: u64,
    settings: String,
    _gateway: AbortOnDropHandle<()>,
}

/// Recipients who are reached by Telegram first, by a webhook then, and have an inbox.
async fn set_up(recipients: u32) -> Set {
    let region = Arc::new(Region::start().await);
    let (bot, hook) = (Telegram::start().await.unwrap(), Webhooks::start().await.unwrap());
    let channels = ["telegram", "webhook", "inbox"];
    region.category("orders", json!({"class": "transactional", "channels": channels})).await;
    let mut state = 0;
    for number in 0..recipients {
        let contacts =
            [(Channel::Telegram, format!("47{number}")), (Channel::Webhook, hook.url(&format!("/{number}")))];
        let contacts = contacts.each_ref().map(|(channel, address)| (*channel, address.as_str()));
        state = region.recipient(&format!("u-{number}"), &contacts, json!({})).await;
    }
    let settings = format!("[channels.telegram]\ntoken = \"1:secret\"\nbase_url = \"{}\"\n", bot.base_url());
    let gateway = gateway(&region).await;
    Set { region, bot, hook, state, settings, _gateway: gateway }
}

impl Set {
    fn intake(&self, recipients: &[&str], after_seconds: u32, until: FallbackUntil) -> Intake {
        let mut intake = intake("n", recipients, self.state);
        intake.notification.fallback = Some(Fallback { after_seconds, until });
        intake
    }

    async fn of(&self, recipient: &str) -> Vec<(Channel, EventType)> {
        let events = self.region.events().await;
        let own =
            events.iter().filter(|event| event.recipient.as_ref().is_some_and(|it| it.as_str() == recipient));
        own.map(|event| (event.channel.unwrap(), event.kind)).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_channel_refuses_goes_out_on_the_next_at_once() {
    let set = set_up(2).await;
    // One has blocked the bot.
    set.bot.answer_with(|call| match call.parameters["chat_id"].to_string().contains("470") {
        true => Telegram::error(403, "Forbidden: bot was blocked by the user", None),
        false => Answer::status(200).body(r#"{"ok":true,"result":{"message_id":1}}"#),
    });
    let dispatcher = set.region.dispatcher(&set.settings);
    set.region.accept(&set.intake(&["u-0", "u-1"], 3_600, FallbackUntil::Delivered)).await;
    let delivered = set.region.event("n", EventType::Delivered).await;
    assert_eq!((delivered.recipient.unwrap().as_str(), delivered.channel), ("u-0", Some(Channel::Webhook)));
    let of_failed = set.of("u-0").await;
    let (telegram, webhook) = (Channel::Telegram, Channel::Webhook);
    assert_eq!(of_failed, [(telegram, EventType::Failed), (webhook, EventType::Delivered)]);
    assert_eq!(set.of("u-1").await, [(telegram, EventType::Sent)], "an hour is not over");
    assert_eq!(set.hook.count(), 1);
    let events = set.region.events().await;
    let planned: Vec<_> = events.iter().filter(|event| event.kind == EventType::Planned).collect();
    assert_eq!(planned.iter().map(|event| event.deliveries.len()).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(planned[1].reason.as_deref(), Some("fallback"));

    // What is acknowledged is not looked at any more.
    let mut acknowledged = planned[0].clone();
    (acknowledged.kind, acknowledged.deliveries) = (EventType::Acknowledged, Vec::new());
    set.region.say(&acknowledged).await;
    let question = Question { app: acknowledged.app, notification: acknowledged.notification };
    let now = peal_common::clock::Clock::System.now();
    peal_nats::fallback::hurry(&set.region.connection, &set.region.subjects, &question, now).await.unwrap();
    set.region.drained().await;
    assert_eq!(set.hook.count(), 1);
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_react_in_time_gets_it_on_every_channel_in_turn() {
    let set = set_up(2).await;
    let dispatcher = set.region.dispatcher(&set.settings);
    set.region.accept(&set.intake(&["u-0", "u-1"], 1, FallbackUntil::Seen)).await;
    let sent = set.region.event("n", EventType::Sent).await;
    // One sees it at once.
    let mut seen = sent.clone();
    seen.kind = EventType::Seen;
    set.region.say(&seen).await;
    let other = if sent.recipient.as_ref().unwrap().as_str() == "u-0" { "u-1" } else { "u-0" };
    set.region.drained().await;
    let expected = [
        (Channel::Telegram, EventType::Sent),
        (Channel::Webhook, EventType::Delivered),
        (Channel::Inbox, EventType::Delivered),
    ];
    assert_eq!(set.of(other).await, expected);
    assert_eq!((set.bot.count(), set.hook.count()), (2, 1));
    let planned = kinds(&set.region.events().await, "n");
    assert_eq!(planned.iter().filter(|kind| **kind == EventType::Planned).count(), 3);
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_no_gateway_answers_a_fallback_waits() {
    let mut set = set_up(1).await;
    set._gateway = AbortOnDropHandle::new(tokio::spawn(std::future::pending()));
    let dispatcher = set.region.dispatcher(&set.settings);
    set.region.accept(&set.intake(&["u-0"], 1, FallbackUntil::Delivered)).await;
    set.region.event("n", EventType::Sent).await;
    super::region::eventually("the check is tried", async || {
        let stream = set.region.connection.jetstream.get_stream(peal_nats::topology::SCHEDULE).await.unwrap();
        let due = stream.consumer_info(peal_nats::topology::DUE_CONSUMER).await.unwrap();
        due.num_redelivered > 0
    })
    .await;
    assert_eq!(set.hook.count(), 0);
    set._gateway = gateway(&set.region).await;
    set.region.event("n", EventType::Delivered).await;
    assert_eq!(set.hook.count(), 1);
    set.region.drained().await;
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cancelled_goes_nowhere_else() {
    let set = set_up(1).await;
    let dispatcher = set.region.dispatcher(&set.settings);
    set.region.accept(&set.intake(&["u-0"], 2, FallbackUntil::Delivered)).await;
    set.region.event("n", EventType::Sent).await;
    set.region.cancel("n").await;
    set.region.drained().await;
    assert_eq!(set.hook.count(), 0);
    dispatcher.end().await;
}
