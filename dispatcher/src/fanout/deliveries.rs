//! The decision for each target of a notification.

use std::collections::HashSet;

use jiff::Timestamp;
use peal_common::category::Class;
use peal_common::channel::Channel;
use peal_common::decide::{self, Plan, Question, Reason};
use peal_common::envelope::{
    Accepted, ContactRef, Intake, ResolvedTarget, TakenDelivery, Takeover, Text, WhenAmbiguous, Work,
};
use peal_common::event::{Event, EventType, PlannedDelivery};
use peal_common::id::{DeliveryId, RecipientId};
use peal_nats::catalog::{CatalogError, FoundRecipient};

use crate::channels::Sought;
use crate::context::Context;
use crate::delivery::Sole;

/// What is to be published for one notification.
#[derive(Debug, Default)]
pub(super) struct Decided {
    /// The `planned` event, and one for each recipient or channel that does not get it.
    pub(super) events: Vec<Event>,
    /// The deliveries.
    pub(super) works: Vec<Work>,
    /// Deliveries that the region from which the notification was taken over may have made, and that are not repeated.
    pub(super) put_aside: Vec<Work>,
    /// The recipient, where there is one.
    recipient: Option<FoundRecipient>,
    /// Whether a second call would do harm for one of them, or another region may have made one.
    is_delicate: bool,
}

/// Whether deliveries may have been published before, and since when they may have been settled in that case.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Repeat {
    pub(super) is_possible: bool,
    pub(super) since: Option<Timestamp>,
}

/// Decides for every target. `repeat` marks the deliveries.
pub(super) fn decide(
    context: &Context,
    intake: &Intake,
    now: Timestamp,
    repeat: Repeat,
) -> Result<Decided, CatalogError> {
    decide_but(context, intake, now, repeat, &|_, _| false)
}

/// The same, without the channels that were `tried`.
pub(super) fn decide_but(
    context: &Context,
    intake: &Intake,
    now: Timestamp,
    repeat: Repeat,
    tried: &dyn Fn(&RecipientId, Channel) -> bool,
) -> Result<Decided, CatalogError> {
    let notification = &intake.notification;
    let mut decided = Decided::default();
    let mut planned = Event::about(EventType::Planned, now, notification);
    let Some(rules) = context.catalog.category(&notification.app, &notification.category)? else {
        for target in &intake.targets {
            decided.events.push(refusal(intake, target, None, Reason::UnknownCategory, now));
        }
        let taken = intake.takeover.iter().flat_map(|takeover| &takeover.deliveries);
        decided.works.extend(taken.map(|taken| taken_work(intake, taken, repeat)));
        return Ok(decided);
    };
    let template = match &notification.text {
        Text::Template { id, version, .. } => {
            context.catalog.template_version(&notification.app, id, *version)?
        }
        Text::Content(_) => None,
    };
    let providers = context.providers();
    // Where accounts go by country, there is one for the others too, or its lack is told when it is asked for.
    let sought = Sought { app: &notification.app, class: rules.class, address: None };
    for target in &intake.targets {
        let found = context.catalog.find_recipient(&notification.app, &target.recipient)?;
        let Some((found, recipient)) =
            found.and_then(|found| found.outline().map(|outline| (found, outline)))
        else {
            decided.events.push(refusal(intake, target, None, Reason::UnknownRecipient, now));
            continue;
        };
        // Only a template may have different texts for different people.
        let locale = match &template {
            Some(_) => context.catalog.open(&found)?,
            None => None,
        };
        let locale = locale.and_then(|recipient| recipient.body.locale);
        let locale = locale.as_deref();
        let has_text = |channel: Channel| match (&notification.text, &template) {
            (Text::Content(content), _) => content.has_body(channel),
            (Text::Template { .. }, Some(template)) => template.has_body(channel, locale),
            (Text::Template { .. }, None) => false,
        };
        let suppressed = context.catalog.suppressed(notification, &recipient, target.only.as_ref())?;
        let Plan { deliveries, passed_over } = decide::plan(&Question {
            recipient: &recipient,
            category: &notification.category,
            rules: &rules,
            channels: notification.channels.as_deref(),
            only: target.only.as_ref(),
            suppressed: &suppressed,
            has_text: &has_text,
            has_provider: &|channel| {
                providers.first(channel, &sought).is_some() && !tried(&target.recipient, channel)
            },
        });
        if deliveries.is_empty() && passed_over.is_empty() {
            decided.events.push(refusal(intake, target, None, Reason::NoUsableChannel, now));
        }
        // A channel that must not be used is told even when another one is; the other reasons only matter when nothing
        // was left.
        for (channel, reason) in passed_over {
            if deliveries.is_empty() || is_suppression(reason) {
                decided.events.push(refusal(intake, target, Some(channel), reason, now));
            }
        }
        for contact in once_per_number(context, notification, target, deliveries)? {
            let work = work(intake, target, contact, repeat);
            planned.deliveries.push(PlannedDelivery {
                delivery: work.delivery.clone(),
                recipient: work.recipient.clone(),
                channel: work.channel,
                contact: work.contact.clone(),
            });
            let ambiguous = intake.takeover.as_ref().is_some_and(|takeover| takeover.ambiguous);
            decided.add(work, ambiguous, rules.class, intake.takeover.as_ref());
        }
        decided.recipient = (intake.targets.len() == 1).then_some(found);
    }
    for taken in intake.takeover.iter().flat_map(|takeover| &takeover.deliveries) {
        planned.deliveries.push(taken.planned.clone());
        decided.add(
            taken_work(intake, taken, repeat),
            taken.ambiguous,
            rules.class,
            intake.takeover.as_ref(),
        );
    }
    if !planned.deliveries.is_empty() {
        decided.events.push(planned);
    }
    Ok(decided)
}

/// Leaves out what would come twice: a number that is registered for text messages and for Alimtalk serves Alimtalk as
/// both, and the two have different indexes.
fn once_per_number(
    context: &Context,
    notification: &Accepted,
    target: &ResolvedTarget,
    mut deliveries: Vec<ContactRef>,
) -> Result<Vec<ContactRef>, CatalogError> {
    let is_alimtalk = |contact: &ContactRef| contact.channel == Channel::Alimtalk;
    if deliveries.iter().filter(|contact| is_alimtalk(contact)).count() < 2 {
        return Ok(deliveries);
    }
    if let Some(recipient) = context.catalog.recipient(&notification.app, &target.recipient)? {
        let mut numbers = HashSet::new();
        deliveries.retain(|contact| {
            let known = recipient.contact(&contact.index).filter(|_| is_alimtalk(contact));
            known.is_none_or(|known| numbers.insert(known.identity()))
        });
    }
    Ok(deliveries)
}

/// Deliveries that were planned before and may never have been queued.
pub(super) fn planned_before(intake: &Intake, planned: Vec<PlannedDelivery>) -> Decided {
    let taken = planned.into_iter().map(|planned| TakenDelivery { planned, replays: 0, ambiguous: false });
    let repeat = Repeat { is_possible: true, since: None };
    let works = taken.map(|taken| taken_work(intake, &taken, repeat)).collect();
    Decided { works, ..Decided::default() }
}

/// Leaves out the targets of which it was said that they get nothing. Whether they would get it by now does not matter.
pub(super) fn leave_out_refused(intake: &mut Intake, refused: &HashSet<DeliveryId>) {
    let notification = &intake.notification;
    intake.targets.retain(|target| {
        let mut ids = Channel::ALL.into_iter().map(Some).chain([None]);
        !ids.any(|channel| refused.contains(&refusal_id(notification, target, channel)))
    });
}

impl Decided {
    /// The only delivery, where nothing else is to be told than its planning and a second call does no harm.
    pub(super) fn sole(&self) -> Option<Sole<'_>> {
        match (self.works.as_slice(), self.events.as_slice(), &self.recipient) {
            ([work], [planned], Some(recipient))
                if planned.kind == EventType::Planned && !self.is_delicate =>
            {
                Some(Sole { work, planned, recipient })
            }
            _ => None,
        }
    }

    /// Adds a delivery where it belongs. `ambiguous` says that the region that is gone may have made it.
    fn add(&mut self, work: Work, ambiguous: bool, class: Class, takeover: Option<&Takeover>) {
        let put_aside = ambiguous
            && match takeover.map(|takeover| takeover.when_ambiguous).unwrap_or_default() {
                WhenAmbiguous::ByChannel => !decide::may_repeat(work.channel, class),
                WhenAmbiguous::Send => false,
                WhenAmbiguous::PutAside => true,
            };
        self.is_delicate |= takeover.is_some() || !decide::may_repeat(work.channel, class);
        if put_aside { self.put_aside.push(work) } else { self.works.push(work) }
    }
}

/// A delivery as the region planned it that is gone.
fn taken_work(intake: &Intake, taken: &TakenDelivery, repeat: Repeat) -> Work {
    let TakenDelivery { planned, replays, .. } = taken;
    let notification = intake.notification.for_channel(planned.channel);
    Work {
        v: notification.version(),
        delivery: planned.delivery.clone(),
        recipient: planned.recipient.clone(),
        channel: planned.channel,
        contact: planned.contact.clone(),
        state_seq: intake.state_seq,
        attempts: 0,
        not_before: None,
        hops: 0,
        repeat: repeat.is_possible,
        repeat_since: repeat.since,
        replays: *replays,
        notification,
    }
}

const fn is_suppression(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::CategoryOptOut | Reason::ChannelOptOut | Reason::MarketingOptOut | Reason::AddressSuppressed
    )
}

fn work(intake: &Intake, target: &ResolvedTarget, contact: ContactRef, repeat: Repeat) -> Work {
    let notification = intake.notification.for_channel(contact.channel);
    Work {
        v: notification.version(),
        delivery: DeliveryId::derive(
            &notification.app,
            &notification.id,
            &target.recipient,
            contact.channel,
            &contact.index,
            0,
        ),
        recipient: target.recipient.clone(),
        channel: contact.channel,
        contact: contact.index,
        state_seq: intake.state_seq,
        attempts: 0,
        not_before: None,
        hops: 0,
        repeat: repeat.is_possible,
        repeat_since: repeat.since,
        replays: 0,
        notification,
    }
}

/// The event that says that a recipient, or one channel of it, gets nothing.
fn refusal(
    intake: &Intake,
    target: &ResolvedTarget,
    channel: Option<Channel>,
    reason: Reason,
    now: Timestamp,
) -> Event {
    let notification = &intake.notification;
    let kind = match reason {
        reason if is_suppression(reason) => EventType::Suppressed,
        Reason::UnknownRecipient => EventType::Erased,
        _ => EventType::Failed,
    };
    let mut event = Event::about(kind, now, notification);
    event.delivery = Some(refusal_id(notification, target, channel));
    event.recipient = Some(target.recipient.clone());
    event.channel = channel;
    event.reason = Some(reason.as_str().to_owned());
    event
}

/// The delivery that stands for what a recipient, or one channel of it, does not get.
fn refusal_id(notification: &Accepted, target: &ResolvedTarget, channel: Option<Channel>) -> DeliveryId {
    DeliveryId::derive(
        &notification.app,
        &notification.id,
        &target.recipient,
        channel.unwrap_or(Channel::Inbox),
        channel.map_or("-", |_| "-channel"),
        0,
    )
}
