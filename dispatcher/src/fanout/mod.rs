//! Fan-out: from one accepted notification to its deliveries.
//!
//! Each message of INTAKE becomes one message in WORK for every recipient and contact that the rules choose. A sole one is
//! made at once where that is possible ([`make_at_once`]), which spares JetStream a message that is read once. Delivery
//! ids are derived, and WORK recognises them for a while, so doing it twice does no harm; a message that may have been
//! handed out before marks its deliveries as possible repetitions.

mod deliveries;
pub mod fallback;
mod inherited;

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use peal_common::channel::Priority;
use peal_common::envelope::{Envelope as _, Intake, Work};
use peal_common::event::{Event, EventType};
use peal_common::takeover::Left;
use peal_nats::publish::Outgoing;
use peal_nats::pull::{AckError, Job, Lane, Spare};
use peal_nats::topology::{INTAKE, fanout_consumer};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::context::{Context, SayError, Shared};
use crate::delivery::{DeliveryError, make_at_once};
use crate::outcomes::{UnknownOutcome, settled_since};
use deliveries::{Decided, Repeat};
use inherited::Standing;

pub use inherited::Inherited;

/// Notifications of one priority that are fanned out at once.
pub(crate) const PERMITS: usize = 384;
/// A notification that is due sooner than this is not worth a schedule, whose times are whole seconds.
const SOON: SignedDuration = SignedDuration::from_millis(500);
/// What of one notification may be on its way to JetStream at once, in bytes. Each e-mail has its own copy of what is
/// attached.
const MOST_ON_ITS_WAY: usize = 8 * 1024 * 1024;
/// The pause before a notification is taken up again that could not be fanned out.
const PAUSE: Duration = Duration::from_secs(1);

/// The reason of a delivery that the region which is gone may have made.
const TAKEN_OVER_AMBIGUOUS: &str = "ambiguous: taken over";

/// Why a notification could not be fanned out now. It comes again.
#[derive(Debug, thiserror::Error)]
enum FanOutError {
    /// The mirror can't answer.
    #[error(transparent)]
    Catalog(#[from] peal_nats::catalog::CatalogError),
    /// JetStream did not take what follows.
    #[error(transparent)]
    Say(#[from] SayError),
    /// It was not acknowledged.
    #[error(transparent)]
    Ack(#[from] AckError),
    /// No gateway tells how a notification stands.
    #[error("no gateway tells how the notification stands")]
    Gateway(#[source] peal_nats::service::NoAnswer),
    /// Nobody can tell what was settled before.
    #[error(transparent)]
    Unknown(#[from] UnknownOutcome),
    /// Its delivery could not be made or settled.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
}

impl From<peal_nats::mirror::NotReady> for FanOutError {
    fn from(error: peal_nats::mirror::NotReady) -> Self {
        FanOutError::Catalog(error.into())
    }
}

impl From<peal_nats::publish::PublishError> for FanOutError {
    fn from(error: peal_nats::publish::PublishError) -> Self {
        FanOutError::Say(error.into())
    }
}

/// Fans out the notifications of one priority until `stop`.
pub async fn run(context: Shared, priority: Priority, tasks: TaskTracker, stop: CancellationToken) {
    let lane = Lane {
        stream: INTAKE.to_owned(),
        consumer: fanout_consumer(priority),
        permits: PERMITS,
        spare: Spare::default(),
    };
    let connection = context.connection.clone();
    lane.run(&connection, &stop, |job| {
        let context = Arc::clone(&context);
        tasks.spawn(async move { handle(&context, job, Origin::Intake).await });
    })
    .await;
}

/// Where a notification comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Fresh from the gateway: it may have to wait for its time.
    Intake,
    /// Its time has come.
    Schedule,
}

/// Fans out one notification and acknowledges it, or leaves it to come again.
pub async fn handle(context: &Context, job: Job, origin: Origin) {
    // On the heap, since a task's future is moved several times and this one is large.
    let taken_up = Box::pin(take_up(context, &job, origin));
    if let Err(error) = job.keep(taken_up).await {
        tracing::warn!(
            sequence = job.sequence,
            error = &error as &dyn std::error::Error,
            "fan-out is repeated"
        );
        // When this is lost too, the message comes again by itself.
        let _ = job.nak(PAUSE).await;
    }
}

async fn take_up(context: &Context, job: &Job, origin: Origin) -> Result<(), FanOutError> {
    let mut left = None;
    if origin == Origin::Intake && job.is_inherited() {
        left = match context.inherited.standing(job).await.map_err(UnknownOutcome::from)? {
            Standing::Done => return Ok(job.ack().await?),
            Standing::Open(left) => Some(left),
            Standing::Foreign => None,
        };
    }
    let mut intake = match Intake::decode(job.payload()) {
        Ok(intake) => Box::new(intake),
        Err(error) => {
            context.unreadable(job, None, &error).await;
            return Ok(());
        }
    };
    match left {
        None => {}
        Some(Left::Planned(planned)) => {
            publish(context, deliveries::planned_before(&intake, planned)).await?;
            return Ok(job.ack().await?);
        }
        Some(Left::Undecided(refused)) => deliveries::leave_out_refused(&mut intake, &refused),
    }
    fan_out(context, job, intake, origin).await
}

async fn fan_out(
    context: &Context,
    job: &Job,
    intake: Box<Intake>,
    origin: Origin,
) -> Result<(), FanOutError> {
    let suspicion = context.outcomes.suspicion(job);
    if suspicion.is_some() {
        context.outcomes.prepare(job).await?;
    }
    context.caught_up(intake.state_seq).await?;
    let now = context.clock.now();
    let notification = &intake.notification;
    let whole = |kind| Event::about(kind, now, notification);
    if let Some(reason) = context.stopped(notification)? {
        let mut event = whole(EventType::Cancelled);
        event.reason = Some(reason.to_owned());
        context.event(&event).await?;
        return Ok(job.ack().await?);
    }
    if notification.expires_at <= now {
        context.event(&whole(EventType::Expired)).await?;
        return Ok(job.ack().await?);
    }
    if let Some(at) = intake.send_at
        && origin == Origin::Intake
        && at.duration_since(now) > SOON
    {
        let (app, id) = (notification.app.as_str(), notification.id.as_str());
        let target = context.subjects.due(&["intake", notification.priority.as_str(), app]);
        context.schedule(&["intake", app, id], &target, at, job.payload().to_vec()).await?;
        let mut event = whole(EventType::Scheduled);
        event.until = Some(at);
        context.event(&event).await?;
        return Ok(job.ack().await?);
    }
    let repeat = Repeat {
        is_possible: suspicion.is_some(),
        since: suspicion.and_then(|suspicion| settled_since(job, suspicion)),
    };
    let mut decided = deliveries::decide(context, &intake, now, repeat)?;
    // Somebody else may have fanned it out, so long ago that the queues do not recognise it any more.
    if !job.is_ours() {
        return Err(DeliveryError::Disconnected.into());
    }
    for work in std::mem::take(&mut decided.put_aside) {
        put_aside(context, work).await?;
    }
    fallback::arm(context, &intake, &decided, now).await?;
    // What is due has few places, for much that waits.
    if origin == Origin::Intake
        && suspicion.is_none()
        && let Some(sole) = decided.sole()
        && let Some(_place) = context.at_once.place(sole.work.channel, intake.notification.priority).await
    {
        return Ok(make_at_once(context, job, &sole).await?);
    }
    publish(context, decided).await?;
    Ok(job.ack().await?)
}

/// Puts a delivery aside that another region may have made.
async fn put_aside(context: &Context, work: Work) -> Result<(), SayError> {
    let mut event = Event::about(EventType::Ambiguous, context.clock.now(), &work.notification);
    event.delivery = Some(work.delivery.clone());
    event.recipient = Some(work.recipient.clone());
    event.channel = Some(work.channel);
    event.replays = Some(work.replays).filter(|replays| *replays > 0);
    event.reason = Some(TAKEN_OVER_AMBIGUOUS.to_owned());
    context.dead_letter(Box::new(work), 0, TAKEN_OVER_AMBIGUOUS).await?;
    context.event(&event).await
}

/// Publishes everything at once and waits for all acknowledgements: one round trip for the whole notification, unless it is
/// very large.
async fn publish(context: &Context, decided: Decided) -> Result<(), FanOutError> {
    let mut pending = Vec::with_capacity(decided.works.len() + decided.events.len());
    for event in &decided.events {
        pending.push(context.send_event(event).await?);
    }
    let mut on_its_way = 0;
    for work in &decided.works {
        let outgoing = queued(context, work)?;
        on_its_way += outgoing.size();
        if on_its_way > MOST_ON_ITS_WAY {
            on_its_way = outgoing.size();
            for pending in pending.drain(..) {
                pending.acknowledged().await?;
            }
        }
        pending.push(context.connection.send(outgoing).await?);
    }
    for pending in pending {
        pending.acknowledged().await?;
    }
    Ok(())
}

/// A delivery as a message of its queue, which recognises it when it is published again: after a wait in SCHEDULE or a replay
/// it is another one.
///
/// # Errors
/// [`SayError::Encode`]
pub fn queued(context: &Context, work: &Work) -> Result<Outgoing, SayError> {
    let app = work.notification.app.as_str();
    let subject = context.subjects.work(work.channel, work.notification.priority, app);
    let id = format!("{}:{}:{}", work.delivery, work.replays, work.hops);
    Ok(Outgoing::new(subject, work.encode()?).id(&id))
}
