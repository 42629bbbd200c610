//! The read model's file: rows, the ways to find them, the log of events, the inboxes, and the positions in the three
//! streams, changed together in one transaction.

mod expire;
mod fold;
mod inbox;
mod keys;
mod read;
mod seen;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use peal_common::id::{AppId, RecipientId};
use peal_nats::delta::{DeltaDefinition, DeltaTable, DeltaView, Hand};
use peal_nats::missed::Misses;
use redb::{
    Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase as _, ReadableTable as _, Table,
    TableDefinition, WriteTransaction,
};

use super::counts::Tally;
use super::messages::{AcceptedMessage, EventMessage, InboxMessage, Source};
use super::view::{InboxLive, LiveEvent};
use keys::{InboxKey, IndexKey, TimeKey};
use seen::SeenIds;

pub(super) use expire::Cutoffs;

/// Apps by name; their numbers stand in keys.
const APPS: TableDefinition<'_, &str, u32> = TableDefinition::new("apps");
/// The number of a notification → the time of its row. This is what finds a repeated id: one look-up of 24 bytes.
const IDS: DeltaDefinition<&[u8; 16], u64> = DeltaDefinition::new("recent_ids", "ids");
/// Rows in the order of time, so that new ones are written together and old ones removed together, and a list by time
/// needs no index of its own.
const ROWS: TableDefinition<'_, &[u8; TimeKey::BYTES], &[u8]> = TableDefinition::new("rows");
/// Recipients and contacts → rows, 24 bytes each.
const INDEX: DeltaDefinition<&[u8; IndexKey::BYTES], ()> = DeltaDefinition::new("recent_index", "index");
/// Events in the order of time. A table of its own, because events come long after the notification that they belong
/// to: rows, which stand in the order of acceptance, can't be read in the order of events. Rows only name theirs.
const LOG: TableDefinition<'_, &[u8; TimeKey::BYTES], &[u8]> = TableDefinition::new("log");
/// Items of inboxes.
const INBOX: TableDefinition<'_, &[u8; InboxKey::BYTES], &[u8]> = TableDefinition::new("inbox");
/// Where an item stands, for marks and repetitions.
const ITEMS: TableDefinition<'_, &[u8; 32], u64> = TableDefinition::new("items");
/// How many items an inbox has.
const SIZES: TableDefinition<'_, &[u8; 16], u32> = TableDefinition::new("sizes");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const MISSED_KEY: &str = "missed";

/// Of the tables and of everything in them: raise it with any change to what is written.
const FORMAT: &[u8] = b"5";

/// Why the file can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// It is a copy of what JetStream holds, so it can always be built anew.
    #[error("the read model's file is damaged or unreadable")]
    Damaged(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Another process has it open.
    #[error("the read model's file is in use by another process")]
    InUse,
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => StoreError::InUse,
            error => StoreError::Damaged(Box::new(error)),
        }
    }
}

impl StoreError {
    pub(super) fn damaged(what: &'static str) -> Self {
        StoreError::Damaged(what.into())
    }
}

/// Where the file stands in one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// When the stream was created: which one it is.
    pub(super) created: Option<String>,
    pub(super) sequence: u64,
}

/// Messages to fold in, of all streams.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) accepted: Vec<AcceptedMessage>,
    pub(super) events: Vec<EventMessage>,
    pub(super) inbox: Vec<InboxMessage>,
    /// Inboxes to empty.
    pub(super) forget: Vec<(AppId, RecipientId, i64)>,
}

/// How to write a batch.
pub(super) struct Commit {
    /// In the order of [`Source::ALL`].
    pub(super) positions: [Position; 3],
    /// Whether it has to survive a crash of the machine.
    pub(super) durable: bool,
    /// What is too old, when it is time to look.
    pub(super) expire: Option<Cutoffs>,
    /// Whether anybody wants to know what changed.
    pub(super) live: bool,
    /// At the hub, what it missed.
    pub(super) missed: Option<Misses>,
}

/// What a batch changed.
#[derive(Default)]
pub(super) struct Applied {
    pub(super) events: Vec<LiveEvent>,
    pub(super) inbox: Vec<InboxLive>,
    /// Whether there is more that is too old.
    pub(super) more_to_expire: bool,
}

pub(super) struct Store {
    lookup: RwLock<Arc<Lookup>>,
    database: Database,
    apps: RwLock<HashMap<AppId, u32>>,
    tally: RwLock<Tally>,
    /// Where looking for old items of inboxes goes on.
    sweep: Mutex<[u8; InboxKey::BYTES]>,
    ids_hand: Hand,
    index_hand: Hand,
}

/// What finds a notification by its id.
struct ById {
    ids: DeltaView<&'static [u8; 16], u64>,
    rows: ReadOnlyTable<&'static [u8; TimeKey::BYTES], &'static [u8]>,
}

/// The same as the last transaction left it: every acceptance asks, and opening tables anew would cost more than to look.
struct Lookup {
    by_id: ById,
    seen: Arc<SeenIds>,
}

impl Lookup {
    /// After a transaction that brought what has been `seen`.
    fn after(database: &Database, seen: Arc<SeenIds>) -> Result<Arc<Self>, StoreError> {
        let by_id = ById::of(&database.begin_read()?)?;
        let seen = if seen.is_full() { Arc::new(SeenIds::read(&by_id.ids)?) } else { seen };
        Ok(Arc::new(Lookup { by_id, seen }))
    }

    fn open(database: &Database) -> Result<Arc<Self>, StoreError> {
        let by_id = ById::of(&database.begin_read()?)?;
        let seen = Arc::new(SeenIds::read(&by_id.ids)?);
        Ok(Arc::new(Lookup { by_id, seen }))
    }
}

impl ById {
    fn of(read: &ReadTransaction) -> Result<Self, StoreError> {
        Ok(ById { ids: IDS.view(read)?, rows: read.open_table(ROWS)? })
    }
}

/// The tables of a transaction.
struct Tables<'t> {
    apps: Table<'t, &'static str, u32>,
    ids: DeltaTable<'t, &'static [u8; 16], u64>,
    rows: Table<'t, &'static [u8; TimeKey::BYTES], &'static [u8]>,
    index: DeltaTable<'t, &'static [u8; IndexKey::BYTES], ()>,
    log: Table<'t, &'static [u8; TimeKey::BYTES], &'static [u8]>,
    inbox: Table<'t, &'static [u8; InboxKey::BYTES], &'static [u8]>,
    items: Table<'t, &'static [u8; 32], u64>,
    sizes: Table<'t, &'static [u8; 16], u32>,
    meta: Table<'t, &'static str, &'static [u8]>,
}

impl<'t> Tables<'t> {
    fn open(write: &'t WriteTransaction) -> Result<Self, StoreError> {
        Ok(Tables {
            apps: write.open_table(APPS)?,
            ids: IDS.open(write)?,
            rows: write.open_table(ROWS)?,
            index: INDEX.open(write)?,
            log: write.open_table(LOG)?,
            inbox: write.open_table(INBOX)?,
            items: write.open_table(ITEMS)?,
            sizes: write.open_table(SIZES)?,
            meta: write.open_table(META)?,
        })
    }
}

impl Store {
    /// Opens the file and checks it from end to end; makes a new one when there is none. A file that is damaged, of
    /// another format, or no file of ours is put aside first. One that another process uses is left alone.
    pub(super) fn open(path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        if path.exists() {
            match std::panic::catch_unwind(|| Store::open_checked(path, cache_bytes)) {
                Ok(Ok(store)) => return Ok(store),
                Ok(Err(StoreError::InUse)) => return Err(StoreError::InUse),
                Ok(Err(error)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the read model is built anew");
                }
                Err(_) => tracing::warn!("the read model's file made its reader fail; it is built anew"),
            }
            put_aside(path).map_err(|error| StoreError::Damaged(Box::new(error)))?;
        }
        Store::create(path, cache_bytes)
    }

    fn open_checked(path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        let mut database = Database::builder().set_cache_size(cache_bytes).open(path)?;
        // A flipped byte in a file that was closed properly is found by this check and by nothing else.
        if !database.check_integrity()? {
            return Err(StoreError::damaged("the check of the file failed"));
        }
        let meta = database.begin_read()?.open_table(META)?;
        if meta.get("format")?.is_none_or(|format| format.value() != FORMAT) {
            return Err(StoreError::damaged("the file has another format"));
        }
        let mut store = Store::with(database)?;
        let read = store.database.begin_read()?;
        if let Some(bytes) = meta.get("counts")? {
            let tally =
                Tally::decode(bytes.value()).ok_or(StoreError::damaged("the counts cannot be read"))?;
            store.tally = RwLock::new(tally);
        }
        let mut apps = HashMap::new();
        for entry in read.open_table(APPS)?.iter()? {
            let (name, number) = entry?;
            let name = name.value().parse().map_err(|_| StoreError::damaged("an app cannot be read"))?;
            apps.insert(name, number.value());
        }
        store.apps = RwLock::new(apps);
        drop((meta, read));
        Ok(store)
    }

    fn create(path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| StoreError::Damaged(Box::new(error)))?;
        }
        let database = Database::builder().set_cache_size(cache_bytes).create(path)?;
        let write = database.begin_write()?;
        Tables::open(&write)?.meta.insert("format", FORMAT)?;
        write.commit()?;
        Store::with(database)
    }

    fn with(database: Database) -> Result<Self, StoreError> {
        Ok(Store {
            lookup: RwLock::new(Lookup::open(&database)?),
            database,
            apps: RwLock::default(),
            tally: RwLock::default(),
            sweep: Mutex::new([0; InboxKey::BYTES]),
            ids_hand: Hand::default(),
            index_hand: Hand::default(),
        })
    }

    fn lookup(&self) -> Arc<Lookup> {
        Arc::clone(&self.lookup.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The positions in the streams, in the order of [`Source::ALL`].
    pub(super) fn positions(&self) -> Result<[Position; 3], StoreError> {
        let read = self.database.begin_read()?;
        let meta = read.open_table(META)?;
        let mut positions: [Position; 3] = Default::default();
        for (source, position) in Source::ALL.into_iter().zip(&mut positions) {
            let Some(bytes) = meta.get(position_key(source))? else { continue };
            let wrong = || StoreError::damaged("a position cannot be read");
            let (sequence, created) = bytes.value().split_first_chunk().ok_or_else(wrong)?;
            let created = std::str::from_utf8(created).map_err(|_| wrong())?;
            position.sequence = u64::from_be_bytes(*sequence);
            position.created = Some(created.to_owned()).filter(|created| !created.is_empty());
        }
        Ok(positions)
    }

    /// What the hub missed, as far as it was read; nothing is known where that was never noted.
    pub(super) fn missed(&self) -> Result<Misses, StoreError> {
        let read = self.database.begin_read()?;
        let found = read.open_table(META)?.get(MISSED_KEY)?;
        let decoded = found.map(|bytes| Misses::decode(bytes.value()));
        decoded
            .unwrap_or_else(|| Some(Misses::default()))
            .ok_or_else(|| StoreError::damaged("gaps cannot be read"))
    }

    /// Folds messages in and moves the positions, all or nothing.
    pub(super) fn apply(&self, batch: Batch, commit: &Commit) -> Result<Applied, StoreError> {
        let mut write = self.database.begin_write()?;
        write.set_durability(if commit.durable { Durability::Immediate } else { Durability::None })?;
        let mut applied = Applied::default();
        let mut tally = self.tally.read().unwrap_or_else(PoisonError::into_inner).clone();
        {
            let mut tables = Tables::open(&write)?;
            fold::Fold::new(self, &mut tables, &mut tally, &mut applied, commit.live)
                .apply(batch.accepted, batch.events)?;
            for message in batch.inbox {
                inbox::apply(&mut tables, message, &mut applied, commit.live)?;
            }
            for (app, recipient, until_ms) in batch.forget {
                inbox::forget(&mut tables, &app, &recipient, until_ms)?;
            }
            if let Some(cutoffs) = &commit.expire {
                applied.more_to_expire = self.expire(&mut tables, &mut tally, cutoffs)?;
            }
            tables.ids.settle(&self.ids_hand)?;
            tables.index.settle(&self.index_hand)?;
            for (source, position) in Source::ALL.into_iter().zip(&commit.positions) {
                let mut bytes = position.sequence.to_be_bytes().to_vec();
                bytes.extend_from_slice(position.created.as_deref().unwrap_or_default().as_bytes());
                tables.meta.insert(position_key(source), bytes.as_slice())?;
            }
            if let Some(missed) = &commit.missed {
                tables.meta.insert(MISSED_KEY, missed.encode().as_slice())?;
            }
            tables.meta.insert("counts", tally.encode().as_slice())?;
        }
        write.commit()?;
        let lookup = Lookup::after(&self.database, Arc::clone(&self.lookup().seen))?;
        *self.lookup.write().unwrap_or_else(PoisonError::into_inner) = lookup;
        *self.tally.write().unwrap_or_else(PoisonError::into_inner) = tally;
        Ok(applied)
    }

    /// The number of an app that is known.
    fn app(&self, app: &AppId) -> Option<u32> {
        self.apps.read().unwrap_or_else(PoisonError::into_inner).get(app).copied()
    }

    /// The number of an app, given out when it is new. Should the transaction fail, the file is opened again and the
    /// number forgotten.
    fn number_app(&self, tables: &mut Tables<'_>, app: &AppId) -> Result<u32, StoreError> {
        if let Some(number) = self.app(app) {
            return Ok(number);
        }
        let mut apps = self.apps.write().unwrap_or_else(PoisonError::into_inner);
        let number = u32::try_from(apps.len()).map_err(|_| StoreError::damaged("too many apps"))?;
        tables.apps.insert(app.as_str(), number)?;
        apps.insert(app.clone(), number);
        Ok(number)
    }
}

const fn position_key(source: Source) -> &'static str {
    match source {
        Source::Intake => "intake",
        Source::Events => "events",
        Source::Inbox => "inbox",
    }
}

/// Puts a file aside under a name that the next damaged one replaces.
fn put_aside(path: &Path) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".damaged");
    std::fs::rename(path, PathBuf::from(name))
}
