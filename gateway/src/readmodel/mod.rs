//! The read model: what became of every notification, its events, and the inboxes, folded from INTAKE, EVENTS and INBOX
//! into one redb file that every query reads.
//!
//! The file is a cache of this gateway: commits reach the disk every few seconds, the positions in the three streams are
//! part of each, and whatever happens to the file it is built anew from the streams with the same answers. While it is
//! not complete it answers [`NotReady`]; it never guesses.
//!
//! [`row`] is the fold, a pure function; [`store`] the file; [`task`] the loop between streams and file.

mod codec;
mod counts;
#[cfg(test)]
mod fold_tests;
mod logged;
mod messages;
mod row;
mod row_codec;
mod show;
mod store;
mod task;
mod view;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use peal_common::clock::Clock;
use peal_common::id::{AppId, DeliveryId, NotificationId, RecipientId};
use peal_nats::Connection;
use peal_nats::topology;
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;

use store::{Store, StoreError};

pub use counts::Counts;
pub use task::ReadModelTask;
pub use view::{
    Cursor, CursorError, DeliveryView, EventFilter, EventView, Filter, InboxCounts, InboxItem, InboxLive,
    LiveEvent, NotificationSummary, NotificationView, Page,
};

/// Changes that a slow watcher may be behind before it loses some and has to look at the read model itself.
const WATCHERS_BEHIND: usize = 1_024;
/// Requests to empty an inbox that may wait.
const FORGET_QUEUE: usize = 64;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The read model can't answer: it is being built, its file is damaged, or the position asked for hasn't come in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the read model is not ready: {0}")]
pub struct NotReady(pub &'static str);

/// How long things are kept, as in the streams that they come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Notifications from their acceptance on, and events.
    pub events: Duration,
    /// Items of inboxes.
    pub inbox: Duration,
}

impl Retention {
    /// Notifications and events for `days`, inboxes as long as their stream keeps them by default.
    #[must_use]
    pub fn days(days: u64) -> Self {
        let days = u32::try_from(days).unwrap_or(u32::MAX);
        Retention { events: DAY.saturating_mul(days), inbox: topology::Options::default().inbox_max_age }
    }
}

/// What was accepted under an id before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedBefore {
    /// Its sequence in INTAKE.
    pub sequence: u64,
    /// The fingerprint of the request, which tells a repetition from another request with the same id.
    pub fingerprint: String,
    /// When it was accepted.
    pub accepted_at: Timestamp,
}

/// Up to which sequence each stream is folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Positions {
    /// In INTAKE.
    pub intake: u64,
    /// In EVENTS.
    pub events: u64,
    /// In INBOX.
    pub inbox: u64,
}

/// Reads the folded state. Cheap to clone.
#[derive(Clone)]
pub struct ReadModel {
    inner: Arc<Inner>,
    forget: mpsc::Sender<Forget>,
}

struct Inner {
    connection: Connection,
    clock: Clock,
    store: RwLock<Option<Arc<Store>>>,
    ready: AtomicBool,
    /// Told when a read failed: the file has to be built anew.
    damaged: Notify,
    /// Told when somebody waits for what is being gathered.
    hurry: Notify,
    positions: watch::Sender<Positions>,
    /// Messages between the positions and the ends of the streams.
    behind: AtomicU64,
    /// Since when there have been messages in INTAKE that are not folded yet.
    behind_since: Mutex<Option<Instant>>,
    /// Messages folded since the start.
    applied: AtomicU64,
    events: broadcast::Sender<Arc<LiveEvent>>,
    inbox: broadcast::Sender<Arc<InboxLive>>,
}

/// A request to empty an inbox.
struct Forget {
    app: AppId,
    recipient: RecipientId,
    until_ms: i64,
    done: oneshot::Sender<()>,
}

impl ReadModel {
    /// A read model in the file `path`, which is made when it is missing. The returned task must run for it to fill.
    #[must_use]
    pub fn new(
        connection: Connection,
        path: PathBuf,
        clock: Clock,
        retention: Retention,
    ) -> (Self, ReadModelTask) {
        let (forget, forget_requests) = mpsc::channel(FORGET_QUEUE);
        let inner = Arc::new(Inner {
            connection,
            clock,
            store: RwLock::new(None),
            ready: AtomicBool::new(false),
            damaged: Notify::new(),
            hurry: Notify::new(),
            positions: watch::Sender::default(),
            behind: AtomicU64::new(0),
            behind_since: Mutex::default(),
            applied: AtomicU64::new(0),
            events: broadcast::Sender::new(WATCHERS_BEHIND),
            inbox: broadcast::Sender::new(WATCHERS_BEHIND),
        });
        let inner_of_task = Arc::clone(&inner);
        let task = ReadModelTask {
            inner: inner_of_task,
            path,
            retention,
            forget: forget_requests,
            publisher: None,
            regions: Vec::new(),
        };
        (ReadModel { inner, forget }, task)
    }

    /// Whether everything that stood in the streams when the read model began to follow them is here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.inner.ready.load(Ordering::Acquire)
    }

    /// Up to where the streams are folded, and every change of it.
    #[must_use]
    pub fn positions(&self) -> watch::Receiver<Positions> {
        self.inner.positions.subscribe()
    }

    /// How many messages stand in the streams and are not folded yet, as of the last look, which is some seconds old.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.inner.behind.load(Ordering::Relaxed)
    }

    /// How long INTAKE has held messages that are not folded yet: an id that was accepted longer ago is known here. It is
    /// looked at every few seconds.
    #[must_use]
    pub fn behind_for(&self) -> Duration {
        let since = *self.inner.behind_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// How many messages were folded since the process started.
    #[must_use]
    pub fn folded(&self) -> u64 {
        self.inner.applied.load(Ordering::Relaxed)
    }

    /// Waits until the read model is ready and has folded INTAKE up to `sequence`.
    ///
    /// # Errors
    /// [`NotReady`] when that takes longer than `limit`.
    pub async fn wait_for_intake(&self, sequence: u64, limit: Duration) -> Result<(), NotReady> {
        self.wait_for(limit, |positions| positions.intake >= sequence).await
    }

    /// Waits until the read model is ready and its positions are as far as `reached` says.
    ///
    /// # Errors
    /// [`NotReady`] when that takes longer than `limit`.
    pub async fn wait_for(
        &self,
        limit: Duration,
        reached: impl Fn(&Positions) -> bool,
    ) -> Result<(), NotReady> {
        let mut positions = self.inner.positions.subscribe();
        let waiting = async {
            loop {
                if self.is_ready() && reached(&positions.borrow_and_update()) {
                    return;
                }
                self.inner.hurry.notify_one();
                if positions.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let late = NotReady("it is behind what this answer depends on");
        tokio::time::timeout(limit, waiting).await.map_err(|_| late)
    }

    /// What was accepted under an id, if anything was: the look-up of repeated ids, a single read for a new one.
    ///
    /// # Errors
    /// [`NotReady`]
    pub fn find_accepted(
        &self,
        app: &AppId,
        id: &NotificationId,
    ) -> Result<Option<AcceptedBefore>, NotReady> {
        self.read(|store| store.accepted(app, id))
    }

    /// A notification with its deliveries and its timeline.
    ///
    /// # Errors
    /// [`NotReady`]
    pub fn notification(
        &self,
        app: &AppId,
        id: &NotificationId,
    ) -> Result<Option<NotificationView>, NotReady> {
        self.read(|store| store.notification(app, id))
    }

    /// A notification that may just have been accepted, by this gateway or by another one: when it is not here, what
    /// stands in INTAKE at this moment is waited for.
    ///
    /// # Errors
    /// [`NotReady`] when that takes longer than `limit`, or JetStream can't be asked.
    pub async fn notification_or_wait(
        &self,
        app: &AppId,
        id: &NotificationId,
        limit: Duration,
    ) -> Result<Option<NotificationView>, NotReady> {
        let known = self.notification(app, id)?.filter(|found| found.summary.category.is_some());
        if known.is_some() {
            return Ok(known);
        }
        let asked = self.inner.connection.stream_state(topology::INTAKE).await;
        let state = asked.map_err(|_| NotReady("JetStream does not say what was accepted"))?;
        self.wait_for_intake(state.last, limit).await?;
        self.notification(app, id)
    }

    /// A notification as soon as something holds for it, and at `latest` as it is then.
    ///
    /// # Errors
    /// [`NotReady`]
    pub async fn notification_when(
        &self,
        app: &AppId,
        id: &NotificationId,
        latest: Instant,
        holds: impl Fn(&NotificationView) -> bool,
    ) -> Result<Option<NotificationView>, NotReady> {
        let mut positions = self.inner.positions.subscribe();
        loop {
            let found = self.notification(app, id)?;
            if found.as_ref().is_some_and(&holds) {
                return Ok(found);
            }
            self.inner.hurry.notify_one();
            match tokio::time::timeout_at(latest, positions.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Ok(found),
            }
        }
    }

    /// The notifications of an app that a filter lets through, the latest first: at most `limit`, from behind `after` on.
    ///
    /// # Errors
    /// [`NotReady`]
    pub fn search(
        &self,
        app: &AppId,
        filter: &Filter,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<NotificationSummary>, NotReady> {
        self.read(|store| store.search(app, filter, after, limit))
    }

    /// The events of an app that a filter lets through, the latest first: at most `limit`, from behind `after` on.
    ///
    /// # Errors
    /// [`NotReady`]
    pub fn events(
        &self,
        app: &AppId,
        filter: &EventFilter,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<EventView>, NotReady> {
        self.read(|store| store.events(app, filter, after, limit))
    }

    /// The latest `limit` events of all apps, the latest first.
    ///
    /// # Errors
    /// [`NotReady`]
    pub fn latest(&self, limit: usize) -> Result<Vec<LiveEvent>, NotReady> {
        self.read(|store| store.latest(limit))
    }

    /// New events of all apps. A receiver that falls behind is told so and goes on with newer ones.
    #[must_use]
    pub fn watch_events(&self) -> broadcast::Receiver<Arc<LiveEvent>> {
        self.inner.events.subscribe()
    }

    /// How many notifications and deliveries stand where, of those that are kept.
    ///
    /// # Errors
    /// [`NotReady`]
    pub fn counts(&self) -> Result<Counts, NotReady> {
        self.read(|store| Ok(store.counts()))
    }

    /// Items of a recipient's inbox, the newest first: at most `limit`, older than the item with the sequence `after`.
    /// `archived` picks those that were put away, or those that were not. With them comes what to hand in as `after`
    /// for more.
    ///
    /// # Errors
    /// [`NotReady`]
    pub fn inbox(
        &self,
        app: &AppId,
        recipient: &RecipientId,
        after: Option<u64>,
        limit: usize,
        archived: Option<bool>,
    ) -> Result<(Vec<InboxItem>, Option<u64>), NotReady> {
        self.read(|store| store.inbox(app, recipient, after, limit, archived, self.inner.clock.now_ms()))
    }

    /// One item of a recipient's inbox.
    ///
    /// # Errors
    /// [`NotReady`]
    pub fn inbox_item(
        &self,
        app: &AppId,
        recipient: &RecipientId,
        item: &DeliveryId,
    ) -> Result<Option<InboxItem>, NotReady> {
        let Some(number) = messages::delivery_number(item) else { return Ok(None) };
        self.read(|store| store.inbox_item(app, recipient, number, self.inner.clock.now_ms()))
    }

    /// Items that came or changed after `sequence`, in the order of their changes: what a stream with `Last-Event-ID`
    /// begins with.
    ///
    /// # Errors
    /// [`NotReady`]
    pub fn inbox_since(
        &self,
        app: &AppId,
        recipient: &RecipientId,
        sequence: u64,
    ) -> Result<Vec<InboxItem>, NotReady> {
        self.read(|store| store.inbox_since(app, recipient, sequence, self.inner.clock.now_ms()))
    }

    /// How many items a recipient's inbox holds.
    ///
    /// # Errors
    /// [`NotReady`]
    pub fn inbox_counts(&self, app: &AppId, recipient: &RecipientId) -> Result<InboxCounts, NotReady> {
        self.read(|store| store.inbox_counts(app, recipient, self.inner.clock.now_ms()))
    }

    /// Changes of all inboxes. A receiver that falls behind is told so and looks at [`ReadModel::inbox_since`].
    #[must_use]
    pub fn watch_inboxes(&self) -> broadcast::Receiver<Arc<InboxLive>> {
        self.inner.inbox.subscribe()
    }

    /// Removes the items that a recipient's inbox got until `until_ms`, in milliseconds since the Unix epoch. They come back when the file is built anew, unless they are purged from
    /// INBOX too; their texts can't be opened once the recipient's data key is gone.
    ///
    /// # Errors
    /// [`NotReady`] when the task does not run.
    pub async fn forget(&self, app: &AppId, recipient: &RecipientId, until_ms: i64) -> Result<(), NotReady> {
        let stopped = || NotReady("it is stopping");
        let (done, finished) = oneshot::channel();
        let request = Forget { app: app.clone(), recipient: recipient.clone(), until_ms, done };
        self.forget.send(request).await.map_err(|_| stopped())?;
        finished.await.map_err(|_| stopped())
    }

    fn read<T>(&self, read: impl FnOnce(&Store) -> Result<T, StoreError>) -> Result<T, NotReady> {
        if !self.is_ready() {
            return Err(NotReady("it is being filled from JetStream"));
        }
        let store = self.inner.store().ok_or(NotReady("it is being built anew"))?;
        read(&store).map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "the read model cannot be read");
            self.inner.ready.store(false, Ordering::Release);
            self.inner.damaged.notify_one();
            NotReady("its file is damaged")
        })
    }
}
