//! Removing what is acknowledged and still there: after a crash, nats-server may keep messages of a work queue that
//! were acknowledged before. No consumer is given them again, and they take room and count as waiting work.

use async_nats::jetstream::stream::{LastRawMessageErrorKind, RetentionPolicy};

use crate::connect::Connection;

/// JetStream did not say, or did not remove; nothing else is changed, and the next sweep tries again.
#[derive(Debug, thiserror::Error)]
#[error("cannot sweep consumer {consumer} of stream {stream}")]
pub struct SweepError {
    /// The stream.
    pub stream: String,
    /// The consumer.
    pub consumer: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// A lane in which nothing waits: all that matches its consumer's filter has been handed out and acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quiet {
    /// The sequence in the stream up to which everything is acknowledged.
    floor: u64,
}

/// What a look at a lane found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// For the next look; `None` when the lane is at work.
    pub quiet: Option<Quiet>,
    /// How many messages were removed.
    pub purged: u64,
}

impl Connection {
    /// Looks at a durable consumer with one filter subject, or none. When it is as quiet as it was at the look `before`, what is
    /// left at or below its ack floor is removed.
    ///
    /// Only acknowledged messages can be removed: the ack floor is the sequence up to which every message that matches
    /// the consumer's filter was acknowledged or ended, nothing at or below it is ever handed out again, and it only
    /// rises, so a look that is out of date asks for too little. What is published meanwhile has a higher sequence. The
    /// purge is limited to the consumer's own filter, which in a work queue no other consumer may share. Waiting for two
    /// equal looks is not needed for that; it keeps the sweep out of the way of acknowledgements in flight.
    ///
    /// # Errors
    /// [`SweepError`] when there is no such consumer, or nobody answers.
    pub async fn sweep(
        &self,
        stream: &str,
        consumer: &str,
        before: Option<Quiet>,
    ) -> Result<Swept, SweepError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| SweepError {
            stream: stream.to_owned(),
            consumer: consumer.to_owned(),
            source,
        };
        let handle = self.jetstream.get_stream(stream).await.map_err(|error| failed(Box::new(error)))?;
        let info = handle.consumer_info(consumer).await.map_err(|error| failed(Box::new(error)))?;
        let floor = info.ack_floor.stream_sequence;
        let config = info.config;
        let filter = if config.filter_subject.is_empty() { ">" } else { &config.filter_subject };
        // A stream that lost its newest messages gives their sequences again, so a floor above them says nothing.
        let state = handle.cached_info();
        let is_queue = state.config.retention == RetentionPolicy::WorkQueue;
        let is_quiet = info.num_pending == 0 && info.num_ack_pending == 0;
        if !is_queue || !is_quiet || !config.filter_subjects.is_empty() || floor > state.state.last_sequence {
            return Ok(Swept { quiet: None, purged: 0 });
        }
        let swept = Swept { quiet: Some(Quiet { floor }), purged: 0 };
        if before != swept.quiet {
            return Ok(swept);
        }
        let oldest = match handle.get_first_raw_message_by_subject(filter, 0).await {
            Ok(message) => message.sequence,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(swept),
            Err(error) => return Err(failed(Box::new(error))),
        };
        // This also keeps a floor of 0 away from the purge, which takes a sequence of 1 for no limit at all.
        if oldest > floor {
            return Ok(swept);
        }
        let purge = handle.purge().filter(filter).sequence(floor + 1);
        let purged = purge.await.map_err(|error| failed(Box::new(error)))?;
        Ok(Swept { purged: purged.purged, ..swept })
    }
}
