//! The writer: what was gathered goes into the file in one transaction, and how far that is is shown to whoever waits.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use peal_common::takeover::TAKEN_OVER;
use peal_nats::Subjects;
use peal_nats::follow::Stored;
use peal_nats::missed::Misses;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::streams::stream;
use crate::readmodel::messages::{AcceptedMessage, EventMessage, InboxMessage, Source};
use crate::readmodel::store::{Applied, Batch, Commit, Cutoffs, Position, StoreError};
use crate::readmodel::{Forget, Inner, Positions, Retention};

/// A crash of the machine makes the read model fold again what came in this time.
const FLUSH_INTERVAL: Duration = Duration::from_secs(2);
/// How often the ends of the streams are asked for once the read model is ready.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How often what is too old is looked for.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(5);
/// How many looks at the end of INTAKE are remembered: more than anybody asks about.
const MAX_ENDS: usize = 64;

/// Everything between two transactions.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) messages: Vec<(Source, Stored)>,
    pub(super) memory: Vec<OwnedSemaphorePermit>,
    pub(super) forget: Vec<Forget>,
    pub(super) deadline: Option<Instant>,
}

/// How far one stream is folded.
#[derive(Default)]
struct Progress {
    /// Everything up to here is in the read model.
    reached: u64,
    /// The end of the stream when it was last looked at; `None` until the first look.
    end: Option<u64>,
    /// The end when nothing came for a while.
    quiet_at: Option<u64>,
}

/// Writes what was gathered and knows how far the streams are folded.
pub(super) struct Writer {
    inner: Arc<Inner>,
    thread: WriterThread,
    positions: [Position; 3],
    progress: [Progress; 3],
    retention: Retention,
    flushed: Instant,
    unflushed: bool,
    expired: Option<Instant>,
    looked: Option<Instant>,
    /// When INTAKE was seen to end where, the oldest first, as far as that is not folded yet.
    ends: VecDeque<(Instant, u64)>,
    /// Acceptance went first for long enough.
    overdue: bool,
    /// What the hub missed.
    missed: Option<Misses>,
}

impl Writer {
    pub(super) fn new(
        inner: Arc<Inner>,
        positions: [Position; 3],
        retention: Retention,
        missed: Option<Misses>,
    ) -> Result<Self, StoreError> {
        let thread = WriterThread::start().map_err(|error| StoreError::Damaged(Box::new(error)))?;
        let progress =
            positions.each_ref().map(|at| Progress { reached: at.sequence, ..Progress::default() });
        Ok(Writer {
            inner,
            thread,
            positions,
            progress,
            retention,
            flushed: Instant::now(),
            unflushed: false,
            expired: None,
            looked: None,
            ends: VecDeque::new(),
            overdue: false,
            missed,
        })
    }

    /// Asks where the streams end, and which ones they are; not often, once that is known.
    pub(super) async fn look(&mut self) {
        let recent = self.looked.is_some_and(|looked| looked.elapsed() < LOOK_INTERVAL);
        if recent && self.inner.ready.load(Ordering::Acquire) {
            return;
        }
        self.looked = Some(Instant::now());
        let looks = self.inner.sources().iter().map(|source| async {
            (*source as usize, self.inner.connection.stream_state(stream(*source)).await)
        });
        for (place, state) in futures_util::future::join_all(looks).await {
            let Ok(state) = state else { continue };
            if place == Source::Intake as usize {
                self.ends.push_back((Instant::now(), state.last));
                if self.ends.len() > MAX_ENDS {
                    // The oldest tells how long; what is between it and the others is not asked for.
                    self.ends.remove(1);
                }
            }
            self.progress[place].end = Some(state.last);
            self.positions[place].created.get_or_insert(state.created);
        }
    }

    /// Folds without a pause until it is level with INTAKE, as far as that is looked at.
    pub(super) async fn hurry_up(&mut self) {
        self.overdue = true;
        self.looked = None;
        self.look().await;
    }

    /// Whether it has to hurry up and is not level yet.
    pub(super) fn is_overdue(&mut self) -> bool {
        self.overdue &= !self.ends.is_empty();
        self.overdue
    }

    /// Notes that a stream has nothing new. Its last messages may have expired: two looks with nothing in between mean
    /// that there is nothing left to read. The position in the file stays at what was really read.
    pub(super) fn quiet(&mut self, source: Source, last: u64, nothing_gathered: bool) {
        let progress = &mut self.progress[source as usize];
        if progress.quiet_at.replace(last) == Some(last) && nothing_gathered {
            progress.reached = progress.reached.max(last);
        }
    }

    /// Whether something has to be written although no message came.
    pub(super) fn is_due(&self) -> bool {
        let flush = self.unflushed && self.flushed.elapsed() >= FLUSH_INTERVAL;
        flush || self.expired.is_none_or(|expired| expired.elapsed() >= EXPIRE_INTERVAL)
    }

    pub(super) async fn write(&mut self, gathered: &mut Gathered, last: bool) -> Result<(), StoreError> {
        let messages = std::mem::take(&mut gathered.messages);
        let memory = std::mem::take(&mut gathered.memory);
        let forget = std::mem::take(&mut gathered.forget);
        gathered.deadline = None;
        for (source, message) in &messages {
            self.positions[*source as usize].sequence = message.sequence;
            self.progress[*source as usize].quiet_at = None;
        }
        if let Some(missed) = &self.missed {
            for source in Source::AT_THE_HUB {
                let of_source = messages.iter().filter(|(from, _)| *from == source);
                missed.note(stream(source), of_source.map(|(_, message)| message));
            }
        }
        let expires = self.expired.is_none_or(|expired| expired.elapsed() >= EXPIRE_INTERVAL);
        let commit = Commit {
            positions: self.positions.clone(),
            durable: last || self.flushed.elapsed() >= FLUSH_INTERVAL,
            expire: expires.then(|| self.cutoffs()),
            live: self.inner.is_watched(),
            missed: self.missed.clone(),
        };
        let durable = commit.durable;
        let count = messages.len() as u64;
        let forgotten: Vec<_> =
            forget.iter().map(|it| (it.app.clone(), it.recipient.clone(), it.until_ms)).collect();
        let Some(store) = self.inner.store() else { return Err(StoreError::damaged("the file is not open")) };
        let is_hub = self.inner.connection.is_hub;
        let (applied, foreign) = self
            .thread
            .run(move || {
                let (mut batch, foreign) = decode(messages, is_hub);
                batch.forget = forgotten;
                store.apply(batch, &commit).map(|applied| (applied, foreign))
            })
            .await??;
        drop(memory);
        if durable {
            self.flushed = Instant::now();
        }
        self.unflushed = !durable;
        if expires && !applied.more_to_expire {
            self.expired = Some(Instant::now());
        }
        for (progress, position) in self.progress.iter_mut().zip(&self.positions) {
            progress.reached = progress.reached.max(position.sequence);
        }
        self.inner.applied.fetch_add(count, Ordering::Relaxed);
        self.publish();
        self.tell(applied);
        for forget in forget {
            // Whoever asked may have gone.
            let _ = forget.done.send(());
        }
        for (source, message) in foreign {
            let now = self.inner.clock.now();
            self.inner.connection.put_aside(stream(source), &message, source.foreign(), now).await;
        }
        Ok(())
    }

    /// Shows how far the streams are folded, and becomes ready once everything is here that stood in them at the
    /// first look.
    pub(super) fn publish(&mut self) {
        let folded = self.progress[Source::Intake as usize].reached;
        while self.ends.front().is_some_and(|(_, end)| *end <= folded) {
            self.ends.pop_front();
        }
        let since = self.ends.front().map(|(seen, _)| *seen);
        *self.inner.behind_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
        let [intake, events, inbox] = self.progress.each_ref().map(|progress| progress.reached);
        let now = Positions { intake, events, inbox };
        let behind = self.progress.iter().map(|it| it.end.unwrap_or(0).saturating_sub(it.reached)).sum();
        self.inner.behind.store(behind, Ordering::Relaxed);
        let followed = self.inner.sources().iter().map(|source| &self.progress[*source as usize]);
        let complete = followed.into_iter().all(|it| it.end.is_some_and(|end| it.reached >= end));
        let became_ready = complete && !self.inner.ready.swap(true, Ordering::AcqRel);
        if became_ready {
            tracing::info!(intake, events, inbox, "the read model is ready");
            self.missed.iter().for_each(Misses::level);
        }
        self.inner.positions.send_if_modified(|positions| {
            let changed = *positions != now || became_ready;
            *positions = now;
            changed
        });
    }

    fn tell(&self, applied: Applied) {
        // Nobody listening is no failure.
        for event in applied.events {
            let _ = self.inner.events.send(Arc::new(event));
        }
        for change in applied.inbox {
            let _ = self.inner.inbox.send(Arc::new(change));
        }
    }

    fn cutoffs(&self) -> Cutoffs {
        let now = self.inner.clock.now_ms();
        let before = |age: Duration| now.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        Cutoffs { events: before(self.retention.events), inbox: before(self.retention.inbox), now }
    }
}

/// The one thread that decodes and writes. The runtime's pool would give every transaction to another thread, and the
/// allocator would keep for each of them what a transaction takes.
struct WriterThread {
    jobs: std::sync::mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

impl WriterThread {
    fn start() -> std::io::Result<Self> {
        let (jobs, waiting) = std::sync::mpsc::channel::<Box<dyn FnOnce() + Send>>();
        // It ends with the last sender, or when a job makes it fail.
        std::thread::Builder::new().name("read-model".to_owned()).spawn(move || {
            for job in waiting {
                job();
            }
        })?;
        Ok(WriterThread { jobs })
    }

    /// Runs a job; only one at a time, since each is waited for.
    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let failed = || StoreError::damaged("the writer failed");
        let (done, result) = oneshot::channel();
        let job = Box::new(move || {
            // Whoever waits may have gone.
            let _ = done.send(job());
        });
        self.jobs.send(job).map_err(|_| failed())?;
        result.await.map_err(|_| failed())
    }
}

/// At the hub it counts what the region says that took a notification over, not the one that found it gone. What is there
/// for the hub alone counts only there.
fn decode(messages: Vec<(Source, Stored)>, is_hub: bool) -> (Batch, Vec<(Source, Stored)>) {
    let mut batch = Batch::default();
    let mut foreign = Vec::new();
    for (source, message) in messages {
        // An empty one is a mark.
        let is_again = source != Source::Inbox && Subjects::is_again(&message.subject);
        if is_again && (!is_hub || message.payload.is_empty()) {
            continue;
        }
        let read = match source {
            Source::Intake => {
                AcceptedMessage::decode(message.sequence, &message.payload).map(|it| batch.accepted.push(it))
            }
            Source::Events => EventMessage::decode(&message.payload).map(|mut steps| {
                steps.retain(|it| !(is_hub && it.event.reason.as_deref() == Some(TAKEN_OVER)));
                batch.events.append(&mut steps);
            }),
            Source::Inbox => {
                InboxMessage::decode(message.sequence, &message.payload).map(|it| batch.inbox.push(it))
            }
        };
        if read.is_none() {
            foreign.push((source, message));
        }
    }
    (batch, foreign)
}
