//! What is left to do of INTAKE when one of its consumers was made again.
//!
//! INTAKE keeps what was fanned out, and a consumer that was deleted takes its place in the stream with it: the one that
//! is made in its stead hands out everything once more, long after WORK could recognise it. So whatever is older than
//! its consumer is looked up: the streams are read once, and tell what became of it.

use std::collections::HashMap;

use peal_common::channel::Priority;
use peal_common::takeover::Left;
use peal_nats::Connection;
use peal_nats::follow::StateError;
use peal_nats::pull::Job;
use peal_nats::topology::{INTAKE, fanout_consumer};
use peal_nats::unfinished::{Told, unfinished};
use tokio::sync::Mutex;

/// What is known of a message that is older than its consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is left to do.
    Done,
    /// This is.
    Open(Left),
    /// It is no notification, and nobody can tell whether it was put aside.
    Foreign,
}

/// The look-up. Its answers are kept until a consumer is made again.
pub struct Inherited {
    connection: Connection,
    known: Mutex<Option<Known>>,
}

struct Known {
    /// When each consumer was made, at the time of reading.
    consumers: HashMap<String, i64>,
    /// What has not ended, by its sequence.
    left: HashMap<u64, Left>,
    /// What was read: everything from the first that has not ended to the last.
    first: u64,
    end: u64,
}

impl Inherited {
    /// Nothing is read until somebody asks.
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        Inherited { connection, known: Mutex::new(None) }
    }

    /// What is known of a message of INTAKE that is older than its consumer.
    ///
    /// # Errors
    /// [`StateError`] when JetStream does not answer.
    pub async fn standing(&self, job: &Job) -> Result<Standing, StateError> {
        let mut known = self.known.lock().await;
        if !known.as_ref().is_some_and(|known| known.covers(job)) {
            // Large and rare: what asks does not have room for it.
            *known = Some(Box::pin(self.read(job)).await?);
        }
        Ok(known.as_ref().map_or(Standing::Foreign, |known| known.standing(job)))
    }

    async fn read(&self, job: &Job) -> Result<Known, StateError> {
        tracing::warn!(consumer = %job.consumer, "a consumer of INTAKE was made again; what is left is looked up");
        let mut consumers = HashMap::from([(job.consumer.clone(), job.session.consumer_since_ms)]);
        for priority in Priority::ALL {
            let consumer = fanout_consumer(priority);
            // One that is missing is made later, and then looked up by itself.
            if let Ok(times) = self.connection.consumer_standing(INTAKE, &consumer).await {
                consumers.insert(consumer, times.since_ms);
            }
        }
        let Told { unfinished: found, accepted, end, .. } =
            unfinished(&self.connection, &self.connection.region, |_, _| {}).await?;
        let rest = found.finish().rest.into_iter().map(|rest| (rest.place, rest.left()));
        let is_nothing = |left: &Left| matches!(left, Left::Planned(planned) if planned.is_empty());
        let left: HashMap<_, _> = rest.filter(|(_, left)| !is_nothing(left)).collect();
        tracing::info!(accepted, left = left.len(), "what is left of INTAKE is known");
        let first = left.keys().min().copied().unwrap_or(end + 1);
        Ok(Known { consumers, left, first, end })
    }
}

impl Known {
    fn covers(&self, job: &Job) -> bool {
        self.consumers.get(&job.consumer).is_some_and(|since_ms| *since_ms >= job.session.consumer_since_ms)
    }

    fn standing(&self, job: &Job) -> Standing {
        match self.left.get(&job.sequence) {
            Some(left) => Standing::Open(left.clone()),
            None if job.sequence > self.end => Standing::Open(Left::Undecided(Default::default())),
            None if job.message_id().is_none() && job.sequence > self.first => Standing::Foreign,
            None => Standing::Done,
        }
    }
}
