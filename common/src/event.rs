//! Events: one for every step that a notification or a delivery takes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::channel::Channel;
use crate::envelope::{Accepted, Envelope};
use crate::id::{AppId, DeliveryId, NotificationId, RecipientId};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    /// The gateway took the notification: it is in INTAKE.
    Accepted,
    /// Its deliveries were decided.
    Planned,
    /// Somebody or some rule did not want it.
    Suppressed,
    /// It waits for its time.
    Scheduled,
    /// It waits for the end of quiet hours.
    Held,
    /// An attempt failed, another will follow.
    Retried,
    /// The provider took it over.
    Sent,
    /// The recipient's side has it.
    Delivered,
    /// The provider reported later that it did not arrive.
    Bounced,
    /// It was opened.
    Opened,
    /// A link in it was followed.
    Clicked,
    /// It was on the recipient's screen.
    Seen,
    /// The recipient acknowledged it.
    Acknowledged,
    /// It was refused for good, and nothing can be done about it.
    Failed,
    /// Its time was over before it could be sent.
    Expired,
    /// It was cancelled before it was sent.
    Cancelled,
    /// It could not be delivered and was put aside, to be replayed.
    DeadLettered,
    /// It was begun anew: from the dead letters, or since it certainly did not arrive.
    Replayed,
    /// Whether it was sent is unknown.
    Ambiguous,
    /// The recipient has been erased.
    Erased,
}

impl EventType {
    /// The name used in subjects, in the API and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            EventType::Accepted => "accepted",
            EventType::Planned => "planned",
            EventType::Suppressed => "suppressed",
            EventType::Scheduled => "scheduled",
            EventType::Held => "held",
            EventType::Retried => "retried",
            EventType::Sent => "sent",
            EventType::Delivered => "delivered",
            EventType::Bounced => "bounced",
            EventType::Opened => "opened",
            EventType::Clicked => "clicked",
            EventType::Seen => "seen",
            EventType::Acknowledged => "acknowledged",
            EventType::Failed => "failed",
            EventType::Expired => "expired",
            EventType::Cancelled => "cancelled",
            EventType::DeadLettered => "dead_lettered",
            EventType::Replayed => "replayed",
            EventType::Ambiguous => "ambiguous",
            EventType::Erased => "erased",
        }
    }

    /// The status that a delivery has after this event, if the event says one.
    #[must_use]
    pub const fn status(self) -> Option<Status> {
        Some(match self {
            EventType::Planned | EventType::Replayed | EventType::Retried => Status::Queued,
            EventType::Suppressed => Status::Suppressed,
            EventType::Scheduled => Status::Scheduled,
            EventType::Held => Status::Held,
            EventType::Sent => Status::Sent,
            EventType::Delivered => Status::Delivered,
            EventType::Bounced => Status::Bounced,
            EventType::Failed => Status::Failed,
            EventType::Expired => Status::Expired,
            EventType::Cancelled => Status::Cancelled,
            EventType::DeadLettered => Status::DeadLettered,
            EventType::Ambiguous => Status::Ambiguous,
            EventType::Erased => Status::Erased,
            EventType::Accepted
            | EventType::Opened
            | EventType::Clicked
            | EventType::Seen
            | EventType::Acknowledged => return None,
        })
    }
}

/// Where a delivery stands. A later status never goes back to an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The notification is durable; nothing was decided yet.
    Accepted,
    /// Decided.
    Planned,
    /// Waits for its time.
    Scheduled,
    /// Waits for the end of quiet hours.
    Held,
    /// Waits for its turn, or for its next attempt.
    Queued,
    /// Not wanted.
    Suppressed,
    /// Cancelled in time.
    Cancelled,
    /// Too late.
    Expired,
    /// The recipient has been erased.
    Erased,
    /// Put aside.
    DeadLettered,
    /// Refused for good.
    Failed,
    /// Sent or not: unknown.
    Ambiguous,
    /// The provider took it over.
    Sent,
    /// It arrived.
    Delivered,
    /// It came back.
    Bounced,
}

impl Status {
    /// The name used in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::Accepted => "accepted",
            Status::Planned => "planned",
            Status::Scheduled => "scheduled",
            Status::Held => "held",
            Status::Queued => "queued",
            Status::Suppressed => "suppressed",
            Status::Cancelled => "cancelled",
            Status::Expired => "expired",
            Status::Erased => "erased",
            Status::DeadLettered => "dead_lettered",
            Status::Failed => "failed",
            Status::Ambiguous => "ambiguous",
            Status::Sent => "sent",
            Status::Delivered => "delivered",
            Status::Bounced => "bounced",
        }
    }

    /// Whether the dispatcher is done with it. Receipts may still say more about what was sent.
    #[must_use]
    pub const fn is_settled(self) -> bool {
        !matches!(
            self,
            Status::Accepted | Status::Planned | Status::Scheduled | Status::Held | Status::Queued
        )
    }
}

/// One planned delivery, as the `planned` event lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedDelivery {
    /// The delivery.
    pub delivery: DeliveryId,
    /// The recipient.
    pub recipient: RecipientId,
    /// The channel.
    pub channel: Channel,
    /// The contact's blind index; empty for the inbox.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub contact: String,
}

/// EVENTS: one step. Names recipients and contacts, never addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The envelope's version.
    pub v: u8,
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// The app.
    pub app: AppId,
    /// The notification.
    pub notification: NotificationId,
    /// The delivery, unless the event is about the notification as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<DeliveryId>,
    /// The recipient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<RecipientId>,
    /// The channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<Channel>,
    /// The provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The attempts made so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Why: a stable word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The provider's identifier of the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
    /// Until when it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// How often the delivery was replayed: a replay starts its statuses afresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replays: Option<u32>,
    /// The deliveries that a `planned` event decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deliveries: Vec<PlannedDelivery>,
    /// When `deliveries` were planned, in the first event of a delivery that was made as soon as it was planned: there is
    /// no `planned` event of its own then ([`Event::steps`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned_at: Option<Timestamp>,
    /// Whether it may not leave its region.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
}

impl Event {
    /// An event about a notification; what more is known is set on its fields.
    #[must_use]
    pub fn new(kind: EventType, at: Timestamp, app: AppId, notification: NotificationId) -> Self {
        Event {
            v: crate::envelope::ENVELOPE_VERSION,
            at,
            kind,
            app,
            notification,
            delivery: None,
            recipient: None,
            channel: None,
            provider: None,
            attempts: None,
            reason: None,
            provider_id: None,
            until: None,
            replays: None,
            deliveries: Vec::new(),
            planned_at: None,
            pinned: false,
        }
    }

    /// An event about an accepted notification, as far from home as that.
    #[must_use]
    pub fn about(kind: EventType, at: Timestamp, notification: &Accepted) -> Self {
        let pinned = notification.pinned;
        Event { pinned, ..Event::new(kind, at, notification.app.clone(), notification.id.clone()) }
    }

    /// The same, with the planning told along.
    #[must_use]
    pub fn with_plan(self, plan: &Event) -> Self {
        Event { deliveries: plan.deliveries.clone(), planned_at: Some(plan.at), ..self }
    }

    /// The steps that it tells, in their order: the planning that it tells along, and what it is about.
    pub fn steps(mut self) -> impl Iterator<Item = Event> {
        let plan = self.planned_at.take().map(|at| Event {
            deliveries: std::mem::take(&mut self.deliveries),
            pinned: self.pinned,
            ..Event::new(EventType::Planned, at, self.app.clone(), self.notification.clone())
        });
        plan.into_iter().chain([self])
    }
}

impl Envelope for Event {
    fn version(&self) -> u8 {
        self.v
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planning_told_along_is_a_step_of_its_own() {
        let golden = include_bytes!("../golden/event-planned-v1.json");
        let event = Event::decode(golden).unwrap();
        let steps: Vec<_> = event.clone().steps().collect();
        let [plan, sent] = steps.as_slice() else { panic!("{steps:?}") };
        assert_eq!((plan.kind, sent.kind), (EventType::Planned, EventType::Sent));
        assert!(plan.at < sent.at && plan.deliveries.len() == 1);
        assert_eq!(Some(&plan.deliveries[0].delivery), sent.delivery.as_ref());
        assert_eq!(sent.clone().with_plan(plan), event);
        assert!(sent.clone().steps().eq([sent.clone()]));
        assert!(plan.clone().steps().eq([plan.clone()]));
    }

    #[test]
    fn what_was_sent_outranks_what_was_given_up_and_nothing_settled_goes_back() {
        assert!(Status::Sent > Status::Cancelled);
        assert!(Status::Delivered > Status::Sent);
        for status in [Status::Accepted, Status::Planned, Status::Scheduled, Status::Held, Status::Queued] {
            assert!(!status.is_settled() && status < Status::Suppressed);
        }
    }
}
