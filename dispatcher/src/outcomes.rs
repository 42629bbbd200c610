//! What recently became of deliveries, for those that may come a second time: in normal running nobody asks and nothing
//! is read.
//!
//! A delivery that comes a second time may have been settled the first time, with only the acknowledgement lost. Its
//! event tells. The index is filled from EVENTS when the first question comes, and kept up to the stream's end.
//!
//! A server that was killed does not know what it handed out in its last moments (2.15 writes that down a little
//! later): after it has started again it hands the same messages out as if for the first time. So whatever entered its
//! stream before the connection was made is looked up as well. All events of the time before the server went away are
//! stored when it is back; they are read once for each connection, and further questions cost no request.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex as SyncMutex, PoisonError};
use std::time::Duration;

use peal_common::clock::Clock;
use peal_common::envelope::Envelope as _;
use peal_common::event::{Event, Status};
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
/// The most settled deliveries that are remembered, about 100 bytes each.
const CAPACITY: usize = 500_000;

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
    /// It was there before the connection was made, and the server may have forgotten that it was handed out.
    Forgotten,
}

/// The index.
pub struct RecentOutcomes {
    connection: Connection,
    clock: Clock,
    standing: SyncMutex<Standing>,
    index: Mutex<Option<Index>>,
}

/// The connection as it was seen last. Times are those of the servers, as far as their clock is known.
#[derive(Debug, Clone, Copy, Default)]
struct Standing {
    /// How far the clock of the servers is ahead of the own one.
    ahead_ms: i64,
    /// How often it had been made.
    connects: u64,
    /// When it was seen first.
    since_ms: i64,
    /// When it was seen last.
    seen_ms: i64,
    /// When the connection before it was seen last.
    before_ms: Option<i64>,
}

struct Index {
    follower: Follower,
    from_ms: i64,
    position: u64,
    /// The connection for which everything has been read that was stored before it was made.
    complete_for: u64,
    /// Everything has been read that was stored before this moment.
    complete_at: Instant,
    settled: HashSet<(DeliveryId, u32)>,
    order: VecDeque<(DeliveryId, u32)>,
}

impl RecentOutcomes {
    /// An empty index.
    #[must_use]
    pub fn new(connection: Connection, clock: Clock) -> Self {
        RecentOutcomes { connection, clock, standing: SyncMutex::default(), index: Mutex::new(None) }
    }

    /// Whether a message may be a repetition.
    #[must_use]
    pub fn suspicion(&self, job: &Job) -> Option<Suspicion> {
        let standing = self.standing(Some(job.server_ahead_ms));
        if job.deliveries > 1 || job.is_inherited() {
            return Some(Suspicion::Repeated);
        }
        (job.at_ms < standing.since_ms + SKEW_MS).then_some(Suspicion::Forgotten)
    }

    fn standing(&self, ahead_ms: Option<i64>) -> Standing {
        let connects = self.connection.connects();
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        standing.ahead_ms = ahead_ms.unwrap_or(standing.ahead_ms);
        let now = self.clock.now_ms() + standing.ahead_ms;
        if standing.connects != connects {
            let before_ms = Some(standing.seen_ms).filter(|_| standing.connects > 0);
            *standing =
                Standing { connects, since_ms: now, seen_ms: now, before_ms, ahead_ms: standing.ahead_ms };
        }
        standing.seen_ms = now;
        *standing
    }

    /// Makes sure that what was settled before the connection was made is known. To be called before anything is
    /// published because of a message that is suspected: later nobody could tell when the server went away.
    ///
    /// # Errors
    /// [`UnknownOutcome`] when nobody can tell now.
    pub async fn prepare(&self, at_ms: i64) -> Result<(), UnknownOutcome> {
        self.up_to_date(at_ms, Suspicion::Forgotten, |_| ()).await
    }

    /// Whether a delivery whose message entered its queue at `at_ms` has been settled.
    ///
    /// # Errors
    /// [`UnknownOutcome`] when nobody can tell now.
    pub async fn is_settled(
        &self,
        delivery: &DeliveryId,
        replays: u32,
        at_ms: i64,
        suspicion: Suspicion,
    ) -> Result<bool, UnknownOutcome> {
        let key = (delivery.clone(), replays);
        self.up_to_date(at_ms, suspicion, |index| index.settled.contains(&key)).await
    }

    async fn up_to_date<T>(
        &self,
        at_ms: i64,
        suspicion: Suspicion,
        answer: impl FnOnce(&Index) -> T,
    ) -> Result<T, UnknownOutcome> {
        let asked = Instant::now();
        let mut slot = self.index.lock().await;
        // Whoever had to wait may find that the one before has read far enough for both.
        if let Some(index) = slot.as_ref().filter(|index| index.reaches(at_ms, suspicion)) {
            let is_complete = match suspicion {
                Suspicion::Repeated => index.complete_at >= asked,
                Suspicion::Forgotten => index.complete_for == self.connection.connects(),
            };
            if is_complete {
                return Ok(answer(index));
            }
        }
        let caught_up = tokio::time::timeout(LIMIT, self.catch_up(&mut slot, at_ms, suspicion)).await;
        caught_up.map_err(|_| UnknownOutcome::TooSlow)??;
        slot.as_ref().map(answer).ok_or(UnknownOutcome::TooSlow)
    }

    /// Reads up to the stream's present end. When it is broken off, the next one goes on from there.
    async fn catch_up(
        &self,
        slot: &mut Option<Index>,
        at_ms: i64,
        suspicion: Suspicion,
    ) -> Result<(), UnknownOutcome> {
        // Both are asked before the end is: what is stored later belongs to the next question.
        let (standing, now) = (self.standing(None), Instant::now());
        let end = self.connection.stream_state(EVENTS).await?;
        if !slot.as_ref().is_some_and(|index| index.reaches(at_ms, suspicion)) {
            *slot = Some(self.open(at_ms, suspicion, standing, &end).await?);
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
        index.complete_for = standing.connects;
        index.complete_at = now;
        Ok(())
    }

    async fn open(
        &self,
        at_ms: i64,
        suspicion: Suspicion,
        standing: Standing,
        end: &StreamState,
    ) -> Result<Index, UnknownOutcome> {
        // While the server is away nothing is stored. What it may have forgotten was settled shortly before, so shortly
        // before the last event that is stored, or before this process lost the connection, however long ago that is.
        let last = match end.messages {
            0 => None,
            _ => self.connection.message_at(EVENTS, end.last).await?,
        };
        let last_ms = last.map_or(at_ms, |last| last.at_ms).min(standing.before_ms.unwrap_or(i64::MAX));
        let from_ms = match suspicion {
            Suspicion::Repeated => at_ms.min(last_ms),
            Suspicion::Forgotten => last_ms,
        } - MARGIN_MS;
        Ok(Index {
            follower: Follower::since(self.connection.clone(), EVENTS, from_ms),
            from_ms,
            position: 0,
            complete_for: 0,
            complete_at: Instant::now(),
            settled: HashSet::new(),
            order: VecDeque::new(),
        })
    }
}

impl Index {
    /// Whether what is looked for lies in what is read.
    fn reaches(&self, at_ms: i64, suspicion: Suspicion) -> bool {
        suspicion == Suspicion::Forgotten || self.from_ms <= at_ms - MARGIN_MS
    }

    fn note(&mut self, message: &Stored) {
        let Ok(event) = Event::decode(&message.payload) else { return };
        let settles = event.kind.status().is_some_and(Status::is_settled);
        let Some(delivery) = event.delivery.filter(|_| settles) else { return };
        let key = (delivery, event.replays.unwrap_or(0));
        if self.settled.insert(key.clone()) {
            self.order.push_back(key);
        }
        if self.order.len() > CAPACITY
            && let Some(oldest) = self.order.pop_front()
        {
            self.settled.remove(&oldest);
        }
    }
}
