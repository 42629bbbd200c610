//! The fold has laws: order and repetition of messages change nothing, and a status never goes back.

use jiff::Timestamp;
use peal_common::channel::{Channel, Priority};
use peal_common::event::{Event, EventType, PlannedDelivery, Status};
use peal_common::id::{AppId, NotificationId};
use proptest::prelude::*;

use super::codec::KINDS;
use super::logged::Logged;
use super::messages::{EventMessage, delivery_id};
use super::row::{IntakePart, MAX_DELIVERIES, MAX_TIMELINE, Row};

const START: i64 = 1_800_000_000_000;

fn app() -> AppId {
    "shop".parse().unwrap()
}

fn event(kind: EventType, after_ms: i64) -> Event {
    let id: NotificationId = "n-1".parse().unwrap();
    Event::new(kind, Timestamp::from_millisecond(START + after_ms).unwrap(), app(), id)
}

fn of_delivery(kind: EventType, after_ms: i64, delivery: u128) -> Event {
    let recipient = format!("u-{}", delivery % 3).parse().unwrap();
    Event {
        delivery: delivery_id(delivery),
        recipient: Some(recipient),
        channel: Some(Channel::ALL[(delivery % 9) as usize]),
        ..event(kind, after_ms)
    }
}

fn planned(after_ms: i64, deliveries: impl IntoIterator<Item = u128>) -> Event {
    let deliveries = deliveries.into_iter().map(|number| PlannedDelivery {
        delivery: delivery_id(number).unwrap(),
        recipient: format!("u-{}", number % 3).parse().unwrap(),
        channel: Channel::ALL[(number % 9) as usize],
        contact: if number % 2 == 0 { format!("contact-{number}") } else { String::new() },
    });
    Event { deliveries: deliveries.collect(), ..event(EventType::Planned, after_ms) }
}

fn intake(sequence: u64) -> IntakePart {
    IntakePart {
        region: "eu".into(),
        pinned: false,
        sequence,
        accepted_at: START + sequence.cast_signed(),
        expires_at: START + 1_000,
        send_at: Some(START + 10),
        category: "orders".into(),
        priority: Priority::High,
        fingerprint: format!("{sequence:064x}").into(),
    }
}

#[derive(Debug, Clone)]
enum Message {
    Accepted(u64),
    Event(Box<Event>),
}

fn told(event: Event) -> Message {
    Message::Event(Box::new(event))
}

fn fold<'m>(messages: impl IntoIterator<Item = &'m Message>) -> Row {
    let mut row = Row::new("n-1");
    for message in messages {
        match message {
            Message::Accepted(sequence) => {
                let part = intake(*sequence);
                let (key, _) = Logged::accepted("n-1").encode(part.accepted_at, &[]);
                row.accept(part, key, ["u-1".into(), "addr:email:x1".into()]);
            }
            Message::Event(event) => record(&mut row, (**event).clone()),
        }
    }
    row
}

fn record(row: &mut Row, event: Event) {
    let message = EventMessage::new(event).unwrap();
    let at = message.event.at.as_millisecond();
    let (key, _) = Logged::of(&message.event, message.delivery).encode(at, &message.planned);
    row.record(&message.event, key, message.delivery, &message.planned);
}

fn status_after(events: &[Event]) -> Status {
    let mut row = Row::new("n-1");
    for event in events {
        record(&mut row, event.clone());
    }
    row.status()
}

fn messages() -> impl Strategy<Value = Message> {
    let kind = proptest::sample::select(KINDS[1..].to_vec());
    let single = (kind, 0..20_i64, proptest::option::of(0..4_u128), 0..3_u32, 0..3_u32).prop_map(
        |(kind, after, delivery, replays, words)| {
            let mut event = delivery.map_or_else(|| event(kind, after), |it| of_delivery(kind, after, it));
            event.replays = Some(replays).filter(|replays| *replays > 0);
            event.attempts = Some(words + 1).filter(|_| words > 0);
            event.reason = Some(format!("reason-{words}")).filter(|_| words > 0);
            event.provider = Some(format!("provider-{words}")).filter(|_| words > 1);
            event.provider_id = Some(format!("name-{words}")).filter(|_| words > 0);
            event.until = Some(event.at).filter(|_| words == 2);
            told(event)
        },
    );
    let plan = (0..20_i64, proptest::collection::vec(0..4_u128, 0..4))
        .prop_map(|(after, deliveries)| told(planned(after, deliveries)));
    prop_oneof![8 => single, 1 => plan, 1 => (1..3_u64).prop_map(Message::Accepted)]
}

proptest! {
    #[test]
    fn any_order_and_any_repetition_give_the_same_row(
        (messages, shuffled) in proptest::collection::vec(messages(), 1..30).prop_flat_map(|messages| {
            let repeated: Vec<_> = messages.iter().cycle().take(messages.len() * 2).cloned().collect();
            (Just(messages), Just(repeated).prop_shuffle())
        })
    ) {
        let row = fold(&messages);
        prop_assert_eq!(&fold(&shuffled), &row);
        prop_assert_eq!(Row::decode(&row.encode()), Some(row));
    }

    #[test]
    fn a_settled_delivery_stays_settled_until_it_is_replayed(
        events in proptest::collection::vec(messages(), 1..30)
    ) {
        let mut row = Row::new("n-1");
        let mut before = Vec::new();
        for message in &events {
            if let Message::Event(event) = message {
                record(&mut row, (**event).clone());
            }
            for (id, replays, status) in &before {
                let now = row.deliveries.iter().find(|delivery| delivery.id == *id).unwrap();
                let standing = now.standing.as_ref().unwrap();
                prop_assert!((standing.replays, standing.status) >= (*replays, *status));
            }
            let standing = |it: &super::row::Delivery| it.standing.as_ref().map(|at| (it.id, at.replays, at.status));
            before = row.deliveries.iter().filter_map(standing).collect();
        }
    }
}

#[test]
fn rows_of_foreign_bytes_are_refused() {
    let bytes = fold(&[Message::Accepted(1), told(planned(1, [1, 2]))]).encode();
    for end in 0..bytes.len() {
        assert_eq!(Row::decode(&bytes[..end]), None);
    }
    let (id, intake) = Row::decode_intake(&bytes).unwrap();
    assert_eq!((id, intake.unwrap().sequence), ("n-1", 1));
}

#[test]
fn a_notification_stands_where_its_least_advanced_delivery_does_and_then_where_its_best_one_ended() {
    use EventType::{Bounced, Delivered, Failed, Held, Sent, Suppressed};
    let plan = planned(1, [1, 2]);
    assert_eq!(status_after(&[]), Status::Accepted);
    assert_eq!(status_after(std::slice::from_ref(&plan)), Status::Queued);
    let sent = of_delivery(Sent, 5, 1);
    assert_eq!(status_after(&[plan.clone(), sent.clone()]), Status::Queued);
    assert_eq!(status_after(&[sent.clone(), of_delivery(Held, 2, 2)]), Status::Held);
    assert_eq!(status_after(&[plan.clone(), sent.clone(), of_delivery(Failed, 6, 2)]), Status::Sent);
    assert_eq!(
        status_after(&[plan.clone(), of_delivery(Bounced, 6, 1), of_delivery(Failed, 6, 2)]),
        Status::Failed
    );
    assert_eq!(
        status_after(&[plan, of_delivery(Suppressed, 6, 1), of_delivery(Delivered, 6, 2)]),
        Status::Delivered
    );
}

#[test]
fn what_is_said_about_the_whole_counts_until_deliveries_say_more() {
    let whole = |kind, after| event(kind, after);
    assert_eq!(status_after(&[whole(EventType::Scheduled, 1)]), Status::Scheduled);
    assert_eq!(status_after(&[whole(EventType::Scheduled, 1), planned(9, [1])]), Status::Queued);
    assert_eq!(
        status_after(&[whole(EventType::Scheduled, 1), whole(EventType::Cancelled, 2)]),
        Status::Cancelled
    );
    assert_eq!(status_after(&[planned(1, [1]), whole(EventType::Cancelled, 2)]), Status::Cancelled);
    let sent = of_delivery(EventType::Sent, 3, 1);
    assert_eq!(status_after(&[planned(1, [1]), whole(EventType::Cancelled, 2), sent]), Status::Sent);
    let mut suppressed = whole(EventType::Suppressed, 2);
    suppressed.recipient = Some("u-9".parse().unwrap());
    assert_eq!(status_after(std::slice::from_ref(&suppressed)), Status::Suppressed);
    assert_eq!(status_after(&[suppressed.clone(), planned(1, [1])]), Status::Queued);
}

#[test]
fn a_replay_starts_afresh_and_an_older_event_does_not_undo_it() {
    let dead = of_delivery(EventType::DeadLettered, 5, 1);
    let mut replayed = of_delivery(EventType::Replayed, 9, 1);
    replayed.replays = Some(1);
    assert_eq!(status_after(&[dead.clone(), replayed.clone()]), Status::Queued);
    assert_eq!(status_after(&[replayed, dead]), Status::Queued);
}

#[test]
fn the_name_of_what_was_sent_last_stays_where_events_are_too_many() {
    let sent = |replays: u32, name: &str, channel| {
        told(Event {
            replays: Some(replays),
            provider_id: Some(name.to_owned()),
            channel: Some(channel),
            ..of_delivery(EventType::Sent, 9_000 + i64::from(replays), 1)
        })
    };
    let opened = (0..MAX_TIMELINE as i64 + 10).map(|after| told(of_delivery(EventType::Opened, after, 1)));
    let name =
        |row: &Row| row.deliveries[0].sent_as.as_ref().map(|(replays, _, name)| (*replays, name.to_string()));
    for (channel, is_kept) in [(Channel::Sms, true), (Channel::Email, true), (Channel::Apns, false)] {
        let both = [sent(1, "second", channel), sent(0, "first", channel)];
        let row = fold(&opened.clone().chain(both).collect::<Vec<_>>());
        assert!(row.timeline_cut);
        assert_eq!(name(&row), is_kept.then(|| (1, "second".to_owned())), "{channel}");
        assert_eq!(name(&Row::decode(&row.encode()).unwrap()), name(&row));
    }
}

#[test]
fn rows_are_bounded_and_say_so() {
    let all: Vec<_> = (0..MAX_DELIVERIES as u128 + 50).collect();
    let in_parts: Vec<_> = all.chunks(500).map(|part| told(planned(1, part.iter().copied()))).collect();
    let row = fold(&in_parts);
    assert_eq!(row.deliveries.len(), MAX_DELIVERIES);
    assert!(row.deliveries_cut && !row.timeline_cut);
    assert_eq!(fold(in_parts.iter().rev()), row);
    let marks: Vec<_> =
        (0..MAX_TIMELINE as i64 + 10).map(|after| told(of_delivery(EventType::Opened, after, 1))).collect();
    let row = fold(&marks);
    assert_eq!((row.timeline.len(), row.timeline_cut), (MAX_TIMELINE, true));
    assert_eq!(row.deliveries[0].marks.opened, Some(START), "the first time counts");
    assert_eq!(fold(marks.iter().rev()), row);
}

#[test]
fn rows_are_small() {
    let messages = [
        Message::Accepted(123_456),
        told(planned(3, [4])),
        told(Event {
            attempts: Some(1),
            provider: Some("smtp".to_owned()),
            ..of_delivery(EventType::Sent, 20, 4)
        }),
    ];
    let size = fold(&messages).encode().len();
    assert!(size < 250, "{size} bytes");
}
