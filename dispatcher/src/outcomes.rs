//! What recently became of deliveries, for those that may come a second time: in normal running nobody asks and nothing
//! is read.
//!
//! A delivery that comes a second time may have been settled the first time, with only the acknowledgement lost. Its
//! event tells. The index is filled from EVENTS when the first question comes, and kept up to the stream's end.
//!
//! A server that was killed does not know what it handed out in its last moments (2.15 writes that down a little
//! later): after it has started again, or another one of its cluster leads, the same messages are handed out as if for the
//! first time. So whatever entered its stream before the lane's present session began is looked up as well. All events
//! of the time before are stored by then, but for what other dispatchers had in hand. They are read once for each session,
//! in its first half minute for whoever asks at the same moment; further questions cost no request.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use peal_common::channel::Channel;
use peal_common::envelope::{Envelope as _, Work};
use peal_common::event::{Event, EventType, Status};
use peal_common::id::DeliveryId;
use peal_nats::Connection;
use peal_nats::follow::{Followed, Follower, StateError, Stored, StreamState};
use peal_nats::pull::Job;
use peal_nats::topology::EVENTS;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long one question may take; the delivery waits for its next redelivery then.
const LIMIT: Duration = Duration::from_secs(10);
/// Reading starts this much earlier than what is looked for can be: time for a call of a provider, and for clocks of
/// servers and dispatchers that differ.
const MARGIN_MS: i64 = 60_000;
/// How far the clocks of servers may differ: messages count as older by this much than they say.
const SKEW_MS: i64 = 2_000;
/// How long after a break other dispatchers may still say what came of calls that they had made by then: what a call may
/// take, and its event.
const UNSAID: Duration = Duration::from_secs(30);
/// How old an answer may be: when reading took longer, what was stored meanwhile is read as well.
const FRESH: Duration = Duration::from_millis(500);
/// The most settled deliveries that are remembered, about 100 bytes each.
const CAPACITY: usize = 500_000;
/// The same of those that are still being tried.
const TRIED: usize = 100_000;

/// The question could not be answered in time.
#[derive(Debug, thiserror::Error)]
pub enum UnknownOutcome {
    /// JetStream does not answer.
    #[error(transparent)]
    State(#[from] StateError),
    /// Reading the events took too long.
    #[error("the recent events could not be read in time")]
    TooSlow,
}

/// Why a delivery may have been settled before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspicion {
    /// It was handed out or queued before, as the message itself says, or its consumer was made after it.
    Repeated,
    /// It was there before the lane's session began, and the servers may have forgotten that it was handed out.
    Forgotten,
}

/// The index.
pub struct RecentOutcomes {
    connection: Connection,
    index: Mutex<Option<Index>>,
    texts: Texts,
}

/// Whose the text messages are that a provider has, by its names for them.
type Texts = Arc<std::sync::Mutex<HashMap<String, DeliveryId>>>;

struct Index {
    follower: Follower,
    from_ms: i64,
    position: u64,
    /// Everything has been read that was stored before this moment; `None` while the end has not been reached yet, which
    /// whoever comes next goes on with.
    complete_at: Option<Instant>,
    settled: Latest<()>,
    attempts: Latest<u32>,
    texts: Texts,
}

/// A delivery, or one of its replays.
type Key = (DeliveryId, u32);

/// What was noted of the deliveries that something was noted of last.
struct Latest<V> {
    capacity: usize,
    /// With the number of the last note.
    values: HashMap<Key, (u64, V)>,
    notes: VecDeque<(u64, Key)>,
    count: u64,
}

impl<V> Latest<V> {
    fn of(capacity: usize) -> Self {
        Latest { capacity, values: HashMap::new(), notes: VecDeque::new(), count: 0 }
    }

    fn get(&self, key: &Key) -> Option<&V> {
        self.values.get(key).map(|(_, value)| value)
    }

    fn note(&mut self, key: Key, value: V) {
        self.count += 1;
        self.values.insert(key.clone(), (self.count, value));
        self.notes.push_back((self.count, key));
        if self.notes.len() > self.capacity
            && let Some((number, oldest)) = self.notes.pop_front()
            && self.values.get(&oldest).is_some_and(|(last, _)| *last == number)
        {
            self.values.remove(&oldest);
        }
    }
}

/// What events tell of a delivery, or of one of its replays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Whether it has been settled.
    pub is_settled: bool,
    /// How many attempts they tell of.
    pub attempts: u32,
}

impl RecentOutcomes {
    /// An empty index.
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        RecentOutcomes { connection, index: Mutex::new(None), texts: Texts::default() }
    }

    /// Whether a message may be a repetition.
    #[must_use]
    pub fn suspicion(&self, job: &Job) -> Option<Suspicion> {
        if job.deliveries > 1 || job.is_inherited() {
            return Some(Suspicion::Repeated);
        }
        (job.at_ms < job.session.began_ms + SKEW_MS).then_some(Suspicion::Forgotten)
    }

    /// Makes sure that what was settled before the session began is known. To be called before anything is published
    /// because of a message that is suspected: later nobody could tell when the server went away.
    ///
    /// # Errors
    /// [`UnknownOutcome`] when nobody can tell now.
    pub async fn prepare(&self, job: &Job) -> Result<(), UnknownOutcome> {
        self.up_to_date(&Question::of(job, Suspicion::Forgotten), |_| ()).await
    }

    /// What is known of a delivery whose message is suspected.
    ///
    /// # Errors
    /// [`UnknownOutcome`] when nobody can tell now.
    pub async fn known(&self, work: &Work, job: &Job, suspicion: Suspicion) -> Result<Known, UnknownOutcome> {
        let mut question = Question::of(job, suspicion);
        if let (Some(since), Some(repeated)) = (question.since_ms, work.repeat_since) {
            question.since_ms = Some(since.min(repeated.as_millisecond()));
        }
        let key = (work.delivery.clone(), work.replays);
        self.up_to_date(&question, |index| Known {
            is_settled: index.settled.get(&key).is_some(),
            attempts: index.attempts.get(&key).copied().unwrap_or(0),
        })
        .await
    }

    /// Whether a text message that its provider names so is none of another delivery's, as far as is known from what was asked
    /// here; from now on it is this one's.
    #[must_use]
    pub fn claim(&self, provider_id: &str, delivery: &DeliveryId) -> bool {
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        texts.entry(provider_id.to_owned()).or_insert_with(|| delivery.clone()) == delivery
    }

    async fn up_to_date<T>(
        &self,
        question: &Question,
        answer: impl FnOnce(&Index) -> T,
    ) -> Result<T, UnknownOutcome> {
        let mut slot = self.index.lock().await;
        // Whoever had to wait may find that the one before has read far enough for both.
        if let Some(index) = slot.as_ref()
            && index.reaches(question)
            && index.complete_at.is_some_and(|complete| complete >= question.asked)
        {
            return Ok(answer(index));
        }
        // Large and rare: what asks does not have room for it.
        let caught_up = Box::pin(self.catch_up(&mut slot, question));
        let caught_up = tokio::time::timeout(LIMIT, caught_up).await;
        caught_up.map_err(|_| UnknownOutcome::TooSlow)??;
        slot.as_ref().map(answer).ok_or(UnknownOutcome::TooSlow)
    }

    /// Reads until the end that was reached is the stream's present end, or was a moment ago.
    async fn catch_up(&self, slot: &mut Option<Index>, question: &Question) -> Result<(), UnknownOutcome> {
        loop {
            let began = Instant::now();
            self.read_to_end(slot, question).await?;
            if began.elapsed() < FRESH {
                return Ok(());
            }
        }
    }

    /// Reads up to what is the stream's end now. When it is broken off, the next one goes on from there.
    async fn read_to_end(&self, slot: &mut Option<Index>, question: &Question) -> Result<(), UnknownOutcome> {
        // What is stored after this belongs to the next question.
        let now = Instant::now();
        let end = self.connection.stream_state(EVENTS).await?;
        if !slot.as_ref().is_some_and(|index| index.reaches(question)) {
            *slot = Some(self.open(question, &end).await?);
        }
        let Some(index) = slot else { return Ok(()) };
        while index.position < end.last {
            match index.follower.next().await {
                Followed::Messages(messages) => {
                    index.position = messages.last().map_or(index.position, |last| last.sequence);
                    messages.iter().for_each(|message| index.note(message));
                }
                // Nothing of that time is left in the stream.
                Followed::Quiet(state) => index.position = state.last,
                Followed::Replaced(_) => {
                    *slot = None;
                    return Err(UnknownOutcome::TooSlow);
                }
            }
        }
        index.complete_at = Some(now);
        Ok(())
    }

    async fn open(&self, question: &Question, end: &StreamState) -> Result<Index, UnknownOutcome> {
        // While the server is away nothing is stored. What it may have forgotten was settled shortly before, so shortly
        // before the last event that is stored, or before the lane heard of the consumer last, however long ago that is.
        let last = match end.messages {
            0 => None,
            _ => self.connection.message_at(EVENTS, end.last).await?,
        };
        let last_ms = last.map_or(question.at_ms, |last| last.at_ms);
        let from_ms = question.since_ms.map_or(last_ms, |since| since.min(last_ms)) - MARGIN_MS;
        Ok(Index {
            follower: Follower::since(self.connection.clone(), EVENTS, from_ms),
            from_ms,
            position: 0,
            complete_at: None,
            settled: Latest::of(CAPACITY),
            attempts: Latest::of(TRIED),
            texts: Arc::clone(&self.texts),
        })
    }
}

/// Since when the deliveries of a message can have been settled that is suspected; `None` when nobody knows.
#[must_use]
pub fn settled_since(job: &Job, suspicion: Suspicion) -> Option<Timestamp> {
    Timestamp::from_millisecond(Question::of(job, suspicion).since_ms?).ok()
}

/// What is asked of the index.
struct Question {
    /// Since when what is looked for can have been settled; `None` when nobody knows.
    since_ms: Option<i64>,
    /// When the message entered its stream.
    at_ms: i64,
    /// Everything counts that was stored before this moment.
    asked: Instant,
}

impl Question {
    fn of(job: &Job, suspicion: Suspicion) -> Self {
        let (since_ms, asked) = match suspicion {
            Suspicion::Repeated => (Some(job.at_ms), Instant::now()),
            Suspicion::Forgotten => (job.session.before_ms, Instant::now().min(job.session.began + UNSAID)),
        };
        Question { since_ms, at_ms: job.at_ms, asked }
    }
}

impl Index {
    /// Whether what is looked for lies in what is read.
    fn reaches(&self, question: &Question) -> bool {
        question.since_ms.is_none_or(|since| self.from_ms <= since - MARGIN_MS)
    }

    fn note(&mut self, message: &Stored) {
        let Ok(event) = Event::decode(&message.payload) else { return };
        let is_settled = event.kind.status().is_some_and(Status::is_settled);
        let tells = is_settled || event.kind == EventType::Retried;
        let Some(delivery) = event.delivery.filter(|_| tells) else { return };
        if let Some(provider_id) = event.provider_id.filter(|_| event.channel == Some(Channel::Sms)) {
            let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
            if texts.len() >= CAPACITY {
                texts.clear();
            }
            texts.insert(provider_id, delivery.clone());
        }
        let key = (delivery, event.replays.unwrap_or(0));
        if is_settled {
            if self.settled.get(&key).is_none() {
                self.settled.note(key, ());
            }
        } else if let Some(attempts) = event.attempts {
            let before = self.attempts.get(&key).copied().unwrap_or(0);
            self.attempts.note(key, attempts.max(before));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> Key {
        let (app, notification) = ("shop".parse().unwrap(), "n".parse().unwrap());
        (DeliveryId::derive(&app, &notification, &"u".parse().unwrap(), Channel::Sms, "c", n), 0)
    }

    #[test]
    fn what_was_noted_last_is_kept_and_no_more_than_there_is_room_for() {
        let mut latest = Latest::of(3);
        for (n, value) in [(1, 10), (2, 20), (1, 11), (3, 30)] {
            latest.note(key(n), value);
        }
        assert_eq!(
            (latest.get(&key(1)), latest.get(&key(2)), latest.get(&key(3))),
            (Some(&11), Some(&20), Some(&30))
        );
        latest.note(key(4), 40);
        assert_eq!((latest.get(&key(1)), latest.get(&key(2))), (Some(&11), None), "its note is the oldest");
        (5..9).for_each(|n| latest.note(key(n), n));
        assert_eq!((latest.get(&key(1)), latest.values.len(), latest.notes.len()), (None, 3, 3));
    }
}
