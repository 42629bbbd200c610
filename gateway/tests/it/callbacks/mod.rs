//! What providers report: who may, what it does to deliveries and addresses, and that nothing is done twice.

mod again;
mod consequences;
mod own;

use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use p256::pkcs8::EncodePublicKey as _;
use peal_common::channel::Channel;
use peal_common::clock::Clock;
use peal_common::event::{Event, EventType, PlannedDelivery};
use peal_common::id::DeliveryId;
use peal_common::receipt::Reference;
use reqwest::Method;
use serde_json::{Value, json};
use sha1::Sha1;

use crate::harness::{APP, Answer, Client, Harness, eventually, region};
use crate::lookup::intake;

const BASE: &str = "https://peal.example.com";
const FORM: &str = "application/x-www-form-urlencoded";

fn sendgrid_key() -> SigningKey {
    SigningKey::from_slice(&[7; 32]).unwrap()
}

async fn harness() -> Harness {
    harness_at(Clock::System).await
}

async fn harness_at(clock: Clock) -> Harness {
    let der = sendgrid_key().verifying_key().to_public_key_der().unwrap();
    let settings = format!(
        "[gateway]\npublic_url = \"{BASE}/\"\n\
         [callbacks]\ntwilio = {{ keys = [\"old\", \"token\"] }}\nmandrill = {{ keys = [\"m-key\"] }}\n\
         vonage = {{ keys = [\"v-key\"] }}\nsendgrid = {{ keys = [\"{}\"] }}\n\
         telegram = {{ keys = [\"t-key\"], apps = [\"{APP}\"] }}\n",
        STANDARD.encode(der.as_bytes())
    );
    Harness::start_with(&settings, clock).await
}

/// A notification to one address, and the event that will say that it was sent.
async fn planned(harness: &Harness, id: &str, channel: Channel, provider: &str) -> (Reference, Event) {
    intake(harness, id).await;
    let mut sent =
        Event::new(EventType::Sent, harness.clock.now(), APP.parse().unwrap(), id.parse().unwrap());
    let recipient = "u-1".parse().unwrap();
    let delivery = DeliveryId::derive(&sent.app, &sent.notification, &recipient, channel, "c", 0);
    (sent.delivery, sent.recipient) = (Some(delivery.clone()), Some(recipient.clone()));
    (sent.channel, sent.provider) = (Some(channel), Some(provider.to_owned()));
    sent.provider_id = Some(if channel == Channel::Sms { "SM1" } else { "S1" }.to_owned());
    let mut planned = Event::new(EventType::Planned, sent.at, sent.app.clone(), sent.notification.clone());
    planned.deliveries =
        vec![PlannedDelivery { delivery: delivery.clone(), recipient, channel, contact: "c".to_owned() }];
    harness.publish(harness.subjects.event("planned", None, APP), &planned).await;
    let region = region().as_str().parse().unwrap();
    let (app, notification) = (sent.app.clone(), sent.notification.clone());
    (Reference { region, app, notification, delivery }, sent)
}

/// A notification that was sent to one address.
async fn sent(harness: &Harness, id: &str, channel: Channel, provider: &str) -> Reference {
    let (reference, sent) = planned(harness, id, channel, provider).await;
    harness.publish(harness.subjects.of_event(&sent), &sent).await;
    reference
}

/// Posts a form as Twilio and Mandrill sign it: see their documentation, not the code that is tested.
async fn post_form(
    harness: &Harness,
    path: &str,
    key: &str,
    header: &str,
    fields: &[(&str, &str)],
) -> Answer {
    let mut sorted = fields.to_vec();
    sorted.sort_unstable();
    let mut mac = Hmac::<Sha1>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(format!("{BASE}{path}").as_bytes());
    sorted.iter().for_each(|(name, value)| mac.update(format!("{name}{value}").as_bytes()));
    let signature = STANDARD.encode(mac.finalize().into_bytes());
    let body: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let request = harness.anonymous().request(Method::POST, path).header("content-type", FORM);
    Answer::of(request.header(header, signature).body(body)).await
}

async fn twilio(harness: &Harness, reference: &Reference, fields: &[(&str, &str)]) -> Answer {
    let path = format!("/v1/callbacks/twilio?ref={reference}");
    post_form(harness, &path, "token", "x-twilio-signature", fields).await
}

async fn mandrill(harness: &Harness, events: Value) -> Answer {
    let fields = [("mandrill_events", events.to_string())];
    let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    post_form(harness, "/v1/callbacks/mandrill", "m-key", "x-mandrill-signature", &fields).await
}

async fn sendgrid(harness: &Harness, events: Value) -> Answer {
    let (timestamp, body) = ("1795464000", format!("{events}\r\n"));
    let signature: Signature = sendgrid_key().sign(format!("{timestamp}{body}").as_bytes());
    let request = harness.anonymous().request(Method::POST, "/v1/callbacks/sendgrid");
    let request = request
        .header("content-type", "application/json")
        .header("x-twilio-email-event-webhook-signature", STANDARD.encode(signature.to_der()))
        .header("x-twilio-email-event-webhook-timestamp", timestamp);
    Answer::of(request.body(body)).await
}

async fn telegram(harness: &Harness, key: &str, update: Value) -> Answer {
    let request = harness.anonymous().request(Method::POST, "/v1/callbacks/telegram");
    let request = request.header("content-type", "application/json");
    Answer::of(request.header("x-telegram-bot-api-secret-token", key).body(update.to_string())).await
}

async fn delivery(client: &Client, id: &str) -> Value {
    client.get(&format!("/v1/notifications/{id}")).await.ok(200)["deliveries"][0].clone()
}

async fn becomes(client: &Client, id: &str, status: &str) -> Value {
    eventually("the delivery moves on", || async { delivery(client, id).await["status"] == status }).await;
    delivery(client, id).await
}

async fn events(client: &Client, id: &str) -> usize {
    client.get(&format!("/v1/notifications/{id}")).await.ok(200)["events"].as_array().unwrap().len()
}

#[tokio::test]
async fn a_text_message_arrives_or_does_not() {
    let harness = harness().await;
    let client = harness.admin().await;
    let good = sent(&harness, "n-1", Channel::Sms, "twilio:kr").await;
    becomes(&client, "n-1", "sent").await;
    let of = |status| [("MessageSid", "SM1"), ("MessageStatus", status), ("To", "+821012345678")];
    // What comes before, comes late, or comes again.
    for status in ["queued", "sent", "delivered", "sent", "delivered"] {
        twilio(&harness, &good, &of(status)).await.ok(200);
    }
    let arrived = becomes(&client, "n-1", "delivered").await;
    assert_eq!((&arrived["provider"], &arrived["recipient"]), (&json!("twilio:kr"), &json!("u-1")));
    twilio(&harness, &good, &of("delivered")).await.ok(200);
    let last = sent(&harness, "n-2", Channel::Sms, "twilio").await;
    let failed = [&of("undelivered")[..], &[("ErrorCode", "30005")]].concat();
    twilio(&harness, &last, &failed).await.ok(200);
    let bounced = becomes(&client, "n-2", "bounced").await;
    assert_eq!(bounced["reason"], "twilio_30005");
    let suppressed = client.get("/v1/suppressions/sms/%2B821012345678").await;
    assert_eq!(suppressed.ok(200)["reason"], "twilio_30005");
    assert_eq!(events(&client, "n-1").await, 4, "accepted, planned, sent, delivered");
    let metrics = harness.anonymous().get("/metrics").await.text;
    assert!(metrics.contains("peal_receipts_total{provider=\"twilio\",outcome=\"known\"}"), "{metrics}");

    // A message that Peal did not send, one of a region that there is not, and one that nobody knows.
    let foreign = [("MessageStatus", "delivered")];
    let path = "/v1/callbacks/twilio";
    post_form(&harness, path, "old", "x-twilio-signature", &foreign).await.ok(200);
    let elsewhere = Reference { region: "nowhere".parse().unwrap(), ..good.clone() };
    twilio(&harness, &elsewhere, &of("delivered")).await.ok(200);
    let unknown = Reference { notification: "n-9".parse().unwrap(), ..good };
    twilio(&harness, &unknown, &of("delivered")).await.ok(200);
    client.get("/v1/notifications/n-9").await.problem(404, "not_found");
}

#[tokio::test]
async fn an_e_mail_is_opened_and_called_spam() {
    let harness = harness().await;
    let client = harness.admin().await;
    let one = sent(&harness, "n-1", Channel::Email, "sendgrid").await.to_string();
    let two = sent(&harness, "n-2", Channel::Email, "mandrill").await.to_string();
    let at = harness.clock.now().as_second();
    let of = |event, reference: &str| json!({"email": "kim@example.com", "event": event, "peal_ref": reference, "timestamp": at, "sg_message_id": "S1.filter"});
    let later =
        json!({"email": "kim@example.com", "event": "click", "peal_ref": one, "timestamp": at + 9_999});
    let batch = json!([of("open", &one), of("processed", &one), of("delivered", &one), of("open", &one), later,
                       of("delivered", "x"), {"event": "delivered"}, 7]);
    for _ in 0..2 {
        sendgrid(&harness, batch.clone()).await.ok(200);
        becomes(&client, "n-1", "delivered").await;
    }
    let read = delivery(&client, "n-1").await;
    assert!(read["opened_at"].is_string() && read["clicked_at"].is_string(), "{read}");
    assert!(
        read["clicked_at"].as_str().unwrap() <= harness.clock.now().to_string().as_str(),
        "not in the future"
    );
    sendgrid(&harness, json!([of("spamreport", &one)])).await.ok(200);
    assert_eq!(client.get("/v1/suppressions/email/kim@example.com").await.ok(200)["reason"], "complaint");
    assert_eq!(delivery(&client, "n-1").await["status"], "delivered");
    assert_eq!(events(&client, "n-1").await, 6, "accepted, planned, sent, delivered, opened, clicked");

    let of = |event| {
        let message = json!({"_id": "M1", "email": "lee@example.com", "metadata": {"peal_ref": two}});
        json!([{"event": event, "ts": at, "msg": message}])
    };
    mandrill(&harness, of("send")).await.ok(200);
    mandrill(&harness, of("soft_bounce")).await.ok(200);
    assert_eq!(becomes(&client, "n-2", "bounced").await["reason"], "soft_bounce");
    client.get("/v1/suppressions/email/lee@example.com").await.problem(404, "not_found");
    mandrill(&harness, of("hard_bounce")).await.ok(200);
    assert_eq!(client.get("/v1/suppressions/email/lee@example.com").await.ok(200)["reason"], "hard_bounce");
    Answer::of(harness.anonymous().request(Method::HEAD, "/v1/callbacks/mandrill")).await.ok(200);
    mandrill(&harness, json!([])).await.ok(200);
    mandrill(&harness, json!({})).await.problem(400, "invalid_callback");
}

#[tokio::test]
async fn who_blocks_the_bot_is_left_alone_until_it_is_started_again() {
    let harness = harness().await;
    let client = harness.admin().await;
    let update = |status| {
        json!({"update_id": 1, "my_chat_member": {"chat": {"id": 4711, "type": "private"}, "date": 1,
               "new_chat_member": {"status": status, "user": {"id": 1}}}})
    };
    let path = "/v1/suppressions/telegram/4711";
    telegram(&harness, "t-key", update("kicked")).await.ok(200);
    assert_eq!(client.get(path).await.ok(200)["reason"], "blocked");
    telegram(&harness, "t-key", json!({"update_id": 2, "message": {"text": "Hi"}})).await.ok(200);
    telegram(&harness, "t-key", update("member")).await.ok(200);
    eventually("it may be written to again", || async { client.get(path).await.status == 404 }).await;
    // What somebody else suppressed stays.
    client.put(path, json!({"reason": "asked_by_phone"})).await.ok(201);
    telegram(&harness, "t-key", update("member")).await.ok(200);
    assert_eq!(client.get(path).await.ok(200)["reason"], "asked_by_phone");
    for bad in ["", "t-ke", "t-key2"] {
        telegram(&harness, bad, update("kicked")).await.problem(401, "invalid_signature");
    }
    telegram(&harness, "t-key", json!("x")).await.problem(400, "invalid_callback");
}

#[tokio::test]
async fn what_somebody_posts_once_more_does_not_undo_what_was_lifted_since() {
    let now = Timestamp::from_second(Clock::System.now().as_second()).unwrap();
    let clock = Clock::manual(now);
    let Clock::Manual(time) = &clock else { unreachable!() };
    let harness = harness_at(clock.clone()).await;
    let client = harness.admin().await;
    let text = sent(&harness, "n-1", Channel::Sms, "twilio").await;
    let mail = sent(&harness, "n-2", Channel::Email, "sendgrid").await;
    becomes(&client, "n-1", "sent").await;
    becomes(&client, "n-2", "sent").await;
    let dead = [("MessageStatus", "undelivered"), ("ErrorCode", "30005"), ("To", "+821012345678")];
    let spam = |at: i64| json!([{"email": "kim@example.com", "event": "spamreport", "peal_ref": mail.to_string(), "timestamp": at}]);
    let update = |status, date: i64| {
        json!({"update_id": 1, "my_chat_member": {"chat": {"id": 4711, "type": "private"}, "date": date,
               "new_chat_member": {"status": status}}})
    };
    let paths = [
        "/v1/suppressions/sms/%2B821012345678",
        "/v1/suppressions/email/kim@example.com",
        "/v1/suppressions/telegram/4711",
    ];
    let at = now.as_second();
    let post_all = async || {
        twilio(&harness, &text, &dead).await.ok(200);
        sendgrid(&harness, spam(at)).await.ok(200);
        telegram(&harness, "t-key", update("kicked", at)).await.ok(200);
    };
    post_all().await;
    becomes(&client, "n-1", "bounced").await;
    for path in paths {
        client.get(path).await.ok(200);
    }
    time.fetch_add(3_600_000, Ordering::Relaxed);
    for path in paths {
        client.delete(path).await.ok(204);
        eventually("it is lifted", || async { client.get(path).await.status == 404 }).await;
    }
    post_all().await;
    for path in paths {
        client.get(path).await.problem(404, "not_found");
    }
    // What happens from then on counts.
    sendgrid(&harness, spam(at + 3_601)).await.ok(200);
    telegram(&harness, "t-key", update("kicked", at + 3_601)).await.ok(200);
    for path in &paths[1..] {
        client.get(path).await.ok(200);
    }
    // The bot was started before it was blocked.
    telegram(&harness, "t-key", update("member", at + 5)).await.ok(200);
    client.get(paths[2]).await.ok(200);
}

#[tokio::test]
async fn keys_are_replaced_while_the_gateway_runs() {
    let harness = harness().await;
    let update = json!({"update_id": 1});
    telegram(&harness, "t-key", update.clone()).await.ok(200);
    let with = |keys| format!("[callbacks]\ntelegram = {{ keys = [{keys}], apps = [\"{APP}\"] }}\n");
    harness.reload(&with("\"new\"")).await;
    let taken = || async { telegram(&harness, "new", update.clone()).await.status == 200 };
    eventually("the new key counts", taken).await;
    telegram(&harness, "t-key", update.clone()).await.problem(401, "invalid_signature");
    // What can't be used changes nothing.
    harness.reload("[callbacks]\ntelegram = { keys = [\"x\"], apps = [] }\n").await;
    harness.reload(&with("\"new\", \"newer\"")).await;
    let taken = || async { telegram(&harness, "newer", update.clone()).await.status == 200 };
    eventually("the newer key counts", taken).await;
    telegram(&harness, "new", update.clone()).await.ok(200);
}

#[tokio::test]
async fn who_can_not_sign_changes_nothing() {
    let harness = harness().await;
    let client = harness.admin().await;
    let reference = sent(&harness, "n-1", Channel::Sms, "twilio").await;
    eventually("it is known", || async { client.get("/v1/notifications/n-1").await.status == 200 }).await;
    let before = events(&client, "n-1").await;
    let fields =
        [("MessageSid", "SM1"), ("MessageStatus", "failed"), ("ErrorCode", "30005"), ("To", "+8210")];
    let path = format!("/v1/callbacks/twilio?ref={reference}");
    post_form(&harness, &path, "wrong", "x-twilio-signature", &fields)
        .await
        .problem(401, "invalid_signature");
    post_form(&harness, &path, "token", "x-other", &fields).await.problem(401, "invalid_signature");
    for (provider, body) in
        [("sendgrid", "[]"), ("vonage", "{}"), ("mandrill", "mandrill_events=[]"), ("telegram", "{}")]
    {
        let request = harness.anonymous().request(Method::POST, &format!("/v1/callbacks/{provider}"));
        let answer = Answer::of(request.header("content-type", "application/json").body(body)).await;
        answer.problem(401, "invalid_signature");
    }
    let huge = harness.anonymous().request(Method::POST, "/v1/callbacks/sendgrid").body("x".repeat(5 << 20));
    Answer::of(huge).await.problem(413, "too_large");
    harness.anonymous().post("/v1/callbacks/pigeon", json!({})).await.field("provider", "invalid_id");
    assert_eq!(events(&client, "n-1").await, before);

    let without = Harness::start().await;
    without.anonymous().post("/v1/callbacks/twilio", json!({})).await.problem(404, "not_found");
}

#[tokio::test]
async fn without_jetstream_providers_are_asked_to_post_again() {
    let mut harness = harness().await;
    let client = harness.admin().await;
    let reference = sent(&harness, "n-1", Channel::Sms, "twilio").await;
    becomes(&client, "n-1", "sent").await;
    let fields = [("MessageSid", "SM1"), ("MessageStatus", "delivered"), ("To", "+821012345678")];
    harness.server.kill().await.unwrap();
    let refused = twilio(&harness, &reference, &fields).await;
    refused.ok(503);
    assert!(!refused.header("retry-after").is_empty());
    harness.server.restart().await.unwrap();
    harness.ready().await;
    twilio(&harness, &reference, &fields).await.ok(200);
    becomes(&client, "n-1", "delivered").await;
}
