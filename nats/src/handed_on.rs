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
//! what is not there soon, merged with what is: nothing older takes the place of something newer. An older version that is
//! still on its way may do so, since the servers store what comes; whoever follows the stream merges it. What was brought is
//! therefore looked for again until nothing of its key is on its way.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join, join_all, join3};
use peal_common::clock::Clock;
use peal_common::state::Record;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::connect::Connection;
use crate::follow::{Followed, Follower, StateError, Stored};
use crate::publish::{Outgoing, PublishError};
use crate::subjects::{Region, Subjects};
use crate::topology::{ALL_STATE, OTHERS_STATE, state_to};

/// A record that was just written is given so long before anybody looks.
const TRAVEL: Duration = Duration::from_secs(2);
/// How often it is looked for a record that is not there yet.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a look, or bringing a record, may take.
const LIMIT: Duration = Duration::from_secs(2);
/// A record is brought when it was not there so often: the servers may be about to.
const LOOKS: u32 = 2;
/// Records that are looked for at once, and how often so many: 200 a second at most, of the past and as many of the present.
const AT_ONCE: usize = 20;
const INTERVAL: Duration = Duration::from_millis(100);
/// How long it is tried to bring a record before those that were written after it get their turn.
const BRING_FOR: Duration = Duration::from_secs(10);
/// How often it is looked again for what was brought, or could not be.
const AGAIN_INTERVAL: Duration = Duration::from_secs(15);
/// The most records of which that is kept in mind, some 100 bytes each. What is beyond is looked for after the next start.
const MOST_AGAIN: usize = 10_000;

/// Looks after the state that is handed on to a region and from it.
pub struct HandedOn {
    clock: Clock,
    ways: [Way; 2],
}

/// From one domain to another.
struct Way {
    from: Connection,
    /// What is handed on, and through which queue; both in the domain `from`.
    stream: String,
    queue: String,
    to: Connection,
    arrives: String,
    /// How the subjects begin that go this way.
    prefixes: Vec<String>,
    /// The subjects of records that are looked for again.
    again: Mutex<HashSet<String>>,
}

/// What a look for a record says.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// It has arrived, or something newer has replaced it where it comes from.
    Settled,
    /// It is not there.
    Missing {
        /// The sequence of the last message of its subject that is there, 0 when there is none.
        last: u64,
        /// What has to be there: both in one.
        whole: Whole,
    },
}

/// A record as it is written.
#[derive(Debug, PartialEq, Eq)]
struct Whole {
    payload: Bytes,
    expires_ms: Option<u64>,
}

/// A record could not be looked for, or brought.
#[derive(Debug, thiserror::Error)]
enum BringError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error("the record cannot be encoded")]
    Encode(#[from] serde_json::Error),
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
                queue: state_to(hub),
                to: at_hub.clone(),
                arrives: ALL_STATE.to_owned(),
                prefixes: own.state_unpinned().into_iter().map(prefix).collect(),
                again: Mutex::default(),
            },
            Way {
                from: at_hub,
                stream: ALL_STATE.to_owned(),
                queue: state_to(&connection.region),
                to: connection.clone(),
                arrives: OTHERS_STATE.to_owned(),
                prefixes: others.collect(),
                again: Mutex::default(),
            },
        ];
        HandedOn { clock, ways }
    }

    /// Does so until `stop`, from the beginning of the streams on, and at once for what is written from now on.
    pub async fn run(self, stop: CancellationToken) {
        let [out, back] = &self.ways;
        let (out, back) = (Box::pin(self.look_after(out)), Box::pin(self.look_after(back)));
        stop.run_until_cancelled(join(out, back)).await;
    }

    async fn look_after(&self, way: &Way) {
        let past = Follower::new(way.from.clone(), &way.stream, "", None, 0);
        let present = Follower::since(way.from.clone(), &way.stream, self.clock.now_ms());
        let (past, present) = (Box::pin(self.watch(way, past)), Box::pin(self.watch(way, present)));
        join3(past, present, Box::pin(self.look_again(way))).await;
    }

    async fn watch(&self, way: &Way, mut follower: Follower) {
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
                Ok(Look::Missing { .. }) if missing + 1 < looks => missing += 1,
                Ok(Look::Missing { last, whole }) => {
                    match in_time(self.bring(way, &message.subject, last, &whole)).await {
                        Ok(is_brought) => return is_brought,
                        // It may be that something came meanwhile.
                        Err(error) => tracing::debug!(stream, sequence, %error, "a record cannot be brought"),
                    }
                    if since.get_or_insert_with(Instant::now).elapsed() > BRING_FOR {
                        tracing::warn!(
                            stream,
                            sequence,
                            "a record did not arrive, and cannot be brought yet"
                        );
                        way.keep_in_mind(message.subject.clone());
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

    /// Looks again for what was brought, or could not be, until nothing of it is on its way any more.
    async fn look_again(&self, way: &Way) {
        let mut pace = interval(INTERVAL);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            sleep(AGAIN_INTERVAL).await;
            let subjects: Vec<_> = std::mem::take(&mut *way.again()).into_iter().collect();
            for some in subjects.chunks(AT_ONCE) {
                pace.tick().await;
                join_all(some.iter().map(|subject| self.once_more(way, subject))).await;
            }
        }
    }

    async fn once_more(&self, way: &Way, subject: &str) {
        let settled = in_time(async {
            // What leaves the queue after this was asked has arrived before it is looked for.
            let is_on_its_way = way.from.last_of(&way.queue, subject).await?.is_some();
            let Some(newest) = way.from.last_at_leader(&way.stream, subject).await? else { return Ok(true) };
            match way.look(&newest).await? {
                Look::Settled => Ok(!is_on_its_way),
                Look::Missing { last, whole } => {
                    self.bring(way, subject, last, &whole).await?;
                    Ok(false)
                }
            }
        });
        if !matches!(settled.await, Ok(true)) {
            way.keep_in_mind(subject.to_owned());
        }
    }

    /// Writes a record where it has to arrive, unless it has come to its end. Fails where something else was written after
    /// `last`. Tells whether it did.
    async fn bring(&self, way: &Way, subject: &str, last: u64, whole: &Whole) -> Result<bool, BringError> {
        let Some(brought) = Subjects::new(&way.to.region).brought(subject) else { return Ok(false) };
        let mut outgoing = Outgoing::new(brought, whole.payload.clone()).expect_last(last);
        if let Some(end) = whole.expires_ms {
            let now = u64::try_from(self.clock.now_ms()).unwrap_or_default();
            let Some(left) = end.checked_sub(now).filter(|left| *left > 0) else { return Ok(false) };
            outgoing = outgoing.ttl(Duration::from_millis(left));
        }
        way.to.publish(outgoing).await?;
        way.keep_in_mind(subject.to_owned());
        Ok(true)
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, BringError>>) -> Result<T, BringError> {
    timeout(LIMIT, work).await.unwrap_or(Err(BringError::Late))
}

impl Way {
    /// Whether it is a record that goes this way. What stands for a removal is left: it goes by itself, on either side.
    fn takes(&self, message: &Stored) -> bool {
        let goes_this_way = self.prefixes.iter().any(|prefix| message.subject.starts_with(prefix));
        goes_this_way && !message.is_removal()
    }

    async fn look(&self, message: &Stored) -> Result<Look, BringError> {
        // What this version can't read is looked after by those that can.
        let Some(record) = read(message) else { return Ok(Look::Settled) };
        let arrived = self.to.last_of(&self.arrives, &message.subject).await?;
        let last = arrived.as_ref().map_or(0, |arrived| arrived.sequence);
        let mut whole = Whole { payload: message.payload.clone(), expires_ms: record.expires_ms };
        if let Some(arrived) = arrived.as_ref().and_then(read) {
            let mut both = arrived.clone();
            both.merge(record.clone());
            if both == arrived {
                return Ok(Look::Settled);
            }
            if both != record {
                whole = Whole { payload: serde_json::to_vec(&both)?.into(), expires_ms: both.expires_ms };
            }
        }
        // A copy that is behind would not know it yet, and it would count as gone.
        let newest = self.from.last_at_leader(&self.stream, &message.subject).await?;
        Ok(match newest.is_some_and(|newest| newest.sequence == message.sequence) {
            true => Look::Missing { last, whole },
            false => Look::Settled,
        })
    }

    fn keep_in_mind(&self, subject: String) {
        let mut again = self.again();
        if again.len() < MOST_AGAIN {
            again.insert(subject);
        }
    }

    fn again(&self) -> MutexGuard<'_, HashSet<String>> {
        self.again.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(message: &Stored) -> Option<Record> {
    if message.is_removal() { None } else { serde_json::from_slice(&message.payload).ok() }
}
