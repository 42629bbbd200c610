//! The acknowledgements of everything that a connection publishes: one subscription and one list for all of them.
//!
//! A message carries the place of its acknowledgement in its reply subject, `<inbox>.<number>`. Numbers grow, and so do
//! the times until which they are waited for, so the list is a queue whose front is the oldest: entering, answering and
//! giving up cost no search and no timer of their own.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::{Client, StatusCode, Subscriber};
use futures_util::StreamExt as _;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior};

use crate::publish::{PublishError, Published};

/// Messages that may wait for their acknowledgement at once: fewer than the client holds for a subscription before it
/// drops what comes (65,536), so that none is dropped.
const MAX_UNACKNOWLEDGED: usize = 50_000;
/// How often it is looked for acknowledgements that don't come any more.
const SWEEP: Duration = Duration::from_millis(100);

type Answer = Result<Published, PublishError>;

/// The acknowledgements of one connection.
#[derive(Debug)]
pub(crate) struct Acks {
    waiting: Arc<Mutex<Waiting>>,
    room: Arc<Semaphore>,
    inbox: String,
    limit: Duration,
    reader: AbortHandle,
}

/// Who waits, by number.
#[derive(Debug, Default)]
struct Waiting {
    /// The number of the first entry.
    first: u64,
    /// `None` stands for one that was answered before older ones.
    entries: VecDeque<Option<Entry>>,
}

#[derive(Debug)]
struct Entry {
    until: Instant,
    answer: oneshot::Sender<Answer>,
    _room: OwnedSemaphorePermit,
}

/// What a stream answers: an acknowledgement or an error.
#[derive(Deserialize)]
struct Ack {
    seq: Option<u64>,
    #[serde(default)]
    duplicate: bool,
    error: Option<async_nats::jetstream::Error>,
}

impl Waiting {
    fn enter(&mut self, entry: Entry) -> u64 {
        self.entries.push_back(Some(entry));
        self.first + self.entries.len() as u64 - 1
    }

    /// Takes an entry out; `None` when it has been answered or given up.
    fn leave(&mut self, number: u64) -> Option<Entry> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let entry = self.entries.get_mut(place)?.take();
        while let Some(None) = self.entries.front() {
            self.entries.pop_front();
            self.first += 1;
        }
        entry
    }

    /// Takes out the oldest entry when its time is over.
    fn late(&mut self, now: Instant) -> Option<Entry> {
        self.entries.front()?.as_ref().filter(|entry| entry.until <= now)?;
        self.leave(self.first)
    }
}

impl Acks {
    /// Subscribes for acknowledgements; each is waited for at most for `limit`.
    ///
    /// # Errors
    /// When the client is closed.
    pub(crate) async fn start(client: &Client, limit: Duration) -> Result<Self, async_nats::SubscribeError> {
        let inbox = client.new_inbox();
        let subscriber = client.subscribe(format!("{inbox}.*")).await?;
        let waiting = Arc::<Mutex<Waiting>>::default();
        let reader = tokio::spawn(read(subscriber, Arc::clone(&waiting), inbox.len() + 1)).abort_handle();
        Ok(Acks { waiting, room: Arc::new(Semaphore::new(MAX_UNACKNOWLEDGED)), inbox, limit, reader })
    }

    /// How long an acknowledgement is waited for.
    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// Room for one more: the reply subject of a message, and where its answer arrives. Waits while too many are on
    /// their way; what is sent before this one needs nobody's help to be answered.
    pub(crate) async fn expect(&self) -> Result<(String, oneshot::Receiver<Answer>), PublishError> {
        let closed = |_| PublishError::unavailable("the connection is closed");
        let room = Arc::clone(&self.room).acquire_owned().await.map_err(closed)?;
        let (answer, answered) = oneshot::channel();
        let entry = Entry { until: Instant::now() + self.limit, answer, _room: room };
        let number = lock(&self.waiting).enter(entry);
        Ok((format!("{}.{number}", self.inbox), answered))
    }
}

impl Drop for Acks {
    fn drop(&mut self) {
        // The subscription holds the client, which would never be closed.
        self.reader.abort();
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read(mut subscriber: Subscriber, waiting: Arc<Mutex<Waiting>>, prefix: usize) {
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Both only wait.
        tokio::select! {
            message = subscriber.next() => {
                let Some(message) = message else { return };
                let number = message.subject.get(prefix..).and_then(|number| number.parse().ok());
                let entry = number.and_then(|number| lock(&waiting).leave(number));
                if let Some(entry) = entry {
                    // Whoever waited may have gone.
                    let _ = entry.answer.send(answer(&message));
                }
            }
            _ = sweep.tick() => {
                let now = Instant::now();
                loop {
                    let late = lock(&waiting).late(now);
                    let Some(entry) = late else { break };
                    let _ = entry.answer.send(Err(PublishError::unavailable("no acknowledgement in time")));
                }
            }
        }
    }
}

fn answer(message: &async_nats::Message) -> Answer {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Err(PublishError::unavailable("no stream takes this subject; see `peal topology check`"));
    }
    match serde_json::from_slice::<Ack>(&message.payload) {
        Ok(Ack { error: Some(error), .. }) => Err(refused(error)),
        Ok(Ack { seq: Some(sequence), duplicate, .. }) => Ok(Published { sequence, duplicate }),
        _ => Err(PublishError::unavailable("the stream's answer cannot be read")),
    }
}

fn refused(error: async_nats::jetstream::Error) -> PublishError {
    let reason = match error.error_code() {
        ErrorCode::STREAM_WRONG_LAST_SEQUENCE | ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT => {
            return PublishError::Conflict;
        }
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM => return PublishError::TooLarge,
        ErrorCode::INSUFFICIENT_RESOURCES | ErrorCode::STORAGE_RESOURCES_EXCEEDED => {
            "the server is out of storage"
        }
        _ => "the stream refused the message",
    };
    PublishError::Unavailable { reason, source: Some(Box::new(error)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(until: Instant) -> (Entry, oneshot::Receiver<Answer>) {
        let (answer, answered) = oneshot::channel();
        let room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        (Entry { until, answer, _room: room }, answered)
    }

    #[test]
    fn entries_leave_in_any_order_and_once() {
        let mut waiting = Waiting::default();
        let now = Instant::now();
        let numbers: Vec<_> = (0..4).map(|_| waiting.enter(entry(now).0)).collect();
        assert_eq!(numbers, [0, 1, 2, 3]);
        for number in [2, 0, 1] {
            assert!(waiting.leave(number).is_some());
            assert!(waiting.leave(number).is_none());
        }
        assert_eq!((waiting.first, waiting.entries.len()), (3, 1));
        assert!(waiting.leave(9).is_none());
        assert_eq!(waiting.enter(entry(now).0), 4);
    }

    #[test]
    fn only_what_is_late_is_given_up() {
        let mut waiting = Waiting::default();
        let now = Instant::now();
        let soon = now + Duration::from_secs(1);
        waiting.enter(entry(now).0);
        waiting.enter(entry(soon).0);
        assert!(waiting.late(now).is_some());
        assert!(waiting.late(now).is_none());
        assert!(waiting.late(soon).is_some());
        assert!(waiting.late(soon).is_none());
    }
}
