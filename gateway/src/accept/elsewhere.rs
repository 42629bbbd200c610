//! Ids that other regions accepted, as far as the link has told it: a publisher that goes on to another region with the
//! same id gets the first answer again instead of a second notification.
//!
//! The hub hands on the headers of every region's INTAKE, no content. They are kept in a redb file, a table for each
//! day of acceptance, and looked up only for ids that a publisher gave. Whatever happens to the file, it is read anew
//! from the stream; until then nobody knows whether a given id is new. While the link is cut an id of another region is.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use peal_common::clock::Clock;
use peal_nats::follow::{Followed, Follower, Stored};
use peal_nats::publish::{ACCEPTED_HEADER, Outgoing};
use peal_nats::topology::OTHERS_ACCEPTED;
use peal_nats::unfinished::TAKEN_BACK;
use peal_nats::{Connection, Subjects};
use redb::{
    Database, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError,
    TableHandle as _,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Before;

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
/// Today and the day before: every id is known for at least 24 hours (M3).
const DAYS: i64 = 2;
const CACHE_BYTES: usize = 8 * 1024 * 1024;
/// A crash of the machine makes it read again what came in this time.
const FLUSH_INTERVAL: Duration = Duration::from_secs(2);
/// The wait after the file failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Position and identity of the stream that was read.
const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");

/// The first 16 bytes of the SHA-256 of `<app>:<id>`; then when it was accepted (8 bytes, big endian), the length of the
/// digest (1 byte), the digest, and the region.
type Day<'a> = TableDefinition<'a, &'static [u8; 16], &'static [u8]>;

fn key(message_id: &str) -> [u8; 16] {
    let digest = Sha256::digest(message_id.as_bytes());
    let mut key = [0; 16];
    key.copy_from_slice(&digest[..16]);
    key
}

/// A moment of each day whose ids are kept. Another region's clock may be ahead by a moment, over midnight.
fn days(now: Timestamp) -> impl Iterator<Item = i64> {
    (-1..DAYS).map(move |days| now.as_millisecond() - days * DAY_MS)
}

fn day_name(accepted_ms: i64) -> String {
    format!("day {}", accepted_ms.div_euclid(DAY_MS))
}

impl Before {
    /// Reads a message: `None` when it is none of ours, or came from a version that did not tell.
    fn read(message: &Stored) -> Option<(String, Self)> {
        let message_id = message.header("Nats-Msg-Id")?.split(TAKEN_BACK).next()?.to_owned();
        let region = Subjects::region_of(&message.subject)?;
        let (ms, fingerprint) = message.header(ACCEPTED_HEADER)?.split_once(' ')?;
        let accepted_at = Timestamp::from_millisecond(ms.parse().ok()?).ok()?;
        Some((message_id, Before { region, accepted_at, fingerprint: fingerprint.to_owned() }))
    }

    fn encode(&self) -> Option<Vec<u8>> {
        let length = u8::try_from(self.fingerprint.len()).ok()?;
        let mut bytes = self.accepted_at.as_millisecond().to_be_bytes().to_vec();
        bytes.push(length);
        bytes.extend(self.fingerprint.bytes().chain(self.region.as_str().bytes()));
        Some(bytes)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (ms, rest) = bytes.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first()?;
        let (fingerprint, region) = rest.split_at_checked(usize::from(*length))?;
        Some(Before {
            region: std::str::from_utf8(region).ok()?.parse().ok()?,
            accepted_at: Timestamp::from_millisecond(i64::from_be_bytes(*ms)).ok()?,
            fingerprint: std::str::from_utf8(fingerprint).ok()?.to_owned(),
        })
    }
}

/// Tells the other regions of an acceptance, where there are any.
pub(super) fn tell(outgoing: Outgoing, accepted_at: Timestamp, digest: &str) -> Outgoing {
    outgoing.header(ACCEPTED_HEADER, &format!("{} {digest}", accepted_at.as_millisecond()))
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// What other regions accepted is not read yet.
#[derive(Debug, thiserror::Error)]
#[error("the ids that other regions accepted are being read from JetStream")]
pub struct NotRead;

/// Looks ids up. Cheap to clone.
#[derive(Clone, Default)]
pub struct Elsewhere {
    database: Arc<RwLock<Option<Arc<Database>>>>,
    /// Whether what the link has told is read.
    ready: Arc<AtomicBool>,
    /// Told when a read failed: the file has to be built anew.
    damaged: Arc<Notify>,
}

/// Reads what other regions accepted.
pub struct ElsewhereTask {
    elsewhere: Elsewhere,
    connection: Connection,
    path: PathBuf,
    clock: Clock,
}

impl Elsewhere {
    /// Ids in the file `path`. The returned task must run for any to be known.
    #[must_use]
    pub fn new(connection: Connection, path: PathBuf, clock: Clock) -> (Self, ElsewhereTask) {
        let elsewhere = Elsewhere::default();
        // Nobody tells anything where there are no other regions, and the hub accepts nothing.
        elsewhere.ready.store(connection.others.is_empty() || connection.is_hub, Ordering::Relaxed);
        (elsewhere.clone(), ElsewhereTask { elsewhere, connection, path, clock })
    }

    /// Whether all is read that other regions told by now.
    ///
    /// # Errors
    /// [`NotRead`]
    pub fn check(&self) -> Result<(), NotRead> {
        if self.ready.load(Ordering::Relaxed) { Ok(()) } else { Err(NotRead) }
    }

    /// What another region accepted under `<app>:<id>`; `None` when it did not, or has not told yet.
    ///
    /// # Errors
    /// [`NotRead`]
    pub(super) fn find(&self, message_id: &str, now: Timestamp) -> Result<Option<Before>, NotRead> {
        self.check()?;
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(database) = database else { return Ok(None) };
        find(&database, message_id, now).map_err(|error| {
            tracing::warn!(
                error = error.as_ref() as &dyn std::error::Error,
                "ids of other regions cannot be read"
            );
            self.ready.store(false, Ordering::Relaxed);
            self.damaged.notify_one();
            NotRead
        })
    }
}

fn find(database: &Database, message_id: &str, now: Timestamp) -> Result<Option<Before>, Failed> {
    let (read, key) = (database.begin_read()?, key(message_id));
    for name in days(now).map(day_name) {
        match read.open_table(Day::new(&name)) {
            Ok(table) => {
                if let Some(found) = table.get(&key)? {
                    return Ok(Before::decode(found.value()));
                }
            }
            Err(TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Where the file stands.
#[derive(Debug, Clone, Default)]
struct Position {
    created: Option<String>,
    sequence: u64,
}

fn open(path: &Path) -> Result<(Arc<Database>, Position), Failed> {
    let database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
    let write = database.begin_write()?;
    let position = {
        let meta = write.open_table(META)?;
        let text = |name| Ok::<_, redb::StorageError>(meta.get(name)?.map(|value| value.value().to_owned()));
        Position {
            created: text("created")?,
            sequence: text("position")?.and_then(|text| text.parse().ok()).unwrap_or(0),
        }
    };
    write.commit()?;
    Ok((Arc::new(database), position))
}

/// Notes ids and moves the position, all or nothing. Days that are over go, and ids of such days are left out.
fn apply(
    database: &Database,
    found: &[(String, Before)],
    position: &Position,
    now: Timestamp,
    durable: bool,
) -> Result<(), Failed> {
    let kept: Vec<_> = days(now).map(day_name).collect();
    let mut write = database.begin_write()?;
    write.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
    for (message_id, found) in found {
        let name = day_name(found.accepted_at.as_millisecond());
        if let Some(value) = found.encode().filter(|_| kept.contains(&name)) {
            // The first region that accepted an id keeps it.
            let mut table = write.open_table(Day::new(&name))?;
            let key = key(message_id);
            if table.get(&key)?.is_none() {
                table.insert(&key, value.as_slice())?;
            }
        }
    }
    let over: Vec<_> = write
        .list_tables()?
        .filter(|table| table.name().starts_with("day ") && !kept.iter().any(|name| name == table.name()))
        .collect();
    for table in over {
        write.delete_table(table)?;
    }
    {
        let mut meta = write.open_table(META)?;
        meta.insert("position", position.sequence.to_string().as_str())?;
        if let Some(created) = &position.created {
            meta.insert("created", created.as_str())?;
        }
    }
    Ok(write.commit()?)
}

impl ElsewhereTask {
    /// Follows the other regions until `stop`; there is nothing to do without any.
    pub async fn run(self, stop: CancellationToken) {
        if self.elsewhere.check().is_ok() {
            return stop.cancelled().await;
        }
        while !stop.is_cancelled() {
            if let Err(error) = Box::pin(self.follow(&stop)).await {
                tracing::warn!(
                    error = error.as_ref() as &dyn std::error::Error,
                    "ids of other regions are read anew"
                );
                let _ = stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
            }
            self.elsewhere.ready.store(false, Ordering::Relaxed);
            *self.elsewhere.database.write().unwrap_or_else(PoisonError::into_inner) = None;
            if !stop.is_cancelled() {
                // It is a copy of what the stream holds.
                let _ = tokio::fs::remove_file(&self.path).await;
            }
        }
    }

    /// Ends with an error, when the stream was made again, or at `stop`.
    async fn follow(&self, stop: &CancellationToken) -> Result<(), Failed> {
        let path = self.path.clone();
        // A damaged file may make its reader panic.
        let (database, mut position) = tokio::task::spawn_blocking(move || open(&path)).await??;
        *self.elsewhere.database.write().unwrap_or_else(PoisonError::into_inner) =
            Some(Arc::clone(&database));
        let created = position.created.clone();
        let mut follower =
            Follower::new(self.connection.clone(), OTHERS_ACCEPTED, "", created, position.sequence);
        let (mut flushed, mut unflushed) = (Instant::now(), false);
        self.look_for_end(&position).await;
        loop {
            // Only waits: what is dropped is asked for again.
            let followed = tokio::select! {
                () = stop.cancelled() => None,
                () = self.elsewhere.damaged.notified() => return Err("its file is damaged".into()),
                followed = follower.next() => Some(followed),
            };
            let (messages, durable) = match followed {
                Some(Followed::Messages(messages)) => (messages, flushed.elapsed() >= FLUSH_INTERVAL),
                Some(Followed::Replaced(_)) => return Ok(()),
                Some(Followed::Quiet(state)) => {
                    position.created.get_or_insert(state.created);
                    self.elsewhere.ready.store(true, Ordering::Relaxed);
                    if !unflushed {
                        continue;
                    }
                    (Vec::new(), true)
                }
                None => (Vec::new(), true),
            };
            position.sequence = messages.last().map_or(position.sequence, |last| last.sequence);
            let found: Vec<_> = messages.iter().filter_map(Before::read).collect();
            let (database, at, now) = (Arc::clone(&database), position.clone(), self.clock.now());
            tokio::task::spawn_blocking(move || apply(&database, &found, &at, now, durable)).await??;
            self.look_for_end(&position).await;
            unflushed = !durable;
            if durable {
                flushed = Instant::now();
            }
            if stop.is_cancelled() {
                return Ok(());
            }
        }
    }

    /// Looks whether all is read, until it once was.
    async fn look_for_end(&self, position: &Position) {
        if self.elsewhere.check().is_ok() {
            return;
        }
        let Ok(state) = self.connection.stream_state(OTHERS_ACCEPTED).await else { return };
        let is_same = position.created.as_ref().is_none_or(|created| *created == state.created);
        if state.messages == 0 || (is_same && position.sequence >= state.last) {
            self.elsewhere.ready.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(region: &str, at: Timestamp) -> Before {
        Before { region: region.parse().unwrap(), accepted_at: at, fingerprint: "f".repeat(64) }
    }

    #[test]
    fn an_id_is_known_for_a_day_and_the_first_region_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ids.redb");
        let (database, _) = open(&path).unwrap();
        let noon: Timestamp = "2026-12-01T12:00:00Z".parse().unwrap();
        let later = |hours| noon + jiff::SignedDuration::from_hours(hours);
        let position = Position { created: Some("c".to_owned()), sequence: 7 };
        let ids = [("shop:a".to_owned(), found("eu", noon)), ("shop:a".to_owned(), found("us", later(1)))];
        apply(&database, &ids, &position, later(1), true).unwrap();
        assert_eq!(find(&database, "shop:a", later(23)).unwrap(), Some(found("eu", noon)));
        assert_eq!(find(&database, "shop:a", later(-1)).unwrap(), Some(found("eu", noon)));
        assert_eq!(find(&database, "shop:b", noon).unwrap(), None);

        // A region that was cut off for long tells of old ids too; they push nothing out.
        let old = [("shop:o".to_owned(), found("us", later(-24 * 9)))];
        apply(&database, &old, &position, later(1), true).unwrap();
        assert_eq!(find(&database, "shop:a", later(1)).unwrap(), Some(found("eu", noon)));
        assert_eq!(find(&database, "shop:o", later(1)).unwrap(), None);

        let next = [("shop:c".to_owned(), found("eu", later(24 * 4)))];
        apply(&database, &next, &position, later(24 * 4), true).unwrap();
        let read = database.begin_read().unwrap();
        let days = read.list_tables().unwrap();
        assert_eq!(days.filter(|table| table.name().starts_with("day ")).count(), 1, "days that are over go");
        drop((read, database));
        let (_, position) = open(&path).unwrap();
        assert_eq!((position.created.as_deref(), position.sequence), (Some("c"), 7));
    }
}
