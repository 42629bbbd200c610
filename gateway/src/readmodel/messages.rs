//! What the read model takes from the messages of the three streams.

use std::borrow::Cow;

use jiff::Timestamp;
use peal_common::channel::Priority;
use peal_common::envelope::{Envelope as _, InboxEntry};
use peal_common::event::Event;
use peal_common::id::{AppId, CategoryId, DeliveryId, NotificationId, RecipientId, Region};
use serde::Deserialize;
use serde::de::value::StrDeserializer;

use super::row::IntakePart;

/// One of the streams that are folded. Inboxes stay in their regions: the hub has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Intake,
    Events,
    Inbox,
}

impl Source {
    pub(super) const ALL: [Source; 3] = [Source::Intake, Source::Events, Source::Inbox];
    pub(super) const AT_THE_HUB: [Source; 2] = [Source::Intake, Source::Events];

    /// The reason with which a message that can't be read is put aside.
    pub(super) const fn foreign(self) -> &'static str {
        match self {
            Source::Intake => "not_a_notification",
            Source::Events => "not_an_event",
            Source::Inbox => "not_an_inbox_entry",
        }
    }
}

/// The part of a `peal_common::envelope::Intake` that the read model keeps. The text of a notification, most of the
/// message, is skipped without being built: this runs beside the acceptance of notifications.
///
/// Every version has this head, so a gateway knows also the ids that newer ones beside it accepted.
#[derive(Deserialize)]
struct IntakeHead<'a> {
    region: Region,
    #[serde(borrow)]
    fingerprint: Cow<'a, str>,
    #[serde(default)]
    send_at: Option<Timestamp>,
    targets: Vec<TargetHead>,
    notification: NotificationHead,
}

#[derive(Deserialize)]
struct TargetHead {
    recipient: RecipientId,
}

#[derive(Deserialize)]
struct NotificationHead {
    app: AppId,
    id: NotificationId,
    category: CategoryId,
    priority: Priority,
    accepted_at: Timestamp,
    expires_at: Timestamp,
    #[serde(default)]
    pinned: bool,
}

/// An accepted notification.
pub(super) struct AcceptedMessage {
    pub(super) app: AppId,
    pub(super) id: NotificationId,
    pub(super) part: IntakePart,
    pub(super) recipients: Vec<RecipientId>,
}

impl AcceptedMessage {
    pub(super) fn decode(sequence: u64, bytes: &[u8]) -> Option<Self> {
        let head: IntakeHead<'_> = serde_json::from_slice(bytes).ok()?;
        let notification = head.notification;
        Some(AcceptedMessage {
            part: IntakePart {
                sequence,
                accepted_at: notification.accepted_at.as_millisecond(),
                expires_at: notification.expires_at.as_millisecond(),
                send_at: head.send_at.map(Timestamp::as_millisecond),
                region: head.region.as_str().into(),
                pinned: notification.pinned,
                category: notification.category.as_str().into(),
                priority: notification.priority,
                fingerprint: head.fingerprint.into(),
            },
            app: notification.app,
            id: notification.id,
            recipients: head.targets.into_iter().map(|target| target.recipient).collect(),
        })
    }
}

/// An event, with the numbers of the deliveries that it names.
pub(super) struct EventMessage {
    pub(super) event: Event,
    pub(super) delivery: Option<u128>,
    pub(super) planned: Vec<u128>,
}

impl EventMessage {
    /// The steps that a message of EVENTS tells.
    pub(super) fn decode(bytes: &[u8]) -> Option<Vec<Self>> {
        let event = Event::decode(bytes).ok()?;
        event.steps().map(EventMessage::new).collect()
    }

    pub(super) fn new(event: Event) -> Option<Self> {
        let delivery = match &event.delivery {
            Some(delivery) => Some(delivery_number(delivery)?),
            None => None,
        };
        let planned =
            event.deliveries.iter().map(|it| delivery_number(&it.delivery)).collect::<Option<_>>()?;
        Some(EventMessage { event, delivery, planned })
    }
}

/// An entry of an inbox and the number of the delivery that its item is.
pub(super) struct InboxMessage {
    pub(super) sequence: u64,
    pub(super) entry: InboxEntry,
    pub(super) item: u128,
}

impl InboxMessage {
    pub(super) fn decode(sequence: u64, bytes: &[u8]) -> Option<Self> {
        let entry = InboxEntry::decode(bytes).ok()?;
        let item = delivery_number(&entry.item)?;
        Some(InboxMessage { sequence, entry, item })
    }
}

/// The 16 bytes that a delivery's id shows in hexadecimal.
pub(super) fn delivery_number(id: &DeliveryId) -> Option<u128> {
    let digits = id.as_str();
    let canonical =
        digits.len() == 32 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    canonical.then(|| u128::from_str_radix(digits, 16).ok()).flatten()
}

/// The id that shows these 16 bytes.
pub(super) fn delivery_id(number: u128) -> Option<DeliveryId> {
    let text = format!("{number:032x}");
    DeliveryId::deserialize(StrDeserializer::<serde::de::value::Error>::new(&text)).ok()
}

#[cfg(test)]
mod tests {
    use peal_common::envelope::Intake;
    use peal_common::event::EventType;

    use super::*;

    #[test]
    fn the_head_says_what_the_whole_message_says() {
        let golden = include_bytes!("../../../common/golden/intake-v1.json");
        let whole = Intake::decode(golden).unwrap();
        let head = AcceptedMessage::decode(9, golden).unwrap();
        assert_eq!((head.app, head.id), (whole.notification.app, whole.notification.id));
        assert_eq!(head.part.sequence, 9);
        assert_eq!(*head.part.category, *whole.notification.category.as_str());
        assert_eq!(*head.part.region, *whole.region.as_str());
        assert_eq!(head.part.priority, whole.notification.priority);
        assert_eq!(head.part.accepted_at, whole.notification.accepted_at.as_millisecond());
        assert_eq!(head.part.expires_at, whole.notification.expires_at.as_millisecond());
        assert_eq!(head.part.send_at, whole.send_at.map(Timestamp::as_millisecond));
        assert_eq!(*head.part.fingerprint, *whole.fingerprint);
        let recipients: Vec<_> = whole.targets.into_iter().map(|target| target.recipient).collect();
        assert_eq!(head.recipients, recipients);
    }

    #[test]
    fn the_head_of_a_newer_version_is_read_too() {
        let golden = include_str!("../../../common/golden/intake-v1.json");
        let newer = golden.replacen("\"v\": 1", "\"v\": 9, \"new\": [1]", 1);
        assert!(AcceptedMessage::decode(1, newer.as_bytes()).is_some());
    }

    #[test]
    fn foreign_messages_are_refused() {
        for foreign in ["", "{}", "hello"] {
            assert!(AcceptedMessage::decode(1, foreign.as_bytes()).is_none());
            assert!(EventMessage::decode(foreign.as_bytes()).is_none());
            assert!(InboxMessage::decode(1, foreign.as_bytes()).is_none());
        }
        let event = include_str!("../../../common/golden/event-v1.json");
        assert!(EventMessage::decode(event.as_bytes()).is_some());
        let odd = event.replacen("0123456789abcdef", "0123456789ABCDEF", 1);
        assert!(EventMessage::decode(odd.as_bytes()).is_none());
    }

    #[test]
    fn a_planning_that_is_told_along_counts_as_a_message() {
        let golden = include_bytes!("../../../common/golden/event-planned-v1.json");
        let steps = EventMessage::decode(golden).unwrap();
        let [plan, sent] = steps.as_slice() else { panic!("{} steps", steps.len()) };
        assert_eq!((plan.event.kind, sent.event.kind), (EventType::Planned, EventType::Sent));
        assert_eq!((plan.delivery, plan.planned.as_slice()), (None, [sent.delivery.unwrap()].as_slice()));
        assert!(plan.event.at < sent.event.at && sent.planned.is_empty());
    }

    #[test]
    fn delivery_ids_are_read_back() {
        let id = delivery_id(0xab).unwrap();
        assert_eq!(id.as_str(), "000000000000000000000000000000ab");
        assert_eq!(delivery_number(&id), Some(0xab));
    }
}
