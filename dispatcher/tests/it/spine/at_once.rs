//! Sole deliveries, which are made as soon as they are planned.

use std::cell::Cell;
use std::time::Duration;

use peal_common::channel::Channel;
use peal_common::event::{Event, EventType};
use peal_dispatcher::recording::{Answer, Webhooks};
use peal_nats::put_off::put_off;
use peal_nats::topology::{EVENTS, work_stream};
use serde_json::json;

use super::LIMIT;
use super::region::{Dispatcher, Region, eventually, from_now, intake, kinds, work};

/// Settings of a dispatcher that waits for slow endpoints.
const PATIENT: &str = "[channels.webhook]\ntimeout_seconds = 15";

/// A region with a dispatcher, a recipient `u` with a webhook, and one `app` with an inbox.
struct Trial {
    region: Region,
    webhooks: Webhooks,
    state: u64,
    dispatcher: Dispatcher,
}

impl Trial {
    /// Starts all, and waits until the dispatcher knows that its queues are empty and that messages are new: of what was
    /// there before it, it can't tell.
    async fn start(more: &str) -> Self {
        let region = Region::start().await;
        let webhooks = Webhooks::start().await.unwrap();
        region.category("orders", json!({"class": "transactional"})).await;
        region.recipient("u", &[(Channel::Webhook, &webhooks.url("/"))], json!({})).await;
        let state = region.recipient("app", &[], json!({})).await;
        let dispatcher = region.dispatcher(more);
        let trial = Trial { region, webhooks, state, dispatcher };
        for (recipient, channel) in [("u", Channel::Webhook), ("app", Channel::Inbox)] {
            let number = Cell::new(0);
            eventually("a delivery is made at once", async || {
                let (id, before) = (format!("{recipient}-{}", number.get()), trial.queued(channel).await);
                number.set(number.get() + 1);
                trial.accept(&id, &[recipient]).await;
                trial.region.event(&id, EventType::Delivered).await;
                trial.queued(channel).await == before
            })
            .await;
        }
        trial.region.drained().await;
        trial
    }

    async fn accept(&self, id: &str, recipients: &[&str]) {
        self.region.accept(&intake(id, recipients, self.state)).await;
    }

    /// How many deliveries were ever queued.
    async fn queued(&self, channel: Channel) -> u64 {
        self.region.connection.stream_state(&work_stream(channel)).await.unwrap().last
    }

    async fn told(&self) -> u64 {
        self.region.connection.stream_state(EVENTS).await.unwrap().last
    }

    async fn kinds(&self, id: &str) -> Vec<EventType> {
        kinds(&self.region.events().await, id)
    }

    async fn end(self) {
        self.region.drained().await;
        self.dispatcher.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sole_delivery_is_made_and_told_at_once() {
    let trial = Trial::start("").await;
    let (queued, told, calls) =
        (trial.queued(Channel::Webhook).await, trial.told().await, trial.webhooks.count());
    trial.accept("n", &["u"]).await;
    let delivered = trial.region.event("n", EventType::Delivered).await;
    trial.region.drained().await;
    assert_eq!((delivered.attempts, trial.webhooks.count()), (Some(1), calls + 1));
    assert_eq!(trial.queued(Channel::Webhook).await, queued);
    assert_eq!(trial.told().await, told + 1, "one message tells both");
    assert_eq!(trial.kinds("n").await, [EventType::Planned, EventType::Delivered]);
    let plan = trial.region.event("n", EventType::Planned).await;
    assert!(plan.at <= delivered.at);
    assert_eq!(plan.deliveries[0].delivery, delivered.delivery.unwrap());
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_deliveries_are_queued() {
    let trial = Trial::start("").await;
    let queued = (trial.queued(Channel::Webhook).await, trial.queued(Channel::Inbox).await);
    trial.accept("n", &["u", "app"]).await;
    trial.region.event("n", EventType::Delivered).await;
    trial.region.drained().await;
    let now = (trial.queued(Channel::Webhook).await, trial.queued(Channel::Inbox).await);
    assert_eq!(now, (queued.0 + 1, queued.1 + 1));
    assert_eq!(trial.kinds("n").await, [EventType::Planned, EventType::Delivered, EventType::Delivered]);
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planning_is_told_by_itself_when_its_provider_takes_long() {
    let trial = Trial::start(PATIENT).await;
    let queued = trial.queued(Channel::Webhook).await;
    trial.webhooks.answer(Answer::status(200).after(Duration::from_millis(1_500)));
    trial.accept("n", &["u"]).await;
    trial.region.event("n", EventType::Planned).await;
    assert_eq!(trial.kinds("n").await, [EventType::Planned]);
    trial.region.event("n", EventType::Delivered).await;
    trial.region.drained().await;
    assert_eq!(trial.kinds("n").await, [EventType::Planned, EventType::Delivered]);
    assert_eq!(trial.queued(Channel::Webhook).await, queued);
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_first_attempt_that_fails_it_waits_in_the_queue() {
    let trial = Trial::start("[dispatcher]\nretry_base_ms = 400").await;
    let (queued, calls) = (trial.queued(Channel::Webhook).await, trial.webhooks.count());
    trial.webhooks.answer_next(Answer::status(503));
    trial.webhooks.answer_next(Answer::status(503));
    trial.accept("n", &["u"]).await;
    let delivered = trial.region.event("n", EventType::Delivered).await;
    trial.region.drained().await;
    assert_eq!((delivered.attempts, trial.webhooks.count()), (Some(3), calls + 3));
    assert_eq!(trial.queued(Channel::Webhook).await, queued + 1);
    let events = trial.region.events().await;
    let own: Vec<_> = events.iter().filter(|event| event.notification.as_str() == "n").collect();
    assert_eq!(
        kinds(&events, "n"),
        [EventType::Planned, EventType::Retried, EventType::Retried, EventType::Delivered]
    );
    assert_eq!(own[1].attempts, Some(1));
    assert_eq!(own[2].attempts, Some(2), "it was not counted that it was handed out to wait");
    assert!(own[2].at >= own[1].until.unwrap(), "it waited");
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_the_queue_goes_first() {
    // Three at once of this priority.
    let trial = Trial::start("[dispatcher]\nconcurrency = 8").await;
    let (queued, calls) = (trial.queued(Channel::Webhook).await, trial.webhooks.count());
    trial.webhooks.answer(Answer::status(200).after(Duration::from_millis(100)));
    let (region, url) = (&trial.region, trial.webhooks.url("/"));
    for number in 0..20 {
        let id = format!("queued-{number}");
        region.queue(&work(&region.sealer, &id, "u", Channel::Webhook, &url, trial.state)).await;
    }
    trial.webhooks.wait_for(calls + 3, LIMIT).await.unwrap();
    trial.accept("n", &["u"]).await;
    region.event("n", EventType::Delivered).await;
    region.drained().await;
    assert_eq!(trial.queued(Channel::Webhook).await, queued + 21);
    let events = region.events().await;
    let behind = events.iter().rev().filter(|event| event.kind == EventType::Delivered);
    let behind = behind.take_while(|event| event.notification.as_str() != "n").count();
    assert!(behind < 3, "{behind} came later");
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_hangs_takes_no_place_of_other_channels() {
    let trial = Trial::start(PATIENT).await;
    let queued = (trial.queued(Channel::Webhook).await, trial.queued(Channel::Inbox).await);
    let calls = trial.webhooks.count();
    trial.webhooks.answer(Answer::status(200).after(Duration::from_secs(10)));
    for number in 0..400 {
        trial.accept(&format!("slow-{number}"), &["u"]).await;
    }
    trial.accept("quick", &["app"]).await;
    trial.region.event("quick", EventType::Delivered).await;
    let events = trial.region.events().await;
    let is_slow = |event: &&Event| event.notification.as_str().starts_with("slow");
    assert!(!events.iter().filter(is_slow).any(|event| event.kind == EventType::Delivered), "all hang");
    assert_eq!(trial.queued(Channel::Inbox).await, queued.1, "it found a place");
    // They wait a moment for a place first.
    eventually("most of the others are queued", async || {
        trial.queued(Channel::Webhook).await - queued.0 >= 400 - 128
    })
    .await;
    assert!(trial.queued(Channel::Webhook).await - queued.0 < 400, "some found places");
    trial.webhooks.answer(Answer::status(200));
    eventually("all have come", async || trial.webhooks.count() == calls + 400).await;
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_put_down_to_wait_is_not_sent_from_its_queue_as_well() {
    let trial = Trial::start("").await;
    let (region, url) = (&trial.region, trial.webhooks.url("/"));
    let calls = trial.webhooks.count();
    let mut queued = work(&region.sealer, "n", "u", Channel::Webhook, &url, trial.state);
    put_off(&region.connection, &region.subjects, queued.clone(), from_now(3)).await.unwrap();
    queued.repeat = true;
    region.queue(&queued).await;
    region.event("n", EventType::Delivered).await;
    region.drained().await;
    assert_eq!(trial.webhooks.count(), calls + 1);
    assert_eq!(trial.kinds("n").await, [EventType::Delivered]);
    trial.end().await;
}
