//! What the read model answers, in the shapes of the API.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use peal_common::channel::{Channel, Priority};
use peal_common::envelope::{ContactRef, InboxMark};
use peal_common::event::{EventType, Status};
use peal_common::id::{AppId, CategoryId, DeliveryId, NotificationId, RecipientId, Region};
use serde::Serialize;
use utoipa::ToSchema;

/// A notification with its deliveries and its timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NotificationView {
    /// The notification itself.
    #[serde(flatten)]
    pub summary: NotificationSummary,
    /// What happened, the earliest first.
    pub events: Vec<EventView>,
    /// Whether later events were left out because there are too many; the search of events has them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub events_truncated: bool,
}

/// A notification as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NotificationSummary {
    /// Its id.
    pub id: NotificationId,
    /// The region that accepted it; unknown when the category is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "eu")]
    pub region: Option<Region>,
    /// Whether it may not leave that region; unknown when the category is.
    #[serde(skip_serializing_if = "is_not_pinned")]
    pub pinned: Option<bool>,
    /// Its category. Unknown while only events have arrived, and again once the index was rebuilt after the acceptance
    /// itself had left the stream.
    pub category: Option<CategoryId>,
    /// Its priority; unknown when the category is.
    pub priority: Option<Priority>,
    /// Where it stands as a whole.
    pub status: Status,
    /// When it was accepted; the time of its first event when that is unknown.
    pub accepted_at: Timestamp,
    /// When it is of no use any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it is to be sent, if later than at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_at: Option<Timestamp>,
    /// Since when it is acknowledged as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledged_at: Option<Timestamp>,
    /// Its deliveries, sorted by recipient and channel.
    pub deliveries: Vec<DeliveryView>,
    /// Whether deliveries were left out because there are too many.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub deliveries_truncated: bool,
}

#[expect(clippy::ref_option, reason = "serde passes references")]
fn is_not_pinned(pinned: &Option<bool>) -> bool {
    *pinned != Some(true)
}

/// One recipient on one channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct DeliveryView {
    /// Its id: 32 hexadecimal digits.
    pub id: String,
    /// The recipient.
    pub recipient: Option<RecipientId>,
    /// The channel.
    pub channel: Option<Channel>,
    /// The blind index of the contact, which is for the gateway alone.
    #[serde(skip)]
    pub contact: Option<String>,
    /// The provider that had it last.
    pub provider: Option<String>,
    /// The replay that a text or an e-mail was sent last in, and what its provider calls it: for the gateway alone.
    #[serde(skip)]
    pub sent_as: Option<(u32, String)>,
    /// Where it stands.
    pub status: Status,
    /// Attempts made.
    pub attempts: u32,
    /// Why it stands there: a stable word.
    pub reason: Option<String>,
    /// Until when it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// How often it was begun anew: from the dead letters, or since its provider could not deliver it for the time being.
    #[serde(skip_serializing_if = "is_zero")]
    pub replays: u32,
    /// The time of the latest event.
    pub updated_at: Timestamp,
    /// When it was on the recipient's screen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen_at: Option<Timestamp>,
    /// When it was opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opened_at: Option<Timestamp>,
    /// When a link in it was followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clicked_at: Option<Timestamp>,
    /// When the recipient acknowledged it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledged_at: Option<Timestamp>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct EventView {
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// The notification; left out in the notification's own timeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notification: Option<NotificationId>,
    /// The channel.
    pub channel: Option<Channel>,
    /// The recipient.
    pub recipient: Option<RecipientId>,
    /// The delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<String>,
    /// The provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The provider's id of the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
    /// Attempts made so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// More in words: the reason, until when it waits, how many deliveries were planned.
    pub detail: Option<String>,
}

/// An event of any app, for the live feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LiveEvent {
    /// The app.
    pub app: AppId,
    /// The event.
    #[serde(flatten)]
    pub event: EventView,
}

/// An item of an inbox, its text still sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxItem {
    /// The position of the item in the inbox: newer items have higher ones.
    pub sequence: u64,
    /// The position of the last change, that of the item itself or of its last mark: what `Last-Event-ID` holds.
    pub changed: u64,
    /// The item: the id of its delivery.
    pub item: DeliveryId,
    /// The notification.
    pub notification: NotificationId,
    /// The category.
    pub category: CategoryId,
    /// When it came.
    pub at: Timestamp,
    /// When it is of no use any more.
    pub expires_at: Timestamp,
    /// Its text, sealed with the recipient's data key.
    pub sealed: String,
    /// When it was on the screen.
    pub seen_at: Option<Timestamp>,
    /// When it was opened.
    pub read_at: Option<Timestamp>,
    /// When it was put away.
    pub archived_at: Option<Timestamp>,
}

/// A change of an inbox, for those who watch it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxLive {
    /// The app.
    pub app: AppId,
    /// The recipient.
    pub recipient: RecipientId,
    /// The position of the change.
    pub sequence: u64,
    /// The item that changed.
    pub item: DeliveryId,
    /// The mark that it got; `None` for a new item.
    pub mark: Option<InboxMark>,
}

/// How many items an inbox holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct InboxCounts {
    /// Neither read nor put away.
    pub unread: u32,
    /// Not yet on the screen, neither read nor put away.
    pub unseen: u32,
    /// Not put away.
    pub total: u32,
}

/// What a search of notifications asks for; all that is given must hold.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// To this recipient.
    pub recipient: Option<RecipientId>,
    /// To this contact.
    pub contact: Option<ContactRef>,
    /// Of this category.
    pub category: Option<CategoryId>,
    /// Standing here as a whole.
    pub status: Option<Status>,
    /// With a delivery on this channel.
    pub channel: Option<Channel>,
    /// Accepted at this time or later.
    pub from: Option<Timestamp>,
    /// Accepted before this time.
    pub to: Option<Timestamp>,
}

/// What a search of events asks for; all that is given must hold.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Of this notification.
    pub notification: Option<NotificationId>,
    /// About this recipient.
    pub recipient: Option<RecipientId>,
    /// Of this kind.
    pub kind: Option<EventType>,
    /// On this channel.
    pub channel: Option<Channel>,
    /// At this time or later.
    pub from: Option<Timestamp>,
    /// Before this time.
    pub to: Option<Timestamp>,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Page<T> {
    /// The entries. There may be fewer than asked for, even none, although more follow: a search stops after it has
    /// looked at a certain number of entries.
    pub data: Vec<T>,
    /// What to hand in as `after` for the next part; `None` at the end.
    #[schema(value_type = Option<String>)]
    pub next: Option<Cursor>,
}

/// A place in a list of notifications or events, opaque to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    pub(super) time: u64,
    pub(super) order: u64,
}

/// A text that is no place in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor: hand in what `next` of the previous answer says")]
pub struct CursorError;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.time, self.order)
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(CursorError);
        }
        let (time, order) = text.split_at(16);
        let number = |text| u64::from_str_radix(text, 16).map_err(|_| CursorError);
        Ok(Cursor { time: number(time)?, order: number(order)? })
    }
}

impl Serialize for Cursor {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_back_and_nothing_else_is() {
        let cursor = Cursor { time: 1_700_000_000_000, order: u64::MAX };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for bad in ["", "x", "+0000000000000000000000000000000", "é000000000000000000000000000000"] {
            assert_eq!(bad.parse::<Cursor>(), Err(CursorError), "{bad}");
        }
    }
}
