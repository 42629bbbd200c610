//! The way of a notification through a running dispatcher: INTAKE → deliveries → providers → events.

mod accounts;
mod alimtalk;
mod at_once;
mod attachments;
mod circuits;
mod decisions;
mod every_account;
mod failures;
mod fallbacks;
mod foreign;
mod homecoming;
mod inherited;
mod intents;
mod interrupted;
mod limits;
mod own_accounts;
mod push;
mod region;
mod reloads;
mod retries;
mod takeovers;
mod unsubscribe;
mod waits;

use std::time::Duration;

use peal_common::channel::Channel;
use peal_common::event::EventType;
use peal_dispatcher::recording::{Smtp, Telegram, Webhooks};
use serde_json::json;

use region::{Region, intake, kinds};

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn one_notification_reaches_four_recipients_on_four_channels() {
    let region = Region::start().await;
    let (webhooks, mails, bot) =
        (Webhooks::start().await.unwrap(), Smtp::start().await.unwrap(), Telegram::start().await.unwrap());
    let url = webhooks.url("/hook");
    region.category("orders", json!({"class": "transactional"})).await;
    region.recipient("hook", &[(Channel::Webhook, &url)], json!({})).await;
    region.recipient("mail", &[(Channel::Email, "kim@example.com")], json!({})).await;
    region.recipient("chat", &[(Channel::Telegram, "4711")], json!({})).await;
    let state = region.recipient("app", &[], json!({})).await;
    let dispatcher = region.dispatcher(&format!(
        "[channels.email.smtp]\nhost = \"127.0.0.1\"\nport = {}\ntls = \"none\"\nfrom = \"Shop <shop@example.com>\"\n\
         [channels.telegram]\ntoken = \"1:secret\"\nbase_url = \"{}\"\n",
        mails.address().port(),
        bot.base_url()
    ));
    region.accept(&intake("n-1", &["hook", "mail", "chat", "app"], state)).await;

    let requests = webhooks.wait_for(1, LIMIT).await.unwrap();
    assert!(Webhooks::verify(&requests[0], &region.sealer.webhook_secret(&region::app())));
    assert_eq!(requests[0].json()["data"]["title"], "Shipped");
    let mails = mails.wait_for(1, LIMIT).await.unwrap();
    assert!(format!("{:?}", mails[0]).contains("kim@example.com"));
    let calls = bot.wait_for(1, LIMIT).await.unwrap();
    assert!(format!("{:?}", calls[0]).contains("&lt;is&gt;"), "the text is escaped for Telegram");
    let inbox = region.connection.stream_state(peal_nats::topology::INBOX).await.unwrap();
    region.drained().await;
    assert_eq!(inbox.messages.max(1), 1);

    let events = region.events().await;
    let happened = kinds(&events, "n-1");
    assert_eq!(happened.iter().filter(|kind| **kind == EventType::Planned).count(), 1);
    assert_eq!(happened.iter().filter(|kind| **kind == EventType::Delivered).count(), 2, "webhook and inbox");
    assert_eq!(happened.iter().filter(|kind| **kind == EventType::Sent).count(), 2, "e-mail and Telegram");
    let text = format!("{events:?}");
    assert!(
        !text.contains("kim@example.com") && !text.contains("4711") && !text.contains("/hook"),
        "no addresses"
    );
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_is_not_sent_again_after_a_lost_acknowledgement() {
    let region = Region::start().await;
    let webhooks = Webhooks::start().await.unwrap();
    let url = webhooks.url("/");
    region.category("orders", json!({"class": "transactional"})).await;
    let state = region.recipient("hook", &[(Channel::Webhook, &url)], json!({})).await;
    let dispatcher = region.dispatcher("");
    let mut work = region::work(&region.sealer, "n-1", "hook", Channel::Webhook, &url, state);
    region.queue(&work).await;
    webhooks.wait_for(1, LIMIT).await.unwrap();
    region.event("n-1", EventType::Delivered).await;

    // The same delivery again, as after a crash between its event and its acknowledgement; and another one behind it.
    work.repeat = true;
    region.queue(&work).await;
    region.queue(&region::work(&region.sealer, "n-2", "hook", Channel::Webhook, &url, state)).await;
    region.event("n-2", EventType::Delivered).await;
    region.drained().await;
    assert_eq!(webhooks.count(), 2);
    assert_eq!(kinds(&region.events().await, "n-1"), [EventType::Delivered]);
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_critical_notification_overtakes_a_backlog_of_bulk() {
    let region = Region::start().await;
    let webhooks = Webhooks::start().await.unwrap();
    let (slow, fast) = (webhooks.url("/bulk"), webhooks.url("/critical"));
    region.category("orders", json!({"class": "transactional"})).await;
    region.recipient("bulk", &[(Channel::Webhook, &slow)], json!({})).await;
    let state = region.recipient("critical", &[(Channel::Webhook, &fast)], json!({})).await;
    webhooks.answer_with(|request| {
        let wait = if request.path.contains("bulk") { 50 } else { 0 };
        peal_dispatcher::recording::Answer::status(200).after(Duration::from_millis(wait))
    });
    for number in 0..300 {
        let mut bulk = intake(&format!("bulk-{number}"), &["bulk"], state);
        bulk.notification.priority = peal_common::channel::Priority::Bulk;
        region.accept(&bulk).await;
    }
    let dispatcher = region.dispatcher("[dispatcher]\nconcurrency = 16");
    webhooks.wait_for(10, LIMIT).await.unwrap();
    let mut critical = intake("critical", &["critical"], state);
    critical.notification.priority = peal_common::channel::Priority::Critical;
    region.accept(&critical).await;
    region.event("critical", EventType::Delivered).await;
    assert!(webhooks.count() < 150, "{} bulk messages went first", webhooks.count());
    webhooks.wait_for(301, LIMIT).await.unwrap();
    region.drained().await;
    dispatcher.end().await;
}
