//! Alimtalk: what becomes of messages after Aligo took them.

use std::net::TcpListener;
use std::sync::Arc;

use peal_common::channel::Channel;
use peal_common::envelope::{Intake, Text};
use peal_common::event::EventType;
use peal_common::fallback::{Fallback, FallbackUntil};
use peal_dispatcher::recording::{Aligo, Answer, Twilio, Webhooks};
use serde_json::{Value, json};

use super::fallbacks::gateway;
use super::region::{Region, eventually, intake, kinds};

const CLASS: &str = "transactional";

async fn set_up(numbers: &[&str]) -> (Region, Aligo, u64) {
    let region = Region::start().await;
    let aligo = Aligo::start().await.unwrap();
    aligo.register("T1", "주문 #{order}이 출발했습니다.", &json!({}));
    region.category("orders", json!({"class": CLASS})).await;
    let mut state = 0;
    for (at, number) in numbers.iter().enumerate() {
        state = region.recipient(&format!("u-{at}"), &[(Channel::Alimtalk, number)], json!({})).await;
    }
    (region, aligo, state)
}

fn settings(aligo: &Aligo, more: &str) -> String {
    format!(
        "[channels.alimtalk.aligo]\napi_key = \"k\"\nuser_id = \"shop\"\nsender_key = \"s\"\n\
         sender = \"02-1234-5678\"\nbase_url = \"{}\"\n{more}",
        aligo.base_url()
    )
}

fn message(id: &str, recipient: &str, state: u64) -> Intake {
    let mut intake = intake(id, &[recipient], state);
    let alimtalk = json!({"template_code": "T1", "text": "주문 1042이 출발했습니다."});
    let content = json!({"body": "shipped", "by_channel": {"alimtalk": alimtalk}});
    intake.notification.text = Text::Content(serde_json::from_value(content).unwrap());
    intake
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_of_a_message_is_asked_for() {
    let (region, aligo, state) = set_up(&["+821000000001", "+821000000002", "+821000000003"]).await;
    aligo.result("01000000002", "3008");
    aligo.result("01000000003", "9999");
    let dispatcher = region.dispatcher(&settings(&aligo, ""));
    for at in 0..3 {
        region.accept(&message(&format!("n-{at}"), &format!("u-{at}"), state)).await;
    }
    let delivered = region.event("n-0", EventType::Delivered).await;
    assert_eq!(delivered.provider.as_deref(), Some("aligo"));
    // Which messages go out together depends on the moment.
    let messages = aligo.messages();
    let first = messages.iter().find(|message| message.receiver == "01000000001").unwrap();
    assert_eq!(delivered.provider_id, Some(first.batch.to_string()));
    let bounced = region.event("n-1", EventType::Bounced).await;
    assert_eq!(bounced.reason.as_deref(), Some("alimtalk_3008"));
    // Kakao's own trouble: it goes out again.
    let replayed = region.event("n-2", EventType::Replayed).await;
    assert_eq!((replayed.reason.as_deref(), replayed.replays), (Some("alimtalk_9999"), Some(1)));
    aligo.result("01000000003", "0000");
    let delivered = region.event("n-2", EventType::Delivered).await;
    assert_eq!(delivered.replays, Some(1));
    region.drained().await;
    let events = region.events().await;
    assert_eq!(
        kinds(&events, "n-2"),
        [EventType::Planned, EventType::Sent, EventType::Replayed, EventType::Sent, EventType::Delivered]
    );
    let texts: Vec<_> = aligo.messages().iter().map(|message| message.receiver.clone()).collect();
    assert_eq!(texts.iter().filter(|receiver| **receiver == "01000000003").count(), 2);
    assert_eq!(texts.len(), 4);

    // The number has no KakaoTalk: it is not written to again.
    region.accept(&message("n-3", "u-1", state)).await;
    let suppressed = region.event("n-3", EventType::Suppressed).await;
    assert_eq!(suppressed.reason.as_deref(), Some("address_suppressed"));
    region.drained().await;
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_kakao_has_blocked_is_left_alone_and_burns_no_attempt() {
    let (region, aligo, state) = set_up(&["+821000000001", "+821000000002"]).await;
    aligo.result("01000000001", "1021");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!("[dispatcher]\nlisten = \"127.0.0.1:{port}\"\n");
    let dispatcher = region.dispatcher(&settings(&aligo, &listen));
    region.accept(&message("n-0", "u-0", state)).await;
    let replayed = region.event("n-0", EventType::Replayed).await;
    assert_eq!(replayed.reason.as_deref(), Some("alimtalk_1021"));
    let _ = rustls::crypto::ring::default_provider().install_default();
    let answer = reqwest::get(format!("http://127.0.0.1:{port}/readyz")).await.unwrap();
    let ready: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    let account =
        ready["accounts"].as_array().unwrap().iter().find(|it| it["channel"] == "alimtalk").unwrap();
    assert_eq!((&account["circuit"], &account["reason"]), (&json!("open"), &json!("alimtalk_1021")));
    region.accept(&message("n-1", "u-1", state)).await;
    aligo.result("01000000001", "0000");
    for id in ["n-0", "n-1"] {
        region.event(id, EventType::Delivered).await;
        let events = region.events().await;
        let sent =
            events.iter().rfind(|event| event.kind == EventType::Sent && event.notification.as_str() == id);
        assert_eq!(sent.unwrap().attempts, Some(1), "{id}");
    }
    region.drained().await;
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_aligo_does_not_know_is_put_right_while_it_runs() {
    let (region, aligo, state) = set_up(&["+821000000001"]).await;
    aligo.answer(Aligo::error(-101));
    let (dispatcher, reload) = region.reloading_dispatcher(&settings(&aligo, ""));
    region.accept(&message("n", "u-0", state)).await;
    let retried = region.event("n", EventType::Retried).await;
    assert_eq!(retried.reason.as_deref(), Some("aligo_-101"));
    aligo.take();
    let other = settings(&aligo, "").replace("\"k\"", "\"other\"");
    reload.send(region.settings(&other)).await.unwrap();
    let sent = region.event("n", EventType::Sent).await;
    assert_eq!(sent.attempts, Some(1), "it burnt none");
    region.drained().await;
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_aligo_sends_a_text_message_peal_sends_nothing_more() {
    let (region, aligo, state) = set_up(&["+821000000001"]).await;
    aligo.result("01000000001", "9999");
    let dispatcher = region.dispatcher(&settings(&aligo, "failover = true"));
    region.accept(&message("n", "u-0", state)).await;
    region.event("n", EventType::Sent).await;
    region.drained().await;
    let events = region.events().await;
    assert_eq!(kinds(&events, "n"), [EventType::Planned, EventType::Sent, EventType::Sent]);
    assert_eq!(events.last().unwrap().reason.as_deref(), Some("failover: alimtalk_9999"));
    assert_eq!(aligo.messages().len(), 1);
    dispatcher.end().await;
}

/// Somebody whom Alimtalk is tried for first, a text message then, and a webhook in the end.
async fn falling_back() -> (Arc<Region>, Aligo, Twilio, Webhooks, u64) {
    let (region, aligo, _) = set_up(&[]).await;
    let (twilio, hook) = (Twilio::start().await.unwrap(), Webhooks::start().await.unwrap());
    let channels = ["alimtalk", "sms", "webhook"];
    region.category("orders", json!({"class": CLASS, "channels": channels})).await;
    let url = hook.url("/");
    let contacts = [(Channel::Alimtalk, NUMBER), (Channel::Sms, NUMBER), (Channel::Webhook, url.as_str())];
    let state = region.recipient("u", &contacts, json!({})).await;
    (Arc::new(region), aligo, twilio, hook, state)
}

const NUMBER: &str = "+821000000001";

fn with_twilio(aligo: &Aligo, twilio: &Twilio, more: &str) -> String {
    let sid = format!("AC{:032}", 1);
    settings(aligo, more)
        + &format!(
            "\n[channels.sms.twilio]\naccount_sid = \"{sid}\"\nauth_token = \"t\"\nfrom = \"+14155550100\"\n\
             base_url = \"{}\"\n",
            twilio.base_url()
        )
}

fn until_delivered(id: &str, after_seconds: u32, state: u64) -> Intake {
    let mut intake = message(id, "u", state);
    intake.notification.fallback = Some(Fallback { after_seconds, until: FallbackUntil::Delivered });
    intake
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fallback_leaves_text_messages_to_aligo_where_that_sends_them_and_may_have_it() {
    let (region, aligo, twilio, hook, state) = falling_back().await;
    let _gateway = gateway(&region).await;
    aligo.result("01000000001", "9999");
    let dispatcher = region.dispatcher(&with_twilio(&aligo, &twilio, "failover = true"));
    // Aligo tells of its text message nothing that Peal could count as delivered.
    region.accept(&until_delivered("n-1", 1, state)).await;
    region.event("n-1", EventType::Delivered).await;
    region.drained().await;
    assert_eq!((aligo.messages().len(), twilio.count(), hook.count()), (1, 0, 1));

    // What Aligo never took it sends in no way.
    aligo.answer(Answer::status(413));
    region.accept(&until_delivered("n-2", 3_600, state)).await;
    let sent = region.event("n-2", EventType::Sent).await;
    assert_eq!(sent.channel, Some(Channel::Sms));
    assert_eq!((aligo.messages().len(), twilio.count(), hook.count()), (1, 1, 1));
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fallback_sends_the_text_message_where_aligo_does_not() {
    let (region, aligo, twilio, hook, state) = falling_back().await;
    let _gateway = gateway(&region).await;
    aligo.result("01000000001", "3016");
    let dispatcher = region.dispatcher(&with_twilio(&aligo, &twilio, ""));
    region.accept(&until_delivered("n", 3_600, state)).await;
    let bounced = region.event("n", EventType::Bounced).await;
    assert_eq!(bounced.channel, Some(Channel::Alimtalk));
    eventually("the text message is sent", async || twilio.count() == 1).await;
    assert_eq!((aligo.messages().len(), hook.count()), (1, 0));
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_is_registered_twice_gets_a_message_once() {
    let (region, aligo, _) = set_up(&[]).await;
    let numbers = [
        (Channel::Sms, "+821000000001"),
        (Channel::Alimtalk, "+821000000001"),
        (Channel::Sms, "+821000000002"),
    ];
    let state = region.recipient("u", &numbers, json!({})).await;
    let dispatcher = region.dispatcher(&settings(&aligo, ""));
    let mut message = message("n", "u", state);
    message.notification.channels = Some(serde_json::from_value(json!(["alimtalk"])).unwrap());
    region.accept(&message).await;
    region.event("n", EventType::Delivered).await;
    region.drained().await;
    let mut receivers: Vec<_> = aligo.messages().into_iter().map(|message| message.receiver).collect();
    receivers.sort();
    assert_eq!(receivers, ["01000000001", "01000000002"]);
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_dispatchers_that_serve_the_channel_call_its_provider() {
    let (region, aligo, state) = set_up(&["+821000000001"]).await;
    let elsewhere = region.dispatcher(&settings(&aligo, "[dispatcher]\nchannels = [\"webhook\", \"inbox\"]"));
    region.accept(&message("n", "u-0", state)).await;
    region.event("n", EventType::Planned).await;
    elsewhere.end().await;
    assert_eq!(aligo.received().len(), 0);

    let pinned = region.dispatcher(&settings(&aligo, "[dispatcher]\nchannels = [\"alimtalk\"]"));
    region.event("n", EventType::Delivered).await;
    region.drained().await;
    pinned.end().await;
    let without = region.dispatcher("[dispatcher]\nchannels = [\"sms\"]");
    let refused = without.refused().await;
    assert!(refused.contains("dispatcher.channels: sms has no provider"), "{refused}");
}
