//! One report of every kind of consequence, from its signature to what the API shows. The tables beside the code say which
//! word of a provider has which.

use hmac::{Hmac, KeyInit as _, Mac as _};
use peal_common::channel::Channel;
use peal_common::receipt::Reference;
use peal_nats::topology::{DEAD_LETTERS, SCHEDULE};
use reqwest::Method;
use serde_json::json;
use sha2::Sha256;

use super::{FORM, becomes, delivery, harness, mandrill, sendgrid, sent, telegram, twilio};
use crate::harness::{Answer, Harness, eventually};

/// Posts a form as Vonage signs it ("SMS API, Message signatures"), not as the code that is tested does.
async fn vonage(harness: &Harness, reference: &Reference, status: &str, code: &str) -> Answer {
    let reference = reference.to_string();
    let fields = [
        ("client-ref", reference.as_str()),
        ("err-code", code),
        ("messageId", "0A01"),
        ("msisdn", "821012345672"),
        ("status", status),
    ];
    assert!(fields.is_sorted());
    let mut mac = Hmac::<Sha256>::new_from_slice(b"v-key").unwrap();
    fields.iter().for_each(|(name, value)| mac.update(format!("&{name}={value}").as_bytes()));
    let signature: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let body = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .append_pair("sig", &signature)
        .finish();
    let request = harness.anonymous().request(Method::POST, "/v1/callbacks/vonage");
    Answer::of(request.header("content-type", FORM).body(body)).await
}

#[tokio::test]
async fn each_has_its_own_and_nothing_else_follows() {
    let harness = harness().await;
    let client = harness.admin().await;
    let arrives = sent(&harness, "arrives", Channel::Sms, "twilio").await;
    let dead = sent(&harness, "dead", Channel::Sms, "vonage").await;
    let later = sent(&harness, "later", Channel::Sms, "twilio").await;
    let on_its_way = sent(&harness, "on-its-way", Channel::Sms, "twilio").await;
    let refused = sent(&harness, "refused", Channel::Email, "mandrill").await;
    let read = sent(&harness, "read", Channel::Email, "sendgrid").await;
    let spam = sent(&harness, "spam", Channel::Email, "sendgrid").await;
    let leaves = sent(&harness, "leaves", Channel::Email, "sendgrid").await;
    let deferred = sent(&harness, "deferred", Channel::Email, "sendgrid").await;
    becomes(&client, "deferred", "sent").await;

    let at = harness.clock.now().as_second();
    let mail = |reference: &Reference, event: &str| {
        let name = &reference.notification;
        json!({"email": format!("{name}@example.com"), "event": event, "timestamp": at,
               "sg_message_id": "S1.filter", "peal_ref": reference.to_string()})
    };
    let text = |status| [("MessageSid", "SM1"), ("MessageStatus", status), ("To", "+821012345671")];
    let rejected = json!([{"event": "reject", "ts": at, "msg": {"_id": "S1", "email": "refused@example.com",
                           "metadata": {"peal_ref": refused.to_string()}}}]);
    let bot = |chat: i64, status| {
        json!({"update_id": 1, "my_chat_member": {"chat": {"id": chat, "type": "private"}, "date": at,
               "new_chat_member": {"status": status}}})
    };
    // All of it twice: a provider may not have heard the answer.
    for _ in 0..2 {
        twilio(&harness, &on_its_way, &text("sent")).await.ok(200);
        twilio(&harness, &arrives, &text("delivered")).await.ok(200);
        vonage(&harness, &dead, "failed", "3").await.ok(200);
        mandrill(&harness, rejected.clone()).await.ok(200);
        sendgrid(
            &harness,
            json!([mail(&deferred, "deferred"), mail(&read, "delivered"), mail(&read, "open")]),
        )
        .await
        .ok(200);
        sendgrid(&harness, json!([mail(&read, "click"), mail(&spam, "spamreport")])).await.ok(200);
        sendgrid(&harness, json!([mail(&leaves, "group_unsubscribe"), mail(&leaves, "group_resubscribe")]))
            .await
            .ok(200);
        telegram(&harness, "t-key", bot(4711, "kicked")).await.ok(200);
        telegram(&harness, "t-key", bot(4712, "kicked")).await.ok(200);
        telegram(&harness, "t-key", bot(4712, "member")).await.ok(200);
        let full = [&text("failed")[..], &[("ErrorCode", "21611")]].concat();
        twilio(&harness, &later, &full).await.ok(200);
        becomes(&client, "later", "queued").await;
    }

    for (id, status, reason, steps) in [
        ("arrives", "delivered", None, 4),
        ("dead", "bounced", Some("vonage_3"), 4),
        ("later", "queued", Some("twilio_21611"), 4),
        ("on-its-way", "sent", None, 3),
        ("refused", "bounced", Some("rejected"), 4),
        ("read", "delivered", None, 6),
        ("spam", "sent", None, 3),
        ("leaves", "sent", None, 3),
        ("deferred", "sent", None, 3),
    ] {
        let stands = delivery(&client, id).await;
        assert_eq!((stands["status"].as_str(), stands["reason"].as_str()), (Some(status), reason), "{id}");
        assert_eq!(stands["opened_at"].is_string(), id == "read", "{id}");
        assert_eq!(stands["clicked_at"].is_string(), id == "read", "{id}");
        assert_eq!(super::events(&client, id).await, steps, "{id}");
    }
    let of = |channel: &str, address: &str| format!("/v1/suppressions/{channel}/{address}");
    for (path, reason) in [
        (of("sms", "%2B821012345672"), "vonage_3"),
        (of("email", "spam@example.com"), "complaint"),
        (of("email", "leaves@example.com"), "unsubscribed"),
        (of("telegram", "4711"), "blocked"),
    ] {
        assert_eq!(client.get(&path).await.ok(200)["reason"], reason, "{path}");
    }
    let lifted = of("telegram", "4712");
    eventually("it may be written to again", || async { client.get(&lifted).await.status == 404 }).await;
    let listed = client.get("/v1/suppressions").await.ok(200)["data"].as_array().unwrap().len();
    assert_eq!(listed, 4, "nobody else is suppressed");
    let waiting = harness.connection.last_of_each(SCHEDULE, &harness.subjects.schedule_all()).await.unwrap();
    let again = harness.subjects.schedule(&["work", later.delivery.as_str()]);
    assert_eq!(waiting.iter().map(|it| it.subject.as_str()).collect::<Vec<_>>(), [again]);
    assert_eq!(harness.connection.stream_state(DEAD_LETTERS).await.unwrap().messages, 0);
}
