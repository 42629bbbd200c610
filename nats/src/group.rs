//! Group commit: many waiting publishes in one atomic batch, where that is faster and nowhere else.
//!
//! A server that syncs to the disk on every message takes them one by one; an atomic batch costs one sync whatever its
//! size, but costs more of everything else. Which is faster depends on the server, the disk and on how many are waiting,
//! so it is tried: under load, now and then, messages go the other way for a moment, and whichever way got more of them
//! acknowledged is kept ([`Contest`]). Without load every message goes by itself. Nobody waits for a batch to fill.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use peal_common::settings::GroupCommit;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::connect::Connection;
use crate::publish::{Outgoing, PublishError, Published};

/// The most messages of an atomic batch (server limit, ADR-50).
const MAX_BATCH: usize = 1_000;
/// Messages that may wait to be gathered.
const QUEUE: usize = 20_000;
/// How often the rate is noted.
const TICK: Duration = Duration::from_millis(100);
/// Fewer messages in flight than this are no load: the rate is that of whoever sends them.
const LOADED: u64 = 32;
/// The ticks under load before the other way is tried for the first time. They double each time it loses.
const FIRST_TRIAL: u32 = 10;
/// The most ticks under load between two trials: 30 s.
const LAST_TRIAL: u32 = 300;
/// How many ticks a trial takes beyond those in which what went the old way is still being acknowledged; only the last
/// of them counts.
const TRIAL: u32 = 2;
/// The most ticks that what went the old way may take: 2 s.
const LONGEST_DRAIN: u32 = 20;
/// The other way must be better by this factor: rates differ by chance from moment to moment.
const MARGIN: f64 = 1.2;
/// How many times its load must have changed for a judgement to count no more.
const OTHER_LOAD: u64 = 4;
/// How long answers to a batch are given to turn into the next requests, as a part of what the batch took.
const LINGER_PART: u32 = 8;
/// How often it is looked whether they have come.
const LOOK: Duration = Duration::from_millis(1);

/// Publishes single messages, gathering them where that wins. Cheap to clone.
#[derive(Clone)]
pub struct GroupPublisher {
    inner: Arc<Inner>,
    queue: mpsc::Sender<Entry>,
    limit: Duration,
}

struct Inner {
    connection: Connection,
    gathering: AtomicBool,
    in_flight: AtomicU64,
    done: AtomicU64,
    batches: AtomicU64,
}

struct Entry {
    outgoing: Outgoing,
    answer: oneshot::Sender<Result<Published, PublishError>>,
}

/// Which way is better, from what was measured. Pure.
#[derive(Debug, Clone)]
struct Contest {
    /// Whether messages are gathered, but for trials.
    gathering: bool,
    /// What got acknowledged in a second that way, of late.
    rate: f64,
    /// How many were waiting when the ways were compared last.
    load: u64,
    /// Ticks under load before the next trial, and how many there were before this one.
    wait: u32,
    waited: u32,
    /// The ticks that are left of the trial that is on.
    trial: u32,
}

impl Contest {
    const fn new() -> Self {
        Contest { gathering: false, rate: 0.0, load: 0, wait: FIRST_TRIAL, waited: FIRST_TRIAL, trial: 0 }
    }

    /// Notes what was acknowledged in the last tick, as a rate in seconds, and how many wait now. Whether to gather from
    /// now on.
    fn note(&mut self, rate: f64, waiting: u64) -> bool {
        if waiting < LOADED {
            *self = Contest { wait: self.waited, waited: self.waited, load: self.load, ..Contest::new() };
            return false;
        }
        if self.trial > 1 {
            self.trial -= 1;
            return !self.gathering;
        }
        if self.trial == 1 {
            self.trial = 0;
            self.load = waiting;
            if rate > self.rate * MARGIN {
                self.gathering = !self.gathering;
                self.rate = rate;
                self.waited = FIRST_TRIAL;
            } else {
                self.waited = (self.waited * 2).min(LAST_TRIAL);
            }
            self.wait = self.waited;
            return self.gathering;
        }
        self.rate = if self.rate == 0.0 { rate } else { self.rate * 0.7 + rate * 0.3 };
        if waiting > self.load * OTHER_LOAD || waiting * OTHER_LOAD < self.load {
            self.load = waiting;
            self.waited = FIRST_TRIAL;
            self.wait = self.wait.min(FIRST_TRIAL);
        }
        self.wait -= 1;
        if self.wait == 0 {
            self.trial = TRIAL + self.drain(waiting);
        }
        self.gathering != (self.trial > 0)
    }

    /// The whole ticks in which as many as are waiting get acknowledged the way that messages go now.
    fn drain(&self, waiting: u64) -> u32 {
        let ticks = waiting as f64 / (self.rate * TICK.as_secs_f64()).max(1.0);
        (ticks as u32).min(LONGEST_DRAIN)
    }
}

/// The server's answer to the last message of a batch.
#[derive(Deserialize)]
struct Commit {
    #[serde(rename = "seq")]
    last: Option<u64>,
    count: Option<u64>,
    error: Option<serde_json::Value>,
}

impl GroupPublisher {
    /// A publisher on a connection; nobody waits for an answer longer than `limit`. The returned future must run for it
    /// to gather; it ends at `stop`.
    pub fn new(
        connection: Connection,
        when: GroupCommit,
        limit: Duration,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, entries) = mpsc::channel(QUEUE);
        let inner = Arc::new(Inner {
            connection,
            gathering: AtomicBool::new(when == GroupCommit::Always),
            in_flight: AtomicU64::new(0),
            done: AtomicU64::new(0),
            batches: AtomicU64::new(0),
        });
        let task = Arc::clone(&inner).run(entries, when, stop);
        (GroupPublisher { inner, queue, limit }, task)
    }

    /// How long an answer is waited for.
    #[must_use]
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Whether so many messages wait for their answers that the machine has all hands full.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.inner.in_flight.load(Ordering::Relaxed) >= LOADED
    }

    /// How many batches have been committed.
    #[must_use]
    pub fn batches(&self) -> u64 {
        self.inner.batches.load(Ordering::Relaxed)
    }

    /// Puts a message on its way. The answer is waited for apart.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] at once when the connection is down.
    pub async fn send(
        &self,
        outgoing: Outgoing,
    ) -> Result<impl Future<Output = Result<Published, PublishError>> + Send + use<>, PublishError> {
        if self.inner.gathering.load(Ordering::Relaxed) {
            if !self.inner.connection.is_connected() {
                return Err(gone());
            }
            let flight = Flight::start(&self.inner);
            let (answer, answered) = oneshot::channel();
            self.queue.send(Entry { outgoing, answer }).await.map_err(|_| gone())?;
            return Ok(Sent::Gathered(flight, answered, self.limit).wait());
        }
        let flight = Flight::start(&self.inner);
        let pending = self.inner.connection.send(outgoing).await?;
        Ok(Sent::Single(flight, pending).wait())
    }
}

enum Sent {
    Single(Flight, crate::publish::Pending),
    Gathered(Flight, oneshot::Receiver<Result<Published, PublishError>>, Duration),
}

impl Sent {
    async fn wait(self) -> Result<Published, PublishError> {
        match self {
            Sent::Single(_flight, pending) => pending.acknowledged().await,
            Sent::Gathered(_flight, answered, limit) => match tokio::time::timeout(limit, answered).await {
                Ok(answer) => answer.map_err(|_| gone())?,
                Err(_) => Err(PublishError::unavailable("no acknowledgement in time")),
            },
        }
    }
}

/// Counts a message from its departure to its answer.
struct Flight(Arc<Inner>);

impl Flight {
    fn start(inner: &Arc<Inner>) -> Self {
        inner.in_flight.fetch_add(1, Ordering::Relaxed);
        Flight(Arc::clone(inner))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.done.fetch_add(1, Ordering::Relaxed);
    }
}

fn gone() -> PublishError {
    PublishError::unavailable("not connected to a NATS server")
}

impl Inner {
    async fn run(
        self: Arc<Self>,
        mut entries: mpsc::Receiver<Entry>,
        when: GroupCommit,
        stop: CancellationToken,
    ) {
        let mut contest = Contest::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = (Instant::now(), 0);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = tick.tick(), if when == GroupCommit::Auto => {
                    let (now, done) = (Instant::now(), self.done.load(Ordering::Relaxed));
                    let (then, done_then) = std::mem::replace(&mut before, (now, done));
                    let rate = (done - done_then) as f64 / now.duration_since(then).as_secs_f64().max(1e-6);
                    let gather = contest.note(rate, self.in_flight.load(Ordering::Relaxed));
                    self.gathering.store(gather, Ordering::Relaxed);
                }
                first = entries.recv() => {
                    let Some(first) = first else { break };
                    self.take(first, &mut entries).await;
                }
            }
        }
        // Whoever comes now goes alone; whoever waits is sent on.
        self.gathering.store(false, Ordering::Relaxed);
        entries.close();
        while let Some(entry) = entries.recv().await {
            self.singly(vec![entry]).await;
        }
    }

    /// Sends what waits, as one batch.
    async fn take(&self, first: Entry, entries: &mut mpsc::Receiver<Entry>) {
        let mut waiting = vec![first];
        while waiting.len() < MAX_BATCH
            && let Ok(entry) = entries.try_recv()
        {
            waiting.push(entry);
        }
        // Who has gone was told that it failed.
        waiting.retain(|entry| !entry.answer.is_closed());
        if waiting.len() < 2 {
            return self.singly(waiting).await;
        }
        let (size, began) = (waiting.len(), Instant::now());
        self.batch(waiting).await;
        self.linger(entries, size, began.elapsed() / LINGER_PART).await;
    }

    /// Lets the answers of the last batch turn into new requests, as many as there were, for a moment.
    async fn linger(&self, entries: &mpsc::Receiver<Entry>, size: usize, limit: Duration) {
        let end = Instant::now() + limit;
        while entries.len() < size && Instant::now() < end {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Sends messages by themselves, all at once.
    async fn singly(&self, entries: Vec<Entry>) {
        let mut pending = Vec::with_capacity(entries.len());
        for Entry { outgoing, answer } in entries {
            match self.connection.send(outgoing).await {
                Ok(sent) => pending.push(async move {
                    let _ = answer.send(sent.acknowledged().await);
                }),
                Err(error) => drop(answer.send(Err(error))),
            }
        }
        join_all(pending).await;
    }

    /// Commits messages as one batch. A batch is refused as a whole, for one bad or repeated member: then each goes by
    /// itself, so that nobody answers for another.
    async fn batch(&self, entries: Vec<Entry>) {
        match self.commit(&entries).await {
            Ok(Some(first)) => {
                self.batches.fetch_add(1, Ordering::Relaxed);
                for (sequence, entry) in (first..).zip(entries) {
                    let _ = entry.answer.send(Ok(Published { sequence, duplicate: false }));
                }
            }
            Ok(None) => self.singly(entries).await,
            Err(reason) => {
                // It may be stored or not: everybody has to repeat with the same id, which then tells.
                for entry in entries {
                    let _ = entry.answer.send(Err(PublishError::unavailable(reason)));
                }
            }
        }
    }

    /// The sequence of the first message, or `None` when the server refused the batch and stored nothing.
    async fn commit(&self, entries: &[Entry]) -> Result<Option<u64>, &'static str> {
        if !self.connection.is_connected() {
            return Err("not connected to a NATS server");
        }
        let id = self.connection.client.new_inbox();
        let id = id.rsplit('.').next().unwrap_or(&id).to_owned();
        let client = &self.connection.client;
        let Some((last, others)) = entries.split_last() else { return Ok(None) };
        for (index, entry) in others.iter().enumerate() {
            let Outgoing { subject, headers, payload } = in_batch(&entry.outgoing, &id, index + 1);
            let sent = client.publish_with_headers(subject, headers, payload).await;
            sent.map_err(|_| "the connection does not take messages")?;
        }
        let Outgoing { subject, headers, payload } =
            in_batch(&last.outgoing, &id, entries.len()).header("Nats-Batch-Commit", "1");
        let answer = client.request_with_headers(subject, headers, payload).await;
        let answer = answer.map_err(|_| "no acknowledgement in time")?;
        let commit: Commit =
            serde_json::from_slice(&answer.payload).map_err(|_| "no acknowledgement of a batch")?;
        match commit {
            Commit { error: None, last: Some(last), count: Some(count) } if count == entries.len() as u64 => {
                Ok(Some(last + 1 - count))
            }
            Commit { error: Some(_), .. } => Ok(None),
            _ => Err("no acknowledgement of a batch"),
        }
    }
}

fn in_batch(outgoing: &Outgoing, id: &str, sequence: usize) -> Outgoing {
    outgoing.clone().header("Nats-Batch-Id", id).header("Nats-Batch-Sequence", &sequence.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a contest over ticks under load, in which each way has a rate of its own; tells how often they were gathered.
    fn ticks(contest: &mut Contest, count: usize, single: f64, gathered: f64, waiting: u64) -> usize {
        let mut gathering = contest.gathering;
        let mut times = 0;
        for _ in 0..count {
            times += usize::from(gathering);
            gathering = contest.note(if gathering { gathered } else { single }, waiting);
        }
        times
    }

    #[test]
    fn the_better_way_is_found_and_kept() {
        let mut contest = Contest::new();
        assert!(ticks(&mut contest, 1_000, 2_000.0, 10_000.0, 500) > 950);
        assert!(contest.gathering);
        // The disk gets faster: now messages are better off alone.
        assert!(ticks(&mut contest, 1_000, 50_000.0, 10_000.0, 500) < 400);
        assert!(!contest.gathering);
    }

    #[test]
    fn a_way_that_keeps_losing_is_tried_ever_less() {
        let mut contest = Contest::new();
        let early = ticks(&mut contest, 100, 50_000.0, 10_000.0, 500);
        let late = ticks(&mut contest, 10_000, 50_000.0, 10_000.0, 500);
        assert!((2..=10).contains(&early), "{early}");
        assert!(late * 100 < 10_000, "{late}");
    }

    #[test]
    fn what_went_the_old_way_is_let_through_before_the_other_is_judged() {
        let mut contest = Contest::new();
        let (mut gathering, mut switched) = (false, usize::MAX);
        for _ in 0..100 {
            // 2,000 messages at 3,000 a second are in front of whatever goes another way.
            switched = switched.saturating_add(1);
            let old = switched <= 6;
            let rate = if gathering != old { 10_000.0 } else { 3_000.0 };
            let next = contest.note(rate, 2_000);
            switched = if next == gathering { switched } else { 0 };
            gathering = next;
        }
        assert!(contest.gathering);
    }

    #[test]
    fn load_may_come_and_go_at_any_tick() {
        for ticks_of_load in 1..50 {
            let mut contest = Contest::new();
            for _ in 0..10 {
                ticks(&mut contest, ticks_of_load, 1_000.0, 10_000.0, 500);
                assert!(!contest.note(0.0, 0));
            }
        }
    }

    #[test]
    fn without_load_nothing_is_gathered() {
        let mut contest = Contest::new();
        ticks(&mut contest, 100, 1_000.0, 10_000.0, 500);
        assert!(contest.gathering);
        assert!(!contest.note(1_000.0, LOADED - 1));
        assert_eq!(ticks(&mut contest, 1_000, 1_000.0, 10_000.0, LOADED - 1), 0);
    }
}
