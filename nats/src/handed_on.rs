//! Looking whether the state that regions hand on to each other arrives.
//!
//! The servers hand it on ([`crate::topology`]), and when a link heals they may lose some of it, seldom: the end that takes
//! it has the consumer at the other end start again, and believes its answer about how far it has delivered. What that one
//! delivered between starting again and answering came while nobody listened, so it is skipped, and confirmed with what
//! comes next (nats-server 2.15.2: `processResetReq` in consumer.go, `trySetupSourceConsumer` in stream.go). Nobody would
//! ever miss it, and it may be an opt-out.
//!
//! So gateways follow what is handed on to their region and from it, and look for each record where it has to arrive. One
//! that is neither there nor on its way is written again by the region that wrote it: the same record, as the newest of its
//! stream.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use peal_common::clock::Clock;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::connect::Connection;
use crate::follow::{Followed, Follower, Stored};
use crate::service::Refusal;
use crate::state::StateWriter;
use crate::subjects::{Region, Subjects};
use crate::topology::{ALL_STATE, OTHERS_STATE, state_to};

/// The door at which a region's gateways are asked to write a record again. The question is the record's subject.
pub const DOOR: &str = "again";

/// A record that was just written is given so long before anybody looks.
const TRAVEL: Duration = Duration::from_secs(2);
/// How often it is looked for a record that is not there yet.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A record is lost when it was neither there nor on its way so often, one look after another.
const LOOKS: u32 = 3;
/// Records that are looked for at once, and how often so many: 200 a second at most, since nobody waits for it.
const AT_ONCE: usize = 20;
const INTERVAL: Duration = Duration::from_millis(100);
/// How long a region may take to write a record again.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// How often a record is asked for where that is answered and brings nothing: its region may have it no more.
const MOST_ANSWERS: u32 = 5;
/// How long a region is asked that does not answer. One that is gone for good must not hold up what others wrote.
const ASK_FOR: Duration = Duration::from_secs(600);

/// Looks after the state that is handed on to a region and from it.
pub struct HandedOn {
    writer: StateWriter,
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
}

/// What became of a record.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It has arrived, or something newer has replaced it.
    Settled,
    UnderWay,
    Missing,
}

type LookError = Box<dyn std::error::Error + Send + Sync>;

impl HandedOn {
    /// Looks after what `connection`'s region and the others hand on to each other through `hub`.
    #[must_use]
    pub fn new(connection: &Connection, hub: &Region, writer: StateWriter, clock: Clock) -> Self {
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
            },
            Way {
                from: at_hub,
                stream: ALL_STATE.to_owned(),
                queue: state_to(&connection.region),
                to: connection.clone(),
                arrives: OTHERS_STATE.to_owned(),
                prefixes: others.collect(),
            },
        ];
        HandedOn { writer, clock, ways }
    }

    /// Does so until `stop`, from the beginning of the streams on.
    pub async fn run(self, stop: CancellationToken) {
        let [out, back] = &self.ways;
        let (out, back) = (Box::pin(self.watch(out)), Box::pin(self.watch(back)));
        stop.run_until_cancelled(futures_util::future::join(out, back)).await;
    }

    async fn watch(&self, way: &Way) {
        let mut follower = Follower::new(way.from.clone(), &way.stream, "", None, 0);
        let mut interval = interval(INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                stream::iter(some).for_each_concurrent(AT_ONCE, |message| self.see_to(way, message)).await;
            }
        }
    }

    /// Waits until a record has arrived, and has it written again when it is lost.
    async fn see_to(&self, way: &Way, message: &Stored) {
        let age = self.clock.now_ms().saturating_sub(message.at_ms);
        let age = Duration::from_millis(u64::try_from(age).unwrap_or_default());
        sleep(TRAVEL.saturating_sub(age)).await;
        let (mut missing, mut asking_since, mut answers) = (0, None, 0);
        loop {
            match way.fate_of(message).await {
                Ok(Fate::Settled) => return,
                Ok(Fate::Missing) => missing += 1,
                Ok(Fate::UnderWay) => missing = 0,
                Err(error) => {
                    tracing::debug!(stream = way.stream, error = &*error, "nobody can look for a record");
                    missing = 0;
                }
            }
            if missing >= LOOKS {
                missing = 0;
                let sequence = message.sequence;
                tracing::warn!(
                    stream = way.stream,
                    sequence,
                    "a record was lost on its way: it is written again"
                );
                match self.again(way, &message.subject).await {
                    Ok(()) => answers += 1,
                    Err(error) => tracing::warn!(
                        stream = way.stream,
                        sequence,
                        error = &*error,
                        "the record is not written again"
                    ),
                }
                let since = *asking_since.get_or_insert_with(Instant::now);
                if since.elapsed() > ASK_FOR || answers >= MOST_ANSWERS {
                    tracing::warn!(stream = way.stream, sequence, "the record is given up");
                    return;
                }
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Has a record written again where it was written first.
    async fn again(&self, way: &Way, subject: &str) -> Result<(), LookError> {
        let owns = |region: &&Region| subject.starts_with(&Subjects::new(region).state(""));
        let Some(owner) = way.to.others.iter().find(owns) else {
            return Ok(self.writer.write_again(subject).await?);
        };
        let (door, question) = (Subjects::new(owner).api(DOOR), Bytes::from(subject.to_owned()));
        way.to.ask(door, question, ASK_LIMIT).await?;
        Ok(())
    }
}

impl Way {
    /// Whether it is a record that goes this way. What stands for a removal is left: it goes by itself, on either side.
    fn takes(&self, message: &Stored) -> bool {
        let goes_this_way = self.prefixes.iter().any(|prefix| message.subject.starts_with(prefix));
        goes_this_way && !message.is_removal()
    }

    /// A message goes from the stream into the queue, and leaves that once it has arrived: who looks in this order sees it
    /// at least once.
    async fn fate_of(&self, message: &Stored) -> Result<Fate, LookError> {
        if self.has_arrived(message).await? {
            return Ok(Fate::Settled);
        }
        // A copy that is behind would not know it yet, and it would count as gone.
        let newest = self.from.last_at_leader(&self.stream, &message.subject).await?;
        if newest.is_none_or(|newest| newest.sequence != message.sequence) {
            return Ok(Fate::Settled);
        }
        let into_queue = self.from.sources(&self.queue).await?;
        if into_queue.iter().any(|source| source.lag > 0 || !source.is_heard()) {
            return Ok(Fate::UnderWay);
        }
        if self.from.last_of(&self.queue, &message.subject).await?.is_some() {
            return Ok(Fate::UnderWay);
        }
        Ok(if self.has_arrived(message).await? { Fate::Settled } else { Fate::Missing })
    }

    async fn has_arrived(&self, message: &Stored) -> Result<bool, LookError> {
        let found = self.to.last_of(&self.arrives, &message.subject).await?;
        Ok(found.is_some_and(|found| found.payload == message.payload))
    }
}

/// Answers another region that misses a record of this one.
///
/// # Errors
/// [`Refusal`] when it is to be asked again.
pub async fn asked_again(writer: &StateWriter, question: &[u8]) -> Result<Bytes, Refusal> {
    let refused = |code, title: &str| Refusal { code, title: title.to_owned(), body: Bytes::new() };
    let subject = std::str::from_utf8(question).map_err(|_| refused(400, "not a subject"))?;
    match writer.write_again(subject).await {
        Ok(()) => Ok(Bytes::new()),
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "a record is not written again");
            Err(refused(503, "the record was not written again"))
        }
    }
}
