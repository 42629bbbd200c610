//! Messages of the real types, as the guide names them.

use jiff::Timestamp;
use peal_common::attachment::Attachments;
use peal_common::channel::{Channel, Priority};
use peal_common::clock::Clock;
use peal_common::envelope::{Accepted, ENVELOPE_VERSION, Intake, ResolvedTarget, Text, Work};
use peal_common::id::{AppId, DeliveryId, RecipientId};
use peal_common::template::Content;
use peal_nats::subjects::Region;

/// The app that everything belongs to.
pub const APP: &str = "shop";
/// The recipient that the guide asks for.
pub const RECIPIENT: &str = "u-42";

/// The region that the guide speaks of.
pub fn local() -> Region {
    "local".parse().unwrap()
}

/// The app's id.
pub fn app() -> AppId {
    APP.parse().unwrap()
}

/// The recipient's id.
pub fn recipient() -> RecipientId {
    RECIPIENT.parse().unwrap()
}

/// The blind index of the recipient's only contact.
pub fn contact() -> String {
    "lP2cYvQmT0y1mZ3c9XQy0A".to_owned()
}

/// The delivery of a notification on a channel.
pub fn delivery(id: &str, channel: Channel) -> DeliveryId {
    DeliveryId::derive(&app(), &id.parse().unwrap(), &recipient(), channel, &contact(), 0)
}

/// When everything happens.
pub fn now() -> Timestamp {
    Clock::System.now()
}

/// When everything expires.
pub fn later() -> Timestamp {
    now().checked_add(jiff::Span::new().hours(72)).unwrap()
}

/// What everything says.
pub fn content() -> Content {
    Content {
        title: Some("Shipped".to_owned()),
        body: Some("Your order is on its way.".to_owned()),
        url: None,
        by_channel: std::collections::BTreeMap::new(),
    }
}

/// A notification as every delivery carries it.
fn accepted(id: &str, priority: Priority) -> Accepted {
    Accepted {
        app: app(),
        id: id.parse().unwrap(),
        category: "orders".parse().unwrap(),
        priority,
        accepted_at: now(),
        expires_at: later(),
        text: Text::Content(content()),
        channels: None,
        collapse_key: None,
        metadata: serde_json::Map::new(),
        pinned: false,
        fallback: None,
        attachments: Attachments::default(),
    }
}

/// A message of INTAKE.
pub fn intake(id: &str, priority: Priority) -> Intake {
    Intake {
        v: ENVELOPE_VERSION,
        region: local(),
        state_seq: 1,
        fingerprint: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".to_owned(),
        send_at: None,
        targets: vec![ResolvedTarget { recipient: recipient(), only: None }],
        notification: accepted(id, priority),
        takeover: None,
    }
}

/// A message of a WORK stream.
pub fn work(id: &str, channel: Channel, priority: Priority) -> Work {
    Work {
        v: ENVELOPE_VERSION,
        delivery: delivery(id, channel),
        recipient: recipient(),
        channel,
        contact: contact(),
        state_seq: 1,
        attempts: 0,
        not_before: None,
        hops: 0,
        repeat: false,
        repeat_since: None,
        replays: 0,
        notification: accepted(id, priority),
    }
}
