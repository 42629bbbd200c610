//! The loop: three followers feed one writer, which folds what came in large transactions.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use peal_common::id::Region;
use peal_common::takeover::TAKEN_OVER;
use peal_nats::Connection;
use peal_nats::Subjects;
use peal_nats::follow::{Followed, Follower, Stored};
use peal_nats::group::GroupPublisher;
use peal_nats::missed::Misses;
use peal_nats::topology;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::messages::{AcceptedMessage, EventMessage, InboxMessage, Source};
use super::store::{Applied, Batch, Commit, Cutoffs, Position, Store, StoreError};
use super::{Forget, Inner, Retention};

/// How much of the file is kept in memory.
const CACHE_BYTES: usize = 16 * 1024 * 1024;
/// A crash of the machine makes the read model fold again what came in this time.
const FLUSH_INTERVAL: Duration = Duration::from_secs(2);
/// How long messages are gathered before they are written, unless somebody waits for them. The row of a notification
/// whose messages come in this time is written once.
const GATHER: Duration = Duration::from_millis(500);
/// The same while somebody watches events or inboxes.
const GATHER_WATCHED: Duration = Duration::from_millis(50);
/// How long acceptance goes first, since accepting is what somebody waits for: a fraction of the time that the index may
/// be behind ([`crate::accept::Rules::longest_lag`]). After that everything is folded before it goes first again.
const LONGEST_WAY: Duration = Duration::from_secs(5);
/// How often it is looked whether acceptance is still busy, and how often in a row it has to be idle.
const LOOK_BUSY: Duration = Duration::from_millis(5);
const IDLE_LOOKS: u32 = 4;
/// The most messages of one transaction, give or take a batch.
const MAX_MESSAGES: usize = 10_000;
/// Batches that wait for the writer.
const QUEUE: usize = 4;
/// The most that messages which were read and not yet folded take in memory.
const QUEUE_BYTES: usize = 8 * 1024 * 1024;
/// How often it is looked whether something is due although no message came.
const TICK: Duration = Duration::from_secs(1);
/// How often the ends of the streams are asked for once the read model is ready.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How often what is too old is looked for.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(5);
/// How many looks at the end of INTAKE are remembered: more than anybody asks about.
const MAX_ENDS: usize = 64;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Keeps the read model up to date until it is told to stop.
pub struct ReadModelTask {
    pub(super) inner: Arc<Inner>,
    pub(super) path: PathBuf,
    pub(super) retention: Retention,
    pub(super) forget: mpsc::Receiver<Forget>,
    pub(super) publisher: Option<GroupPublisher>,
    pub(super) regions: Vec<Region>,
}

/// Why folding ended.
enum End {
    Stopped,
    /// What is in the file no longer fits the streams, or can't be read.
    Outdated,
}

/// What a follower hands over.
struct Fed {
    source: Source,
    followed: Followed,
    _memory: Option<OwnedSemaphorePermit>,
}

/// Everything between two transactions.
struct Gathered {
    messages: Vec<(Source, Stored)>,
    memory: Vec<OwnedSemaphorePermit>,
    forget: Vec<Forget>,
    deadline: Option<Instant>,
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

impl ReadModelTask {
    /// Lets a publisher go first while it is busy, unless somebody waits for what is to be folded.
    #[must_use]
    pub fn giving_way_to(mut self, publisher: GroupPublisher) -> Self {
        self.publisher = Some(publisher);
        self
    }

    /// At the hub: these regions are asked for what it missed.
    #[must_use]
    pub fn gathering(self, regions: Vec<Region>) -> Self {
        ReadModelTask { regions, ..self }
    }

    /// Folds until `stop`. Returns when the last changes are on the disk.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut anew = false;
        let mut failures = 0;
        let mut pause = FIRST_PAUSE;
        while !stop.is_cancelled() {
            let applied_before = self.inner.applied.load(Ordering::Relaxed);
            match self.fold(&stop, anew).await {
                Ok(End::Stopped) => break,
                Ok(End::Outdated) => anew = true,
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "the read model's file failed");
                    if self.inner.applied.load(Ordering::Relaxed) != applied_before {
                        (failures, pause) = (0, FIRST_PAUSE);
                    }
                    failures += 1;
                    // A file that fails again after it was checked can't be gone on with.
                    anew = failures > 1 && !matches!(error, StoreError::InUse);
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        self.inner.ready.store(false, Ordering::Release);
        self.inner.set_store(None);
    }

    async fn open(&self, anew: bool) -> Result<[Position; 3], StoreError> {
        self.inner.ready.store(false, Ordering::Release);
        self.inner.positions.send_replace(Default::default());
        self.inner.set_store(None);
        let path = self.path.clone();
        let opened = tokio::task::spawn_blocking(move || {
            if anew && path.exists() {
                tracing::warn!("the read model is built anew");
                std::fs::remove_file(&path).map_err(|error| StoreError::Damaged(Box::new(error)))?;
            }
            let store = Store::open(&path, CACHE_BYTES)?;
            let positions = store.positions()?;
            Ok::<_, StoreError>((store, positions))
        });
        let (store, positions) = opened.await.map_err(|error| StoreError::Damaged(Box::new(error)))??;
        self.inner.set_store(Some(Arc::new(store)));
        Ok(positions)
    }

    async fn fold(&mut self, stop: &CancellationToken, anew: bool) -> Result<End, StoreError> {
        let positions = self.open(anew).await?;
        let [intake, events, inbox] = [&positions[0], &positions[1], &positions[2]].map(|at| at.sequence);
        tracing::info!(intake, events, inbox, "the read model follows its streams");
        let (mut fed, mut followers) = self.follow(&positions);
        let missed = self.inner.connection.is_hub.then(|| self.inner.missed()).transpose()?;
        if let Some(missed) = missed.clone() {
            followers.spawn(missed.fill(self.inner.connection.clone(), self.regions.clone()));
        }
        let mut writer = Writer::new(Arc::clone(&self.inner), positions, self.retention, missed)?;
        let mut gathered =
            Gathered { messages: Vec::new(), memory: Vec::new(), forget: Vec::new(), deadline: None };
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let inner = Arc::clone(&self.inner);
        loop {
            let deadline = gathered.deadline;
            // Every branch only waits: what it took from is left as it was when another one is first.
            let write = tokio::select! {
                () = stop.cancelled() => break,
                () = inner.damaged.notified() => return Ok(End::Outdated),
                _ = followers.join_next() => return Err(StoreError::damaged("a follower ended")),
                () = async { tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)).await },
                    if deadline.is_some() => {
                    self.give_way(&mut writer, &mut gathered, stop).await;
                    true
                }
                () = inner.hurry.notified(), if !gathered.messages.is_empty() => true,
                Some(forget) = self.forget.recv() => {
                    gathered.forget.push(forget);
                    true
                }
                _ = tick.tick() => {
                    writer.look().await;
                    writer.is_due()
                }
                Some(Fed { source, followed, _memory: memory }) = fed.recv() => match followed {
                    Followed::Messages(messages) => {
                        gathered.messages.extend(messages.into_iter().map(|message| (source, message)));
                        gathered.memory.extend(memory);
                        gathered.deadline.get_or_insert_with(|| Instant::now() + inner.gather());
                        let full = gathered.messages.len() >= MAX_MESSAGES;
                        if full {
                            self.give_way(&mut writer, &mut gathered, stop).await;
                        }
                        full
                    }
                    Followed::Quiet(state) => {
                        writer.quiet(source, state.last, gathered.messages.is_empty());
                        writer.is_due()
                    }
                    Followed::Replaced(state) => {
                        let stream = stream(source);
                        tracing::warn!(stream, last = state.last, "a stream that was followed was made again");
                        return Ok(End::Outdated);
                    }
                },
            };
            if write {
                writer.write(&mut gathered, false).await?;
            }
            writer.publish();
        }
        drop(followers);
        writer.write(&mut gathered, true).await?;
        Ok(End::Stopped)
    }

    /// Waits while acceptance is busy and nobody asks for what was gathered. Under a load that lasts it waits no more
    /// until everything is folded that stood in INTAKE.
    async fn give_way(&mut self, writer: &mut Writer, gathered: &mut Gathered, stop: &CancellationToken) {
        let Some(publisher) = &self.publisher else { return };
        if writer.is_overdue() || self.inner.is_watched() || !self.inner.ready.load(Ordering::Acquire) {
            return;
        }
        let end = Instant::now() + LONGEST_WAY;
        let mut idle = 0;
        while idle < IDLE_LOOKS {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.inner.hurry.notified() => return,
                Some(forget) = self.forget.recv() => return gathered.forget.push(forget),
                () = tokio::time::sleep(LOOK_BUSY) => {}
            }
            if Instant::now() >= end {
                return writer.hurry_up().await;
            }
            idle = if publisher.is_loaded() { 0 } else { idle + 1 };
        }
    }

    /// Starts a follower for each stream. They end when what they are returned with is dropped.
    fn follow(&self, positions: &[Position; 3]) -> (mpsc::Receiver<Fed>, JoinSet<()>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let memory = Arc::new(Semaphore::new(QUEUE_BYTES));
        let mut followers = JoinSet::new();
        for source in self.inner.sources().iter().copied() {
            let position = &positions[source as usize];
            let follower = Follower::new(
                self.inner.connection.clone(),
                stream(source),
                &filter(&self.inner.connection, source),
                position.created.clone(),
                position.sequence,
            );
            followers.spawn(feed(source, follower, sender.clone(), Arc::clone(&memory)));
        }
        (receiver, followers)
    }
}

async fn feed(source: Source, mut follower: Follower, fed: mpsc::Sender<Fed>, memory: Arc<Semaphore>) {
    loop {
        let followed = follower.next().await;
        let memory = match &followed {
            Followed::Messages(messages) => {
                let bytes =
                    messages.iter().map(|message| message.payload.len()).sum::<usize>().min(QUEUE_BYTES);
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                Arc::clone(&memory).acquire_many_owned(bytes).await.ok()
            }
            Followed::Quiet(_) | Followed::Replaced(_) => None,
        };
        if fed.send(Fed { source, followed, _memory: memory }).await.is_err() {
            return;
        }
    }
}

/// Writes what was gathered and knows how far the streams are folded.
struct Writer {
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
    fn new(
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
    async fn look(&mut self) {
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
    async fn hurry_up(&mut self) {
        self.overdue = true;
        self.looked = None;
        self.look().await;
    }

    /// Whether it has to hurry up and is not level yet.
    fn is_overdue(&mut self) -> bool {
        self.overdue &= !self.ends.is_empty();
        self.overdue
    }

    /// Notes that a stream has nothing new. Its last messages may have expired: two looks with nothing in between mean
    /// that there is nothing left to read. The position in the file stays at what was really read.
    fn quiet(&mut self, source: Source, last: u64, nothing_gathered: bool) {
        let progress = &mut self.progress[source as usize];
        if progress.quiet_at.replace(last) == Some(last) && nothing_gathered {
            progress.reached = progress.reached.max(last);
        }
    }

    /// Whether something has to be written although no message came.
    fn is_due(&self) -> bool {
        let flush = self.unflushed && self.flushed.elapsed() >= FLUSH_INTERVAL;
        flush || self.expired.is_none_or(|expired| expired.elapsed() >= EXPIRE_INTERVAL)
    }

    async fn write(&mut self, gathered: &mut Gathered, last: bool) -> Result<(), StoreError> {
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
    fn publish(&mut self) {
        let folded = self.progress[Source::Intake as usize].reached;
        while self.ends.front().is_some_and(|(_, end)| *end <= folded) {
            self.ends.pop_front();
        }
        let since = self.ends.front().map(|(seen, _)| *seen);
        *self.inner.behind_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
        let [intake, events, inbox] = self.progress.each_ref().map(|progress| progress.reached);
        let now = super::Positions { intake, events, inbox };
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
            Source::Events => EventMessage::decode(&message.payload).map(|it| {
                if !(is_hub && it.event.reason.as_deref() == Some(TAKEN_OVER)) {
                    batch.events.push(it);
                }
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

const fn stream(source: Source) -> &'static str {
    match source {
        Source::Intake => topology::INTAKE,
        Source::Events => topology::EVENTS,
        Source::Inbox => topology::INBOX,
    }
}

fn filter(connection: &Connection, source: Source) -> String {
    if connection.is_hub {
        return String::new();
    }
    let subjects = Subjects::new(&connection.region);
    match source {
        Source::Intake => subjects.intake_all(),
        Source::Events => subjects.event_all(),
        Source::Inbox => subjects.inbox_all(),
    }
}

impl Inner {
    fn sources(&self) -> &'static [Source] {
        if self.connection.is_hub { &Source::AT_THE_HUB } else { &Source::ALL }
    }

    fn missed(&self) -> Result<Misses, StoreError> {
        self.store().ok_or_else(|| StoreError::damaged("the file is not open"))?.missed()
    }

    pub(super) fn store(&self) -> Option<Arc<Store>> {
        self.store.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_store(&self, store: Option<Arc<Store>>) {
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = store;
    }

    fn gather(&self) -> Duration {
        if self.is_watched() { GATHER_WATCHED } else { GATHER }
    }

    /// Whether changes are to be told: not while the past is folded.
    fn is_watched(&self) -> bool {
        let watched = self.events.receiver_count() > 0 || self.inbox.receiver_count() > 0;
        watched && self.ready.load(Ordering::Acquire)
    }
}
