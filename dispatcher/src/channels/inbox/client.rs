//! The call: one publish into INBOX.

use peal_common::clock::Clock;
use peal_common::envelope::{ENVELOPE_VERSION, Envelope as _, InboxChange, InboxEntry, inbox_place};
use peal_common::outcome::Outcome;
use peal_nats::publish::{Outgoing, PublishError};
use peal_nats::{Connection, Subjects, subjects};

use crate::channels::{Message, outcomes};

/// Stores items in the region's own stream.
pub struct Client {
    connection: Connection,
    subjects: Subjects,
    clock: Clock,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("inbox::Client")
    }
}

impl Client {
    /// A client for the connection's region.
    #[must_use]
    pub fn new(connection: Connection, clock: Clock) -> Self {
        let subjects = Subjects::new(&connection.region);
        Client { connection, subjects, clock }
    }

    /// Stores one item.
    pub async fn send(&self, message: &Message<'_>) -> Outcome {
        let entry = match self.entry(message) {
            Ok(entry) => entry,
            Err(reason) => return outcomes::permanent(reason),
        };
        let subject =
            self.subjects.inbox(message.app.as_str(), message.recipient.as_str(), subjects::InboxEntry::Item);
        match self.connection.publish(Outgoing::new(subject, entry).id(message.delivery.as_str())).await {
            Ok(published) => Outcome::Delivered { provider_id: Some(published.sequence.to_string()) },
            Err(PublishError::TooLarge) => outcomes::permanent("item_too_large"),
            Err(PublishError::Unavailable { .. } | PublishError::Conflict) => {
                outcomes::retry("inbox_unavailable", None)
            }
        }
    }

    fn entry(&self, message: &Message<'_>) -> Result<Vec<u8>, &'static str> {
        let plain = serde_json::to_vec(message.rendered).map_err(|_| "cannot_encode")?;
        let place = inbox_place(message.app, message.recipient, message.delivery);
        let sealed = message.data_keys.seal(&plain, &place, &mut rand::rng()).map_err(|_| "cannot_seal")?;
        let entry = InboxEntry {
            v: ENVELOPE_VERSION,
            at: self.clock.now(),
            app: message.app.clone(),
            recipient: message.recipient.clone(),
            item: message.delivery.clone(),
            notification: message.notification.clone(),
            what: InboxChange::Item {
                category: message.category.clone(),
                expires_at: message.expires_at,
                sealed,
            },
        };
        entry.encode().map_err(|_| "cannot_encode")
    }
}
