//! The mirror: a local copy of a region's state, so that decisions cost no round trip and go on without JetStream.
//!
//! It lives in one redb file, which is a cache: commits reach the disk every few seconds, the position in the stream is
//! part of each, and whatever happens to the file it is built anew from the stream. While it is not complete it answers
//! [`NotReady`]; it never guesses.

mod store;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use peal_common::channel::ChannelSet;
use peal_common::clock::{Clock, HybridClock};
use peal_common::id::RecipientId;
use peal_common::state::{Kind, Record, RecordKey};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::connect::Connection;
use crate::follow::{Followed, Follower, Stored};
use crate::subjects::Subjects;
use store::{Change, Damaged, Position, Store};

pub use store::Versioned;

/// How much of the file is kept in memory.
const CACHE_BYTES: usize = 24 * 1024 * 1024;
/// A crash of the machine makes the mirror read again what came in this time.
const FLUSH_INTERVAL: Duration = Duration::from_secs(2);

/// The mirror can't answer: it is being built, its file is damaged, or the position asked for hasn't come in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the mirror of state is not ready: {0}")]
pub struct NotReady(pub &'static str);

/// Reads the local copy. Cheap to clone.
#[derive(Clone)]
pub struct Mirror {
    inner: Arc<Inner>,
}

/// Whether recipients can be found by a contact. Whoever needs no such look-ups is spared the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contacts {
    /// [`Mirror::recipient_with`] answers.
    Indexed,
    /// It does not.
    NotIndexed,
}

struct Inner {
    store: RwLock<Option<Store>>,
    contacts: Contacts,
    ready: AtomicBool,
    /// Told when a read failed: the file has to be built anew.
    damaged: Notify,
    position: watch::Sender<u64>,
    applied: AtomicU64,
    /// Counts changes of each kind of record, so that caches made from them know when they are stale.
    generations: [AtomicU64; Kind::ALL.len()],
    hybrid: Arc<HybridClock>,
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
        contacts: Contacts,
        clock: Clock,
        hybrid: Arc<HybridClock>,
    ) -> (Self, MirrorTask) {
        let inner = Arc::new(Inner {
            store: RwLock::new(None),
            contacts,
            ready: AtomicBool::new(false),
            damaged: Notify::new(),
            position: watch::Sender::new(0),
            applied: AtomicU64::new(0),
            generations: Default::default(),
            hybrid,
        });
        let subjects = Subjects::new(&connection.region);
        (Mirror { inner: Arc::clone(&inner) }, MirrorTask { inner, connection, subjects, clock, path })
    }

    /// Whether everything that stood in the stream when the mirror began to follow it is here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.inner.ready.load(Ordering::Acquire)
    }

    /// The sequence of the last message that is in the mirror.
    #[must_use]
    pub fn position(&self) -> u64 {
        *self.inner.position.borrow()
    }

    /// How many messages this process has read from the stream: few after a restart, all of them after a rebuild.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.inner.applied.load(Ordering::Relaxed)
    }

    /// Counts the changes to records of a kind: a cache made at one value is stale at another.
    #[must_use]
    pub fn generation(&self, kind: Kind) -> u64 {
        self.inner.generations[kind as usize].load(Ordering::Acquire)
    }

    /// Waits until the mirror is ready and has seen `sequence`.
    ///
    /// # Errors
    /// [`NotReady`] when that takes longer than `limit`.
    pub async fn wait_for(&self, sequence: u64, limit: Duration) -> Result<(), NotReady> {
        if self.is_ready() && self.position() >= sequence {
            return Ok(());
        }
        let mut position = self.inner.position.subscribe();
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
    /// [`NotReady`]; always without [`Contacts::Indexed`].
    pub fn recipient_with(&self, index: &str) -> Result<Option<RecipientId>, NotReady> {
        if self.inner.contacts == Contacts::NotIndexed {
            return Err(NotReady("this process keeps no index of contacts"));
        }
        let id = self.read(|store| store.with_contact(index))?;
        Ok(id.and_then(|id| id.parse().ok()))
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
    /// Follows the state stream until `stop`. Returns when the last changes are on the disk.
    pub async fn run(self, stop: CancellationToken) {
        let mut anew = false;
        while !stop.is_cancelled() {
            if anew {
                tracing::warn!("the mirror is built anew");
            }
            let followed = self.follow(&stop, anew).await;
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
        let mut position = self.open(anew).await?;
        tracing::info!(position = position.sequence, "the mirror follows the state stream");
        let stream = self.subjects.state_stream();
        let mut follower = Follower::new(
            self.connection.clone(),
            &stream,
            &self.subjects.state_all(),
            position.created.clone(),
            position.sequence,
        );
        // Ready once everything is here that stood in the stream at the start.
        let mut target = None;
        let mut flushed = Instant::now();
        let mut unflushed = false;
        let mut last_quiet = None;
        loop {
            if target.is_none()
                && let Ok(state) = self.connection.stream_state(&stream).await
            {
                target = Some(state.last);
                position.created.get_or_insert(state.created);
            }
            if target.is_some_and(|target| position.sequence >= target)
                && !self.inner.ready.load(Ordering::Acquire)
            {
                self.become_ready(position.sequence);
            }
            let followed = tokio::select! {
                () = stop.cancelled() => break,
                () = self.inner.damaged.notified() => return Ok(()),
                followed = follower.next() => followed,
            };
            match followed {
                Followed::Messages(messages) => {
                    position.sequence = messages.last().map_or(position.sequence, |last| last.sequence);
                    let durable = flushed.elapsed() >= FLUSH_INTERVAL;
                    self.apply(messages, &position, durable).await?;
                    unflushed = !durable;
                    if durable {
                        flushed = Instant::now();
                    }
                }
                Followed::Quiet(state) => {
                    if unflushed {
                        self.apply(Vec::new(), &position, true).await?;
                        flushed = Instant::now();
                        unflushed = false;
                    }
                    // The last messages of the stream may have expired: two looks with nothing in between mean that
                    // there is nothing left to read. The position on the disk stays at what was really read.
                    if last_quiet.replace(state.last) == Some(state.last) && state.last > position.sequence {
                        self.become_ready(state.last);
                    }
                }
                Followed::Replaced(state) => {
                    tracing::warn!(last = state.last, "the state stream was made again");
                    return Ok(());
                }
            }
        }
        if unflushed {
            self.apply(Vec::new(), &position, true).await?;
        }
        *self.inner.store.write().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    fn become_ready(&self, sequence: u64) {
        if !self.inner.ready.swap(true, Ordering::AcqRel) {
            tracing::info!(position = sequence, "the mirror is ready");
        }
        self.inner.position.send_replace(sequence);
    }

    async fn open(&self, anew: bool) -> Result<Position, Damaged> {
        self.inner.ready.store(false, Ordering::Release);
        self.inner.position.send_replace(0);
        // The stream may be another one now: nothing that was made from the old content holds.
        for generation in &self.inner.generations {
            generation.fetch_add(1, Ordering::AcqRel);
        }
        *self.inner.store.write().unwrap_or_else(PoisonError::into_inner) = None;
        let (path, contacts) = (self.path.clone(), self.inner.contacts);
        let opened = tokio::task::spawn_blocking(move || {
            if anew && path.exists() {
                std::fs::remove_file(&path).map_err(redb::StorageError::from)?;
            }
            let store = Store::open(&path, CACHE_BYTES, contacts)?;
            let position = store.position()?;
            Ok::<_, Damaged>((store, position))
        });
        let (store, position) = opened
            .await
            .map_err(|_| redb::StorageError::Io(std::io::Error::other("the reader failed")))??;
        *self.inner.store.write().unwrap_or_else(PoisonError::into_inner) = Some(store);
        Ok(position)
    }

    async fn apply(&self, messages: Vec<Stored>, position: &Position, durable: bool) -> Result<(), Damaged> {
        self.inner.applied.fetch_add(messages.len() as u64, Ordering::Relaxed);
        let mut changes = Vec::with_capacity(messages.len());
        let mut touched = [false; Kind::ALL.len()];
        let prefix = self.subjects.state_all();
        let prefix = prefix.trim_end_matches('>');
        for message in messages {
            let Some(key) = message.subject.strip_prefix(prefix).map(RecordKey::from_text) else { continue };
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
                    let stream = self.subjects.state_stream();
                    self.connection.put_aside(&stream, &message, "not_a_record", self.clock.now()).await;
                }
            }
        }
        let inner = Arc::clone(&self.inner);
        let position = position.clone();
        let sequence = position.sequence;
        let applied = tokio::task::spawn_blocking(move || {
            let store = inner.store.read().unwrap_or_else(PoisonError::into_inner);
            match store.as_ref() {
                Some(store) => store.apply(changes, &position, durable),
                None => Ok(()),
            }
        });
        applied.await.map_err(|_| redb::StorageError::Io(std::io::Error::other("the writer failed")))??;
        for (index, touched) in touched.into_iter().enumerate() {
            if touched {
                self.inner.generations[index].fetch_add(1, Ordering::AcqRel);
            }
        }
        self.inner.position.send_replace(sequence);
        Ok(())
    }
}
