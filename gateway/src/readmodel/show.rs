//! From rows to what the API shows.

use jiff::Timestamp;
use peal_common::event::EventType;

use super::logged::{EventKey, Logged};
use super::row::{Delivery, Row};
use super::view::{DeliveryView, EventView, NotificationSummary};

impl Row {
    /// `None` when the row's id is none, which a sound file does not hold.
    pub(super) fn summary(&self) -> Option<NotificationSummary> {
        let mut deliveries: Vec<_> = self.deliveries.iter().map(Delivery::view).collect();
        deliveries.sort_by(|a, b| (&a.recipient, a.channel, &a.id).cmp(&(&b.recipient, b.channel, &b.id)));
        let intake = self.intake.as_ref();
        Some(NotificationSummary {
            id: self.id.parse().ok()?,
            region: intake.and_then(|intake| intake.region.parse().ok()),
            pinned: intake.map(|intake| intake.pinned),
            category: intake.and_then(|intake| intake.category.parse().ok()),
            priority: intake.map(|intake| intake.priority),
            status: self.status(),
            accepted_at: time(self.time()),
            expires_at: intake.map(|intake| time(intake.expires_at)),
            send_at: intake.and_then(|intake| intake.send_at).map(time),
            acknowledged_at: self.marks.acknowledged.map(time),
            deliveries,
            deliveries_truncated: self.deliveries_cut,
        })
    }
}

impl Delivery {
    fn view(&self) -> DeliveryView {
        let standing = self.standing.as_ref();
        DeliveryView {
            id: format!("{:032x}", self.id),
            recipient: self.recipient.as_ref().and_then(|recipient| recipient.parse().ok()),
            channel: self.channel,
            contact: self.contact.as_deref().map(Into::into),
            provider: self.provider.as_ref().map(|(_, _, name)| name.to_string()),
            sent_as: self.sent_as.as_ref().map(|(replays, _, name)| (*replays, name.to_string())),
            status: self.status(),
            attempts: self.attempts.map_or(0, |(_, attempts)| attempts),
            reason: standing.and_then(|standing| standing.reason.as_deref()).map(Into::into),
            until: standing.and_then(|standing| standing.until).map(time),
            replays: standing.map_or(0, |standing| standing.replays),
            updated_at: time(self.updated_at),
            seen_at: self.marks.seen.map(time),
            opened_at: self.marks.opened.map(time),
            clicked_at: self.marks.clicked.map(time),
            acknowledged_at: self.marks.acknowledged.map(time),
        }
    }
}

impl Logged<'_> {
    pub(super) fn view(&self, key: EventKey) -> EventView {
        EventView {
            at: time(key.at),
            kind: self.kind,
            notification: self.notification.parse().ok(),
            channel: self.channel,
            recipient: self.recipient.and_then(|recipient| recipient.parse().ok()),
            delivery: self.delivery.map(|delivery| format!("{delivery:032x}")),
            provider: self.provider.map(Into::into),
            provider_id: self.provider_id.map(Into::into),
            attempts: self.attempts,
            detail: self.detail(),
        }
    }

    fn detail(&self) -> Option<String> {
        let until = self.until.map(|until| format!("until {}", time(until)));
        match (self.kind, self.reason, until) {
            (EventType::Planned, None, _) => Some(match self.planned {
                1 => "1 delivery".to_owned(),
                count => format!("{count} deliveries"),
            }),
            (_, Some(reason), Some(until)) => Some(format!("{reason}, {until}")),
            (_, Some(reason), None) => Some(reason.to_owned()),
            (_, None, until) => until,
        }
    }
}

pub(super) fn time(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}
