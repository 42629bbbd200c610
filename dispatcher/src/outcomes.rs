//! What recently became of deliveries, for redeliveries only: in normal running nobody asks and nothing is read.
//!
//! A delivery that comes a second time may have been settled the first time, with only the acknowledgement lost. Its
//! event tells. The index is filled from EVENTS when the first redelivery asks and is kept up to the stream's end at
//! each question, so the answer is exact for everything that was durable when it was asked.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use peal_common::envelope::Envelope as _;
use peal_common::event::{Event, Status};
use peal_common::id::DeliveryId;
use peal_nats::Connection;
use peal_nats::follow::{Followed, Follower, StateError, Stored};
use peal_nats::topology::EVENTS;
use tokio::sync::Mutex;

/// How long one question may take; the delivery waits for its next redelivery then.
const LIMIT: Duration = Duration::from_secs(10);
/// Clocks of servers and dispatchers differ: reading starts this much earlier.
const MARGIN_MS: i64 = 60_000;
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

/// The index.
pub struct RecentOutcomes {
    connection: Connection,
    index: Mutex<Option<Index>>,
}

struct Index {
    follower: Follower,
    from_ms: i64,
    position: u64,
    settled: HashSet<(DeliveryId, u32)>,
    order: VecDeque<(DeliveryId, u32)>,
}

impl RecentOutcomes {
    /// An empty index.
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        RecentOutcomes { connection, index: Mutex::new(None) }
    }

    /// Whether a delivery whose message entered its queue at `since_ms` has been settled.
    ///
    /// # Errors
    /// [`UnknownOutcome`] when nobody can tell now.
    pub async fn is_settled(&self, delivery: &DeliveryId, replays: u32, since_ms: i64) -> Result<bool, UnknownOutcome> {
        let mut index = self.index.lock().await;
        tokio::time::timeout(LIMIT, self.look(&mut index, delivery, replays, since_ms))
            .await
            .map_err(|_| UnknownOutcome::TooSlow)?
    }

    async fn look(
        &self,
        slot: &mut Option<Index>,
        delivery: &DeliveryId,
        replays: u32,
        since_ms: i64,
    ) -> Result<bool, UnknownOutcome> {
        let end = self.connection.stream_state(EVENTS).await?;
        let from_ms = since_ms - MARGIN_MS;
        let usable = slot.as_ref().is_some_and(|index| index.from_ms <= from_ms);
        if !usable {
            *slot = Some(Index {
                follower: Follower::since(self.connection.clone(), EVENTS, from_ms),
                from_ms,
                position: 0,
                settled: HashSet::new(),
                order: VecDeque::new(),
            });
        }
        let Some(index) = slot else { return Ok(false) };
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
        Ok(index.settled.contains(&(delivery.clone(), replays)))
    }
}

impl Index {
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
