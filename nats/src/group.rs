//! Group commit: many waiting publishes in one atomic batch, where that is faster and nowhere else.
//!
//! A server that syncs to the disk on every message takes them one by one; an atomic batch costs one sync whatever its
//! size, but that one is dear. Which is faster depends on the disk and on how many are waiting, so it is measured:
//! normally messages go out by themselves, and their rate under load is noted. When what is in flight would take
//! longer than a batch, messages are gathered while the last batch is on its way. Nobody waits for a batch to fill.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::connect::Connection;
use crate::publish::{Outgoing, PublishError, Published};

/// The most messages of an atomic batch (server limit, ADR-50).
const MAX_BATCH: usize = 1_000;
/// Messages that may wait to be gathered.
const QUEUE: usize = 20_000;
/// How often the rate of single messages is noted.
const TICK: Duration = Duration::from_millis(100);
/// Fewer messages in flight than this say nothing about the rate.
const LOADED: u64 = 32;
/// What a batch is taken to cost before one was measured.
const BATCH_GUESS: Duration = Duration::from_millis(15);
/// A batch must be expected to win by this factor.
const MARGIN: f64 = 1.25;
/// After so many gatherings that went out as single messages, gathering ends.
const PATIENCE: u32 = 20;
/// Measurements of batches are forgotten after this time: disks have moods.
const FORGET_AFTER: Duration = Duration::from_secs(30);
/// How long answers to a batch are given to turn into the next requests, as a part of what a batch costs.
const LINGER_PART: u32 = 8;

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
    measured: Mutex<Measured>,
}

struct Entry {
    outgoing: Outgoing,
    answer: oneshot::Sender<Result<Published, PublishError>>,
}

/// What was measured lately.
#[derive(Debug, Clone)]
struct Measured {
    /// Single messages a second under load; `None` until there was load.
    singles: Option<f64>,
    /// What a batch took, by the power of two of its size.
    batches: [Option<Duration>; 11],
    since: Option<Instant>,
}

impl Measured {
    const fn new() -> Self {
        Measured { singles: None, batches: [None; 11], since: None }
    }

    fn note_singles(&mut self, rate: f64) {
        self.singles = Some(self.singles.map_or(rate, |old| old * 0.7 + rate * 0.3));
    }

    fn note_batch(&mut self, size: usize, took: Duration, now: Instant) {
        self.since.get_or_insert(now);
        let slot = &mut self.batches[bucket(size)];
        *slot = Some(slot.map_or(took, |old| old.mul_f64(0.7) + took.mul_f64(0.3)));
    }

    fn forget_old(&mut self, now: Instant) {
        if self.since.is_some_and(|since| now.duration_since(since) > FORGET_AFTER) {
            self.batches = [None; 11];
            self.since = None;
        }
    }

    /// What a batch of this size costs: as measured for its size, else for the nearest larger one, else any, else a guess.
    fn batch_cost(&self, size: usize) -> Duration {
        let at = bucket(size);
        let larger = self.batches[at..].iter().flatten().next();
        larger.or_else(|| self.batches[..at].iter().rev().flatten().next()).copied().unwrap_or(BATCH_GUESS)
    }

    /// Whether a batch of `waiting` messages is expected to be done before as many single ones.
    fn batch_wins(&self, waiting: usize) -> bool {
        let Some(rate) = self.singles.filter(|rate| *rate > 0.0) else { return false };
        waiting > 1 && waiting as f64 / rate > self.batch_cost(waiting.min(MAX_BATCH)).as_secs_f64() * MARGIN
    }
}

fn bucket(size: usize) -> usize {
    (size.max(1).ilog2() as usize).min(10)
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
        limit: Duration,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, entries) = mpsc::channel(QUEUE);
        let inner = Arc::new(Inner {
            connection,
            gathering: AtomicBool::new(false),
            in_flight: AtomicU64::new(0),
            done: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            measured: Mutex::new(Measured::new()),
        });
        let task = Arc::clone(&inner).run(entries, stop);
        (GroupPublisher { inner, queue, limit }, task)
    }

    /// How many batches have been committed.
    #[must_use]
    pub fn batches(&self) -> u64 {
        self.inner.batches.load(Ordering::Relaxed)
    }

    /// Starts from an assumed rate of single messages instead of a measured one, and gathers at once.
    pub fn assume(&self, singles_per_second: f64) {
        self.inner.measured.lock().unwrap_or_else(PoisonError::into_inner).singles = Some(singles_per_second);
        self.inner.gathering.store(true, Ordering::Relaxed);
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
            let (answer, answered) = oneshot::channel();
            self.queue.send(Entry { outgoing, answer }).await.map_err(|_| gone())?;
            return Ok(Sent::Gathered(answered, self.limit).wait());
        }
        let pending = self.inner.connection.send(outgoing).await?;
        Ok(Sent::Single(Flight::start(&self.inner), pending).wait())
    }
}

enum Sent {
    Single(Flight, crate::publish::Pending),
    Gathered(oneshot::Receiver<Result<Published, PublishError>>, Duration),
}

impl Sent {
    async fn wait(self) -> Result<Published, PublishError> {
        match self {
            Sent::Single(flight, pending) => {
                let published = pending.acknowledged().await;
                drop(flight);
                published
            }
            Sent::Gathered(answered, limit) => match tokio::time::timeout(limit, answered).await {
                Ok(answer) => answer.map_err(|_| gone())?,
                Err(_) => {
                    Err(PublishError::Unavailable { reason: "no acknowledgement in time", source: None })
                }
            },
        }
    }
}

/// Counts a single message from its departure to its answer.
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
    PublishError::Unavailable { reason: "not connected to a NATS server", source: None }
}

impl Inner {
    async fn run(self: Arc<Self>, mut entries: mpsc::Receiver<Entry>, stop: CancellationToken) {
        let mut watch = tokio::time::interval(TICK);
        let mut before = (Instant::now(), 0, 0);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = watch.tick() => self.watch(&mut before),
                first = entries.recv() => {
                    let Some(first) = first else { break };
                    Arc::clone(&self).gather(first, &mut entries).await;
                    before = (Instant::now(), self.done.load(Ordering::Relaxed), 0);
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

    /// Notes the rate of single messages, and begins to gather when a batch would win.
    fn watch(&self, before: &mut (Instant, u64, u64)) {
        let now = Instant::now();
        let (done, in_flight) = (self.done.load(Ordering::Relaxed), self.in_flight.load(Ordering::Relaxed));
        let (then, done_then, in_flight_then) = std::mem::replace(before, (now, done, in_flight));
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        measured.forget_old(now);
        if in_flight >= LOADED && in_flight_then >= LOADED {
            measured.note_singles((done - done_then) as f64 / now.duration_since(then).as_secs_f64());
            if measured.batch_wins(usize::try_from(in_flight).unwrap_or(usize::MAX)) {
                self.gathering.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Sends what waits, batch after batch, until batches win no more.
    async fn gather(self: Arc<Self>, first: Entry, entries: &mut mpsc::Receiver<Entry>) {
        let mut waiting = vec![first];
        let mut alone = 0;
        while alone < PATIENCE {
            while waiting.len() < MAX_BATCH
                && let Ok(entry) = entries.try_recv()
            {
                waiting.push(entry);
            }
            if waiting.is_empty() {
                // A quiet moment: the next one may find the load gone.
                alone += 1;
                match tokio::time::timeout(TICK / 10, entries.recv()).await {
                    Ok(Some(entry)) => waiting.push(entry),
                    Ok(None) => break,
                    Err(_) => {}
                }
                continue;
            }
            // Who has gone was told that it failed.
            waiting.retain(|entry| !entry.answer.is_closed());
            let size = waiting.len();
            let measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if measured.batch_wins(size) {
                alone = 0;
                self.batch(std::mem::take(&mut waiting)).await;
                let linger = measured.batch_cost(size) / LINGER_PART;
                self.linger(&mut waiting, entries, size, linger).await;
            } else {
                alone += 1;
                self.singly(std::mem::take(&mut waiting)).await;
            }
        }
        self.gathering.store(false, Ordering::Relaxed);
        if !waiting.is_empty() {
            self.singly(waiting).await;
        }
    }

    /// Lets the answers of the last batch turn into new requests, as many as there were, for a moment.
    async fn linger(
        &self,
        waiting: &mut Vec<Entry>,
        entries: &mut mpsc::Receiver<Entry>,
        size: usize,
        limit: Duration,
    ) {
        let gathered = async {
            while waiting.len() < size {
                let Some(entry) = entries.recv().await else { return };
                waiting.push(entry);
            }
        };
        // Cancel-safe: what was received is in the list.
        let _ = tokio::time::timeout(limit, gathered).await;
    }

    /// Sends messages by themselves, all at once, and notes their rate.
    async fn singly(&self, entries: Vec<Entry>) {
        let (size, began) = (entries.len(), Instant::now());
        let mut pending = Vec::with_capacity(size);
        for Entry { outgoing, answer } in entries {
            match self.connection.send(outgoing).await {
                Ok(sent) => pending.push(async move {
                    let _ = answer.send(sent.acknowledged().await);
                }),
                Err(error) => drop(answer.send(Err(error))),
            }
        }
        join_all(pending).await;
        if size as u64 >= LOADED {
            let rate = size as f64 / began.elapsed().as_secs_f64().max(1e-6);
            self.measured.lock().unwrap_or_else(PoisonError::into_inner).note_singles(rate);
        }
    }

    /// Commits messages as one batch. A batch is refused as a whole, for one bad or repeated member: then each goes by
    /// itself, so that nobody answers for another.
    async fn batch(&self, entries: Vec<Entry>) {
        let began = Instant::now();
        match self.commit(&entries).await {
            Ok(Some(first)) => {
                self.batches.fetch_add(1, Ordering::Relaxed);
                let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
                measured.note_batch(entries.len(), began.elapsed(), Instant::now());
                drop(measured);
                for (sequence, entry) in (first..).zip(entries) {
                    let _ = entry.answer.send(Ok(Published { sequence, duplicate: false }));
                }
            }
            Ok(None) => self.singly(entries).await,
            Err(reason) => {
                // It may be stored or not: everybody has to repeat with the same id, which then tells.
                for entry in entries {
                    let _ = entry.answer.send(Err(PublishError::Unavailable { reason, source: None }));
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

    #[test]
    fn a_batch_wins_only_over_measured_singles_that_would_take_longer() {
        let mut measured = Measured::new();
        assert!(!measured.batch_wins(1_000), "nothing is known yet");
        measured.note_singles(9_000.0);
        assert!(!measured.batch_wins(1) && !measured.batch_wins(32));
        assert!(measured.batch_wins(256) && measured.batch_wins(5_000));
        measured.note_batch(256, Duration::from_millis(100), Instant::now());
        assert!(!measured.batch_wins(256), "a slow batch was measured");
        let mut fast = Measured::new();
        fast.note_singles(60_000.0);
        assert!(!fast.batch_wins(1_000), "without syncs single messages are faster");
    }

    #[test]
    fn measurements_are_forgotten_in_time() {
        let mut measured = Measured::new();
        let now = Instant::now();
        measured.note_batch(100, Duration::from_secs(1), now);
        measured.forget_old(now + FORGET_AFTER);
        assert_eq!(measured.batch_cost(100), Duration::from_secs(1));
        measured.forget_old(now + FORGET_AFTER * 2);
        assert_eq!(measured.batch_cost(100), BATCH_GUESS);
    }
}
