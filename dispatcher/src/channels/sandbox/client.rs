//! The call: one publish into SANDBOX.

use peal_common::attachment::Attachment;
use peal_common::channel::Channel;
use peal_common::clock::Clock;
use peal_common::envelope::{ENVELOPE_VERSION, Envelope as _, SandboxMessage};
use peal_common::outcome::Outcome;
use peal_nats::publish::Outgoing;
use peal_nats::{Connection, Subjects};

use crate::channels::{Message, outcomes};

/// Records messages of one channel.
pub struct Client {
    connection: Connection,
    subjects: Subjects,
    clock: Clock,
    channel: Channel,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("sandbox::Client")
    }
}

impl Client {
    /// A recorder for a channel.
    #[must_use]
    pub fn new(connection: Connection, clock: Clock, channel: Channel) -> Self {
        let subjects = Subjects::new(&connection.region);
        Client { connection, subjects, clock, channel }
    }

    /// Records one message.
    pub async fn send(&self, message: &Message<'_>) -> Outcome {
        let record = SandboxMessage {
            v: ENVELOPE_VERSION,
            at: self.clock.now(),
            app: message.app.clone(),
            notification: message.notification.clone(),
            delivery: message.delivery.clone(),
            recipient: message.recipient.clone(),
            channel: self.channel,
            address: message.contact.identity().to_owned(),
            rendered: message.rendered.clone(),
            attachments: message.attachments.iter().map(Attachment::summary).collect(),
        };
        let Ok(payload) = record.encode() else { return outcomes::permanent("cannot_encode") };
        match self.connection.publish(Outgoing::new(self.subjects.sandbox(self.channel), payload)).await {
            Ok(published) => Outcome::Sent { provider_id: Some(format!("sandbox-{}", published.sequence)) },
            Err(_) => outcomes::retry("sandbox_unavailable", None),
        }
    }
}
