//! Notifications that one region takes over from another one.

use peal_common::channel::Channel;
use peal_common::envelope::{EXTENDED_VERSION, Intake, TakenDelivery, Takeover, WhenAmbiguous, Work};
use peal_common::event::{EventType, PlannedDelivery};
use peal_common::takeover::TAKEN_OVER;
use peal_dispatcher::recording::Webhooks;
use serde_json::json;

use super::LIMIT;
use super::region::{Region, intake, kinds, work};

const NUMBER: &str = "+821012345678";

pub fn taken(id: &str, works: &[Work], when_ambiguous: WhenAmbiguous) -> Intake {
    let deliveries = works.iter().map(|work| TakenDelivery {
        planned: PlannedDelivery {
            delivery: work.delivery.clone(),
            recipient: work.recipient.clone(),
            channel: work.channel,
            contact: work.contact.clone(),
        },
        replays: 0,
        ambiguous: true,
    });
    let takeover = Takeover {
        from: "eu".parse().unwrap(),
        deliveries: deliveries.collect(),
        ambiguous: true,
        when_ambiguous,
    };
    Intake { v: EXTENDED_VERSION, takeover: Some(takeover), ..intake(id, &[], 0) }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_region_may_have_delivered_follows_the_policy_of_its_channel() {
    let region = Region::start().await;
    let webhooks = Webhooks::start().await.unwrap();
    let url = webhooks.url("/");
    region.category("orders", json!({"class": "transactional"})).await;
    let contacts = [(Channel::Webhook, url.as_str()), (Channel::Sms, NUMBER)];
    region.recipient("u", &contacts, json!({})).await;
    let dispatcher = region.dispatcher("[channels.sandbox]\nenabled = true");
    let planned = |id: &str| {
        [(Channel::Webhook, url.as_str()), (Channel::Sms, NUMBER)]
            .map(|(channel, address)| work(&region.sealer, id, "u", channel, address, 0))
    };

    region.accept(&taken("n-1", &planned("n-1"), WhenAmbiguous::ByChannel)).await;
    webhooks.wait_for(1, LIMIT).await.unwrap();
    let put_aside = region.event("n-1", EventType::Ambiguous).await;
    assert_eq!(put_aside.channel, Some(Channel::Sms));
    region.event("n-1", EventType::Delivered).await;
    let letters = region.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].work.as_ref().unwrap().channel, Channel::Sms);

    region.accept(&taken("n-2", &planned("n-2"), WhenAmbiguous::PutAside)).await;
    region.event("n-2", EventType::Planned).await;
    region.drained().await;
    assert_eq!(webhooks.count(), 1);
    assert_eq!(region.dead_letters().await.len(), 3);
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_region_took_over_is_left_to_it() {
    let region = Region::start().await;
    let webhooks = Webhooks::start().await.unwrap();
    let url = webhooks.url("/");
    region.category("orders", json!({"class": "transactional", "channels": ["webhook"]})).await;
    region.recipient("u", &[(Channel::Webhook, &url)], json!({})).await;
    region.taken_over("elsewhere", "us").await;
    region.taken_over("planned", "us").await;
    let state = region.taken_over("here", "test-1").await;
    let dispatcher = region.dispatcher("");

    region.accept(&intake("elsewhere", &["u"], state)).await;
    region.queue(&work(&region.sealer, "planned", "u", Channel::Webhook, &url, state)).await;
    region.accept(&intake("here", &["u"], state)).await;
    for id in ["elsewhere", "planned"] {
        let event = region.event(id, EventType::Cancelled).await;
        assert_eq!(event.reason.as_deref(), Some(TAKEN_OVER));
    }
    region.event("here", EventType::Delivered).await;
    region.drained().await;
    assert_eq!(webhooks.count(), 1);
    assert_eq!(kinds(&region.events().await, "elsewhere"), [EventType::Cancelled]);
    dispatcher.end().await;
}
