//! How much waits where: the depth of each lane of each queue, asked from JetStream.
//!
//! Asking takes dozens of requests, so all viewers share one answer for a while.

use std::sync::Arc;
use std::time::Duration;

use peal_common::channel::{Channel, Priority};
use peal_nats::inspect::StreamFacts;
use peal_nats::topology::{
    DEAD_LETTERS, EVENTS, INTAKE, SANDBOX, SCHEDULE, deliver_consumer, fanout_consumer, state_to, work_stream,
};
use peal_nats::{Connection, Region};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::regions::LagView;

/// For how long an answer is good.
pub const ASK_INTERVAL: Duration = Duration::from_secs(2);
/// How long asking may take.
const ASK_LIMIT: Duration = Duration::from_secs(3);

/// One lane: a priority of one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lane {
    /// Messages that nobody has been given yet.
    pub waiting: u64,
    /// Messages that somebody has and has not finished.
    pub in_hand: u64,
}

/// The lanes of one queue, in the order of [`Priority::ALL`].
pub type Lanes = [Lane; Priority::ALL.len()];

/// How much waits in this region.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Depths {
    /// Notifications that wait for their fan-out. Those in hand may be on their way to their provider.
    pub fanout: Lanes,
    /// Deliveries that wait for their channel, for each channel that has a queue.
    pub channels: Vec<(Channel, Lanes)>,
    /// Messages that wait for their time.
    pub scheduled: u64,
    /// Deliveries that were given up and may be replayed.
    pub dead_letters: u64,
    /// Whether this region has a sandbox.
    pub sandbox: bool,
    /// What the hub has not got yet, where there is a hub and it is known.
    pub lag: Option<LagView>,
}

impl Depths {
    fn of(streams: &[StreamFacts], hub: Option<&Region>) -> Self {
        let stream = |name: &str| streams.iter().find(|stream| stream.name == name);
        let messages = |name: &str| stream(name).map_or(0, |stream| stream.messages);
        let channel =
            |channel: Channel| Some((channel, lanes(stream(&work_stream(channel))?, deliver_consumer)));
        Depths {
            fanout: stream(INTAKE).map(|stream| lanes(stream, fanout_consumer)).unwrap_or_default(),
            channels: Channel::ALL.into_iter().filter_map(channel).collect(),
            scheduled: messages(SCHEDULE),
            dead_letters: messages(DEAD_LETTERS),
            sandbox: stream(SANDBOX).is_some(),
            lag: hub.and_then(|hub| {
                Some(LagView {
                    notifications: unconfirmed(stream(INTAKE)?, hub.as_str())?,
                    events: unconfirmed(stream(EVENTS)?, hub.as_str())?,
                    state: on_its_way(stream(&state_to(hub))?, hub.as_str())?,
                })
            }),
        }
    }

    /// All that nobody works on yet, in all lanes.
    pub fn waiting(&self) -> u64 {
        self.all().map(|lane| lane.waiting).sum()
    }

    /// All that waits or is in hand, in all lanes.
    pub fn total(&self) -> u64 {
        self.all().map(|lane| lane.waiting + lane.in_hand).sum()
    }

    fn all(&self) -> impl Iterator<Item = &Lane> {
        self.channels.iter().flat_map(|(_, lanes)| lanes).chain(&self.fanout)
    }
}

/// The messages of a stream that another domain has not confirmed; `None` while nothing is handed on to it.
fn unconfirmed(stream: &StreamFacts, to: &str) -> Option<u64> {
    let found = stream.consumers.iter().find(|consumer| consumer.name == to)?;
    Some(found.pending.saturating_add(u64::try_from(found.unacknowledged).unwrap_or(u64::MAX)))
}

/// The same of a queue that another stream fills: what has not come to it yet counts, too.
fn on_its_way(queue: &StreamFacts, to: &str) -> Option<u64> {
    let behind: u64 = queue.sources.iter().map(|source| source.lag).sum();
    Some(unconfirmed(queue, to)?.saturating_add(behind))
}

fn lanes(stream: &StreamFacts, consumer: fn(Priority) -> String) -> Lanes {
    Priority::ALL.map(|priority| {
        let name = consumer(priority);
        let found = stream.consumers.iter().find(|consumer| consumer.name == name);
        found.map_or_else(Lane::default, |consumer| Lane {
            waiting: consumer.pending,
            in_hand: u64::try_from(consumer.unacknowledged).unwrap_or(u64::MAX),
        })
    })
}

/// Asks for the depths, not too often.
pub struct Queues {
    connection: Connection,
    hub: Option<Region>,
    answer: Mutex<Option<(Instant, Option<Arc<Depths>>)>>,
}

impl Queues {
    /// Depths as `connection` says them.
    #[must_use]
    pub fn new(connection: Connection, hub: Option<Region>) -> Self {
        Queues { connection, hub, answer: Mutex::default() }
    }

    /// The depths as they were at most [`ASK_INTERVAL`] ago. `None` while JetStream does not answer.
    pub async fn depths(&self) -> Option<Arc<Depths>> {
        let mut answer = self.answer.lock().await;
        if let Some((asked, depths)) = &*answer
            && asked.elapsed() < ASK_INTERVAL
        {
            return depths.clone();
        }
        let depths = match tokio::time::timeout(ASK_LIMIT, self.connection.stream_facts()).await {
            Ok(Ok(streams)) => Some(Arc::new(Depths::of(&streams, self.hub.as_ref()))),
            Ok(Err(error)) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "the depth of the queues is unknown"
                );
                None
            }
            Err(_) => None,
        };
        *answer = Some((Instant::now(), depths.clone()));
        depths
    }
}

#[cfg(test)]
mod tests {
    use peal_nats::inspect::{ConsumerFacts, SourceFacts};

    use super::*;

    fn stream(name: &str, messages: u64, consumers: &[(&str, u64, usize)]) -> StreamFacts {
        let consumers = consumers.iter().map(|(name, pending, unacknowledged)| ConsumerFacts {
            name: (*name).to_owned(),
            pending: *pending,
            unacknowledged: *unacknowledged,
            redelivered: 0,
            waiting: 0,
            pushes: false,
        });
        StreamFacts {
            name: name.to_owned(),
            messages,
            consumers: consumers.collect(),
            ..StreamFacts::default()
        }
    }

    #[test]
    fn lanes_are_read_from_their_consumers() {
        let behind = SourceFacts { from: "eu".to_owned(), lag: 2, silent_for: None };
        let streams = [
            stream("INTAKE", 900, &[("fanout_critical", 1, 2), ("fanout_bulk", 4, 0), ("hub", 3, 1)]),
            stream("WORK_SMS", 7, &[("deliver_normal", 5, 1), ("other", 99, 99)]),
            stream("DEAD_LETTERS", 3, &[]),
            stream("EVENTS", 9, &[("hub", 5, 2)]),
            StreamFacts { sources: vec![behind], ..stream("STATE_TO_hub", 1, &[("hub", 1, 0)]) },
        ];
        let hub: Region = "hub".parse().unwrap();
        let depths = Depths::of(&streams, Some(&hub));
        assert_eq!(depths.fanout[0], Lane { waiting: 1, in_hand: 2 });
        assert_eq!(depths.fanout[3], Lane { waiting: 4, in_hand: 0 });
        let [(Channel::Sms, sms)] = depths.channels.as_slice() else { panic!("{depths:?}") };
        assert_eq!(sms[2], Lane { waiting: 5, in_hand: 1 });
        assert_eq!((depths.total(), depths.dead_letters, depths.scheduled), (13, 3, 0));
        let lag = LagView { notifications: 4, events: 7, state: 3 };
        assert_eq!((depths.waiting(), depths.lag), (10, Some(lag)));
        assert!(!depths.sandbox && Depths::of(&streams, None).lag.is_none());
        assert!(Depths::of(&streams[..4], Some(&hub)).lag.is_none(), "nobody knows");
    }
}
