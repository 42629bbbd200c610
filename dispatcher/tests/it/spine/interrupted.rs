//! Calls of which nobody here knows what came: the provider is asked whether it has the message.

use std::time::Duration;

use peal_common::channel::Channel;
use peal_common::envelope::{Intake, Text};
use peal_common::event::{Event, EventType};
use peal_dispatcher::recording::{Aligo, Answer, Twilio, Vonage};
use serde_json::json;

use super::region::{Dispatcher, Region, eventually, intake, kinds};

const NUMBER: &str = "+821000000001";
const TEXT: &str = "Your order is on its way.";
/// Short, so that what was in hand comes again soon.
const ACK_WAIT: Duration = Duration::from_secs(2);

async fn region(class: &str, channel: Channel) -> (Region, u64) {
    let region = Region::start_with_ack_wait(ACK_WAIT).await;
    region.category("orders", json!({ "class": class })).await;
    let state = region.recipient("u", &[(channel, NUMBER)], json!({})).await;
    (region, state)
}

fn sms(twilio: &Twilio) -> String {
    format!(
        "[channels.sms.twilio]\naccount_sid = \"AC01\"\nauth_token = \"t\"\nfrom = \"+14155550100\"\n\
         base_url = \"{}\"\ntimeout_seconds = 1\n",
        twilio.base_url()
    )
}

fn sms_of_two(twilio: &Twilio, vonage: &Vonage) -> String {
    format!(
        "{}[channels.sms.vonage]\napi_key = \"k\"\napi_secret = \"s\"\nfrom = \"Shop\"\nbase_url = \"{}\"\n",
        sms(twilio),
        vonage.base_url()
    )
}

fn text(state: u64) -> Intake {
    text_as("n-1", state)
}

fn text_as(id: &str, state: u64) -> Intake {
    let mut intake = intake(id, &["u"], state);
    let content = json!({ "body": TEXT, "by_channel": {
        "alimtalk": {"template_code": "T1", "text": "주문 1042이 출발했습니다."}
    } });
    intake.notification.text = Text::Content(serde_json::from_value(content).unwrap());
    intake
}

/// Kills a dispatcher when its provider has been called, and starts another one.
async fn interrupted(
    region: &Region,
    settings: &str,
    state: u64,
    is_called: impl Fn() -> bool,
) -> Dispatcher {
    // It must not give up on the call before it is killed.
    let doomed = region.doomed_dispatcher(&settings.replace("timeout_seconds = 1", "timeout_seconds = 20"));
    region.accept(&text(state)).await;
    eventually("the provider is called", async || is_called()).await;
    doomed.shutdown_background();
    region.dispatcher(settings)
}

async fn last(region: &Region, kind: EventType) -> (Event, Vec<EventType>) {
    let event = region.event("n-1", kind).await;
    region.drained().await;
    (event, kinds(&region.events().await, "n-1"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_provider_has_is_not_sent_again() {
    let (region, state) = region("marketing", Channel::Sms).await;
    let twilio = Twilio::start().await.unwrap();
    twilio.take_silently(true);
    let dispatcher = interrupted(&region, &sms(&twilio), state, || twilio.taken() == 1).await;
    let (sent, kinds) = last(&region, EventType::Sent).await;
    assert_eq!(sent.provider_id.as_deref(), Some("SM00000000000000000000000000000001"));
    assert_eq!(sent.provider.as_deref(), Some("twilio"));
    assert_eq!(kinds, [EventType::Planned, EventType::Sent]);
    assert_eq!(twilio.taken(), 1);
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_provider_does_not_have_is_sent_once_more() {
    let (region, state) = region("transactional", Channel::Sms).await;
    let twilio = Twilio::start().await.unwrap();
    twilio.answer_next(Answer::hang());
    let dispatcher = interrupted(&region, &sms(&twilio), state, || twilio.count() == 1).await;
    let (_, kinds) = last(&region, EventType::Sent).await;
    assert_eq!(kinds, [EventType::Planned, EventType::Sent]);
    let methods: Vec<_> = twilio.received().iter().map(|request| request.method.to_string()).collect();
    assert_eq!(methods, ["POST", "GET", "POST"]);
    assert_eq!(twilio.taken(), 1);
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_advertisement_is_not_sent_once_more() {
    let (region, state) = region("marketing", Channel::Sms).await;
    let twilio = Twilio::start().await.unwrap();
    twilio.answer_next(Answer::hang());
    let dispatcher = interrupted(&region, &sms(&twilio), state, || twilio.count() == 1).await;
    let (ambiguous, _) = last(&region, EventType::Ambiguous).await;
    assert_eq!(ambiguous.reason.as_deref(), Some("not_at_provider"));
    assert_eq!((twilio.count(), twilio.taken()), (2, 0));
    assert_eq!(region.dead_letters().await.len(), 1);
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_got_lost_is_asked_for() {
    let (region, state) = region("transactional", Channel::Sms).await;
    let twilio = Twilio::start().await.unwrap();
    twilio.take_silently(true);
    let dispatcher = region.dispatcher(&sms(&twilio));
    region.accept(&text(state)).await;
    let retried = region.event("n-1", EventType::Retried).await;
    assert_eq!(retried.reason.as_deref(), Some("ambiguous: no_answer_after_send"));
    let (sent, kinds) = last(&region, EventType::Sent).await;
    assert_eq!(kinds, [EventType::Planned, EventType::Retried, EventType::Sent]);
    assert_eq!((twilio.taken(), sent.attempts), (1, Some(1)));
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_may_be_out_is_not_passed_on() {
    let (region, state) = region("transactional", Channel::Sms).await;
    let (twilio, vonage) = (Twilio::start().await.unwrap(), Vonage::start().await.unwrap());
    let dispatcher = region.dispatcher(&sms_of_two(&twilio, &vonage));
    // What Twilio certainly did not take is.
    twilio.answer_next(Twilio::error(429, 20429));
    region.accept(&text_as("n-1", state)).await;
    let sent = region.event("n-1", EventType::Sent).await;
    assert_eq!(sent.provider.as_deref(), Some("vonage"));
    let answers = [("n-2", Answer::reset()), ("n-3", Answer::hang())];
    let ids = answers.each_ref().map(|(id, _)| *id);
    for (id, answer) in answers {
        twilio.answer_next(answer);
        region.accept(&text_as(id, state)).await;
        let retried = region.event(id, EventType::Retried).await;
        assert_eq!(retried.reason.as_deref(), Some("ambiguous: no_answer_after_send"));
        assert_eq!(retried.provider.as_deref(), Some("twilio"));
    }
    // Twilio does not have it, and the intent says that nobody else was called.
    for id in ids {
        let sent = region.event(id, EventType::Sent).await;
        assert_eq!(sent.provider.as_deref(), Some("twilio"));
    }
    region.drained().await;
    assert_eq!((vonage.count(), twilio.taken()), (1, 2));
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_called_is_asked_and_nobody_else() {
    let (region, state) = region("transactional", Channel::Sms).await;
    let (twilio, vonage) = (Twilio::start().await.unwrap(), Vonage::start().await.unwrap());
    twilio.answer_next(Twilio::error(429, 20429));
    vonage.answer_next(Answer::hang());
    let settings = sms_of_two(&twilio, &vonage);
    let dispatcher = interrupted(&region, &settings, state, || vonage.count() == 1).await;
    // Twilio, which can be asked, did certainly not take it; whether Vonage did nobody can know.
    let (ambiguous, _) = last(&region, EventType::Ambiguous).await;
    assert_eq!(ambiguous.reason.as_deref(), Some("dispatcher_lost"));
    assert_eq!((twilio.count(), vonage.count()), (1, 1));
    assert_eq!(region.dead_letters().await.len(), 1);
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_call_of_which_nobody_knows_is_the_last_one() {
    let (region, state) = region("transactional", Channel::Sms).await;
    let twilio = Twilio::start().await.unwrap();
    for _ in 0..2 {
        // The call, and what the provider has.
        twilio.answer_next(Answer::hang());
        twilio.answer_next(Answer::status(200).body(r#"{"messages":[]}"#));
    }
    let dispatcher = interrupted(&region, &sms(&twilio), state, || twilio.count() == 1).await;
    let (ambiguous, _) = last(&region, EventType::Ambiguous).await;
    assert_eq!(ambiguous.reason.as_deref(), Some("not_at_provider"));
    assert_eq!((twilio.count(), twilio.taken()), (4, 0));
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aligo_is_asked_for_the_batches_of_that_time() {
    let (region, state) = region("transactional", Channel::Alimtalk).await;
    let aligo = Aligo::start().await.unwrap();
    aligo.register("T1", "주문 #{order}이 출발했습니다.", &json!({}));
    aligo.take_silently(true);
    let settings = format!(
        "[channels.alimtalk.aligo]\napi_key = \"k\"\nuser_id = \"shop\"\nsender_key = \"s\"\n\
         sender = \"02-1234-5678\"\nbase_url = \"{}\"\n",
        aligo.base_url()
    );
    let dispatcher = interrupted(&region, &settings, state, || aligo.messages().len() == 1).await;
    let (delivered, kinds) = last(&region, EventType::Delivered).await;
    assert_eq!(delivered.provider_id.as_deref(), Some("1"));
    assert_eq!(kinds, [EventType::Planned, EventType::Sent, EventType::Delivered]);
    assert_eq!(aligo.messages().len(), 1);
    dispatcher.end().await;
}
