//! The mirror: a local copy of the state that a region knows, so that decisions cost no round trip and go on without
//! JetStream: what this region wrote, and what the other regions wrote as far as it has come here.
//!
//! It lives in one redb file, which is a cache: commits reach the disk every few seconds, the position in each
//! stream is part of it, and whatever happens to the file it is built anew from the streams. While it is not complete it answers
//! [`NotReady`]; it never guesses.

mod store;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use peal_common::channel::ChannelSet;
use peal_common::clock::{Clock, HybridClock, Stamp};
use peal_common::id::RecipientId;
use peal_common::state::{Kind, Record, RecordKey};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::connect::Connection;
use crate::follow::{Followed, Follower, Stored};
use crate::subjects::{Region, Subjects};
use crate::topology::{ALL_STATE, OTHERS_STATE};
use store::{Change, Damaged, Feed, Position, Store};

pub use store::Versioned;

/// How much of the file is kept in memory.
const CACHE_BYTES: usize = 24 * 1024 * 1024;
/// A crash of the machine makes the mirror read again what came in this time.
const FLUSH_INTERVAL: Duration = Duration::from_secs(2);

/// The metric with [`Mirror::position`]. Programs of a region whose numbers are equal have the same state.
pub const SEQUENCE_METRIC: &str = "peal_state_sequence";
/// What it means, for those who scrape it.
pub const SEQUENCE_METRIC_MEANS: &str =
    "Sequence of the last message of the region's state that is in the mirror";

/// The mirror can't answer: it is being built, its file is damaged, or the position asked for hasn't come in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the mirror of state is not ready: {0}")]
pub struct NotReady(pub &'static str);

/// Reads the local copy. Cheap to clone.
#[derive(Clone)]
pub struct Mirror {
    inner: Arc<Inner>,
}

/// What a mirror keeps beside the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// An index of contacts and a list of what was erased: [`Mirror::recipient_with`] and [`Mirror::erasures`] answer.
    Everything,
    /// Nothing.
    Records,
}

struct Inner {
    store: RwLock<Option<Store>>,
    keeps: Keeps,
    ready: AtomicBool,
    /// Told when a read failed: the file has to be built anew.
    damaged: Notify,
    /// Told when a record was erased.
    erased: Notify,
    position: watch::Sender<u64>,
    /// The same of what the other regions wrote.
    others: watch::Sender<u64>,
    applied: AtomicU64,
    /// Counts changes of each kind of record, so that caches made from them know when they are stale.
    generations: [AtomicU64; Kind::ALL.len()],
    hybrid: Arc<HybridClock>,
    region: Region,
}

/// Keeps the mirror up to date until it is told to stop.
pub struct MirrorTask {
    inner: Arc<Inner>,
    connection: Connection,
    subjects: Subjects,
    clock: Clock,
    path: PathBuf,
}

impl Mirror {
    /// A mirror in the file `path`, which is made when it is missing. The returned task must run for the mirror to fill.
    #[must_use]
    pub fn new(
        connection: Connection,
        path: PathBuf,
        keeps: Keeps,
        clock: Clock,
        hybrid: Arc<HybridClock>,
    ) -> (Self, MirrorTask) {
        let inner = Arc::new(Inner {
            store: RwLock::new(None),
            keeps,
            ready: AtomicBool::new(false),
            damaged: Notify::new(),
            erased: Notify::new(),
            position: watch::Sender::new(0),
            others: watch::Sender::new(0),
            applied: AtomicU64::new(0),
            generations: Default::default(),
            hybrid,
            region: connection.region.clone(),
        });
        let subjects = Subjects::new(&connection.region);
        (Mirror { inner: Arc::clone(&inner) }, MirrorTask { inner, connection, subjects, clock, path })
    }

    /// The region whose state this is.
    #[must_use]
    pub fn region(&self) -> &Region {
        &self.inner.region
    }

    /// Whether everything that stood in the region's streams when the mirror began to follow them is here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.inner.ready.load(Ordering::Acquire)
    }

    /// The sequence of the last message of this region's state stream that is in the mirror.
    #[must_use]
    pub fn position(&self) -> u64 {
        *self.inner.position.borrow()
    }

    /// How many messages this process has read from the streams: few after a restart, all of them after a rebuild.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.inner.applied.load(Ordering::Relaxed)
    }

    /// Counts the changes to records of a kind: a cache made at one value is stale at another.
    #[must_use]
    pub fn generation(&self, kind: Kind) -> u64 {
        self.inner.generations[kind as usize].load(Ordering::Acquire)
    }

    /// Waits until it is ready, however long that takes.
    pub async fn until_ready(&self) {
        let mut position = self.inner.position.subscribe();
        // The other end is here.
        let _ = position.wait_for(|_| self.is_ready()).await;
    }

    /// Waits until the mirror is ready and has seen `sequence` of this region's state stream.
    ///
    /// # Errors
    /// [`NotReady`] when that takes longer than `limit`.
    pub async fn wait_for(&self, sequence: u64, limit: Duration) -> Result<(), NotReady> {
        if self.is_ready() && self.position() >= sequence {
            return Ok(());
        }
        self.wait_until(&self.inner.position, sequence, limit).await
    }

    /// Waits until the mirror is ready and has seen what the other regions wrote, up to `sequence` of OTHERS_STATE.
    ///
    /// # Errors
    /// [`NotReady`] when that takes longer than `limit`.
    pub async fn wait_for_others(&self, sequence: u64, limit: Duration) -> Result<(), NotReady> {
        self.wait_until(&self.inner.others, sequence, limit).await
    }

    async fn wait_until(
        &self,
        position: &watch::Sender<u64>,
        sequence: u64,
        limit: Duration,
    ) -> Result<(), NotReady> {
        let mut position = position.subscribe();
        let reached = position.wait_for(|seen| *seen >= sequence && self.is_ready());
        match tokio::time::timeout(limit, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(NotReady("it is behind a change that this decision depends on")),
        }
    }

    /// The record of a key, as far as this region knows. `None` when it never existed.
    ///
    /// # Errors
    /// [`NotReady`]
    pub fn get(&self, key: &RecordKey) -> Result<Option<Record>, NotReady> {
        Ok(self.get_versioned(key)?.map(|found| found.record))
    }

    /// The record of a key with the sequence of its message, which a conditional write names.
    ///
    /// # Errors
    /// [`NotReady`]
    pub fn get_versioned(&self, key: &RecordKey) -> Result<Option<Versioned>, NotReady> {
        self.read(|store| store.get(key))
    }

    /// The channels on which a recipient is reached; `None` when there is no such recipient. Much cheaper than to read
    /// the record.
    ///
    /// # Errors
    /// [`NotReady`]
    pub fn reach(&self, key: &RecordKey) -> Result<Option<ChannelSet>, NotReady> {
        self.read(|store| store.reach(key))
    }

    /// Records whose keys start with `prefix`, in the order of keys, after `after`.
    ///
    /// # Errors
    /// [`NotReady`]
    pub fn scan(
        &self,
        prefix: &str,
        after: Option<&RecordKey>,
        limit: usize,
    ) -> Result<Vec<(RecordKey, Record)>, NotReady> {
        let found = self.read(|store| store.scan(prefix, after, limit))?;
        Ok(found.into_iter().map(|(key, found)| (key, found.record)).collect())
    }

    /// The recipient who has the contact with this blind index, if there is one.
    ///
    /// # Errors
    /// [`NotReady`]; always without [`Keeps::Everything`].
    pub fn recipient_with(&self, index: &str) -> Result<Option<RecipientId>, NotReady> {
        if self.inner.keeps == Keeps::Records {
            return Err(NotReady("this process keeps no index of contacts"));
        }
        let id = self.read(|store| store.with_contact(index))?;
        Ok(id.and_then(|id| id.parse().ok()))
    }

    /// Records that were erased, here or in another region, and for which nobody has called
    /// [`erasure_done`](Self::erasure_done) yet; at most `limit`, with the stamp of the erasure.
    ///
    /// # Errors
    /// [`NotReady`]
    pub fn erasures(&self, limit: usize) -> Result<Vec<(RecordKey, Stamp)>, NotReady> {
        self.read(|store| store.erasures(limit))
    }

    /// What an erasure asks for beyond the mirror is done. A later erasure of the same record stays in the list.
    ///
    /// # Errors
    /// [`NotReady`]
    pub async fn erasure_done(&self, key: &RecordKey, era: &Stamp) -> Result<(), NotReady> {
        let (mirror, key, era) = (self.clone(), key.clone(), era.clone());
        let done = tokio::task::spawn_blocking(move || mirror.read(|store| store.erasure_done(&key, &era)));
        done.await.unwrap_or(Err(NotReady("its writer failed")))
    }

    /// Waits until there may be new [`erasures`](Self::erasures). One waits at a time.
    pub async fn erased(&self) {
        self.inner.erased.notified().await;
    }

    fn read<T>(&self, read: impl FnOnce(&Store) -> Result<T, Damaged>) -> Result<T, NotReady> {
        if !self.is_ready() {
            return Err(NotReady("it is being filled from JetStream"));
        }
        let store = self.inner.store.read().unwrap_or_else(PoisonError::into_inner);
        let store = store.as_ref().ok_or(NotReady("it is being built anew"))?;
        read(store).map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "the mirror cannot be read");
            self.inner.ready.store(false, Ordering::Release);
            self.inner.damaged.notify_one();
            NotReady("its file is damaged")
        })
    }
}

impl MirrorTask {
    /// Follows the streams of state until `stop`. Returns when the last changes are on the disk.
    pub async fn run(self, stop: CancellationToken) {
        let mut anew = false;
        while !stop.is_cancelled() {
            if anew {
                tracing::warn!("the mirror is built anew");
            }
            let followed = Box::pin(self.follow(&stop, anew)).await;
            anew = true;
            if let Err(error) = followed {
                tracing::error!(error = &error as &dyn std::error::Error, "the mirror's file failed");
                // Somebody else's file is not ours to delete.
                anew = !error.is_in_use();
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }

    async fn follow(&self, stop: &CancellationToken, anew: bool) -> Result<(), Damaged> {
        let (mut own, mut others, followers) = self.open(anew).await?;
        let (mut fed, mut tasks) = follow_all(followers);
        let mut flushed = Instant::now();
        loop {
            own.look_for_target(&self.connection).await;
            if let Some(others) = &mut others {
                others.look_for_target(&self.connection).await;
            }
            if own.is_level() && others.as_ref().is_none_or(Following::is_level) {
                self.become_ready(own.reached);
            }
            if let Some(others) = &others {
                self.inner.others.send_replace(others.reached);
            }
            let (feed, followed) = tokio::select! {
                () = stop.cancelled() => break,
                () = self.inner.damaged.notified() => return Ok(()),
                _ = tasks.join_next() => {
                    return Err(redb::StorageError::Io(std::io::Error::other("a follower ended")).into());
                }
                Some(fed) = fed.recv() => fed,
            };
            let following = match (feed, &mut others) {
                (Feed::Others, Some(others)) => others,
                _ => &mut own,
            };
            match followed {
                Followed::Messages(messages) => {
                    following.position.sequence =
                        messages.last().map_or(following.position.sequence, |last| last.sequence);
                    following.reached = following.reached.max(following.position.sequence);
                    let durable = flushed.elapsed() >= FLUSH_INTERVAL;
                    self.apply(following, messages, durable).await?;
                    if durable {
                        flushed = Instant::now();
                    }
                }
                Followed::Quiet(state) => {
                    if following.unflushed {
                        self.apply(following, Vec::new(), true).await?;
                        flushed = Instant::now();
                    }
                    // The last messages of the stream may have expired: two looks with nothing in between mean that
                    // there is nothing left to read. The position on the disk stays at what was really read.
                    if following.last_quiet.replace(state.last) == Some(state.last) {
                        following.reached = following.reached.max(state.last);
                    }
                }
                Followed::Replaced(state) => {
                    tracing::warn!(last = state.last, stream = %following.stream, "the stream of state was made again");
                    return Ok(());
                }
            }
        }
        for following in [Some(&mut own), others.as_mut()].into_iter().flatten() {
            if following.unflushed {
                self.apply(following, Vec::new(), true).await?;
            }
        }
        *self.inner.store.write().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    fn become_ready(&self, sequence: u64) {
        let newly = !self.inner.ready.swap(true, Ordering::AcqRel);
        if newly {
            tracing::info!(position = sequence, "the mirror is ready");
        }
        self.inner.position.send_if_modified(|position| {
            let moved = newly || *position != sequence;
            *position = sequence;
            moved
        });
    }

    /// Opens the file and goes on where it stands.
    async fn open(
        &self,
        anew: bool,
    ) -> Result<(Following, Option<Following>, Vec<(Feed, Follower)>), Damaged> {
        self.inner.ready.store(false, Ordering::Release);
        self.inner.position.send_replace(0);
        self.inner.others.send_replace(0);
        // The stream may be another one now: nothing that was made from the old content holds.
        for generation in &self.inner.generations {
            generation.fetch_add(1, Ordering::AcqRel);
        }
        *self.inner.store.write().unwrap_or_else(PoisonError::into_inner) = None;
        let (path, keeps) = (self.path.clone(), self.inner.keeps);
        let opened = tokio::task::spawn_blocking(move || {
            if anew && path.exists() {
                std::fs::remove_file(&path).map_err(redb::StorageError::from)?;
            }
            let store = Store::open(&path, CACHE_BYTES, keeps)?;
            let positions = [store.position(Feed::Own)?, store.position(Feed::Others)?];
            let erased = !store.erasures(1)?.is_empty();
            Ok::<_, Damaged>((store, positions, erased))
        });
        let (store, [own, others], erased) = opened
            .await
            .map_err(|_| redb::StorageError::Io(std::io::Error::other("the reader failed")))??;
        *self.inner.store.write().unwrap_or_else(PoisonError::into_inner) = Some(store);
        if erased {
            self.inner.erased.notify_one();
        }
        let mut followers = Vec::new();
        let mut start = |feed, stream: &str, filter: &str, position: Position| {
            tracing::info!(position = position.sequence, stream, "the mirror follows a stream of state");
            let (connection, created) = (self.connection.clone(), position.created.clone());
            followers.push((feed, Follower::new(connection, stream, filter, created, position.sequence)));
            Following::new(feed, stream, position)
        };
        let own = match self.connection.is_hub {
            true => start(Feed::Own, ALL_STATE, "", own),
            false => start(Feed::Own, &self.subjects.state_stream(), &self.subjects.state_all(), own),
        };
        let linked = !self.connection.others.is_empty();
        let others = linked.then(|| start(Feed::Others, OTHERS_STATE, "", others));
        Ok((own, others, followers))
    }

    /// Applies messages of a stream and moves its position.
    async fn apply(
        &self,
        following: &mut Following,
        messages: Vec<Stored>,
        durable: bool,
    ) -> Result<(), Damaged> {
        self.inner.applied.fetch_add(messages.len() as u64, Ordering::Relaxed);
        let mut changes = Vec::with_capacity(messages.len());
        let mut touched = [false; Kind::ALL.len()];
        for message in messages {
            let Some(key) = Subjects::state_key(&message.subject).map(RecordKey::from_text) else { continue };
            if let Some(kind) = key.kind() {
                touched[kind as usize] = true;
            }
            if message.is_removal() {
                changes.push(Change::Remove(key));
                continue;
            }
            match serde_json::from_slice::<Record>(&message.payload) {
                Ok(record) if key.kind().is_some() => {
                    if let Some(stamp) = record.latest() {
                        self.inner.hybrid.observe(stamp);
                    }
                    changes.push(Change::Merge(key, message.sequence, record, message.payload));
                }
                _ => {
                    let now = self.clock.now();
                    self.connection.put_aside(&following.stream, &message, "not_a_record", now).await;
                }
            }
        }
        let inner = Arc::clone(&self.inner);
        let (feed, position) = (following.feed, following.position.clone());
        let applied = tokio::task::spawn_blocking(move || {
            let store = inner.store.read().unwrap_or_else(PoisonError::into_inner);
            match store.as_ref() {
                Some(store) => store.apply(feed, changes, &position, durable),
                None => Ok(false),
            }
        });
        let erased = applied
            .await
            .map_err(|_| redb::StorageError::Io(std::io::Error::other("the writer failed")))??;
        following.unflushed = !durable;
        if erased {
            self.inner.erased.notify_one();
        }
        for (index, touched) in touched.into_iter().enumerate() {
            if touched {
                self.inner.generations[index].fetch_add(1, Ordering::AcqRel);
            }
        }
        if following.feed == Feed::Own {
            self.inner.position.send_replace(following.reached);
        }
        Ok(())
    }
}

/// One stream of state that the mirror follows.
struct Following {
    feed: Feed,
    stream: String,
    /// What has been read.
    position: Position,
    /// Up to where nothing is missing: beyond the position when what came last has expired.
    reached: u64,
    /// Where the stream ended at the start.
    target: Option<u64>,
    /// Where it ended when it was quiet last.
    last_quiet: Option<u64>,
    /// Whether something is not on the disk yet.
    unflushed: bool,
}

impl Following {
    fn new(feed: Feed, stream: &str, position: Position) -> Self {
        Following {
            feed,
            stream: stream.to_owned(),
            reached: position.sequence,
            position,
            target: None,
            last_quiet: None,
            unflushed: false,
        }
    }

    async fn look_for_target(&mut self, connection: &Connection) {
        if self.target.is_none()
            && let Ok(state) = connection.stream_state(&self.stream).await
        {
            self.target = Some(state.last);
            self.position.created.get_or_insert(state.created);
        }
    }

    fn is_level(&self) -> bool {
        self.target.is_some_and(|target| self.reached >= target)
    }
}

/// Follows each stream by a task of its own, so that none keeps another one waiting. They end when what is returned is
/// dropped.
fn follow_all(followers: Vec<(Feed, Follower)>) -> (mpsc::Receiver<(Feed, Followed)>, JoinSet<()>) {
    // One batch of each may wait while another one is written.
    let (sender, receiver) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    for (feed, mut follower) in followers {
        let sender = sender.clone();
        tasks.spawn(async move { while sender.send((feed, follower.next().await)).await.is_ok() {} });
    }
    (receiver, tasks)
}
