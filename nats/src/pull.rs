//! Pulling work from a durable consumer, with a permit for every message in hand, and acknowledging it.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::{AckKind, Message};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::connect::Connection;

/// How long one pull request stands at the server.
const EXPIRES: Duration = Duration::from_secs(5);
/// How often the server shows that a standing request is alive.
const HEARTBEAT: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A message in hand. It comes again unless it is acknowledged.
pub struct Job {
    message: Message,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// How often it has been handed out, this time included.
    pub deliveries: u32,
    /// When the stream took it, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The stream.
    pub stream: String,
    _permit: OwnedSemaphorePermit,
}

/// The server was not told. The message comes again after its acknowledgement wait.
#[derive(Debug, thiserror::Error)]
#[error("the message could not be acknowledged")]
pub struct AckError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl Job {
    fn new(message: Message, permit: OwnedSemaphorePermit) -> Option<Self> {
        let (sequence, deliveries, at_ms, stream) = {
            let info = message.info().ok()?;
            let at_ms = i64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).ok()?;
            (info.stream_sequence, u32::try_from(info.delivered).unwrap_or(u32::MAX), at_ms, info.stream.to_owned())
        };
        Some(Job { message, sequence, deliveries, at_ms, stream, _permit: permit })
    }

    /// The message's subject.
    #[must_use]
    pub fn subject(&self) -> &str {
        self.message.subject.as_str()
    }

    /// The message's content.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.message.payload
    }

    /// Done. Fire and forget: when the acknowledgement is lost, the message comes again.
    ///
    /// # Errors
    /// [`AckError`] when the connection is closed.
    pub async fn ack(&self) -> Result<(), AckError> {
        self.message.ack().await.map_err(AckError)
    }

    /// Done, and the server has confirmed that it knows.
    ///
    /// # Errors
    /// [`AckError`] when it did not confirm in time.
    pub async fn double_ack(&self) -> Result<(), AckError> {
        self.message.double_ack().await.map_err(AckError)
    }

    /// Not now: again after `delay`.
    ///
    /// # Errors
    /// [`AckError`] when the connection is closed.
    pub async fn nak(&self, delay: Duration) -> Result<(), AckError> {
        self.message.ack_with(AckKind::Nak(Some(delay))).await.map_err(AckError)
    }

    /// Still at it: the acknowledgement wait starts again.
    ///
    /// # Errors
    /// [`AckError`] when the connection is closed.
    pub async fn progress(&self) -> Result<(), AckError> {
        self.message.ack_with(AckKind::Progress).await.map_err(AckError)
    }

    /// Never again, and why: operators read the reason in the server's advisory.
    ///
    /// # Errors
    /// [`AckError`] when the connection is closed.
    pub async fn term(&self, connection: &Connection, reason: &str) -> Result<(), AckError> {
        // The client's own kind carries no reason; the server takes it after the word.
        let Some(reply) = self.message.reply.clone() else { return Ok(()) };
        let plain: String = reason.chars().filter(|c| !c.is_control()).take(100).collect();
        let sent = connection.client.publish(reply, format!("+TERM {plain}").into()).await;
        sent.map_err(|error| AckError(Box::new(error)))
    }
}

/// One lane: a durable consumer, and how many of its messages may be in hand at once.
#[derive(Debug, Clone)]
pub struct Lane {
    /// The stream.
    pub stream: String,
    /// The durable consumer.
    pub consumer: String,
    /// How many messages may be in hand at once.
    pub permits: usize,
}

impl Lane {
    /// Hands every message to `handle` until `stop`. Each message in hand holds a permit, which was taken before it was
    /// asked for. Errors are logged and tried again; `handle` must not block.
    pub async fn run(&self, connection: &Connection, stop: &CancellationToken, mut handle: impl FnMut(Job)) {
        let permits = Arc::new(Semaphore::new(self.permits));
        let mut pause = FIRST_PAUSE;
        let mut consumer = None;
        while !stop.is_cancelled() {
            let Some(current) = &consumer else {
                match self.consumer(connection).await {
                    Ok(found) => consumer = Some(found),
                    Err(error) => {
                        tracing::warn!(stream = %self.stream, consumer = %self.consumer, error = %error, "cannot pull yet");
                        rest(&mut pause, stop).await;
                    }
                }
                continue;
            };
            match self.batch(current, &permits, stop, &mut handle).await {
                Ok(()) => pause = FIRST_PAUSE,
                Err(error) => {
                    tracing::debug!(stream = %self.stream, consumer = %self.consumer, error = %error, "pulling starts again");
                    consumer = None;
                    rest(&mut pause, stop).await;
                }
            }
        }
    }

    async fn consumer(&self, connection: &Connection) -> Result<PullConsumer, Box<dyn std::error::Error + Send + Sync>> {
        let stream = connection.jetstream.get_stream_no_info(&self.stream).await?;
        stream.get_consumer(&self.consumer).await
    }

    async fn batch(
        &self,
        consumer: &PullConsumer,
        permits: &Arc<Semaphore>,
        stop: &CancellationToken,
        handle: &mut impl FnMut(Job),
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let first = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            permit = Arc::clone(permits).acquire_owned() => permit?,
        };
        let mut held = first;
        if let Ok(free) = u32::try_from(permits.available_permits())
            && free > 0
            && let Ok(more) = Arc::clone(permits).try_acquire_many_owned(free)
        {
            held.merge(more);
        }
        let wanted = held.num_permits();
        let mut messages =
            consumer.batch().max_messages(wanted).expires(EXPIRES).heartbeat(HEARTBEAT).messages().await?;
        loop {
            // Dropping the batch leaves at most what was already on its way; that comes again after its wait.
            let message = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                message = messages.next() => message,
            };
            let Some(message) = message.transpose()? else { return Ok(()) };
            let Some(permit) = held.split(1) else { return Ok(()) };
            if let Some(job) = Job::new(message, permit) {
                handle(job);
            }
        }
    }
}

async fn rest(pause: &mut Duration, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(*pause) => {}
    }
    *pause = (*pause * 2).min(LONGEST_PAUSE);
}
