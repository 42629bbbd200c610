//! Takeover: which notifications of a region that is gone for good have not ended, as far as others were told.
//!
//! A pure fold over what the hub gathered: the region's accepted notifications, and the events of all regions. The same
//! messages give the same answer in whatever order they come.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::envelope::{Intake, TAKEOVER_VERSION, TakenDelivery, Takeover, WhenAmbiguous};
use crate::event::{Event, EventType, PlannedDelivery, Status};
use crate::id::{AppId, DeliveryId, NotificationId, Region};

/// The reason in the event of a region that finds, when it is back, that another one took a notification over. It says
/// nothing about what became of it.
pub const TAKEN_OVER: &str = "taken_over";

/// What is known of the notifications of one region.
#[derive(Debug)]
pub struct Unfinished {
    from: Region,
    open: HashMap<(AppId, NotificationId), Open>,
    /// When the region was last heard of.
    last: Timestamp,
}

/// A notification that may not have ended yet.
#[derive(Debug, Default)]
struct Open {
    /// Where it stands among what was accepted: the place that the caller gave.
    place: Option<u64>,
    /// Cancelled or expired as a whole.
    ended: bool,
    /// Waits as a whole until then.
    until: Option<Timestamp>,
    /// What was planned for all of its targets: the plan is the last that is said of a decision.
    planned: Vec<PlannedDelivery>,
    standings: HashMap<DeliveryId, Standing>,
}

/// Where a delivery stands: a replay starts afresh, and nothing that has ended goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Standing {
    replays: u32,
    status: Option<Status>,
    until: Option<Timestamp>,
}

impl Standing {
    fn has_ended(self) -> bool {
        self.status.is_some_and(Status::is_settled)
    }

    /// Whether nothing can take it up again: what was put aside can be replayed.
    fn is_final(self) -> bool {
        let replayable =
            matches!(self.status, Some(Status::DeadLettered | Status::Failed | Status::Ambiguous));
        self.has_ended() && !replayable
    }
}

/// A notification that has not ended.
#[derive(Debug)]
pub struct Rest {
    /// The place that was given with it.
    pub place: u64,
    until: Option<Timestamp>,
    /// Whether it was decided who gets it.
    decided: bool,
    deliveries: Vec<(PlannedDelivery, Standing)>,
}

impl Unfinished {
    /// Nothing is known yet of the notifications of `from`.
    #[must_use]
    pub fn new(from: Region) -> Self {
        Unfinished { from, open: HashMap::new(), last: Timestamp::MIN }
    }

    /// How many notifications are kept in mind.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether no notification is kept in mind.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The region accepted a notification. `place` is where its message can be found again.
    pub fn accepted(&mut self, app: AppId, id: NotificationId, at: Timestamp, place: u64) {
        self.last = self.last.max(at);
        let key = (app, id);
        let open = self.open.entry(key.clone()).or_default();
        open.place = open.place.max(Some(place));
        self.forget_if_done(&key);
    }

    /// Something happened in `region` to a notification, of whatever region it is.
    pub fn happened(&mut self, region: &Region, event: &Event) {
        if *region == self.from {
            self.last = self.last.max(event.at);
        }
        let Some(status) = event.kind.status() else { return };
        if event.reason.as_deref() == Some(TAKEN_OVER) {
            return;
        }
        let key = (event.app.clone(), event.notification.clone());
        let open = self.open.entry(key.clone()).or_default();
        for planned in &event.deliveries {
            if !open.planned.iter().any(|known| known.delivery == planned.delivery) {
                open.planned.push(planned.clone());
            }
        }
        match &event.delivery {
            Some(delivery) => {
                let replays = event.replays.unwrap_or(0);
                let standing = Standing { replays, status: Some(status), until: event.until };
                let known = open.standings.entry(delivery.clone()).or_default();
                *known = (*known).max(standing);
            }
            None if event.kind == EventType::Planned => {}
            None if status.is_settled() => open.ended = true,
            None => open.until = open.until.max(event.until),
        }
        self.forget_if_done(&key);
    }

    /// Another region accepted a notification under the same id: it is that region's.
    pub fn is_elsewhere(&mut self, app: &AppId, id: &NotificationId) {
        self.open.remove(&(app.clone(), id.clone()));
    }

    /// Keeps what is in mind small: most notifications have ended long ago.
    fn forget_if_done(&mut self, key: &(AppId, NotificationId)) {
        let is_final = |open: &Open, it: &PlannedDelivery| {
            open.standings.get(&it.delivery).is_some_and(|it| it.is_final())
        };
        let done = self.open.get(key).is_some_and(|open| {
            open.place.is_some()
                && !open.planned.is_empty()
                && open.planned.iter().all(|planned| is_final(open, planned))
        });
        if done {
            self.open.remove(key);
        }
    }

    /// What has not ended, in the order of places, and when the region was last heard of.
    #[must_use]
    pub fn finish(self) -> (Vec<Rest>, Timestamp) {
        let rest = |open: Open| {
            let place = open.place.filter(|_| !open.ended)?;
            let standing =
                |it: &PlannedDelivery| open.standings.get(&it.delivery).copied().unwrap_or_default();
            let deliveries: Vec<_> = open
                .planned
                .iter()
                .map(|planned| (planned.clone(), standing(planned)))
                .filter(|(_, standing)| !standing.has_ended())
                .collect();
            Some(Rest { place, until: open.until, decided: !open.planned.is_empty(), deliveries })
        };
        let mut all: Vec<_> = self.open.into_values().filter_map(rest).collect();
        all.sort_unstable_by_key(|rest| rest.place);
        (all, self.last)
    }
}

impl Rest {
    /// The message with which another region goes on, made of the one that was accepted. `None` when nothing is left to
    /// do: all targets were decided and all deliveries have ended.
    ///
    /// What the region did after it was `last` heard of nobody knows, so deliveries may have been made without a sign of
    /// it; `ambiguous` says what becomes of those. What was known to wait for a later time was not made.
    #[must_use]
    pub fn taken_over(self, intake: Intake, last: Timestamp, ambiguous: WhenAmbiguous) -> Option<Intake> {
        let waits = |until: Option<Timestamp>| until.is_some_and(|until| until > last);
        let deliveries: Vec<_> = self
            .deliveries
            .into_iter()
            .map(|(planned, standing)| TakenDelivery {
                planned,
                replays: standing.replays,
                ambiguous: !waits(standing.until),
            })
            .collect();
        let targets = if self.decided { Vec::new() } else { intake.targets };
        if targets.is_empty() && deliveries.is_empty() {
            return None;
        }
        let takeover = Takeover {
            from: intake.region.clone(),
            deliveries,
            ambiguous: !waits(self.until),
            when_ambiguous: ambiguous,
        };
        Some(Intake {
            v: TAKEOVER_VERSION,
            // A position in the other region's stream says nothing here.
            state_seq: 0,
            targets,
            takeover: Some(takeover),
            ..intake
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::channel::Channel;
    use crate::envelope::Envelope as _;
    use crate::id::RecipientId;

    const LAST: &str = "2026-11-22T12:00:00Z";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn eu() -> Region {
        "eu".parse().unwrap()
    }

    fn intake() -> Intake {
        Intake::decode(include_bytes!("../golden/intake-v1.json")).unwrap()
    }

    fn event(kind: EventType) -> Event {
        let it = intake().notification;
        Event::new(kind, at(LAST), it.app, it.id)
    }

    fn planned(recipient: &str, channel: Channel) -> PlannedDelivery {
        let it = intake().notification;
        let recipient: RecipientId = recipient.parse().unwrap();
        let delivery = DeliveryId::derive(&it.app, &it.id, &recipient, channel, "", 0);
        PlannedDelivery { delivery, recipient, channel, contact: String::new() }
    }

    fn of(kind: EventType, delivery: &PlannedDelivery) -> Event {
        Event {
            delivery: Some(delivery.delivery.clone()),
            recipient: Some(delivery.recipient.clone()),
            channel: Some(delivery.channel),
            ..event(kind)
        }
    }

    /// The message for the region that takes over, after these events.
    fn after(events: &[Event]) -> Option<Intake> {
        let mut unfinished = Unfinished::new(eu());
        let intake = intake();
        let (app, id) = (intake.notification.app.clone(), intake.notification.id.clone());
        unfinished.accepted(app, id, intake.notification.accepted_at, 7);
        events.iter().for_each(|event| unfinished.happened(&eu(), event));
        let (mut rest, last) = unfinished.finish();
        let rest = rest.pop()?;
        assert_eq!(rest.place, 7);
        rest.taken_over(intake, last, WhenAmbiguous::ByChannel)
    }

    fn plan() -> (PlannedDelivery, PlannedDelivery, Event) {
        let inline = intake().targets[1].recipient.clone();
        let (one, two) = (planned("u-42", Channel::Inbox), planned(inline.as_str(), Channel::Email));
        let plan = Event { deliveries: vec![one.clone(), two.clone()], ..event(EventType::Planned) };
        (one, two, plan)
    }

    #[test]
    fn what_was_not_decided_is_decided_by_the_other_region() {
        let taken = after(&[]).unwrap();
        let takeover = taken.takeover.unwrap();
        assert_eq!(taken.targets, intake().targets);
        assert_eq!((taken.v, taken.state_seq, takeover.from), (TAKEOVER_VERSION, 0, eu()));
        assert!(takeover.ambiguous && takeover.deliveries.is_empty());
    }

    #[test]
    fn a_notification_that_waited_was_not_sent() {
        let until = Some(at("2026-12-01T00:00:00Z"));
        let taken = after(&[Event { until, ..event(EventType::Scheduled) }]).unwrap();
        assert!(!taken.takeover.unwrap().ambiguous);
    }

    #[test]
    fn only_deliveries_that_have_not_ended_are_taken_over() {
        let (one, two, plan) = plan();
        let taken = after(&[plan.clone(), of(EventType::Delivered, &one)]).unwrap();
        let deliveries = taken.takeover.unwrap().deliveries;
        assert!(taken.targets.is_empty());
        assert_eq!(deliveries, [TakenDelivery { planned: two.clone(), replays: 0, ambiguous: true }]);
        assert!(after(&[plan, of(EventType::Sent, &one), of(EventType::Expired, &two)]).is_none());
    }

    #[test]
    fn a_delivery_held_for_later_is_not_ambiguous_and_one_whose_time_came_is() {
        let (_, two, plan) = plan();
        let held = |until| Event { until: Some(at(until)), ..of(EventType::Held, &two) };
        let ambiguous =
            |until| after(&[plan.clone(), held(until)]).unwrap().takeover.unwrap().deliveries[1].ambiguous;
        assert!(!ambiguous("2026-11-23T07:00:00Z"));
        assert!(ambiguous("2026-11-22T11:59:00Z"));
    }

    #[test]
    fn a_replay_that_was_not_made_is_taken_over_with_its_number() {
        let (one, two, plan) = plan();
        let replayed = Event { replays: Some(1), ..of(EventType::Replayed, &two) };
        let put_aside = of(EventType::DeadLettered, &two);
        let events = [plan, of(EventType::Sent, &one), put_aside, replayed];
        assert_eq!(after(&events).unwrap().takeover.unwrap().deliveries[0].replays, 1);
        assert!(after(&events[..3]).is_none());
    }

    #[test]
    fn what_ended_as_a_whole_is_left_and_so_is_what_another_region_accepted() {
        assert!(after(&[event(EventType::Cancelled)]).is_none());
        let mut unfinished = Unfinished::new(eu());
        let it = intake().notification;
        unfinished.accepted(it.app.clone(), it.id.clone(), it.accepted_at, 1);
        unfinished.is_elsewhere(&it.app, &it.id);
        assert!(unfinished.finish().0.is_empty());
    }

    #[test]
    fn a_refusal_without_a_plan_is_decided_again() {
        // The plan comes last: it may not have been told any more.
        let (one, _, _) = plan();
        assert_eq!(after(&[of(EventType::Suppressed, &one)]).unwrap().targets, intake().targets);
    }

    #[test]
    fn what_a_region_says_after_it_is_back_does_not_end_what_was_taken_over() {
        let (one, two, plan) = plan();
        let back = Event { reason: Some(TAKEN_OVER.to_owned()), ..of(EventType::Cancelled, &two) };
        let taken = after(&[plan, of(EventType::Sent, &one), back]).unwrap();
        assert_eq!(taken.takeover.unwrap().deliveries.len(), 1);
    }

    #[test]
    fn what_has_ended_is_forgotten() {
        let (one, two, plan) = plan();
        let mut unfinished = Unfinished::new(eu());
        let it = intake().notification;
        for event in [of(EventType::Delivered, &two), of(EventType::Sent, &one), plan] {
            unfinished.happened(&eu(), &event);
        }
        assert_eq!(unfinished.len(), 1, "nobody knows yet whether it was accepted there");
        unfinished.accepted(it.app, it.id, it.accepted_at, 1);
        assert!(unfinished.is_empty());
    }

    proptest! {
        #[test]
        fn the_order_of_messages_makes_no_difference(order in Just((0..6).collect::<Vec<usize>>()).prop_shuffle()) {
            let (one, two, plan) = plan();
            let events = [
                plan,
                of(EventType::Sent, &one),
                of(EventType::Retried, &two),
                of(EventType::DeadLettered, &two),
                Event { replays: Some(1), ..of(EventType::Replayed, &two) },
            ];
            let mut unfinished = Unfinished::new(eu());
            let intake = intake();
            for index in order {
                match events.get(index) {
                    Some(event) => unfinished.happened(&eu(), event),
                    None => {
                        let it = &intake.notification;
                        unfinished.accepted(it.app.clone(), it.id.clone(), it.accepted_at, 1);
                    }
                }
            }
            let (mut rest, last) = unfinished.finish();
            let taken = rest.pop().unwrap().taken_over(intake, last, WhenAmbiguous::ByChannel).unwrap();
            let takeover = taken.takeover.unwrap();
            prop_assert!(taken.targets.is_empty());
            prop_assert_eq!(takeover.deliveries, vec![TakenDelivery { planned: two, replays: 1, ambiguous: true }]);
        }
    }
}
