//! Reading: one read transaction a question, so that an answer is of one moment.

use std::sync::PoisonError;

use jiff::Timestamp;
use peal_common::id::{AppId, NotificationId, RecipientId};
use redb::{ReadTransaction, ReadableDatabase as _};

use super::inbox::{Item, whole};
use super::keys::{
    InboxKey, IndexKey, TimeKey, contact_tag, inbox_number, notification_number, recipient_tag, unsigned,
};
use super::{ById, INBOX, INDEX, LOG, ROWS, Store, StoreError};
use crate::readmodel::AcceptedBefore;
use crate::readmodel::counts::Counts;
use crate::readmodel::logged::{EventKey, Logged};
use crate::readmodel::row::Row;
use crate::readmodel::show::time;
use crate::readmodel::view::{
    Cursor, EventFilter, EventView, Filter, InboxCounts, InboxItem, LiveEvent, NotificationSummary,
    NotificationView, Page,
};

/// Rows, or events, that a search looks at before it answers with what it has and says where to go on.
const LOOKED_AT: usize = 5_000;

impl Store {
    /// What was accepted under an id. A new id costs no look-up, nearly always.
    pub(in crate::readmodel) fn accepted(
        &self,
        app: &AppId,
        id: &NotificationId,
    ) -> Result<Option<AcceptedBefore>, StoreError> {
        let Some(number) = self.app(app) else { return Ok(None) };
        let (lookup, numbered) = (self.lookup(), number_of(app, id));
        if !lookup.seen.may_hold(&numbered.to_be_bytes()) {
            return Ok(None);
        }
        let Some(bytes) = find(&lookup.by_id, number, numbered)? else { return Ok(None) };
        let (found, intake) =
            Row::decode_intake(bytes.value()).ok_or(StoreError::damaged("a row cannot be read"))?;
        let intake = intake.filter(|_| found == id.as_str());
        Ok(intake.map(|intake| AcceptedBefore {
            sequence: intake.sequence,
            fingerprint: intake.fingerprint.into(),
            accepted_at: time(intake.accepted_at),
        }))
    }

    pub(in crate::readmodel) fn notification(
        &self,
        app: &AppId,
        id: &NotificationId,
    ) -> Result<Option<NotificationView>, StoreError> {
        let Some(number) = self.app(app) else { return Ok(None) };
        let read = self.database.begin_read()?;
        let Some(bytes) = find(&ById::of(&read)?, number, number_of(app, id))? else { return Ok(None) };
        let row = decode(bytes.value())?;
        if *row.id != *id.as_str() {
            return Ok(None);
        }
        let mut events = timeline(&read, number, &row)?;
        for event in &mut events {
            event.1.notification = None;
        }
        Ok(row.summary().map(|summary| NotificationView {
            summary,
            events: events.into_iter().map(|(_, event)| event).collect(),
            events_truncated: row.timeline_cut,
        }))
    }

    /// The notifications that a filter lets through, the latest first. A contact or a recipient is found by the index;
    /// everything else is looked for in the order of time.
    pub(in crate::readmodel) fn search(
        &self,
        app: &AppId,
        filter: &Filter,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<NotificationSummary>, StoreError> {
        let mut page = Page { data: Vec::new(), next: None };
        let Some(number) = self.app(app) else { return Ok(page) };
        let read = self.database.begin_read()?;
        let rows = read.open_table(ROWS)?;
        let (from, to) = bounds(filter.from, filter.to, after);
        let tag = match (&filter.contact, &filter.recipient) {
            (Some(contact), _) => Some(contact_tag(app.as_str(), contact.channel, &contact.index)),
            (None, Some(recipient)) => Some(recipient_tag(app.as_str(), recipient.as_str())),
            (None, None) => None,
        };
        let mut search = Search { filter, limit, looked: 0, last: None, page: &mut page };
        if let Some(tag) = tag {
            let key = |cursor: Cursor| IndexKey { tag, time: cursor.time, order: cursor.order }.bytes();
            for entry in INDEX.view(&read)?.keys_back(&key(from), &key(to))? {
                let IndexKey { time, order, .. } = IndexKey::read(entry?.value());
                let bytes = rows.get(&TimeKey { app: number, time, order }.bytes())?;
                let bytes = bytes.ok_or(StoreError::damaged("a row is missing"))?;
                if !search.look(Cursor { time, order }, bytes.value())? {
                    break;
                }
            }
        } else {
            let key =
                |cursor: Cursor| TimeKey { app: number, time: cursor.time, order: cursor.order }.bytes();
            for entry in rows.range::<&[u8; TimeKey::BYTES]>(&key(from)..&key(to))?.rev() {
                let (key, bytes) = entry?;
                let TimeKey { time, order, .. } = TimeKey::read(key.value());
                if !search.look(Cursor { time, order }, bytes.value())? {
                    break;
                }
            }
        }
        Ok(page)
    }

    /// The events that a filter lets through, the latest first.
    pub(in crate::readmodel) fn events(
        &self,
        app: &AppId,
        filter: &EventFilter,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<EventView>, StoreError> {
        let mut page = Page { data: Vec::new(), next: None };
        let Some(number) = self.app(app) else { return Ok(page) };
        let read = self.database.begin_read()?;
        let (from, to) = bounds(filter.from, filter.to, after);
        if let Some(id) = &filter.notification {
            // The notification's own timeline is the shorter way.
            let Some(bytes) = find(&ById::of(&read)?, number, number_of(app, id))? else { return Ok(page) };
            let mut last = None;
            for (key, event) in timeline(&read, number, &decode(bytes.value())?)?.into_iter().rev() {
                let place = Cursor { time: unsigned(key.at), order: key.order };
                if place < from || place >= to {
                    continue;
                }
                if page.data.len() == limit {
                    page.next = last;
                    break;
                }
                last = Some(place);
                if passes(filter, &event) {
                    page.data.push(event);
                }
            }
            return Ok(page);
        }
        let key = |cursor: Cursor| TimeKey { app: number, time: cursor.time, order: cursor.order }.bytes();
        let log = read.open_table(LOG)?;
        let mut last = None;
        for (looked, entry) in log.range::<&[u8; TimeKey::BYTES]>(&key(from)..&key(to))?.rev().enumerate() {
            if looked == LOOKED_AT || page.data.len() == limit {
                page.next = last;
                break;
            }
            let (key, bytes) = entry?;
            let TimeKey { time, order, .. } = TimeKey::read(key.value());
            last = Some(Cursor { time, order });
            let event = event_view(time, order, bytes.value())?;
            if passes(filter, &event) {
                page.data.push(event);
            }
        }
        Ok(page)
    }

    /// The latest events of all apps, the latest first.
    pub(in crate::readmodel) fn latest(&self, limit: usize) -> Result<Vec<LiveEvent>, StoreError> {
        let apps = self.apps.read().unwrap_or_else(PoisonError::into_inner).clone();
        let read = self.database.begin_read()?;
        let log = read.open_table(LOG)?;
        let mut found = Vec::new();
        for (name, app) in apps {
            let from = TimeKey { app, time: 0, order: 0 }.bytes();
            let to = TimeKey { app, time: u64::MAX, order: u64::MAX }.bytes();
            for entry in log.range::<&[u8; TimeKey::BYTES]>(&from..&to)?.rev().take(limit) {
                let (key, bytes) = entry?;
                let TimeKey { time, order, .. } = TimeKey::read(key.value());
                let event = event_view(time, order, bytes.value())?;
                found.push(((time, order), LiveEvent { app: name.clone(), event }));
            }
        }
        found.sort_by(|(a, _), (b, _)| b.cmp(a));
        found.truncate(limit);
        Ok(found.into_iter().map(|(_, event)| event).collect())
    }

    pub(in crate::readmodel) fn counts(&self) -> Counts {
        self.tally.read().unwrap_or_else(PoisonError::into_inner).counts()
    }

    /// Items of an inbox that are of use at `now`, the newest first, older than `before`.
    pub(in crate::readmodel) fn inbox(
        &self,
        app: &AppId,
        recipient: &RecipientId,
        before: Option<u64>,
        limit: usize,
        archived: Option<bool>,
        now: i64,
    ) -> Result<(Vec<InboxItem>, Option<u64>), StoreError> {
        let mut items = Vec::new();
        let mut next = None;
        self.each_item(app, recipient, before, |sequence, item| {
            let wanted = archived.is_none_or(|archived| archived == item.archived.is_some());
            if !wanted || item.expires_at <= now {
                return true;
            }
            if items.len() == limit {
                next = items.last().map(|item: &InboxItem| item.sequence);
                return false;
            }
            items.extend(item.view(sequence));
            true
        })?;
        Ok((items, next))
    }

    /// One item of an inbox.
    pub(in crate::readmodel) fn inbox_item(
        &self,
        app: &AppId,
        recipient: &RecipientId,
        number: u128,
        now: i64,
    ) -> Result<Option<InboxItem>, StoreError> {
        let owner = inbox_number(app.as_str(), recipient.as_str());
        let read = self.database.begin_read()?;
        let place = read.open_table(super::ITEMS)?.get(&super::keys::item_key(owner, number))?;
        let Some(sequence) = place.map(|sequence| sequence.value()) else { return Ok(None) };
        let bytes = read.open_table(INBOX)?.get(&InboxKey { owner, sequence }.bytes())?;
        let bytes = bytes.ok_or(StoreError::damaged("an item is missing"))?;
        let item = Item::decode(bytes.value()).ok_or(StoreError::damaged("an item cannot be read"))?;
        Ok(if item.expires_at > now { item.view(sequence) } else { None })
    }

    /// Items that came or changed after a position, in the order of their changes.
    pub(in crate::readmodel) fn inbox_since(
        &self,
        app: &AppId,
        recipient: &RecipientId,
        position: u64,
        now: i64,
    ) -> Result<Vec<InboxItem>, StoreError> {
        let mut items = Vec::new();
        self.each_item(app, recipient, None, |sequence, item| {
            if item.changed > position && item.expires_at > now {
                items.extend(item.view(sequence));
            }
            true
        })?;
        items.sort_by_key(|item| item.changed);
        Ok(items)
    }

    pub(in crate::readmodel) fn inbox_counts(
        &self,
        app: &AppId,
        recipient: &RecipientId,
        now: i64,
    ) -> Result<InboxCounts, StoreError> {
        let mut counts = InboxCounts::default();
        self.each_item(app, recipient, None, |_, item| {
            if item.archived.is_none() && item.expires_at > now {
                counts.total += 1;
                counts.unread += u32::from(item.read.is_none());
                counts.unseen += u32::from(item.read.is_none() && item.seen.is_none());
            }
            true
        })?;
        Ok(counts)
    }

    /// Goes through an inbox, the newest item first, as long as `each` answers true. An inbox has at most
    /// [`MAX_ITEMS`](super::inbox::MAX_ITEMS) items.
    fn each_item(
        &self,
        app: &AppId,
        recipient: &RecipientId,
        before: Option<u64>,
        mut each: impl FnMut(u64, &Item<'_>) -> bool,
    ) -> Result<(), StoreError> {
        let owner = inbox_number(app.as_str(), recipient.as_str());
        let (from, mut to) = whole(owner);
        if let Some(sequence) = before {
            to = InboxKey { owner, sequence }.bytes();
        }
        let read = self.database.begin_read()?;
        for entry in read.open_table(INBOX)?.range::<&[u8; InboxKey::BYTES]>(&from..&to)?.rev() {
            let (key, bytes) = entry?;
            let item = Item::decode(bytes.value()).ok_or(StoreError::damaged("an item cannot be read"))?;
            if !each(InboxKey::read(key.value()).sequence, &item) {
                break;
            }
        }
        Ok(())
    }
}

/// A search on its way.
struct Search<'s> {
    filter: &'s Filter,
    limit: usize,
    looked: usize,
    last: Option<Cursor>,
    page: &'s mut Page<NotificationSummary>,
}

impl Search<'_> {
    /// Looks at a row. Whether to go on.
    fn look(&mut self, place: Cursor, bytes: &[u8]) -> Result<bool, StoreError> {
        if self.looked == LOOKED_AT || self.page.data.len() == self.limit {
            self.page.next = self.last;
            return Ok(false);
        }
        self.looked += 1;
        self.last = Some(place);
        let row = decode(bytes)?;
        if matches(self.filter, &row) {
            self.page.data.extend(row.summary());
        }
        Ok(true)
    }
}

fn matches(filter: &Filter, row: &Row) -> bool {
    let intake = row.intake.as_ref();
    filter.recipient.as_ref().is_none_or(|wanted| row.recipients.iter().any(|it| **it == *wanted.as_str()))
        && filter.contact.as_ref().is_none_or(|wanted| {
            row.contacts().any(|(channel, index)| channel == wanted.channel && index == wanted.index)
        })
        && filter
            .category
            .as_ref()
            .is_none_or(|wanted| intake.is_some_and(|it| *it.category == *wanted.as_str()))
        && filter.channel.is_none_or(|wanted| row.deliveries.iter().any(|it| it.channel == Some(wanted)))
        && filter.status.is_none_or(|wanted| row.status() == wanted)
}

fn passes(filter: &EventFilter, event: &EventView) -> bool {
    filter.kind.is_none_or(|wanted| event.kind == wanted)
        && filter.channel.is_none_or(|wanted| event.channel == Some(wanted))
        && filter.recipient.as_ref().is_none_or(|wanted| event.recipient.as_ref() == Some(wanted))
}

/// From `from` on, to before `to` and before what was already handed out.
fn bounds(from: Option<Timestamp>, to: Option<Timestamp>, after: Option<Cursor>) -> (Cursor, Cursor) {
    let start = |at: Timestamp| Cursor { time: unsigned(at.as_millisecond()), order: 0 };
    let end = to.map_or(Cursor { time: u64::MAX, order: u64::MAX }, start);
    let from = from.map_or(Cursor { time: 0, order: 0 }, start);
    let to = after.map_or(end, |after| after.min(end));
    // A range that ends before it begins is none.
    (from.min(to), to)
}

type Bytes = redb::AccessGuard<'static, &'static [u8]>;

fn number_of(app: &AppId, id: &NotificationId) -> u128 {
    notification_number(app.as_str(), id.as_str())
}

/// The row of a notification, by the numbers of its app and of itself.
fn find(by_id: &ById, app: u32, id: u128) -> Result<Option<Bytes>, StoreError> {
    let Some(time) = by_id.ids.get(&id.to_be_bytes())?.map(|time| time.value()) else {
        return Ok(None);
    };
    let key = TimeKey { app, time, order: (id >> 64) as u64 };
    by_id.rows.get(&key.bytes())?.ok_or(StoreError::damaged("a row is missing")).map(Some)
}

fn decode(bytes: &[u8]) -> Result<Row, StoreError> {
    Row::decode(bytes).ok_or(StoreError::damaged("a row cannot be read"))
}

/// The events that a row names, the earliest first.
fn timeline(read: &ReadTransaction, app: u32, row: &Row) -> Result<Vec<(EventKey, EventView)>, StoreError> {
    let log = read.open_table(LOG)?;
    let mut events = Vec::with_capacity(row.timeline.len());
    for key in row.timeline.iter().copied() {
        // An event that says to be older than the notification may have been removed before it.
        if let Some(bytes) = log.get(&TimeKey::of_event(app, key).bytes())? {
            let logged =
                Logged::decode(bytes.value()).ok_or(StoreError::damaged("an event cannot be read"))?;
            events.push((key, logged.view(key)));
        }
    }
    Ok(events)
}

fn event_view(time: u64, order: u64, bytes: &[u8]) -> Result<EventView, StoreError> {
    let logged = Logged::decode(bytes).ok_or(StoreError::damaged("an event cannot be read"))?;
    Ok(logged.view(EventKey { at: i64::try_from(time).unwrap_or_default(), order }))
}
