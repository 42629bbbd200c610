//! One notification as the read model keeps it, and the pure fold that messages move it with.
//!
//! Every field is a join: the greatest, the earliest, or a set. So the same messages give the same row in whatever
//! order they come and however often, also when events overtake the notification that they belong to.

use peal_common::channel::{Channel, Priority};
use peal_common::event::{Event, EventType, Status};

use super::logged::EventKey;

/// Deliveries that one row holds; of more, those with the lowest ids.
pub(super) const MAX_DELIVERIES: usize = 2_000;
/// Events of the timeline; of more, the earliest.
pub(super) const MAX_TIMELINE: usize = 200;

/// A row. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) id: Box<str>,
    /// What its INTAKE message says; missing while only events have come.
    pub(super) intake: Option<IntakePart>,
    /// The time of its earliest event.
    pub(super) first_at: Option<i64>,
    /// The latest that was said about the notification as a whole.
    pub(super) whole: Option<Standing>,
    /// The latest that was said about a recipient for whom there is no delivery.
    pub(super) aside: Option<Standing>,
    pub(super) marks: Marks,
    /// Sorted, at most [`MAX_DELIVERIES`].
    pub(super) recipients: Vec<Box<str>>,
    /// Sorted by id.
    pub(super) deliveries: Vec<Delivery>,
    pub(super) deliveries_cut: bool,
    /// Sorted.
    pub(super) timeline: Vec<EventKey>,
    pub(super) timeline_cut: bool,
}

/// What the INTAKE message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IntakePart {
    pub(super) sequence: u64,
    pub(super) accepted_at: i64,
    pub(super) expires_at: i64,
    pub(super) send_at: Option<i64>,
    /// Where it was accepted.
    pub(super) region: Box<str>,
    /// Whether it may not leave that region.
    pub(super) pinned: bool,
    pub(super) category: Box<str>,
    pub(super) priority: Priority,
    pub(super) fingerprint: Box<str>,
}

/// Where a delivery or a notification stands. The greatest wins: a replay starts afresh, what is settled never becomes
/// unsettled again, and of equals the latest says why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standing {
    pub(super) replays: u32,
    pub(super) status: Status,
    pub(super) at: i64,
    pub(super) reason: Option<Box<str>>,
    pub(super) until: Option<i64>,
}

/// What recipients did, each with the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Marks {
    pub(super) seen: Option<i64>,
    pub(super) opened: Option<i64>,
    pub(super) clicked: Option<i64>,
    pub(super) acknowledged: Option<i64>,
}

/// One delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Delivery {
    /// The 16 bytes that its id shows in hexadecimal.
    pub(super) id: u128,
    pub(super) recipient: Option<Box<str>>,
    pub(super) channel: Option<Channel>,
    /// The blind index of its contact.
    pub(super) contact: Option<Box<str>>,
    pub(super) standing: Option<Standing>,
    /// The replay that they belong to, and how many.
    pub(super) attempts: Option<(u32, u32)>,
    /// The last provider: the replay, the time and the name.
    pub(super) provider: Option<(u32, i64, Box<str>)>,
    /// What its provider calls what was sent last: the replay, the time and the name.
    pub(super) sent_as: Option<(u32, i64, Box<str>)>,
    pub(super) updated_at: i64,
    pub(super) marks: Marks,
}

impl Row {
    pub(super) fn new(id: &str) -> Self {
        Row {
            id: id.into(),
            intake: None,
            first_at: None,
            whole: None,
            aside: None,
            marks: Marks::default(),
            recipients: Vec::new(),
            deliveries: Vec::new(),
            deliveries_cut: false,
            timeline: Vec::new(),
            timeline_cut: false,
        }
    }

    /// The time by which the row is sorted: that of the acceptance, as soon as it is known.
    pub(super) fn time(&self) -> i64 {
        self.intake.as_ref().map(|intake| intake.accepted_at).or(self.first_at).unwrap_or(0)
    }

    /// Folds the INTAKE message in, whose event has the place `key`. An id may be taken again once it is no longer
    /// recognised as a repetition: then the later message counts, and both stand in the timeline.
    pub(super) fn accept(
        &mut self,
        intake: IntakePart,
        key: EventKey,
        recipients: impl IntoIterator<Item = Box<str>>,
    ) {
        self.timeline_cut |= insert_bounded(&mut self.timeline, key, MAX_TIMELINE);
        for recipient in recipients {
            self.add_recipient(recipient);
        }
        if self.intake.as_ref().is_none_or(|known| intake.sequence > known.sequence) {
            self.intake = Some(intake);
        }
    }

    /// Folds an event in. `delivery` is the event's delivery and `planned` those that it lists, as numbers.
    pub(super) fn record(&mut self, event: &Event, key: EventKey, delivery: Option<u128>, planned: &[u128]) {
        let at = event.at.as_millisecond();
        let replays = event.replays.unwrap_or(0);
        self.first_at = Some(self.first_at.map_or(at, |first| first.min(at)));
        self.timeline_cut |= insert_bounded(&mut self.timeline, key, MAX_TIMELINE);
        for (id, listed) in planned.iter().zip(&event.deliveries) {
            self.add_recipient(listed.recipient.as_str().into());
            if let Some(delivery) = self.delivery(*id) {
                delivery.recipient.join(Some(listed.recipient.as_str().into()));
                delivery.channel.join(Some(listed.channel));
                delivery
                    .contact
                    .join(Some(&*listed.contact).filter(|contact| !contact.is_empty()).map(Into::into));
                delivery.standing.join(Some(Standing::new(replays, Status::Queued, at)));
                delivery.updated_at.join(at);
            }
        }
        let recipient = event.recipient.as_ref().map(|recipient| Box::from(recipient.as_str()));
        if let Some(recipient) = recipient.clone() {
            self.add_recipient(recipient);
        }
        let standing = event.kind.status().map(|status| Standing {
            reason: event.reason.as_deref().map(Into::into),
            until: event.until.map(|until| until.as_millisecond()),
            ..Standing::new(replays, status, at)
        });
        let Some(id) = delivery else {
            self.marks.add(event.kind, at);
            // A plan speaks of its deliveries, and a repeated fan-out says nothing about where they stand.
            let standing = standing.filter(|standing| standing.status != Status::Queued);
            let about = if recipient.is_some() { &mut self.aside } else { &mut self.whole };
            about.join(standing);
            return;
        };
        if let Some(delivery) = self.delivery(id) {
            delivery.recipient.join(recipient);
            delivery.channel.join(event.channel);
            delivery.standing.join(standing);
            delivery.attempts.join(event.attempts.map(|attempts| (replays, attempts)));
            delivery.provider.join(event.provider.as_deref().map(|provider| (replays, at, provider.into())));
            if is_reported(event) {
                let name = event.provider_id.as_deref();
                delivery.sent_as.join(name.map(|name| (replays, at, name.into())));
            }
            delivery.updated_at.join(at);
            delivery.marks.add(event.kind, at);
        }
    }

    /// Where the notification stands:
    /// - `accepted` while nothing was decided;
    /// - while a delivery is unsettled: what ended the notification as a whole (cancelled, expired, …), if anything
    ///   did, else the status of the least advanced delivery;
    /// - when all are settled: the most successful of the deliveries, of what was said about recipients without a
    ///   delivery, and about the whole (delivered, sent, ambiguous, dead-lettered, failed, bounced, …);
    /// - without deliveries: what was said about the whole or its recipients, such as scheduled or suppressed.
    pub(super) fn status(&self) -> Status {
        let whole = self.whole.as_ref().map(|standing| standing.status);
        let aside = self.aside.as_ref().map(|standing| standing.status);
        let ended = whole.filter(|status| status.is_settled());
        let least = self.deliveries.iter().map(Delivery::status).filter(|status| !status.is_settled()).min();
        if let Some(least) = least {
            return ended.unwrap_or(least);
        }
        let settled = self.deliveries.iter().map(Delivery::status).chain(ended).chain(aside);
        let best = settled.filter(|status| status.is_settled()).max_by_key(|status| success(*status));
        best.or(whole).or(aside).unwrap_or(Status::Accepted)
    }

    /// The contacts that the row is found by: channel and blind index. An inline address is named by its recipient.
    pub(super) fn contacts(&self) -> impl Iterator<Item = (Channel, &str)> {
        let planned = self.deliveries.iter().filter_map(|it| Some((it.channel?, it.contact.as_deref()?)));
        planned.chain(self.recipients.iter().filter_map(|recipient| inline_contact(recipient)))
    }

    fn add_recipient(&mut self, recipient: Box<str>) {
        insert_bounded(&mut self.recipients, recipient, MAX_DELIVERIES);
    }

    /// The delivery with this id, made when it is new; `None` when the row has no room for it.
    fn delivery(&mut self, id: u128) -> Option<&mut Delivery> {
        let place = match self.deliveries.binary_search_by_key(&id, |delivery| delivery.id) {
            Ok(place) => place,
            Err(place) => {
                if self.deliveries.len() == MAX_DELIVERIES {
                    self.deliveries_cut = true;
                    if place == MAX_DELIVERIES {
                        return None;
                    }
                    self.deliveries.pop();
                }
                self.deliveries.insert(place, Delivery::new(id));
                place
            }
        };
        self.deliveries.get_mut(place)
    }
}

impl Standing {
    fn new(replays: u32, status: Status, at: i64) -> Self {
        Standing { replays, status, at, reason: None, until: None }
    }
}

impl Marks {
    fn add(&mut self, kind: EventType, at: i64) {
        let mark = match kind {
            EventType::Seen => &mut self.seen,
            EventType::Opened => &mut self.opened,
            EventType::Clicked => &mut self.clicked,
            EventType::Acknowledged => &mut self.acknowledged,
            _ => return,
        };
        *mark = Some(mark.map_or(at, |first| first.min(at)));
    }
}

impl Delivery {
    fn new(id: u128) -> Self {
        Delivery {
            id,
            recipient: None,
            channel: None,
            contact: None,
            standing: None,
            attempts: None,
            provider: None,
            sent_as: None,
            updated_at: 0,
            marks: Marks::default(),
        }
    }

    pub(super) fn status(&self) -> Status {
        self.standing.as_ref().map_or(Status::Planned, |standing| standing.status)
    }
}

/// Whether the name that an event tells is one that a provider may report under: nobody reports what becomes of a push, and
/// most rows have no need to grow.
const fn is_reported(event: &Event) -> bool {
    matches!(event.kind, EventType::Sent | EventType::Delivered)
        && matches!(event.channel, Some(Channel::Sms | Channel::Email))
}

/// Keeps the greater of two.
trait Join {
    fn join(&mut self, other: Self);
}

impl<T: Ord> Join for T {
    fn join(&mut self, other: T) {
        if other > *self {
            *self = other;
        }
    }
}

/// Adds to a sorted list without repetition that keeps its `limit` least. Whether something had to stay out.
fn insert_bounded<T: Ord>(list: &mut Vec<T>, value: T, limit: usize) -> bool {
    let Err(place) = list.binary_search(&value) else { return false };
    if list.len() < limit {
        list.insert(place, value);
        return false;
    }
    if place < limit {
        list.pop();
        list.insert(place, value);
    }
    true
}

fn success(status: Status) -> u8 {
    match status {
        Status::Delivered => 10,
        Status::Sent => 9,
        Status::Ambiguous => 8,
        Status::DeadLettered => 7,
        Status::Failed => 6,
        Status::Bounced => 5,
        Status::Expired => 4,
        Status::Cancelled => 3,
        Status::Suppressed => 2,
        Status::Erased => 1,
        Status::Accepted | Status::Planned | Status::Scheduled | Status::Held | Status::Queued => 0,
    }
}

/// The contact that the recipient of an inline address stands for: `addr:<channel>:<blind index>`.
fn inline_contact(recipient: &str) -> Option<(Channel, &str)> {
    let (channel, index) = recipient.strip_prefix("addr:")?.split_once(':')?;
    Some((channel.parse().ok()?, index))
}
