//! The mirror's file: records by key, a look-up table of contacts, and the positions in the streams, in one transaction.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use peal_common::channel::ChannelSet;
use peal_common::clock::Stamp;
use peal_common::recipient::{index_entries, reach};
use peal_common::state::{Record, RecordKey};
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::Keeps;
use crate::delta::{DeltaDefinition, DeltaTable, DeltaView, Hand};

/// Sequence of this region's message (8 bytes, big endian, 0 when only others wrote it), the channels on which a recipient is reached (2 bytes, big endian, 0
/// for other records), then the record as JSON.
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
/// A contact's blind index (16 bytes, which app and channel are part of), then the id of the recipient who has it.
const CONTACTS: DeltaDefinition<&[u8], ()> = DeltaDefinition::new("recent_contacts", "contacts");
/// The keys that were erased and what of it is not done yet, with the stamp of the erasure.
const ERASURES: TableDefinition<'_, &str, &str> = TableDefinition::new("erasures");
const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");

/// Of the tables and of everything in them: raise it with any change to what is written.
const fn format(keeps: Keeps) -> &'static str {
    match keeps {
        Keeps::Everything => "6, everything",
        Keeps::Records => "6",
    }
}

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

/// A record and the sequence of this region's message of it.
#[derive(Debug, Clone)]
pub struct Versioned {
    /// The sequence in this region's state stream; 0 when only other regions wrote the record.
    pub sequence: u64,
    /// The record.
    pub record: Record,
}

/// A change to apply.
pub(super) enum Change {
    /// A version of a record arrived, with its sequence and the JSON that it was read from.
    Merge(RecordKey, u64, Record, Bytes),
    /// The key was removed.
    Remove(RecordKey),
}

/// Whose stream a change came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feed {
    /// What this region wrote.
    Own,
    /// What the other regions wrote.
    Others,
}

impl Feed {
    /// The names under which the position and the identity of the stream are kept.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Feed::Own => ("position", "created"),
            Feed::Others => ("others_position", "others_created"),
        }
    }
}

/// Where the file stands in one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) created: Option<String>,
    pub(super) sequence: u64,
}

pub(super) struct Store {
    view: RwLock<Arc<View>>,
    database: Database,
    keeps: Keeps,
    /// Of the table of contacts.
    hand: Hand,
}

/// The tables as the last transaction left them: opening them anew for each look-up would cost more than to look.
struct View {
    records: ReadOnlyTable<&'static str, &'static [u8]>,
    contacts: DeltaView<&'static [u8], ()>,
}

impl View {
    fn open(database: &Database) -> Result<Arc<Self>, Damaged> {
        let read = database.begin_read()?;
        Ok(Arc::new(View { records: read.open_table(RECORDS)?, contacts: CONTACTS.view(&read)? }))
    }
}

impl Store {
    /// Opens the file and checks it from end to end; makes a new one when there is none. A file that is damaged, of
    /// another format, or no file of ours is put aside first. One that another process uses is left alone.
    pub(super) fn open(path: &Path, cache_bytes: usize, keeps: Keeps) -> Result<Self, Damaged> {
        if path.exists() {
            let checked = std::panic::catch_unwind(|| Store::open_checked(path, cache_bytes, keeps));
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
        Store::create(path, cache_bytes, keeps)
    }

    fn open_checked(path: &Path, cache_bytes: usize, keeps: Keeps) -> Result<Self, Damaged> {
        let mut database = Database::builder().set_cache_size(cache_bytes).open(path)?;
        // A flipped byte in a file that was closed properly is found by this check and by nothing else.
        if !database.check_integrity()? {
            return Err(Damaged("the check of the file failed".into()));
        }
        let has = database.begin_read()?.open_table(META)?.get("format")?.map(|text| text.value().to_owned());
        if has.as_deref() != Some(format(keeps)) {
            return Err(Damaged("the file has another format".into()));
        }
        Store::with(database, keeps)
    }

    fn create(path: &Path, cache_bytes: usize, keeps: Keeps) -> Result<Self, Damaged> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| Damaged(Box::new(error)))?;
        }
        let database = Database::builder().set_cache_size(cache_bytes).create(path)?;
        let write = database.begin_write()?;
        {
            write.open_table(RECORDS)?;
            CONTACTS.open(&write)?;
            write.open_table(ERASURES)?;
            write.open_table(META)?.insert("format", format(keeps))?;
        }
        write.commit()?;
        Store::with(database, keeps)
    }

    fn with(database: Database, keeps: Keeps) -> Result<Self, Damaged> {
        Ok(Store { view: RwLock::new(View::open(&database)?), database, keeps, hand: Hand::default() })
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn meta(&self, name: &str) -> Result<Option<String>, Damaged> {
        let read = self.database.begin_read()?;
        let table = read.open_table(META)?;
        Ok(table.get(name)?.map(|value| value.value().to_owned()))
    }

    pub(super) fn position(&self, feed: Feed) -> Result<Position, Damaged> {
        let (position, created) = feed.names();
        let sequence = self.meta(position)?.and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok(Position { created: self.meta(created)?, sequence })
    }

    /// Applies changes of one stream and moves its position, all or nothing. `durable` makes it survive a crash of the
    /// machine. Returns whether records were erased.
    pub(super) fn apply(
        &self,
        feed: Feed,
        changes: Vec<Change>,
        position: &Position,
        durable: bool,
    ) -> Result<bool, Damaged> {
        let everything = self.keeps == Keeps::Everything;
        let mut erased = false;
        let mut write = self.database.begin_write()?;
        write.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
        {
            let mut records = write.open_table(RECORDS)?;
            let mut erasures = write.open_table(ERASURES)?;
            let mut contacts = Index { table: CONTACTS.open(&write)?, is_kept: everything };
            for change in changes {
                match change {
                    Change::Merge(key, sequence, record, json) => {
                        let old = records.get(key.as_str())?.and_then(|value| decode(value.value()));
                        let mut sequence = if feed == Feed::Own { sequence } else { 0 };
                        let era = record.era.clone();
                        let (mut merged, mut json) = (record, json);
                        let (mut before, mut old_era) = (Vec::new(), None);
                        if let Some(old) = old {
                            before = contacts.keys(&key, &old.record);
                            old_era.clone_from(&old.record.era);
                            if feed == Feed::Others {
                                sequence = old.sequence;
                            }
                            merged.merge(old.record);
                            json =
                                serde_json::to_vec(&merged).map_err(|error| Damaged(Box::new(error)))?.into();
                        }
                        // An erasure that is new, or one that a writer of this region had not heard of.
                        if everything
                            && let Some(erasure) = &merged.era
                            && (Some(erasure) > old_era.as_ref()
                                || (feed == Feed::Own && Some(erasure) > era.as_ref()))
                        {
                            erasures.insert(key.as_str(), erasure.to_string().as_str())?;
                            erased = true;
                        }
                        contacts.replace(&before, &contacts.keys(&key, &merged))?;
                        records.insert(key.as_str(), encode(sequence, &merged, &json).as_slice())?;
                    }
                    Change::Remove(key) => {
                        let old = records.get(key.as_str())?.and_then(|value| decode(value.value()));
                        let Some(old) = old else { continue };
                        // What this region wrote ends when its own stream says so.
                        if feed == Feed::Others && old.sequence > 0 {
                            continue;
                        }
                        contacts.replace(&contacts.keys(&key, &old.record), &[])?;
                        records.remove(key.as_str())?;
                    }
                }
            }
            contacts.table.settle(&self.hand)?;
            let mut meta = write.open_table(META)?;
            let (sequence, created) = feed.names();
            meta.insert(sequence, position.sequence.to_string().as_str())?;
            if let Some(identity) = &position.created {
                meta.insert(created, identity.as_str())?;
            }
        }
        write.commit()?;
        let view = View::open(&self.database)?;
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
        Ok(erased)
    }

    /// Records that were erased, with the stamps of the erasures, at most `limit`.
    pub(super) fn erasures(&self, limit: usize) -> Result<Vec<(RecordKey, Stamp)>, Damaged> {
        let table = self.database.begin_read()?.open_table(ERASURES)?;
        let mut found = Vec::new();
        for entry in table.iter()?.take(limit) {
            let (key, era) = entry?;
            let era = era.value().parse().map_err(|error| Damaged(Box::new(error)))?;
            found.push((RecordKey::from_text(key.value()), era));
        }
        Ok(found)
    }

    /// Takes an erasure off the list, unless the record was erased again since.
    pub(super) fn erasure_done(&self, key: &RecordKey, era: &Stamp) -> Result<(), Damaged> {
        let mut write = self.database.begin_write()?;
        // Repeating it does no harm.
        write.set_durability(Durability::None)?;
        {
            let mut erasures = write.open_table(ERASURES)?;
            let is_same = erasures.get(key.as_str())?.is_some_and(|found| found.value() == era.to_string());
            if is_same {
                erasures.remove(key.as_str())?;
            }
        }
        Ok(write.commit()?)
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

    /// The id of the first recipient who has the contact with this blind index.
    pub(super) fn with_contact(&self, index: &str) -> Result<Option<String>, Damaged> {
        let Some(index) = index_bytes(index) else { return Ok(None) };
        let Some(found) = self.view().contacts.first_from(index.as_slice())? else { return Ok(None) };
        let id = found.value().strip_prefix(&index).and_then(|id| std::str::from_utf8(id).ok());
        Ok(id.map(str::to_owned))
    }
}

/// The bytes of a blind index. None for a text that was not made by us.
fn index_bytes(index: &str) -> Option<[u8; 16]> {
    URL_SAFE_NO_PAD.decode(index).ok()?.try_into().ok()
}

/// The table of contacts, where it is kept.
struct Index<'t> {
    table: DeltaTable<'t, &'static [u8], ()>,
    is_kept: bool,
}

impl Index<'_> {
    /// The keys of a record's contacts.
    fn keys(&self, key: &RecordKey, record: &Record) -> Vec<Vec<u8>> {
        let id = key.id().unwrap_or_default();
        let entries = self.is_kept.then(|| index_entries(record)).into_iter().flatten();
        let indexes = entries.filter_map(|entry| index_bytes(entry.split_once(':')?.1));
        indexes.map(|index| [&index, id.as_bytes()].concat()).collect()
    }

    fn replace(&mut self, before: &[Vec<u8>], after: &[Vec<u8>]) -> Result<(), Damaged> {
        for gone in before.iter().filter(|key| !after.contains(key)) {
            self.table.remove(gone.as_slice())?;
        }
        for new in after.iter().filter(|key| !before.contains(key)) {
            self.table.insert(new.as_slice(), ())?;
        }
        Ok(())
    }
}

/// Puts a file aside under a name that the next damaged one replaces.
fn put_aside(path: &Path) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".damaged");
    std::fs::rename(path, PathBuf::from(name))
}

fn encode(sequence: u64, record: &Record, json: &[u8]) -> Vec<u8> {
    let reach = reach(record).unwrap_or_default().bits().to_be_bytes();
    [&sequence.to_be_bytes()[..], &reach, json].concat()
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
