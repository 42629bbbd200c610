//! What providers report as not arrived for a reason that passes: it is made again, once, as long as somebody may need it.

use jiff::SignedDuration;
use peal_common::channel::Channel;
use peal_common::clock::Clock;
use peal_common::envelope::{ENVELOPE_VERSION, Envelope as _, Work};
use peal_common::event::{Event, EventType};
use peal_common::receipt::Reference;
use peal_nats::follow::Stored;
use peal_nats::put_off::put_off;
use peal_nats::topology::SCHEDULE;
use serde_json::json;

use super::{BASE, becomes, delivery, events, harness, planned, sendgrid, sent, twilio};
use crate::harness::{Harness, eventually};
use crate::lookup::accepted;

/// What Twilio posts of a handset that was off.
const UNREACHABLE: [(&str, &str); 4] = [
    ("MessageSid", "SM1"),
    ("MessageStatus", "undelivered"),
    ("ErrorCode", "30003"),
    ("To", "+821012345678"),
];

/// What waits to be made again.
async fn waiting(harness: &Harness, reference: &Reference) -> Option<Stored> {
    let subject = harness.subjects.schedule(&["work", reference.delivery.as_str()]);
    harness.connection.last_of(SCHEDULE, &subject).await.unwrap()
}

#[tokio::test]
async fn a_replayed_delivery_is_not_moved_by_what_was_sent_before() {
    let harness = harness().await;
    let client = harness.admin().await;
    let reference = sent(&harness, "n-1", Channel::Sms, "twilio").await;
    for (kind, provider_id) in [(EventType::Replayed, None), (EventType::Sent, Some("SM2"))] {
        let mut event =
            Event::new(kind, harness.clock.now(), reference.app.clone(), reference.notification.clone());
        event.delivery = Some(reference.delivery.clone());
        event.channel = Some(Channel::Sms);
        event.provider_id = provider_id.map(str::to_owned);
        event.replays = Some(1);
        harness.publish(harness.subjects.of_event(&event), &event).await;
    }
    eventually("it is replayed", || async { delivery(&client, "n-1").await["replays"] == 1 }).await;
    let of = |sid, status| [("MessageSid", sid), ("MessageStatus", status), ("To", "+821012345678")];
    twilio(&harness, &reference, &of("SM1", "failed")).await.ok(200);
    twilio(&harness, &reference, &of("SM2", "delivered")).await.ok(200);
    becomes(&client, "n-1", "delivered").await;
}

#[tokio::test]
async fn what_did_not_arrive_for_a_reason_that_passes_is_sent_again() {
    let harness = harness().await;
    let client = harness.admin().await;
    let text = sent(&harness, "n-1", Channel::Sms, "twilio").await;
    let mail = sent(&harness, "n-2", Channel::Email, "sendgrid").await;
    becomes(&client, "n-1", "sent").await;
    becomes(&client, "n-2", "sent").await;
    let blocked = json!([{"email": "kim@example.com", "event": "bounce", "type": "blocked",
                          "sg_message_id": "S1.filter", "peal_ref": mail.to_string(),
                          "timestamp": harness.clock.now().as_second()}]);
    // The provider posts twice, and again once it is known.
    for _ in 0..2 {
        twilio(&harness, &text, &UNREACHABLE).await.ok(200);
        sendgrid(&harness, blocked.clone()).await.ok(200);
        becomes(&client, "n-1", "queued").await;
        becomes(&client, "n-2", "queued").await;
    }
    for (reference, id, reason) in [(&text, "n-1", "twilio_30003"), (&mail, "n-2", "soft_bounce")] {
        let again = delivery(&client, id).await;
        assert_eq!((&again["reason"], &again["replays"]), (&json!(reason), &json!(1)), "{again}");
        assert_eq!(events(&client, id).await, 4, "accepted, planned, sent, replayed");
        let waiting = waiting(&harness, reference).await.unwrap();
        let work = Work::decode(&waiting.payload).unwrap();
        assert_eq!((work.replays, work.attempts, work.contact.as_str()), (1, 1, "c"));
        assert_eq!((&work.delivery, work.recipient.as_str()), (&reference.delivery, "u-1"));
    }
    for path in ["/v1/suppressions/sms/%2B821012345678", "/v1/suppressions/email/kim@example.com"] {
        client.get(path).await.problem(404, "not_found");
    }
    // It arrives the second time before the dispatcher has told that it was sent.
    let arrived = [("MessageSid", "SM2"), ("MessageStatus", "delivered"), ("To", "+821012345678")];
    twilio(&harness, &text, &arrived).await.ok(200);
    becomes(&client, "n-1", "delivered").await;

    // Who has acknowledged it needs it no more.
    let seen = sent(&harness, "n-3", Channel::Sms, "twilio").await;
    becomes(&client, "n-3", "sent").await;
    client.post("/v1/notifications/n-3/acknowledge", json!({})).await.ok(202);
    eventually("it is acknowledged", || async {
        client.get("/v1/notifications/n-3").await.ok(200)["acknowledged_at"].is_string()
    })
    .await;
    twilio(&harness, &seen, &UNREACHABLE).await.ok(200);
    becomes(&client, "n-3", "bounced").await;
}

#[tokio::test]
async fn what_has_no_attempts_left_stays_where_it_is() {
    let harness = Harness::start_with(
        &format!(
            "[gateway]\npublic_url = \"{BASE}\"\n[callbacks]\ntwilio = {{ keys = [\"token\"] }}\n\
             [dispatcher]\nmax_attempts = 1\n"
        ),
        Clock::System,
    )
    .await;
    let client = harness.admin().await;
    let reference = sent(&harness, "n-1", Channel::Sms, "twilio").await;
    becomes(&client, "n-1", "sent").await;
    let fields = [("MessageStatus", "undelivered"), ("ErrorCode", "30001"), ("To", "+821012345678")];
    twilio(&harness, &reference, &fields).await.ok(200);
    assert_eq!(becomes(&client, "n-1", "bounced").await["reason"], "twilio_30001");
    assert!(waiting(&harness, &reference).await.is_none());
}

#[tokio::test]
async fn what_waits_already_is_not_put_down_once_more() {
    let harness = harness().await;
    let client = harness.admin().await;
    let reference = sent(&harness, "n-1", Channel::Sms, "twilio").await;
    becomes(&client, "n-1", "sent").await;
    // Another gateway was told first, and it failed once more meanwhile; its events are on their way.
    let work = Work {
        v: ENVELOPE_VERSION,
        delivery: reference.delivery.clone(),
        recipient: "u-1".parse().unwrap(),
        channel: Channel::Sms,
        contact: "c".to_owned(),
        state_seq: 0,
        attempts: 2,
        not_before: None,
        hops: 0,
        repeat: false,
        repeat_since: None,
        replays: 1,
        notification: accepted(&harness, "n-1"),
    };
    let at = harness.clock.now() + SignedDuration::from_mins(30);
    put_off(&harness.connection, &harness.subjects, work, at).await.unwrap();
    let before = waiting(&harness, &reference).await.unwrap();
    twilio(&harness, &reference, &UNREACHABLE).await.ok(200);
    assert_eq!(becomes(&client, "n-1", "queued").await["replays"], 1);
    assert_eq!(waiting(&harness, &reference).await.unwrap().sequence, before.sequence);
    assert_eq!(events(&client, "n-1").await, 4, "accepted, planned, sent, replayed");
}

#[tokio::test]
async fn a_provider_may_be_faster_than_the_event_of_the_sending() {
    let harness = harness().await;
    let client = harness.admin().await;
    let (reference, sent) = planned(&harness, "n-1", Channel::Sms, "twilio").await;
    let subject = harness.subjects.of_event(&sent);
    becomes(&client, "n-1", "queued").await;
    let (posted, _) =
        tokio::join!(twilio(&harness, &reference, &UNREACHABLE), harness.publish(subject, &sent));
    posted.ok(200);
    eventually("it is begun anew", || async { delivery(&client, "n-1").await["replays"] == 1 }).await;
    assert_eq!(delivery(&client, "n-1").await["status"], "queued");
    assert!(waiting(&harness, &reference).await.is_some());

    // Of this one nobody will ever tell that it was sent.
    let (reference, _) = planned(&harness, "n-2", Channel::Sms, "twilio").await;
    twilio(&harness, &reference, &UNREACHABLE).await.ok(200);
    assert_eq!(becomes(&client, "n-2", "bounced").await["reason"], "twilio_30003");
    assert!(waiting(&harness, &reference).await.is_none());
}

#[tokio::test]
async fn very_many_events_do_not_hide_which_sending_is_meant() {
    let harness = harness().await;
    let client = harness.admin().await;
    let (reference, sent) = planned(&harness, "n-1", Channel::Sms, "twilio").await;
    for ms in 1..=200 {
        let at = sent.at - SignedDuration::from_millis(ms);
        let looked_at = Event { at, kind: EventType::Seen, provider_id: None, ..sent.clone() };
        harness.publish(harness.subjects.of_event(&looked_at), &looked_at).await;
    }
    harness.publish(harness.subjects.of_event(&sent), &sent).await;
    becomes(&client, "n-1", "sent").await;
    let truncated = client.get("/v1/notifications/n-1").await.ok(200)["events_truncated"].clone();
    assert_eq!(truncated, true);
    for _ in 0..2 {
        twilio(&harness, &reference, &UNREACHABLE).await.ok(200);
        assert_eq!(becomes(&client, "n-1", "queued").await["replays"], 1);
    }
    assert_eq!(Work::decode(&waiting(&harness, &reference).await.unwrap().payload).unwrap().replays, 1);
    let arrived = [("MessageSid", "SM2"), ("MessageStatus", "delivered"), ("To", "+821012345678")];
    twilio(&harness, &reference, &arrived).await.ok(200);
    assert_eq!(becomes(&client, "n-1", "delivered").await["replays"], 1);
}
