//! A region whose dispatchers come back after a silence, while its hub is away.

use std::time::Duration;

use peal_common::channel::Channel;
use peal_common::clock::Clock;
use peal_common::event::EventType;
use peal_dispatcher::recording::{Answer, Twilio, Webhooks};
use serde_json::json;

use super::LIMIT;
use super::region::{Region, intake};

/// After so long without a word the region may have been taken over.
const SILENCE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_be_sent_twice_waits_for_the_hub() {
    let region = Region::start_cut_off().await;
    let (webhooks, twilio) = (Webhooks::start().await.unwrap(), Twilio::start().await.unwrap());
    twilio.answer(Answer::status(201).body(r#"{"sid":"SM1","status":"queued"}"#));
    region.category("orders", json!({"class": "transactional"})).await;
    region.recipient("hook", &[(Channel::Webhook, &webhooks.url("/"))], json!({})).await;
    let state = region.recipient("phone", &[(Channel::Sms, "+821012345678")], json!({})).await;
    let settings = format!(
        "[topology]\nhub = \"hub\"\nregions = [\"test-1\", \"us\"]\nsilence_seconds = {}\nhomecoming_seconds = 1\n\
         [channels.sms.twilio]\naccount_sid = \"AC{:032}\"\nauth_token = \"t\"\nfrom = \"+14155550100\"\n\
         base_url = \"{}\"\n",
        SILENCE.as_secs(),
        1,
        twilio.base_url()
    );
    let before = region.dispatcher(&settings);
    region.accept(&intake("n-1", &["hook"], state)).await;
    let last = region.event("n-1", EventType::Delivered).await;
    region.drained().await;
    before.end().await;

    region.accept(&intake("n-2", &["hook", "phone"], state)).await;
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    while Clock::System.now().duration_since(last.at) <= SILENCE.try_into().unwrap() {
        tick.tick().await;
    }
    let back = region.dispatcher(&settings);
    webhooks.wait_for(2, LIMIT).await.unwrap();
    let held = region.event("n-2", EventType::Retried).await;
    assert_eq!((held.channel, held.reason.as_deref()), (Some(Channel::Sms), Some("taken_over_unknown")));
    assert_eq!((held.attempts, twilio.count()), (None, 0));
    // What is accepted from now on is nobody else's.
    region.accept(&intake("n-3", &["phone"], state)).await;
    region.event("n-3", EventType::Sent).await;
    assert_eq!((twilio.count(), webhooks.count()), (1, 2));
    back.end().await;

    // Nor does one know better that starts while others have spoken again.
    let next = region.dispatcher(&settings);
    let mut old = intake("n-4", &["phone"], state);
    old.notification.accepted_at = last.at;
    region.accept(&old).await;
    let held = region.event("n-4", EventType::Retried).await;
    assert_eq!((held.reason.as_deref(), twilio.count()), (Some("taken_over_unknown"), 1));
    next.end().await;
}
