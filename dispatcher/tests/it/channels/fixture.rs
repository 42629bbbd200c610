//! A message to send, and how long tests wait for things.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use peal_common::attachment::{Attachment, Attachments};
use peal_common::category::Class;
use peal_common::channel::{Channel, Priority};
use peal_common::clock::Clock;
use peal_common::id::{AppId, CategoryId, DeliveryId, NotificationId, RecipientId, Region};
use peal_common::outcome::Outcome;
use peal_common::recipient::Contact;
use peal_common::seal::{DataKey, DataKeys};
use peal_common::template::Rendered;
use peal_dispatcher::channels::{Message, Probe};
use rand::SeedableRng as _;
use serde_json::{Map, Value, json};

/// How long to wait for what should come at once.
pub const SOON: Duration = Duration::from_secs(10);
/// A time limit that is meant to be reached.
pub const SHORT: Duration = Duration::from_millis(300);

/// 2026-11-22T12:00:00Z.
pub fn clock() -> Clock {
    Clock::manual("2026-11-22T12:00:00Z".parse().unwrap())
}

/// Everything that a message borrows.
pub struct Fixture {
    pub region: Region,
    pub app: AppId,
    pub notification: NotificationId,
    pub delivery: DeliveryId,
    pub category: CategoryId,
    pub recipient: RecipientId,
    pub contact: Contact,
    pub data_keys: DataKeys,
    pub rendered: Rendered,
    pub attachments: Attachments,
    pub unsubscribe: Option<String>,
    pub metadata: Map<String, Value>,
    pub accepted_at: Timestamp,
}

impl Fixture {
    /// A message to `address`; `n` tells its delivery from others.
    pub fn to(channel: Channel, address: &str, n: u32) -> Self {
        let app: AppId = "shop".parse().unwrap();
        let notification: NotificationId = "order-1042-shipped".parse().unwrap();
        let recipient: RecipientId = "u-42".parse().unwrap();
        let delivery = DeliveryId::derive(&app, &notification, &recipient, channel, address, n);
        Fixture {
            region: "eu".parse().unwrap(),
            app,
            notification,
            delivery,
            category: "orders".parse().unwrap(),
            recipient,
            contact: Contact::at(channel, address.to_owned()),
            data_keys: DataKeys::new(
                DataKey::generate(&mut rand::rngs::StdRng::seed_from_u64(1)),
                Vec::new(),
            ),
            rendered: Rendered {
                title: Some("Shipped".to_owned()),
                subject: Some("Your order is on its way".to_owned()),
                text: "Order 1042 left our house.".to_owned(),
                ..Rendered::default()
            },
            attachments: Attachments::default(),
            unsubscribe: None,
            metadata: json!({"order": 1042}).as_object().unwrap().clone(),
            accepted_at: "2026-11-22T11:59:00Z".parse().unwrap(),
        }
    }

    pub fn message(&self) -> Message<'_> {
        Message {
            region: &self.region,
            app: &self.app,
            notification: &self.notification,
            delivery: &self.delivery,
            category: &self.category,
            class: Class::Transactional,
            priority: Priority::Normal,
            recipient: &self.recipient,
            contact: &self.contact,
            data_keys: &self.data_keys,
            rendered: &self.rendered,
            attachments: &self.attachments,
            accepted_at: self.accepted_at,
            expires_at: "2026-11-23T11:59:00Z".parse().unwrap(),
            attempt: 1,
            collapse_key: None,
            unsubscribe: self.unsubscribe.as_deref(),
            metadata: &self.metadata,
        }
    }
}

/// The header of an e-mail from `no-reply@example.com`.
pub fn message_id(fixture: &Fixture) -> String {
    format!("<{}@example.com>", fixture.delivery)
}

/// A page, and a table with a name that is not ASCII and lines that mail servers could take for their own.
pub fn attachments() -> Attachments {
    let of = |filename: &str, content_type: &str, content: &[u8]| Attachment {
        filename: filename.to_owned(),
        content_type: content_type.to_owned(),
        content: STANDARD.encode(content),
    };
    let page: Vec<u8> = b"%PDF-1.7\n".iter().copied().chain((0..=255).cycle().take(1_000)).collect();
    let files =
        [of("invoice.pdf", "application/pdf", &page), of("청구서.csv", "text/csv", b"a,b\n.\r\nc,d\r")];
    files.into_iter().collect()
}

pub fn retry(reason: &str) -> Outcome {
    Outcome::Retry { reason: reason.to_owned(), after: None }
}

pub fn retry_after(reason: &str, seconds: u64) -> Outcome {
    Outcome::Retry { reason: reason.to_owned(), after: Some(Duration::from_secs(seconds)) }
}

pub fn permanent(reason: &str) -> Outcome {
    Outcome::Permanent { reason: reason.to_owned() }
}

pub fn address_dead(reason: &str) -> Outcome {
    Outcome::AddressDead { reason: reason.to_owned(), since: None }
}

pub fn unavailable(reason: &str) -> Outcome {
    Outcome::Unavailable { reason: reason.to_owned(), after: None }
}

pub fn ambiguous(reason: &str) -> Outcome {
    Outcome::Ambiguous { reason: reason.to_owned() }
}

pub fn fails(reason: &str) -> Probe {
    Probe::Fails { reason: reason.to_owned() }
}
