//! Who gets it, decided when it is planned and again just before it is sent.

use peal_common::channel::{Channel, ChannelChoice};
use peal_common::event::EventType;
use peal_dispatcher::recording::{Answer, Command, Reply, Smtp, Webhooks};
use serde_json::json;

use super::LIMIT;
use super::region::{Region, from_now, intake, kinds, work};

#[tokio::test(flavor = "multi_thread")]
async fn opt_outs_suppress_and_mandatory_categories_do_not_care() {
    let region = Region::start().await;
    let webhooks = Webhooks::start().await.unwrap();
    let url = webhooks.url("/");
    region.category("orders", json!({"class": "transactional", "channels": ["webhook", "inbox"]})).await;
    region
        .category("security", json!({"class": "transactional", "mandatory": true, "channels": ["webhook"]}))
        .await;
    let refuses = json!({"channels": {"webhook": false}});
    let state = region.recipient("u", &[(Channel::Webhook, &url)], refuses).await;
    let dispatcher = region.dispatcher("");

    region.accept(&intake("n-1", &["u"], state)).await;
    let suppressed = region.event("n-1", EventType::Suppressed).await;
    assert_eq!(
        (suppressed.channel, suppressed.reason.as_deref()),
        (Some(Channel::Webhook), Some("channel_opt_out"))
    );
    assert_eq!(region.event("n-1", EventType::Delivered).await.channel, Some(Channel::Inbox));

    let mut only_webhook = intake("n-2", &["u"], state);
    only_webhook.notification.channels = Some(vec![ChannelChoice::Webhook]);
    region.accept(&only_webhook).await;
    region.event("n-2", EventType::Suppressed).await;

    let mut mandatory = intake("n-3", &["u"], state);
    mandatory.notification.category = "security".parse().unwrap();
    region.accept(&mandatory).await;
    webhooks.wait_for(1, LIMIT).await.unwrap();
    region.drained().await;
    assert_eq!(webhooks.count(), 1);
    assert_eq!(kinds(&region.events().await, "n-2"), [EventType::Suppressed]);
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_after_the_plan_counts() {
    let region = Region::start().await;
    let webhooks = Webhooks::start().await.unwrap();
    let url = webhooks.url("/");
    let planned =
        |id: &str, recipient: &str, state| work(&region.sealer, id, recipient, Channel::Webhook, &url, state);
    region.category("orders", json!({"class": "transactional"})).await;
    let contact = [(Channel::Webhook, url.as_str())];
    region.recipient("opted-out", &contact, json!({"categories": {"orders": {"enabled": false}}})).await;
    region.recipient("moved", &[], json!({})).await;
    region.recipient("gone", &contact, json!({})).await;
    region.erase("gone").await;
    region.recipient("here", &contact, json!({})).await;
    let state = region.cancel("cancelled").await;
    let dispatcher = region.dispatcher("");

    for (id, recipient) in [("n-1", "opted-out"), ("n-2", "moved"), ("n-3", "gone"), ("cancelled", "here")] {
        region.queue(&planned(id, recipient, state)).await;
    }
    let mut late = planned("late", "here", state);
    late.notification.expires_at = from_now(-1);
    region.queue(&late).await;

    for (id, kind, reason) in [
        ("n-1", EventType::Suppressed, "category_opt_out"),
        ("n-2", EventType::Suppressed, "contact_removed"),
        ("n-3", EventType::Erased, "recipient_erased"),
        ("cancelled", EventType::Cancelled, "cancelled"),
        ("late", EventType::Expired, "expired"),
    ] {
        assert_eq!(region.event(id, kind).await.reason.as_deref(), Some(reason));
    }
    region.drained().await;
    assert_eq!(webhooks.count(), 0);
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_waits_for_the_state_that_it_depends_on() {
    let region = Region::start().await;
    region.category("orders", json!({"class": "transactional", "channels": ["inbox"]})).await;
    let state = region.recipient("u", &[], json!({})).await;
    let dispatcher = region.dispatcher("");
    region.accept(&intake("early", &["u", "later"], state + 1)).await;
    region.accept(&intake("other", &["u"], state)).await;
    region.event("other", EventType::Delivered).await;
    assert_eq!(kinds(&region.events().await, "early"), [], "nothing is guessed");
    region.recipient("later", &[], json!({})).await;
    region.event("early", EventType::Delivered).await;
    region.drained().await;
    assert_eq!(kinds(&region.events().await, "early").len(), 3, "one plan, two deliveries");
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_without_a_provider_is_refused_and_the_sandbox_takes_it_where_it_is_on() {
    let region = Region::start().await;
    region.category("orders", json!({"class": "transactional", "channels": ["email"]})).await;
    let state = region.recipient("u", &[(Channel::Email, "a@example.com")], json!({})).await;
    let without = region.dispatcher("");
    region.accept(&intake("n-1", &["u", "nobody"], state)).await;
    assert_eq!(region.event("n-1", EventType::Failed).await.reason.as_deref(), Some("no_provider"));
    assert_eq!(region.event("n-1", EventType::Erased).await.reason.as_deref(), Some("unknown_recipient"));
    without.end().await;

    let with = region.dispatcher("[channels.sandbox]\nenabled = true");
    region.accept(&intake("n-2", &["u"], state)).await;
    assert_eq!(region.event("n-2", EventType::Sent).await.provider.as_deref(), Some("sandbox"));
    region.drained().await;
    with.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_address_is_not_called_again() {
    let region = Region::start().await;
    let webhooks = Webhooks::start().await.unwrap();
    let (gone, other) = (webhooks.url("/gone"), webhooks.url("/other"));
    region.category("orders", json!({"class": "transactional"})).await;
    region.recipient("two", &[(Channel::Webhook, &gone), (Channel::Webhook, &other)], json!({})).await;
    let state = region.recipient("one", &[(Channel::Webhook, &gone)], json!({})).await;
    webhooks.answer_with(|request| Answer::status(if request.path == "/gone" { 410 } else { 204 }));
    let dispatcher = region.dispatcher("");

    region.accept(&intake("n-1", &["one"], state)).await;
    let failed = region.event("n-1", EventType::Failed).await;
    assert_eq!(failed.reason.as_deref(), Some("http_410"));
    // Somebody else has the same address, and another one.
    region.accept(&intake("n-2", &["two"], state)).await;
    region.event("n-2", EventType::Delivered).await;
    region.accept(&intake("n-3", &["one"], state)).await;
    let suppressed = region.event("n-3", EventType::Suppressed).await;
    assert_eq!(suppressed.reason.as_deref(), Some("address_suppressed"));
    // It was planned before the address was known to be dead.
    region.queue(&work(&region.sealer, "n-4", "one", Channel::Webhook, &gone, state)).await;
    let suppressed = region.event("n-4", EventType::Suppressed).await;
    assert_eq!(suppressed.reason.as_deref(), Some("address_suppressed"));
    region.drained().await;
    let called: Vec<_> = webhooks.received().into_iter().map(|request| request.path).collect();
    assert_eq!(called, ["/gone", "/other"]);
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_that_has_been_full_for_days_is_not_written_to_again() {
    const FULL: &str = "full@example.com";
    let region = Region::start().await;
    let mails = Smtp::start().await.unwrap();
    mails.reply(Command::Rcpt, Reply::say("552 5.2.2 full"));
    region.category("orders", json!({"class": "transactional"})).await;
    region.recipient("today", &[(Channel::Email, "today@example.com")], json!({})).await;
    region.recipient("for-days", &[(Channel::Email, FULL)], json!({})).await;
    let state = region.full_mailbox(FULL, &[from_now(-60 * 60 * 60), from_now(-30 * 60 * 60)]).await;
    let dispatcher = region.dispatcher(&format!(
        "[channels.email.smtp]\nhost = \"127.0.0.1\"\nport = {}\ntls = \"none\"\nfrom = \"shop@example.com\"\n",
        mails.address().port()
    ));
    region.accept(&intake("n-1", &["today"], state)).await;
    region.accept(&intake("n-2", &["for-days"], state)).await;
    for id in ["n-1", "n-2"] {
        let failed = region.event(id, EventType::Failed).await;
        assert_eq!(failed.reason.as_deref(), Some("smtp_552_5.2.2"));
    }
    region.accept(&intake("n-3", &["today"], state)).await;
    region.event("n-3", EventType::Failed).await;
    region.accept(&intake("n-4", &["for-days"], state)).await;
    let suppressed = region.event("n-4", EventType::Suppressed).await;
    assert_eq!(suppressed.reason.as_deref(), Some("address_suppressed"));
    region.drained().await;
    dispatcher.end().await;
}
