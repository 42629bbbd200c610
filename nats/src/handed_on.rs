//! Looking whether the state that regions hand on to each other arrives, and bringing what does not.
//!
//! The servers hand it on ([`crate::topology`]). When a link heals that was cut for more than some seconds they may take
//! long to find each other again: the end that takes state asks the other one to start anew, and where that question went
//! into the broken link it waits for 5 s before it asks again, after several such questions for up to two minutes
//! (nats-server 2.15.1: `srcDurableConsumerWaitTime`, `calculateRetryBackoff` in stream.go). They may also lose some of it,
//! seldom: the end that takes it believes the answer about how far the other one has delivered, and what that delivered
//! between starting anew and answering came while nobody listened (`processResetReq` in consumer.go,
//! `trySetupSourceConsumer` in stream.go). It stays in its queue until the rest is confirmed, or leaves that with the
//! rest; nobody would ever miss it, and it may be an opt-out.
//!
//! So gateways follow what is handed on to their region and from it, look for each record where it has to arrive, and bring
//! what is not there soon. It may come a second time then, which does no harm: what is written last counts, by its stamps.

use std::time::Duration;

use futures_util::future::{join, join_all};
use peal_common::clock::Clock;
use peal_common::state::Record;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::connect::Connection;
use crate::follow::{Followed, Follower, StateError, Stored};
use crate::publish::{Outgoing, PublishError};
use crate::subjects::{Region, Subjects};
use crate::topology::{ALL_STATE, OTHERS_STATE};

/// A record that was just written is given so long before anybody looks.
const TRAVEL: Duration = Duration::from_secs(2);
/// How often it is looked for a record that is not there yet.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a look, or bringing a record, may take.
const LIMIT: Duration = Duration::from_secs(2);
/// A record is brought when it was not there so often: the servers may be about to.
const LOOKS: u32 = 2;
/// Records that are looked for at once, and how often so many: 200 a second at most, since nobody waits for it.
const AT_ONCE: usize = 20;
const INTERVAL: Duration = Duration::from_millis(100);
/// How long it is tried to bring a record. One that is never taken must not hold up what was written after it.
const BRING_FOR: Duration = Duration::from_secs(600);

/// Looks after the state that is handed on to a region and from it.
pub struct HandedOn {
    clock: Clock,
    ways: [Way; 2],
}

/// From one domain to another.
struct Way {
    from: Connection,
    /// What is handed on, in the domain `from`.
    stream: String,
    to: Connection,
    arrives: String,
    /// How the subjects begin that go this way.
    prefixes: Vec<String>,
}

/// What a look for a record says.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// It has arrived, or something newer has replaced it where it comes from.
    Settled,
    /// It is not there. The last message of its subject that is has this sequence, 0 when there is none.
    Missing(u64),
}

/// A record could not be looked for, or brought.
#[derive(Debug, thiserror::Error)]
enum CarryError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error("no answer in time")]
    Late,
}

impl HandedOn {
    /// Looks after what `connection`'s region and the others hand on to each other through `hub`.
    #[must_use]
    pub fn new(connection: &Connection, hub: &Region, clock: Clock) -> Self {
        let (at_hub, own) = (connection.in_domain(hub), Subjects::new(&connection.region));
        let prefix = |filter: String| filter.trim_end_matches('>').to_owned();
        let others = connection.others.iter().map(|other| prefix(Subjects::new(other).state_all()));
        let ways = [
            Way {
                from: connection.clone(),
                stream: own.state_stream(),
                to: at_hub.clone(),
                arrives: ALL_STATE.to_owned(),
                prefixes: own.state_unpinned().into_iter().map(prefix).collect(),
            },
            Way {
                from: at_hub,
                stream: ALL_STATE.to_owned(),
                to: connection.clone(),
                arrives: OTHERS_STATE.to_owned(),
                prefixes: others.collect(),
            },
        ];
        HandedOn { clock, ways }
    }

    /// Does so until `stop`, from the beginning of the streams on.
    pub async fn run(self, stop: CancellationToken) {
        let [out, back] = &self.ways;
        let (out, back) = (Box::pin(self.watch(out)), Box::pin(self.watch(back)));
        stop.run_until_cancelled(join(out, back)).await;
    }

    async fn watch(&self, way: &Way) {
        let mut follower = Follower::new(way.from.clone(), &way.stream, "", None, 0);
        let mut interval = interval(INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Where some had to be brought the next ones do not wait for the servers.
        let mut looks = LOOKS;
        loop {
            let messages = match follower.next().await {
                Followed::Messages(messages) => messages,
                Followed::Quiet(_) => continue,
                Followed::Replaced(state) => {
                    follower.restart(&state);
                    continue;
                }
            };
            let handed_on: Vec<_> = messages.into_iter().filter(|message| way.takes(message)).collect();
            for some in handed_on.chunks(AT_ONCE) {
                interval.tick().await;
                let seen_to = join_all(some.iter().map(|message| self.see_to(way, message, looks))).await;
                let brought = seen_to.into_iter().filter(|is_brought| *is_brought).count();
                if brought > 0 && looks == LOOKS {
                    tracing::warn!(stream = way.stream, "records that did not arrive are brought");
                }
                looks = if brought > 0 { 1 } else { LOOKS };
            }
        }
    }

    /// Waits until a record has arrived, and brings it when it was not there for `looks` looks, one after another. Tells
    /// whether it was brought.
    async fn see_to(&self, way: &Way, message: &Stored, looks: u32) -> bool {
        let age = self.clock.now_ms().saturating_sub(message.at_ms);
        let age = Duration::from_millis(u64::try_from(age).unwrap_or_default());
        sleep(TRAVEL.saturating_sub(age)).await;
        let (stream, sequence) = (&way.stream, message.sequence);
        let (mut missing, mut since) = (0, None);
        loop {
            match in_time(way.look(message)).await {
                Ok(Look::Settled) => return false,
                Ok(Look::Missing(_)) if missing + 1 < looks => missing += 1,
                Ok(Look::Missing(last)) => {
                    match in_time(self.bring(way, message, last)).await {
                        Ok(is_brought) => return is_brought,
                        // It may be that something came meanwhile.
                        Err(error) => tracing::debug!(stream, sequence, %error, "a record cannot be brought"),
                    }
                    if since.get_or_insert_with(Instant::now).elapsed() > BRING_FOR {
                        tracing::warn!(stream, sequence, "a record did not arrive: it is given up");
                        return false;
                    }
                }
                Err(error) => {
                    tracing::debug!(stream, sequence, %error, "nobody can look for a record");
                    (missing, since) = (0, None);
                }
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Writes a record where it has to arrive, unless it has come to its end, or something else was written there after
    /// `last`. Tells whether it did.
    async fn bring(&self, way: &Way, message: &Stored, last: u64) -> Result<bool, CarryError> {
        let Some(subject) = Subjects::new(&way.to.region).brought(&message.subject) else { return Ok(false) };
        let mut outgoing = Outgoing::new(subject, message.payload.clone()).expect_last(last);
        let record = serde_json::from_slice::<Record>(&message.payload).ok();
        if let Some(end) = record.and_then(|record| record.expires_ms) {
            let now = u64::try_from(self.clock.now_ms()).unwrap_or_default();
            let Some(left) = end.checked_sub(now).filter(|left| *left > 0) else { return Ok(false) };
            outgoing = outgoing.ttl(Duration::from_millis(left));
        }
        way.to.publish(outgoing).await?;
        Ok(true)
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, CarryError>>) -> Result<T, CarryError> {
    timeout(LIMIT, work).await.unwrap_or(Err(CarryError::Late))
}

impl Way {
    /// Whether it is a record that goes this way. What stands for a removal is left: it goes by itself, on either side.
    fn takes(&self, message: &Stored) -> bool {
        let goes_this_way = self.prefixes.iter().any(|prefix| message.subject.starts_with(prefix));
        goes_this_way && !message.is_removal()
    }

    async fn look(&self, message: &Stored) -> Result<Look, CarryError> {
        let arrived = self.to.last_of(&self.arrives, &message.subject).await?;
        if arrived.as_ref().is_some_and(|arrived| arrived.payload == message.payload) {
            return Ok(Look::Settled);
        }
        // A copy that is behind would not know it yet, and it would count as gone.
        let newest = self.from.last_at_leader(&self.stream, &message.subject).await?;
        Ok(match newest.is_some_and(|newest| newest.sequence == message.sequence) {
            true => Look::Missing(arrived.map_or(0, |arrived| arrived.sequence)),
            false => Look::Settled,
        })
    }
}
