//! Deliveries that are made as soon as they are planned, by whoever planned them, without a stay in their channel's queue.
//!
//! Only the sole delivery of a notification is made so, while its channel's queue is empty, and where a second call does no
//! harm: all others go through the queue. The notification's message stays unacknowledged until the delivery is settled.
//! Should it come again, its delivery is queued as a possible repetition.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use peal_common::channel::{Channel, Priority};
use peal_common::envelope::Work;
use peal_common::event::Event;
use peal_nats::catalog::FoundRecipient;
use peal_nats::pull::{Job, Spare};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{DeliveryError, UNSAID_PAUSE, make, permits};
use crate::context::Context;
use crate::fanout;

/// The most of one channel and priority at once: one that hangs must leave places for the others.
const MOST_OF_A_LANE: usize = fanout::PERMITS / 3;
/// The most of one priority at once: what is fanned out for other channels goes on, to their queues if need be.
const MOST: usize = fanout::PERMITS * 2 / 3;
/// How long a place is waited for. At full load they come free every moment, and what is queued instead costs the most.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long a planning is kept back to be told with what comes of it: nobody should have to wonder for longer.
const TOLD_AFTER: Duration = Duration::from_millis(250);

/// The places of such deliveries.
#[derive(Debug)]
pub struct AtOnce {
    lanes: HashMap<(Channel, Priority), Lane>,
    all: HashMap<Priority, Semaphore>,
}

/// Those of one channel and priority.
#[derive(Debug)]
struct Lane {
    queue: Spare,
    places: Semaphore,
}

impl AtOnce {
    /// Places for half as many as may be in flight on each channel from its queue, `concurrency`.
    #[must_use]
    pub fn new(concurrency: usize) -> Self {
        let places = |priority| (permits(concurrency, priority) / 2).clamp(1, MOST_OF_A_LANE);
        let lane = |priority| Lane { queue: Spare::default(), places: Semaphore::new(places(priority)) };
        let of_channel = |channel| Priority::ALL.map(|priority| ((channel, priority), lane(priority)));
        AtOnce {
            lanes: Channel::ALL.into_iter().flat_map(of_channel).collect(),
            all: Priority::ALL.into_iter().map(|priority| (priority, Semaphore::new(MOST))).collect(),
        }
    }

    /// What the lane that serves the queue of a channel and priority shows its spare permits in.
    pub(super) fn spare(&self, channel: Channel, priority: Priority) -> Spare {
        self.lanes.get(&(channel, priority)).map(|lane| lane.queue.clone()).unwrap_or_default()
    }

    /// A place for a delivery, until it is dropped. `None` when the channel is not served here, when something waits in its
    /// queue, which goes first, or when no place comes free soon.
    pub async fn place(&self, channel: Channel, priority: Priority) -> Option<Place<'_>> {
        let (lane, all) = (self.lanes.get(&(channel, priority))?, self.all.get(&priority)?);
        if lane.queue.count() == 0 {
            return None;
        }
        let both = async {
            let of_lane = lane.places.acquire().await.ok()?;
            Some(Place { _of_all: all.try_acquire().ok()?, _of_lane: of_lane })
        };
        tokio::time::timeout(PATIENCE, both).await.ok().flatten()
    }
}

/// A delivery's place.
#[derive(Debug)]
pub struct Place<'a> {
    _of_lane: SemaphorePermit<'a>,
    _of_all: SemaphorePermit<'a>,
}

/// Such a delivery.
pub struct Sole<'a> {
    /// The delivery.
    pub work: &'a Work,
    /// Its planning.
    pub planned: &'a Event,
    /// Its recipient as it was when that was planned.
    pub recipient: &'a FoundRecipient,
}

/// The planning of such a delivery, which its first event tells along unless that takes long.
pub(super) struct Plan<'a> {
    planned: &'a Event,
    pub(super) recipient: &'a FoundRecipient,
    is_told: AtomicBool,
}

impl Plan<'_> {
    /// The event, which tells the planning along where that was not told.
    pub(super) fn with(&self, event: Event) -> Event {
        match self.is_told.load(Ordering::Relaxed) {
            true => event,
            false => event.with_plan(self.planned),
        }
    }

    async fn tell_late(&self, context: &Context) -> Infallible {
        tokio::time::sleep(TOLD_AFTER).await;
        while let Err(error) = Box::pin(context.event(self.planned)).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "a planning cannot be told yet");
            tokio::time::sleep(UNSAID_PAUSE).await;
        }
        self.is_told.store(true, Ordering::Relaxed);
        std::future::pending().await
    }
}

/// Makes a delivery as soon as it is planned. `job` is its notification's message.
///
/// # Errors
/// [`DeliveryError`] when the notification is to come again.
pub async fn make_at_once(context: &Context, job: &Job, sole: &Sole<'_>) -> Result<(), DeliveryError> {
    let Sole { work, planned, recipient } = *sole;
    // One that is in hand already is settled by whoever has it. What is left of the message here then is found out when it
    // comes again.
    let Some(_in_hand) = context.in_hand.take(&work.delivery, work.replays) else { return Ok(()) };
    let plan = Plan { planned, recipient, is_told: AtomicBool::new(false) };
    tokio::select! {
        made = make(context, job, work, Some(&plan), false) => made,
        never = plan.tell_late(context) => match never {},
    }
}
