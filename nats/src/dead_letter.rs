//! Putting aside what is none of ours: a message that cannot be read goes to the dead letters, and the others flow on.

use base64::Engine as _;
use jiff::Timestamp;
use peal_common::envelope::{DeadLetter, ENVELOPE_VERSION, Envelope as _};

use crate::connect::Connection;
use crate::follow::Stored;
use crate::publish::Outgoing;
use crate::subjects::Subjects;

/// The id under which a message of a stream is put aside. Everybody who meets the same message uses it, so that within
/// the duplicate window of the dead letters it is put aside once.
#[must_use]
pub fn dead_letter_id(stream: &str, sequence: u64) -> String {
    format!("{stream}:{sequence}")
}

impl Connection {
    /// Copies a message that cannot be read to the dead letters, as it stands. `reason` is a stable word. A failure is
    /// logged: the message itself stays in the stream that it was read from.
    pub async fn put_aside(&self, stream: &str, message: &Stored, reason: &'static str, at: Timestamp) {
        tracing::warn!(
            stream,
            sequence = message.sequence,
            reason,
            "a message is none of ours and is put aside"
        );
        if self.is_hub {
            // It is put aside where it came from.
            return;
        }
        let letter = DeadLetter {
            v: ENVELOPE_VERSION,
            at,
            reason: reason.to_owned(),
            stream: stream.to_owned(),
            subject: message.subject.clone(),
            attempts: 0,
            work: None,
            raw: Some(base64::engine::general_purpose::STANDARD.encode(&message.payload)),
        };
        let Ok(payload) = letter.encode() else { return };
        let subject = Subjects::new(&self.region).dead(None, "none");
        let outgoing = Outgoing::new(subject, payload).id(&dead_letter_id(stream, message.sequence));
        if let Err(error) = self.publish(outgoing).await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, stream, sequence = message.sequence, "a message could not be put aside");
        }
    }
}
