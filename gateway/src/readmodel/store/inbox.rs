//! The inboxes: items with their marks.

use peal_common::envelope::{InboxChange, InboxMark};
use peal_common::id::{AppId, RecipientId};
use redb::ReadableTable as _;

use super::keys::{InboxKey, inbox_number, item_key};
use super::{Applied, StoreError, Tables};
use crate::readmodel::codec::{Decoder, Encoder};
use crate::readmodel::messages::{InboxMessage, delivery_id};
use crate::readmodel::show::time;
use crate::readmodel::view::{InboxItem, InboxLive};

/// Items that an inbox holds, as in the stream; of more, the newest.
pub(super) const MAX_ITEMS: u32 = 500;

/// An item as it is kept. Times are milliseconds since the Unix epoch.
pub(super) struct Item<'a> {
    pub(super) changed: u64,
    pub(super) item: u128,
    pub(super) notification: &'a str,
    pub(super) category: &'a str,
    pub(super) at: i64,
    pub(super) expires_at: i64,
    pub(super) seen: Option<i64>,
    pub(super) read: Option<i64>,
    pub(super) archived: Option<i64>,
    pub(super) sealed: &'a str,
}

impl<'a> Item<'a> {
    fn encode(&self) -> Vec<u8> {
        let mut out = Encoder(Vec::with_capacity(96 + self.sealed.len()));
        out.number(self.changed);
        out.raw(&self.item.to_be_bytes());
        out.text(self.notification);
        out.text(self.category);
        out.signed(self.at);
        out.signed(self.expires_at);
        for mark in [self.seen, self.read, self.archived] {
            out.optional(mark, Encoder::signed);
        }
        out.text(self.sealed);
        out.0
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut read = Decoder(bytes);
        Some(Item {
            changed: read.number()?,
            item: read.raw().map(u128::from_be_bytes)?,
            notification: read.text()?,
            category: read.text()?,
            at: read.signed()?,
            expires_at: read.signed()?,
            seen: read.optional(Decoder::signed)?,
            read: read.optional(Decoder::signed)?,
            archived: read.optional(Decoder::signed)?,
            sealed: read.text()?,
        })
    }

    pub(super) fn view(&self, sequence: u64) -> Option<InboxItem> {
        Some(InboxItem {
            sequence,
            changed: self.changed,
            item: delivery_id(self.item)?,
            notification: self.notification.parse().ok()?,
            category: self.category.parse().ok()?,
            at: time(self.at),
            expires_at: time(self.expires_at),
            sealed: self.sealed.to_owned(),
            seen_at: self.seen.map(time),
            read_at: self.read.map(time),
            archived_at: self.archived.map(time),
        })
    }
}

/// Folds an entry in. An item that comes again, and a mark on an item that is gone, change nothing.
pub(super) fn apply(
    tables: &mut Tables<'_>,
    message: InboxMessage,
    applied: &mut Applied,
    live: bool,
) -> Result<(), StoreError> {
    let InboxMessage { sequence, entry, item } = message;
    let owner = inbox_number(entry.app.as_str(), entry.recipient.as_str());
    let place = item_key(owner, item);
    let found = tables.items.get(&place)?.map(|sequence| sequence.value());
    let mark = match entry.what {
        InboxChange::Item { category, expires_at, sealed } => {
            if found.is_some() {
                return Ok(());
            }
            let item = Item {
                changed: sequence,
                item,
                notification: entry.notification.as_str(),
                category: category.as_str(),
                at: entry.at.as_millisecond(),
                expires_at: expires_at.as_millisecond(),
                seen: None,
                read: None,
                archived: None,
                sealed: &sealed,
            };
            insert(tables, InboxKey { owner, sequence }, &item)?;
            None
        }
        InboxChange::Mark(mark) => {
            let Some(at_sequence) = found else { return Ok(()) };
            let key = InboxKey { owner, sequence: at_sequence };
            if !add_mark(tables, key, mark, entry.at.as_millisecond(), sequence)? {
                return Ok(());
            }
            Some(mark)
        }
    };
    if live {
        let (app, recipient) = (entry.app, entry.recipient);
        applied.inbox.push(InboxLive { app, recipient, sequence, item: entry.item, mark });
    }
    Ok(())
}

fn insert(tables: &mut Tables<'_>, key: InboxKey, item: &Item<'_>) -> Result<(), StoreError> {
    tables.inbox.insert(&key.bytes(), item.encode().as_slice())?;
    tables.items.insert(&item_key(key.owner, item.item), key.sequence)?;
    let size = tables.sizes.get(&key.owner.to_be_bytes())?.map_or(0, |size| size.value()) + 1;
    tables.sizes.insert(&key.owner.to_be_bytes(), size)?;
    if size > MAX_ITEMS {
        let oldest =
            tables.inbox.range::<&[u8; InboxKey::BYTES]>(&whole(key.owner).0..&whole(key.owner).1)?.next();
        let oldest = oldest.transpose()?.map(|(key, _)| InboxKey::read(key.value()));
        if let Some(oldest) = oldest {
            remove(tables, oldest)?;
        }
    }
    Ok(())
}

/// Whether the item had not been marked so before.
fn add_mark(
    tables: &mut Tables<'_>,
    key: InboxKey,
    mark: InboxMark,
    at: i64,
    sequence: u64,
) -> Result<bool, StoreError> {
    let bytes =
        tables.inbox.get(&key.bytes())?.ok_or(StoreError::damaged("an item is missing"))?.value().to_vec();
    let mut item = Item::decode(&bytes).ok_or(StoreError::damaged("an item cannot be read"))?;
    let place = match mark {
        InboxMark::Seen => &mut item.seen,
        InboxMark::Read => &mut item.read,
        InboxMark::Archived => &mut item.archived,
    };
    if place.is_some() {
        return Ok(false);
    }
    *place = Some(at);
    item.changed = sequence;
    tables.inbox.insert(&key.bytes(), item.encode().as_slice())?;
    Ok(true)
}

/// Removes an item.
pub(super) fn remove(tables: &mut Tables<'_>, key: InboxKey) -> Result<(), StoreError> {
    let removed = match tables.inbox.remove(&key.bytes())? {
        Some(value) => Item::decode(value.value()).map(|item| item.item),
        None => return Ok(()),
    };
    let item = removed.ok_or(StoreError::damaged("an item cannot be read"))?;
    tables.items.remove(&item_key(key.owner, item))?;
    let owner = key.owner.to_be_bytes();
    let size = tables.sizes.get(&owner)?.map_or(0, |size| size.value()).saturating_sub(1);
    if size == 0 {
        tables.sizes.remove(&owner)?;
    } else {
        tables.sizes.insert(&owner, size)?;
    }
    Ok(())
}

/// Removes what a recipient's inbox got until a time.
pub(super) fn forget(
    tables: &mut Tables<'_>,
    app: &AppId,
    recipient: &RecipientId,
    until_ms: i64,
) -> Result<(), StoreError> {
    let (from, to) = whole(inbox_number(app.as_str(), recipient.as_str()));
    let mut keys = Vec::new();
    for entry in tables.inbox.range::<&[u8; InboxKey::BYTES]>(&from..&to)? {
        let (key, value) = entry?;
        let item = Item::decode(value.value()).ok_or(StoreError::damaged("an item cannot be read"))?;
        if item.at <= until_ms {
            keys.push(InboxKey::read(key.value()));
        }
    }
    keys.into_iter().try_for_each(|key| remove(tables, key))
}

/// The keys of an inbox, from the oldest item to behind the newest.
pub(super) fn whole(owner: u128) -> ([u8; InboxKey::BYTES], [u8; InboxKey::BYTES]) {
    (InboxKey { owner, sequence: 0 }.bytes(), InboxKey { owner, sequence: u64::MAX }.bytes())
}
