//! Removing what is too old, a little at a time.

use std::ops::Bound;
use std::sync::PoisonError;

use redb::{ReadableTable as _, Table};

use super::fold::index_entries;
use super::keys::{InboxKey, TimeKey, notification_number, unsigned};
use super::{Store, StoreError, Tables, inbox};
use crate::readmodel::counts::Tally;
use crate::readmodel::row::Row;

/// The most rows, and events, that one transaction removes: well above what arrives in the time between two.
const STEP: usize = 2_000;
/// How many items of inboxes one transaction looks at.
const INBOX_STEP: usize = 1_000;

/// From which time on things are kept, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy)]
pub(in crate::readmodel) struct Cutoffs {
    pub(in crate::readmodel) events: i64,
    pub(in crate::readmodel) inbox: i64,
    pub(in crate::readmodel) now: i64,
}

impl Store {
    /// Whether there is more to remove.
    pub(super) fn expire(
        &self,
        tables: &mut Tables<'_>,
        tally: &mut Tally,
        cutoffs: &Cutoffs,
    ) -> Result<bool, StoreError> {
        let apps = self.apps.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut rows_left = STEP;
        let mut events_left = STEP;
        for (name, app) in apps {
            let from = TimeKey { app, time: 0, order: 0 }.bytes();
            let to = TimeKey { app, time: unsigned(cutoffs.events), order: 0 }.bytes();
            let keys = first_keys(&tables.rows, &from, &to, rows_left)?;
            rows_left -= keys.len();
            for bytes in keys {
                let Some(row) = tables.rows.remove(&bytes)?.and_then(|value| Row::decode(value.value()))
                else {
                    return Err(StoreError::damaged("a row cannot be read"));
                };
                tally.remove(&row);
                tables.ids.remove(&notification_number(name.as_str(), &row.id).to_be_bytes())?;
                for entry in index_entries(&name, &row, TimeKey::read(&bytes)) {
                    tables.index.remove(&entry)?;
                }
            }
            let keys = first_keys(&tables.log, &from, &to, events_left)?;
            events_left -= keys.len();
            for key in keys {
                tables.log.remove(&key)?;
            }
        }
        self.sweep_inboxes(tables, cutoffs)?;
        Ok(rows_left == 0 || events_left == 0)
    }

    /// Items stand in the order of inboxes, not of time, so all of them are looked at, some each time.
    fn sweep_inboxes(&self, tables: &mut Tables<'_>, cutoffs: &Cutoffs) -> Result<(), StoreError> {
        let mut place = self.sweep.lock().unwrap_or_else(PoisonError::into_inner);
        let mut dead = Vec::new();
        let mut last = None;
        let from = Bound::Excluded(&*place);
        for (looked, entry) in
            tables.inbox.range::<&[u8; InboxKey::BYTES]>((from, Bound::Unbounded))?.enumerate()
        {
            if looked == INBOX_STEP {
                break;
            }
            let (key, value) = entry?;
            last = Some(*key.value());
            let item =
                inbox::Item::decode(value.value()).ok_or(StoreError::damaged("an item cannot be read"))?;
            if item.expires_at <= cutoffs.now || item.at < cutoffs.inbox {
                dead.push(InboxKey::read(key.value()));
            }
        }
        for key in dead {
            inbox::remove(tables, key)?;
        }
        *place = last.unwrap_or([0; InboxKey::BYTES]);
        Ok(())
    }
}

fn first_keys(
    table: &Table<'_, &'static [u8; TimeKey::BYTES], &'static [u8]>,
    from: &[u8; TimeKey::BYTES],
    to: &[u8; TimeKey::BYTES],
    limit: usize,
) -> Result<Vec<[u8; TimeKey::BYTES]>, StoreError> {
    let mut keys = Vec::new();
    for entry in table.range::<&[u8; TimeKey::BYTES]>(from..to)?.take(limit) {
        keys.push(*entry?.0.value());
    }
    Ok(keys)
}
