//! The loop: three followers ([`streams`]) feed one writer ([`writer`]), which folds what came in large transactions.

mod streams;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use peal_common::id::Region;
use peal_nats::follow::Followed;
use peal_nats::group::GroupPublisher;
use peal_nats::missed::Misses;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::messages::Source;
use super::store::{Position, Store, StoreError};
use super::{Forget, Inner, Retention};
use streams::Fed;
use writer::{Gathered, Writer};

/// How much of the file is kept in memory.
const CACHE_BYTES: usize = 16 * 1024 * 1024;
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
/// How often it is looked whether something is due although no message came.
const TICK: Duration = Duration::from_secs(1);
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
        let sources = self.inner.sources();
        let (mut fed, mut followers) = streams::follow(&self.inner.connection, sources, &positions);
        let missed = self.inner.connection.is_hub.then(|| self.inner.missed()).transpose()?;
        if let Some(missed) = missed.clone() {
            followers.spawn(missed.fill(self.inner.connection.clone(), self.regions.clone()));
        }
        let mut writer = Writer::new(Arc::clone(&self.inner), positions, self.retention, missed)?;
        let mut gathered = Gathered::default();
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
                Some(Fed { source, followed, memory }) = fed.recv() => match followed {
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
                        let stream = streams::stream(source);
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
