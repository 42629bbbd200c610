//! Publishing into JetStream: typed errors, and nothing is sent into a connection that is down.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::client::PublishErrorKind;
use async_nats::connection::State;
use async_nats::header::NATS_MESSAGE_ID;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::oneshot;

use crate::connect::Connection;

/// Why a message is not in its stream, as far as anybody knows.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No server, no leader, no storage, or no answer in time. After a time-out the message may be there all the same:
    /// repeat it with the same id.
    #[error("JetStream cannot acknowledge: {reason}")]
    Unavailable {
        /// A plain word for readiness and logs.
        reason: &'static str,
        /// What the server or the client says.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The subject's last sequence is not the expected one: somebody else wrote in between.
    #[error("the subject was written by somebody else in between")]
    Conflict,
    /// The message is larger than the server takes.
    #[error("the message is larger than the NATS server accepts; raise its max_payload")]
    TooLarge,
}

/// The header of an INTAKE message that says when the notification was accepted, in milliseconds since the Unix epoch, and
/// the keyed digest of its fingerprint: what other regions recognise a repetition by.
pub const ACCEPTED_HEADER: &str = "Peal-Accepted";

/// Where a message stands after it was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Its sequence in the stream; that of the first one when it is a duplicate.
    pub sequence: u64,
    /// Whether the stream already had a message with this id.
    pub duplicate: bool,
}

/// A message on its way into a stream.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub(crate) subject: String,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
}

impl Outgoing {
    /// A message for a subject.
    #[must_use]
    pub fn new(subject: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Outgoing { subject: subject.into(), headers: HeaderMap::new(), payload: payload.into() }
    }

    /// Bytes of its payload.
    #[must_use]
    pub fn size(&self) -> usize {
        self.payload.len()
    }

    /// The id by which the stream recognises a repetition within its duplicate window.
    #[must_use]
    pub fn id(mut self, id: &str) -> Self {
        self.headers.insert(NATS_MESSAGE_ID, id);
        self
    }

    /// Only if the last message of the subject has this sequence; 0 means that there is none.
    #[must_use]
    pub fn expect_last(self, sequence: u64) -> Self {
        self.header("Nats-Expected-Last-Subject-Sequence", &sequence.to_string())
    }

    /// The server removes the message after this time, which is at least a second.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        self.header("Nats-TTL", &format!("{}s", ttl.as_secs().max(1)))
    }

    /// The server publishes the payload to `target` at `at`; a message in the past is published at once. Another
    /// message on the same subject replaces this one.
    #[must_use]
    pub fn at(self, at: Timestamp, target: &str) -> Self {
        self.header("Nats-Schedule", &format!("@at {}", rfc3339_seconds(at)))
            .header("Nats-Schedule-Target", target)
    }

    /// A header of its own.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name, value);
        self
    }
}

/// The server reads schedule times in whole seconds; rounding up keeps a message from coming too early.
fn rfc3339_seconds(at: Timestamp) -> String {
    let up = if at.subsec_nanosecond() > 0 { 1 } else { 0 };
    Timestamp::from_second(at.as_second() + up).unwrap_or(at).to_string()
}

/// A message that has been written to the connection and not yet been acknowledged.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Result<Published, PublishError>>);

impl Pending {
    /// Waits for the acknowledgement, at most as long as the connection's request limit.
    ///
    /// # Errors
    /// [`PublishError`]
    pub async fn acknowledged(self) -> Result<Published, PublishError> {
        self.0.await.unwrap_or_else(|_| Err(PublishError::unavailable("the connection is closed")))
    }
}

impl PublishError {
    pub(crate) const fn unavailable(reason: &'static str) -> Self {
        PublishError::Unavailable { reason, source: None }
    }
}

impl Connection {
    /// Whether the connection stands.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Writes a message to the connection; its acknowledgement is waited for apart, so that many can be on their way.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] at once when the connection is down: a message that waited in the client would be
    /// stored after its sender had been told that it failed.
    pub async fn send(&self, outgoing: Outgoing) -> Result<Pending, PublishError> {
        if !self.is_connected() {
            return Err(PublishError::unavailable("not connected to a NATS server"));
        }
        let Outgoing { subject, headers, payload } = outgoing;
        let (reply, answered) = self.acks.expect().await?;
        let sent = async {
            match headers.is_empty() {
                true => self.client.publish_with_reply(subject, reply, payload).await,
                false => self.client.publish_with_reply_and_headers(subject, reply, headers, payload).await,
            }
        };
        // A server that stands still takes nothing more once the buffers are full.
        let Ok(sent) = tokio::time::timeout(self.acks.limit(), sent).await else {
            return Err(PublishError::unavailable("the connection does not take messages"));
        };
        match sent {
            Ok(()) => Ok(Pending(answered)),
            Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => Err(PublishError::TooLarge),
            Err(error) => Err(PublishError::Unavailable {
                reason: "the connection does not take messages",
                source: Some(Box::new(error)),
            }),
        }
    }

    /// Publishes a message and waits until the stream has it.
    ///
    /// # Errors
    /// [`PublishError`]
    pub async fn publish(&self, outgoing: Outgoing) -> Result<Published, PublishError> {
        self.send(outgoing).await?.acknowledged().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedule_times_are_rounded_up_to_whole_seconds() {
        let round = |text: &str| rfc3339_seconds(text.parse().unwrap());
        assert_eq!(round("2026-12-01T00:00:00.001Z"), "2026-12-01T00:00:01Z");
        assert_eq!(round("2026-12-01T00:00:00Z"), "2026-12-01T00:00:00Z");
    }
}
