//! The mirror's file: records by key, a look-up table of contacts, and the position in the stream, in one transaction.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use peal_common::channel::ChannelSet;
use peal_common::recipient::{index_entries, reach};
use peal_common::state::{Record, RecordKey};
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase as _, ReadableTable as _, TableDefinition};

/// Sequence of the message (8 bytes, big endian), the channels on which a recipient is reached (2 bytes, big endian, 0
/// for other records), then the record as JSON.
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
/// `<app>.<channel>:<blind index>` and the record's key, separated by a space.
const CONTACTS: TableDefinition<'_, &str, ()> = TableDefinition::new("contacts");
const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");

/// Of the tables and of everything in them: raise it with any change to what is written.
const FORMAT: &str = "2";

/// The file can't be used. It is a copy of what JetStream holds, so the answer is always to build it anew.
#[derive(Debug, thiserror::Error)]
#[error("the mirror's file is damaged or unreadable")]
pub struct Damaged(#[source] Box<dyn std::error::Error + Send + Sync>);

impl Damaged {
    /// Whether another process has the file open.
    pub(super) fn is_in_use(&self) -> bool {
        matches!(self.0.downcast_ref(), Some(redb::Error::DatabaseAlreadyOpen))
    }
}

impl<E: Into<redb::Error>> From<E> for Damaged {
    fn from(error: E) -> Self {
        Damaged(Box::new(error.into()))
    }
}

/// A record and the sequence of the message that it came with.
#[derive(Debug, Clone)]
pub struct Versioned {
    /// The sequence in the state stream.
    pub sequence: u64,
    /// The record.
    pub record: Record,
}

/// A change to apply.
pub(super) enum Change {
    /// A version of a record arrived.
    Merge(RecordKey, u64, Record),
    /// The key was removed.
    Remove(RecordKey),
}

/// Where the file stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) created: Option<String>,
    pub(super) sequence: u64,
}

pub(super) struct Store {
    view: RwLock<Arc<View>>,
    database: Database,
}

/// The tables as the last transaction left them: opening them anew for each look-up would cost more than to look.
struct View {
    records: ReadOnlyTable<&'static str, &'static [u8]>,
    contacts: ReadOnlyTable<&'static str, ()>,
}

impl View {
    fn open(database: &Database) -> Result<Arc<Self>, Damaged> {
        let read = database.begin_read()?;
        Ok(Arc::new(View { records: read.open_table(RECORDS)?, contacts: read.open_table(CONTACTS)? }))
    }
}

impl Store {
    /// Opens the file and checks it from end to end; makes a new one when there is none. A file that is damaged, of
    /// another format, or no file of ours is put aside first. One that another process uses is left alone.
    pub(super) fn open(path: &Path, cache_bytes: usize) -> Result<Self, Damaged> {
        if path.exists() {
            let checked = std::panic::catch_unwind(|| Store::open_checked(path, cache_bytes));
            match checked {
                Ok(Ok(store)) => return Ok(store),
                // It is as it should be; it is only not ours now.
                Ok(Err(error)) if error.is_in_use() => return Err(error),
                Ok(Err(error)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "the mirror is built anew");
                }
                Err(_) => tracing::warn!("the mirror's file made its reader fail; the mirror is built anew"),
            }
            put_aside(path).map_err(|error| Damaged(Box::new(error)))?;
        }
        Store::create(path, cache_bytes)
    }

    fn open_checked(path: &Path, cache_bytes: usize) -> Result<Self, Damaged> {
        let mut database = Database::builder().set_cache_size(cache_bytes).open(path)?;
        // A flipped byte in a file that was closed properly is found by this check and by nothing else.
        if !database.check_integrity()? {
            return Err(Damaged("the check of the file failed".into()));
        }
        let store = Store { view: RwLock::new(View::open(&database)?), database };
        if store.meta("format")?.as_deref() != Some(FORMAT) {
            return Err(Damaged("the file has another format".into()));
        }
        Ok(store)
    }

    fn create(path: &Path, cache_bytes: usize) -> Result<Self, Damaged> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| Damaged(Box::new(error)))?;
        }
        let database = Database::builder().set_cache_size(cache_bytes).create(path)?;
        let write = database.begin_write()?;
        {
            write.open_table(RECORDS)?;
            write.open_table(CONTACTS)?;
            write.open_table(META)?.insert("format", FORMAT)?;
        }
        write.commit()?;
        Ok(Store { view: RwLock::new(View::open(&database)?), database })
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn meta(&self, name: &str) -> Result<Option<String>, Damaged> {
        let read = self.database.begin_read()?;
        let table = read.open_table(META)?;
        Ok(table.get(name)?.map(|value| value.value().to_owned()))
    }

    pub(super) fn position(&self) -> Result<Position, Damaged> {
        let sequence = self.meta("position")?.and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok(Position { created: self.meta("created")?, sequence })
    }

    /// Applies changes and moves the position, all or nothing. `durable` makes it survive a crash of the machine.
    pub(super) fn apply(
        &self,
        changes: Vec<Change>,
        position: &Position,
        durable: bool,
    ) -> Result<(), Damaged> {
        let mut write = self.database.begin_write()?;
        write.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
        {
            let mut records = write.open_table(RECORDS)?;
            let mut contacts = write.open_table(CONTACTS)?;
            for change in changes {
                match change {
                    Change::Merge(key, sequence, record) => {
                        let old = records.get(key.as_str())?.and_then(|value| decode(value.value()));
                        let mut merged = record;
                        if let Some(old) = old {
                            for entry in index_entries(&old.record) {
                                contacts.remove(contact_key(&key, entry).as_str())?;
                            }
                            merged.merge(old.record);
                        }
                        for entry in index_entries(&merged) {
                            contacts.insert(contact_key(&key, entry).as_str(), ())?;
                        }
                        records.insert(key.as_str(), encode(sequence, &merged)?.as_slice())?;
                    }
                    Change::Remove(key) => {
                        if let Some(old) =
                            records.remove(key.as_str())?.and_then(|value| decode(value.value()))
                        {
                            for entry in index_entries(&old.record) {
                                contacts.remove(contact_key(&key, entry).as_str())?;
                            }
                        }
                    }
                }
            }
            let mut meta = write.open_table(META)?;
            meta.insert("position", position.sequence.to_string().as_str())?;
            if let Some(created) = &position.created {
                meta.insert("created", created.as_str())?;
            }
        }
        write.commit()?;
        let view = View::open(&self.database)?;
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
        Ok(())
    }

    pub(super) fn get(&self, key: &RecordKey) -> Result<Option<Versioned>, Damaged> {
        match self.view().records.get(key.as_str())? {
            Some(value) => match decode(value.value()) {
                Some(found) => Ok(Some(found)),
                None => Err(Damaged("a record cannot be read".into())),
            },
            None => Ok(None),
        }
    }

    /// The channels on which a recipient is reached, without reading its record. `None` when there is no such recipient.
    pub(super) fn reach(&self, key: &RecordKey) -> Result<Option<ChannelSet>, Damaged> {
        let Some(value) = self.view().records.get(key.as_str())? else { return Ok(None) };
        let reach = decode_reach(value.value()).ok_or(Damaged("a record cannot be read".into()))?;
        Ok(Some(reach).filter(|reach| *reach != ChannelSet::default()))
    }

    /// The records whose keys start with `prefix` and come after `after`, at most `limit`.
    pub(super) fn scan(
        &self,
        prefix: &str,
        after: Option<&RecordKey>,
        limit: usize,
    ) -> Result<Vec<(RecordKey, Versioned)>, Damaged> {
        use std::ops::Bound;
        let view = self.view();
        let start = match after {
            Some(key) => Bound::Excluded(key.as_str()),
            None => Bound::Included(prefix),
        };
        let mut out = Vec::new();
        for entry in view.records.range::<&str>((start, Bound::Unbounded))? {
            let (key, value) = entry?;
            if !key.value().starts_with(prefix) || out.len() == limit {
                break;
            }
            if let Some(found) = decode(value.value()) {
                out.push((RecordKey::from_text(key.value()), found));
            }
        }
        Ok(out)
    }

    /// The first record that has this contact.
    pub(super) fn with_contact(&self, app: &str, entry: &str) -> Result<Option<RecordKey>, Damaged> {
        let prefix = format!("{app}.{entry} ");
        let found = self.view().contacts.range(prefix.as_str()..)?.next().transpose()?;
        Ok(found.and_then(|(key, _)| key.value().strip_prefix(&prefix).map(RecordKey::from_text)))
    }
}

/// Puts a file aside under a name that the next damaged one replaces.
fn put_aside(path: &Path) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".damaged");
    std::fs::rename(path, PathBuf::from(name))
}

fn contact_key(key: &RecordKey, entry: &str) -> String {
    let app = key.as_str().split('.').nth(1).unwrap_or_default();
    format!("{app}.{entry} {key}")
}

fn encode(sequence: u64, record: &Record) -> Result<Vec<u8>, Damaged> {
    let mut out = sequence.to_be_bytes().to_vec();
    out.extend(reach(record).unwrap_or_default().bits().to_be_bytes());
    serde_json::to_writer(&mut out, record).map_err(|error| Damaged(Box::new(error)))?;
    Ok(out)
}

fn decode(bytes: &[u8]) -> Option<Versioned> {
    let (sequence, reach_and_json) = bytes.split_first_chunk()?;
    let (_, json) = reach_and_json.split_first_chunk::<2>()?;
    let record = serde_json::from_slice(json).ok()?;
    Some(Versioned { sequence: u64::from_be_bytes(*sequence), record })
}

fn decode_reach(bytes: &[u8]) -> Option<ChannelSet> {
    let (_, rest) = bytes.split_first_chunk::<8>()?;
    Some(ChannelSet::from_bits(u16::from_be_bytes(*rest.first_chunk()?)))
}
