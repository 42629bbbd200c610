//! Removing messages from a stream: what an erasure takes out of the inboxes, and dead letters that are settled.

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::DeleteMessageErrorKind;

use crate::connect::Connection;

/// The messages are still there, as far as anybody knows. Repeating the removal does no harm.
#[derive(Debug, thiserror::Error)]
#[error("cannot remove messages from stream {stream}")]
pub struct RemoveError {
    /// The stream.
    pub stream: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl Connection {
    /// Removes every message of a stream whose subject matches `filter`; returns how many there were.
    ///
    /// # Errors
    /// [`RemoveError`] when there is no such stream or nobody answers.
    pub async fn purge(&self, stream: &str, filter: &str) -> Result<u64, RemoveError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| RemoveError {
            stream: stream.to_owned(),
            source,
        };
        let handle =
            self.jetstream.get_stream_no_info(stream).await.map_err(|error| failed(Box::new(error)))?;
        let purged = handle.purge().filter(filter).await.map_err(|error| failed(Box::new(error)))?;
        Ok(purged.purged)
    }

    /// Removes one message. Returns whether it was there.
    ///
    /// # Errors
    /// [`RemoveError`] when there is no such stream or nobody answers.
    pub async fn remove_message(&self, stream: &str, sequence: u64) -> Result<bool, RemoveError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| RemoveError {
            stream: stream.to_owned(),
            source,
        };
        let handle =
            self.jetstream.get_stream_no_info(stream).await.map_err(|error| failed(Box::new(error)))?;
        match handle.delete_message(sequence).await {
            Ok(removed) => Ok(removed),
            Err(error) => match error.kind() {
                DeleteMessageErrorKind::JetStream(inner)
                    if inner.error_code() == ErrorCode::STREAM_MESSAGE_DELETE_FAILED
                        && matches!(self.message_at(stream, sequence).await, Ok(None)) =>
                {
                    Ok(false)
                }
                _ => Err(failed(Box::new(error))),
            },
        }
    }
}
