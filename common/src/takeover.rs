//! Takeover: which notifications of a region have not ended, as far as its events tell. Another region asks when that one is
//! gone for good, and the region itself when it lost its place in what it has accepted.
//!
//! A pure fold over what the region accepted and what happened; the same messages give the same answer in whatever order
//! they come.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use crate::envelope::{EXTENDED_VERSION, Intake, TakenDelivery, Takeover, WhenAmbiguous};
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
    /// What was accepted before is not known any more.
    since: Timestamp,
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

/// What is known in the end.
#[derive(Debug)]
pub struct Finish {
    /// What has not ended, in the order of places.
    pub rest: Vec<Rest>,
    /// How many notifications have not ended whose acceptance is not known any more, or not yet: only the region has them.
    pub out_of_reach: usize,
    /// When the region was last heard of.
    pub last: Timestamp,
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
    /// Of which deliveries anything was told.
    told: HashSet<DeliveryId>,
}

/// What is still to be done for a notification in its own region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// It was decided who gets it. These deliveries were planned, and nothing was told of them since: they may never have
    /// been queued.
    Planned(Vec<PlannedDelivery>),
    /// It was not decided, or only for some of its targets: of their refusals these are the ids.
    Undecided(HashSet<DeliveryId>),
}

impl Unfinished {
    /// Nothing is known yet of the notifications of `from`, whose acceptances are known from `since` on.
    #[must_use]
    pub fn new(from: Region, since: Timestamp) -> Self {
        Unfinished { from, open: HashMap::new(), last: Timestamp::MIN, since }
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

    /// Whether a notification is kept in mind.
    #[must_use]
    pub fn has(&self, name: &(AppId, NotificationId)) -> bool {
        self.open.contains_key(name)
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
        let is_taken_over = event.reason.as_deref() == Some(TAKEN_OVER);
        if is_taken_over && event.deliveries.is_empty() {
            return;
        }
        let key = (event.app.clone(), event.notification.clone());
        // What others did with their own notifications is of no interest, nor is what ended before anything is known; one
        // that waits for its time since then is.
        let old = event.at < self.since && event.kind != EventType::Scheduled;
        if (*region != self.from || old) && !self.open.contains_key(&key) {
            return;
        }
        let open = self.open.entry(key.clone()).or_default();
        for planned in &event.deliveries {
            if !open.planned.iter().any(|known| known.delivery == planned.delivery) {
                open.planned.push(planned.clone());
            }
        }
        match &event.delivery {
            _ if is_taken_over => {}
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

    /// What has not ended.
    #[must_use]
    pub fn finish(self) -> Finish {
        let waits = |open: &&Open| {
            let planned = &open.planned;
            let settled =
                planned.iter().all(|it| open.standings.get(&it.delivery).is_some_and(|it| it.has_ended()));
            let is_open = open.until.is_some() || !planned.is_empty();
            open.place.is_none() && !open.ended && is_open && (planned.is_empty() || !settled)
        };
        let out_of_reach = self.open.values().filter(waits).count();
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
            let decided = !open.planned.is_empty();
            let told = open.standings.into_keys().collect();
            Some(Rest { place, until: open.until, decided, deliveries, told })
        };
        let mut all: Vec<_> = self.open.into_values().filter_map(rest).collect();
        all.sort_unstable_by_key(|rest| rest.place);
        Finish { rest: all, out_of_reach, last: self.last }
    }
}

impl Rest {
    /// What the region itself has still to do. A delivery of which anything was told is in a queue, or has ended.
    #[must_use]
    pub fn left(self) -> Left {
        match self.decided {
            true => {
                let is_silent = |standing: &Standing| standing.status.is_none();
                let silent = self.deliveries.into_iter().filter(|(_, standing)| is_silent(standing));
                Left::Planned(silent.map(|(planned, _)| planned).collect())
            }
            false => Left::Undecided(self.told),
        }
    }

    /// The message with which another region goes on, made of the one that was accepted. `None` when nothing is left to
    /// do: all targets were decided and all deliveries have ended.
    ///
    /// What the region did last nobody knows, so deliveries may have been made without a sign of it; `ambiguous` says what
    /// becomes of those. What waits for a time that has not come yet, `now`, was not made.
    #[must_use]
    pub fn taken_over(self, intake: Intake, now: Timestamp, ambiguous: WhenAmbiguous) -> Option<Intake> {
        let waits = |until: Option<Timestamp>| until.is_some_and(|until| until > now);
        let mut deliveries: Vec<_> = self
            .deliveries
            .into_iter()
            .map(|(planned, standing)| TakenDelivery {
                planned,
                replays: standing.replays,
                ambiguous: !waits(standing.until),
            })
            .collect();
        let mut targets = Vec::new();
        if !self.decided {
            targets = intake.targets;
            // What the region itself had taken over and not planned yet.
            deliveries.extend(intake.takeover.into_iter().flat_map(|before| before.deliveries));
        }
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
            v: intake.notification.version().max(EXTENDED_VERSION),
            // A position in the other region's stream says nothing here.
            state_seq: 0,
            targets,
            takeover: Some(takeover),
            region: intake.region,
            fingerprint: intake.fingerprint,
            send_at: intake.send_at,
            notification: intake.notification,
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
    const NOW: &str = "2026-11-22T18:00:00Z";

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
        let mut unfinished = Unfinished::new(eu(), at("2026-11-20T00:00:00Z"));
        let intake = intake();
        let (app, id) = (intake.notification.app.clone(), intake.notification.id.clone());
        unfinished.accepted(app, id, intake.notification.accepted_at, 7);
        events.iter().for_each(|event| unfinished.happened(&eu(), event));
        let rest = unfinished.finish().rest.pop()?;
        assert_eq!(rest.place, 7);
        rest.taken_over(intake, at(NOW), WhenAmbiguous::ByChannel)
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
        assert_eq!((taken.v, taken.state_seq, takeover.from), (EXTENDED_VERSION, 0, eu()));
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
    fn a_planning_that_is_told_along_is_known() {
        let (one, two, _) = plan();
        let sole = Event { deliveries: vec![one.clone()], ..event(EventType::Planned) };
        assert!(after(&[of(EventType::Delivered, &one).with_plan(&sole)]).is_none());
        let taken = after(&[of(EventType::Retried, &one).with_plan(&sole)]).unwrap();
        assert!(taken.targets.is_empty(), "it was decided");
        assert_eq!(taken.takeover.unwrap().deliveries[0].planned, one);
        assert!(
            after(&[of(EventType::Delivered, &two)]).is_some(),
            "without the plan the others are not known"
        );
    }

    #[test]
    fn a_delivery_held_for_later_is_not_ambiguous_and_one_whose_time_came_is() {
        let (_, two, plan) = plan();
        let held = |until| Event { until: Some(at(until)), ..of(EventType::Held, &two) };
        let ambiguous =
            |until| after(&[plan.clone(), held(until)]).unwrap().takeover.unwrap().deliveries[1].ambiguous;
        assert!(!ambiguous("2026-11-23T07:00:00Z"));
        assert!(ambiguous("2026-11-22T17:59:00Z"), "it may have gone on after it was heard of");
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
    fn what_ended_as_a_whole_is_left() {
        assert!(after(&[event(EventType::Cancelled)]).is_none());
    }

    #[test]
    fn what_was_taken_over_before_is_taken_over_again() {
        let (_, two, _) = plan();
        let mut unfinished = Unfinished::new(eu(), at(LAST));
        let mut intake = intake();
        let it = &intake.notification;
        unfinished.accepted(it.app.clone(), it.id.clone(), it.accepted_at, 1);
        let deliveries = vec![TakenDelivery { planned: two, replays: 0, ambiguous: true }];
        intake.takeover = Some(Takeover {
            from: "ap".parse().unwrap(),
            deliveries: deliveries.clone(),
            ambiguous: true,
            when_ambiguous: WhenAmbiguous::Send,
        });
        intake.targets.clear();
        let rest = unfinished.finish().rest.pop().unwrap();
        let taken = rest.taken_over(intake, at(NOW), WhenAmbiguous::ByChannel).unwrap();
        assert_eq!(taken.takeover.unwrap().deliveries, deliveries);
    }

    #[test]
    fn only_what_waits_is_out_of_reach_when_its_acceptance_is_not_known_any_more() {
        let mut unfinished = Unfinished::new(eu(), at(NOW));
        let until = Some(at("2027-11-01T00:00:00Z"));
        let (one, _, plan) = plan();
        unfinished.happened(&eu(), &plan);
        unfinished.happened(&eu(), &of(EventType::Retried, &one));
        unfinished.happened(&"us".parse().unwrap(), &event(EventType::Planned));
        assert!(unfinished.is_empty());
        unfinished.happened(&eu(), &Event { until, ..event(EventType::Scheduled) });
        let finish = unfinished.finish();
        assert!(finish.rest.is_empty());
        assert_eq!(finish.out_of_reach, 1);
    }

    #[test]
    fn what_was_planned_and_has_not_ended_is_out_of_reach_while_its_acceptance_is_missing() {
        let out_of_reach = |events: &[Event]| {
            let mut unfinished = Unfinished::new(eu(), Timestamp::MIN);
            events.iter().for_each(|event| unfinished.happened(&eu(), event));
            unfinished.finish().out_of_reach
        };
        let (one, two, plan) = plan();
        let mut events = vec![plan, of(EventType::Sent, &one)];
        assert_eq!(out_of_reach(&events), 1);
        events.push(of(EventType::Sent, &two));
        assert_eq!(out_of_reach(&events), 0);
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
        let mut unfinished = Unfinished::new(eu(), at("2026-11-20T00:00:00Z"));
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
            let mut unfinished = Unfinished::new(eu(), at("2026-11-20T00:00:00Z"));
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
            let rest = unfinished.finish().rest.pop().unwrap();
            let taken = rest.taken_over(intake, at(NOW), WhenAmbiguous::ByChannel).unwrap();
            let takeover = taken.takeover.unwrap();
            prop_assert!(taken.targets.is_empty());
            prop_assert_eq!(takeover.deliveries, vec![TakenDelivery { planned: two, replays: 1, ambiguous: true }]);
        }
    }
}
