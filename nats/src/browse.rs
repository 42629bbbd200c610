//! Reading a stream here and there, without a consumer: the next message of a subject, and the latest ones first. Each
//! message costs a round trip; what reads whole streams uses [`crate::follow`].

use async_nats::jetstream::stream::DirectGetErrorKind;

use crate::connect::Connection;
use crate::follow::{StateError, Stored};

/// A part of a stream, the latest message first.
#[derive(Debug)]
pub struct Backwards<T> {
    /// What was found.
    pub found: Vec<T>,
    /// Before which sequence to go on; `None` when the beginning of the stream is reached.
    pub next: Option<u64>,
}

impl Connection {
    /// The first message with a subject that matches `filter` and a sequence of at least `from`. `None` when there is
    /// none.
    ///
    /// # Errors
    /// [`StateError`] when there is no such stream or nobody answers.
    pub async fn next_of(&self, stream: &str, filter: &str, from: u64) -> Result<Option<Stored>, StateError> {
        let handle = self.jetstream.get_stream_no_info(stream).await;
        let handle = handle.map_err(|error| StateError::new(stream, error))?;
        match handle.direct_get_next_for_subject(filter, Some(from.max(1))).await {
            Ok(message) => Ok(Some(Stored::fetched(message))),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(StateError::new(stream, error)),
        }
    }

    /// What `wanted` makes of the latest messages that match `filter`, with sequences below `before` if that is given: at
    /// most `limit` of those of which it makes something, after reading at most `reads`. The messages themselves, which may
    /// be large, are not kept.
    ///
    /// # Errors
    /// As [`Connection::next_of`].
    pub async fn latest_of<T>(
        &self,
        stream: &str,
        filter: &str,
        before: Option<u64>,
        limit: usize,
        reads: usize,
        wanted: impl Fn(&Stored) -> Option<T>,
    ) -> Result<Backwards<T>, StateError> {
        let state = self.stream_state(stream).await?;
        let mut end = before.unwrap_or(u64::MAX).min(state.last.saturating_add(1));
        let mut span = limit as u64;
        let (mut messages, mut left) = (Vec::new(), reads);
        while end > state.first.max(1) && left > 0 {
            let start = end.saturating_sub(span).max(state.first).max(1);
            let mut part = Vec::new();
            let mut at = start;
            while let Some(found) = self.next_of(stream, filter, at).await? {
                if found.sequence >= end {
                    break;
                }
                at = found.sequence + 1;
                left = left.saturating_sub(1);
                if let Some(wanted) = wanted(&found) {
                    part.push((found.sequence, wanted));
                }
            }
            messages.extend(part.into_iter().rev());
            end = start;
            if messages.len() > limit {
                messages.truncate(limit);
                end = messages.last().map_or(end, |(sequence, _)| *sequence);
            }
            if messages.len() >= limit {
                break;
            }
            // Where little is found, larger steps find the little there is with few requests.
            span = (span * 2).min(1 << 20);
        }
        let next = (end > state.first.max(1)).then_some(end);
        let found = messages.into_iter().map(|(_, wanted)| wanted).collect();
        Ok(Backwards { found, next })
    }
}
