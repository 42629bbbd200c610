//! Folding notifications and events into rows. All messages of a batch that belong to one notification meet in memory,
//! so that its row is read once and written once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use peal_common::id::AppId;
use redb::ReadableTable as _;

use super::keys::{IndexKey, TimeKey, contact_tag, notification_number, recipient_tag, unsigned};
use super::seen::SeenIds;
use super::{Applied, Store, StoreError, Tables};
use crate::readmodel::counts::Tally;
use crate::readmodel::logged::Logged;
use crate::readmodel::messages::{AcceptedMessage, EventMessage};
use crate::readmodel::row::Row;
use crate::readmodel::view::LiveEvent;

/// One pass over a batch.
pub(super) struct Fold<'f, 't> {
    store: &'f Store,
    seen: Arc<SeenIds>,
    tables: &'f mut Tables<'t>,
    tally: &'f mut Tally,
    applied: &'f mut Applied,
    live: bool,
    rows: HashMap<u128, Touched>,
    log: Vec<([u8; TimeKey::BYTES], Vec<u8>)>,
}

/// A row that messages of the batch belong to.
struct Touched {
    app: u32,
    name: AppId,
    row: Row,
    /// Where it stood and what it was before.
    before: Option<(TimeKey, Row)>,
}

impl<'f, 't> Fold<'f, 't> {
    pub(super) fn new(
        store: &'f Store,
        tables: &'f mut Tables<'t>,
        tally: &'f mut Tally,
        applied: &'f mut Applied,
        live: bool,
    ) -> Self {
        let seen = Arc::clone(&store.lookup().seen);
        Fold { store, seen, tables, tally, applied, live, rows: HashMap::new(), log: Vec::new() }
    }

    pub(super) fn apply(
        mut self,
        accepted: Vec<AcceptedMessage>,
        events: Vec<EventMessage>,
    ) -> Result<(), StoreError> {
        // An entry is large: a table that grows while it fills would move each several times.
        self.rows.reserve(accepted.len().max(events.len()));
        for message in accepted {
            let logged = Logged::accepted(message.id.as_str());
            let (key, bytes) = logged.encode(message.part.accepted_at, &[]);
            if self.live {
                let event = logged.view(key);
                self.applied.events.push(LiveEvent { app: message.app.clone(), event });
            }
            let touched = self.touch(message.app, message.id.as_str())?;
            touched.row.accept(
                message.part,
                key,
                message.recipients.into_iter().map(|it| it.as_str().into()),
            );
            let place = TimeKey::of_event(touched.app, key).bytes();
            self.log.push((place, bytes));
        }
        for message in events {
            let logged = Logged::of(&message.event, message.delivery);
            let (key, bytes) = logged.encode(message.event.at.as_millisecond(), &message.planned);
            if self.live {
                let event = logged.view(key);
                self.applied.events.push(LiveEvent { app: message.event.app.clone(), event });
            }
            let touched = self.touch(message.event.app.clone(), message.event.notification.as_str())?;
            touched.row.record(&message.event, key, message.delivery, &message.planned);
            let place = TimeKey::of_event(touched.app, key).bytes();
            self.log.push((place, bytes));
        }
        self.write()
    }

    fn touch(&mut self, app: AppId, id: &str) -> Result<&mut Touched, StoreError> {
        let number = notification_number(app.as_str(), id);
        match self.rows.entry(number) {
            Entry::Occupied(found) => Ok(found.into_mut()),
            Entry::Vacant(place) => {
                let app_number = self.store.number_app(self.tables, &app)?;
                let mut touched = Touched { app: app_number, name: app, row: Row::new(id), before: None };
                let id = number.to_be_bytes();
                // Nearly all that was accepted is new.
                let known = if self.seen.may_hold(&id) { self.tables.ids.get(&id)? } else { None };
                if let Some(time) = known {
                    let key = TimeKey { app: app_number, time: time.value(), order: (number >> 64) as u64 };
                    let bytes = self.tables.rows.get(&key.bytes())?;
                    let bytes = bytes.ok_or(StoreError::damaged("a row is missing"))?;
                    let row =
                        Row::decode(bytes.value()).ok_or(StoreError::damaged("a row cannot be read"))?;
                    touched.before = Some((key, row.clone()));
                    touched.row = row;
                }
                Ok(place.insert(touched))
            }
        }
    }

    /// Writes what changed, in the order of keys.
    fn write(mut self) -> Result<(), StoreError> {
        let mut ids = Vec::new();
        let mut rows = Vec::with_capacity(self.rows.len());
        let mut index = Vec::new();
        for (number, touched) in self.rows.drain() {
            let Touched { app, name, row, before } = touched;
            if before.as_ref().is_some_and(|(_, before)| *before == row) {
                continue;
            }
            let key = TimeKey::of_row(app, row.time(), number);
            if let Some((old_key, old)) = &before {
                self.tally.remove(old);
                let moved = *old_key != key;
                if moved {
                    self.tables.rows.remove(&old_key.bytes())?;
                }
                if moved || old.recipients != row.recipients || !old.contacts().eq(row.contacts()) {
                    let known = index_entries(&name, old, *old_key);
                    let wanted = index_entries(&name, &row, key);
                    for gone in known.iter().filter(|entry| wanted.binary_search(entry).is_err()) {
                        self.tables.index.remove(gone)?;
                    }
                    index.extend(wanted.into_iter().filter(|entry| known.binary_search(entry).is_err()));
                }
                if moved {
                    ids.push((number.to_be_bytes(), key.time));
                }
            } else {
                ids.push((number.to_be_bytes(), key.time));
                index.extend(index_entries(&name, &row, key));
            }
            self.tally.add(&row);
            rows.push((key.bytes(), row.encode()));
        }
        ids.sort_unstable();
        for (number, time) in ids {
            self.seen.add(&number);
            self.tables.ids.insert(&number, time)?;
        }
        rows.sort_unstable();
        for (key, bytes) in rows {
            self.tables.rows.insert(&key, bytes.as_slice())?;
        }
        index.sort_unstable();
        for key in index {
            self.tables.index.insert(&key, ())?;
        }
        self.log.sort_unstable();
        for (key, bytes) in self.log {
            self.tables.log.insert(&key, bytes.as_slice())?;
        }
        Ok(())
    }
}

/// Every key by which a row is found in the index.
pub(super) fn index_entries(app: &AppId, row: &Row, key: TimeKey) -> Vec<[u8; IndexKey::BYTES]> {
    let recipients = row.recipients.iter().map(|recipient| recipient_tag(app.as_str(), recipient));
    let contacts = row.contacts().map(|(channel, index)| contact_tag(app.as_str(), channel, index));
    let entry = |tag| IndexKey { tag, time: unsigned(row.time()), order: key.order }.bytes();
    let mut entries: Vec<_> = recipients.chain(contacts).map(entry).collect();
    entries.sort_unstable();
    entries.dedup();
    entries
}
