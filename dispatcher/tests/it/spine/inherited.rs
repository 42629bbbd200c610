//! A consumer of INTAKE that was deleted and made again hands out everything once more.

use std::time::Duration;

use peal_common::channel::{Channel, Priority};
use peal_common::clock::Clock;
use peal_common::event::{Event, EventType, PlannedDelivery};
use peal_dispatcher::recording::Webhooks;
use peal_nats::publish::Outgoing;
use peal_nats::topology::{INTAKE, Options, fanout_consumer};
use serde_json::json;

use super::LIMIT;
use super::region::{self, Region, eventually, intake, kinds};

/// The shortest that the server (2.15) takes.
const WINDOW: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_made_again_repeats_nothing_and_skips_nothing() {
    let options = Options { duplicate_window: WINDOW, ..Options::laptop() };
    let region = Region::start_with(options).await;
    let webhooks = Webhooks::start().await.unwrap();
    let url = webhooks.url("/");
    region.category("orders", json!({"class": "transactional", "channels": ["webhook"]})).await;
    let contacts = [(Channel::Webhook, url.as_str())];
    region.recipient("wants", &contacts, json!({})).await;
    let state = region.recipient("refuses", &contacts, json!({"channels": {"webhook": false}})).await;
    let dispatcher = region.dispatcher("");
    let poison = Outgoing::new(region.subjects.intake(Priority::Normal, "shop"), b"{".to_vec());
    region.connection.publish(poison).await.unwrap();
    region.accept(&intake("delivered", &["wants"], state)).await;
    region.accept(&intake("refused", &["refuses"], state)).await;
    let delivered = region.event("delivered", EventType::Delivered).await;
    region.event("refused", EventType::Suppressed).await;
    eventually("the foreign message is put aside", async || region.dead_letters().await.len() == 1).await;
    dispatcher.end().await;

    // Nobody has seen this one, and of that one the dispatcher said what it plans and no more.
    region.accept(&intake("waiting", &["wants"], state)).await;
    let half = intake("half", &["wants", "refuses"], state);
    region.accept(&half).await;
    let mut planned = Event::about(EventType::Planned, Clock::System.now(), &half.notification);
    let work = region::work(&region.sealer, "half", "wants", Channel::Webhook, &url, state);
    planned.deliveries = vec![PlannedDelivery {
        delivery: work.delivery,
        recipient: work.recipient,
        channel: work.channel,
        contact: work.contact,
    }];
    region.say(&planned).await;
    let consumer = fanout_consumer(Priority::Normal);
    region.connection.jetstream.delete_consumer_from_stream(&consumer, INTAKE).await.unwrap();
    let state = region.recipient("refuses", &contacts, json!({})).await;
    eventually("WORK has forgotten what it had", async || {
        Clock::System.now().duration_since(delivered.at).unsigned_abs() > 2 * WINDOW
    })
    .await;
    region.apply_topology().await;

    let dispatcher = region.dispatcher("");
    region.event("waiting", EventType::Delivered).await;
    region.event("half", EventType::Delivered).await;
    // What comes afterwards is as before.
    region.accept(&intake("later", &["refuses"], state)).await;
    region.event("later", EventType::Delivered).await;
    region.drained().await;
    webhooks.wait_for(4, LIMIT).await.unwrap();
    assert_eq!(webhooks.count(), 4);
    let events = region.events().await;
    assert_eq!(kinds(&events, "delivered"), [EventType::Planned, EventType::Delivered]);
    assert_eq!(kinds(&events, "refused"), [EventType::Suppressed]);
    assert_eq!(kinds(&events, "waiting"), [EventType::Planned, EventType::Delivered]);
    assert_eq!(kinds(&events, "half"), [EventType::Planned, EventType::Delivered]);
    assert_eq!(region.dead_letters().await.len(), 1);
    dispatcher.end().await;
}
