//! Coming home: a region that was silent for long may have been taken over by another one.
//!
//! Which notifications others took over stands in the state, and the hub has to tell it before anything is delivered. A
//! region that is merely cut off, or whose processes were replaced, waits for nobody.
//!
//! When the hub stays away, the region goes on by itself. What was accepted before and must not be sent twice waits on
//! until the hub has told ([`Doubt`]).

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use peal_common::channel::{Channel, Priority};
use peal_common::clock::Clock;
use peal_common::event::EventType;
use peal_nats::follow::StateError;
use peal_nats::mirror::Mirror;
use peal_nats::publish::Outgoing;
use peal_nats::topology::{EVENTS, INTAKE, LIMITS, OTHERS_STATE, fanout_consumer};
use peal_nats::{Connection, Region, Subjects};
use tokio::time::{Instant, MissedTickBehavior};

/// How long the hub may take after a mere restart: a link that stands tells within a moment.
const RESTART_LIMIT: Duration = Duration::from_secs(5);
/// How long the mirror may take to take in what the hub told, before the hub is asked again: it follows within milliseconds.
const TAKEN_IN: Duration = Duration::from_secs(5);
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How often it is told that JetStream does not answer.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// What only dispatchers say. Gateways tell of receipts, and write again what the hub missed, before any dispatcher is back.
const BY_DISPATCHERS: [EventType; 11] = [
    EventType::Planned,
    EventType::Sent,
    EventType::Retried,
    EventType::Held,
    EventType::Failed,
    EventType::Suppressed,
    EventType::Expired,
    EventType::DeadLettered,
    EventType::Erased,
    EventType::Cancelled,
    EventType::Ambiguous,
];
/// The channels of which no gateway says that something was delivered: nobody reports it to them.
const WITHOUT_RECEIPTS: [Channel; 2] = [Channel::Webhook, Channel::Inbox];

/// Where the doubt stands for all dispatchers of the region, those that start later among them: a message of LIMITS, which is
/// written again long before the stream drops it.
const DOUBT: &str = "doubt";
/// How often that is.
const RENEWAL: Duration = Duration::from_secs(600);

/// How long to wait for the hub.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// After so long without a word of its dispatchers a region may have been taken over.
    pub silence: Duration,
    /// Then the hub may take so long. After it the region goes on by itself, as one that is cut off does.
    pub limit: Duration,
}

/// What others may have taken over: everything that was accepted before a moment, in milliseconds since the Unix epoch; 0
/// when there is no doubt.
#[derive(Debug, Default)]
pub struct Doubt(AtomicI64);

impl Doubt {
    /// Whether what was accepted then may have been taken over.
    #[must_use]
    pub fn covers(&self, accepted_at: Timestamp) -> bool {
        accepted_at.as_millisecond() < self.0.load(Ordering::Relaxed)
    }

    /// Ends when the hub has told what was taken over and the mirror has it; at once where there is no doubt.
    pub async fn until_gone(&self, connection: &Connection, hub: &Region, mirror: &Mirror) {
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut written: Option<Instant> = None;
        while self.0.load(Ordering::Relaxed) > 0 {
            look.tick().await;
            if is_known(connection, hub, mirror).await {
                tracing::info!("the hub has told what others took over");
                self.0.store(0, Ordering::Relaxed);
                self.write(connection).await;
            } else if written.is_none_or(|written| written.elapsed() >= RENEWAL)
                && self.write(connection).await
            {
                written = Some(Instant::now());
            }
        }
    }

    /// Takes over what stands there for all.
    async fn read(&self, connection: &Connection) -> Result<(), StateError> {
        let subject = Subjects::new(&connection.region).limit(DOUBT);
        let stands = connection.last_of(LIMITS, &subject).await?;
        let before_ms = stands.and_then(|stands| std::str::from_utf8(&stands.payload).ok()?.parse().ok());
        self.0.store(before_ms.unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }

    /// Writes it down for all. Whether that stands.
    async fn write(&self, connection: &Connection) -> bool {
        let subject = Subjects::new(&connection.region).limit(DOUBT);
        let before_ms = self.0.load(Ordering::Relaxed).to_string();
        match connection.publish(Outgoing::new(subject, before_ms)).await {
            Ok(_) => true,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "other dispatchers do not hear of what may have been taken over");
                false
            }
        }
    }
}

/// Whether the mirror has all that the hub has to tell.
async fn is_known(connection: &Connection, hub: &Region, mirror: &Mirror) -> bool {
    if !matches!(connection.state_missing(hub).await, Ok(Some(0))) {
        return false;
    }
    match connection.stream_state(OTHERS_STATE).await {
        Ok(told) => mirror.wait_for_others(told.last, TAKEN_IN).await.is_ok(),
        Err(_) => false,
    }
}

/// Waits until it is known what was taken over: for long when no dispatcher of the region said anything for `silence`, since
/// nobody takes over a region that was heard of since. When the hub tells nothing all the same, a doubt is left.
pub async fn wait(connection: &Connection, hub: &Region, clock: &Clock, patience: Patience, doubt: &Doubt) {
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    // Without JetStream there is nothing to deliver.
    let mut told: Option<Instant> = None;
    let (limit, silent_until) = loop {
        look.tick().await;
        let silence = match doubt.read(connection).await {
            Ok(()) => silence(connection, clock).await,
            Err(error) => Err(error),
        };
        match silence {
            Ok(None) => return,
            Ok(Some(Silence { ms, until_ms })) if u128::from(ms) >= patience.silence.as_millis() => {
                break (patience.limit, Some(until_ms));
            }
            Ok(Some(_)) => break (RESTART_LIMIT, None),
            Err(error) if told.is_none_or(|told| told.elapsed() >= TELL_INTERVAL) => {
                told = Some(Instant::now());
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    "nothing is delivered until JetStream answers; see `peal topology check`"
                );
            }
            Err(_) => {}
        }
    };
    let began = Instant::now();
    while !matches!(connection.state_missing(hub).await, Ok(Some(0))) {
        if began.elapsed() >= limit {
            if let Some(until_ms) = silent_until {
                tracing::warn!("the hub does not answer: what others took over may be delivered twice");
                // Gateways say by their own clocks when they accepted something.
                doubt.0.store(until_ms.max(clock.now_ms()), Ordering::Relaxed);
                // Before anything is said: from then on nobody who starts finds the region silent.
                while !doubt.write(connection).await {
                    look.tick().await;
                }
            }
            return;
        }
        look.tick().await;
    }
    doubt.0.store(0, Ordering::Relaxed);
}

/// The time since a dispatcher of the region said something last, by the clock of the servers where they tell it.
struct Silence {
    /// In milliseconds: for ever when nothing of that is left, or never was.
    ms: u64,
    /// Its end, which is now, in milliseconds since the Unix epoch.
    until_ms: i64,
}

/// How long the region has been silent. `None` when it never accepted anything: then there is nothing to take over.
async fn silence(connection: &Connection, clock: &Clock) -> Result<Option<Silence>, StateError> {
    if connection.stream_state(EVENTS).await?.last == 0 && connection.stream_state(INTAKE).await?.last == 0 {
        return Ok(None);
    }
    let (subjects, mut last_ms) = (Subjects::new(&connection.region), None);
    let of_type = BY_DISPATCHERS.map(|kind| subjects.event_of_type(kind.as_str()));
    let delivered = WITHOUT_RECEIPTS.map(|channel| subjects.event_on(EventType::Delivered.as_str(), channel));
    for subject in of_type.iter().chain(&delivered) {
        let last = connection.last_at_leader(EVENTS, subject).await?;
        last_ms = last_ms.max(last.map(|last| last.at_ms));
    }
    // A consumer that is missing keeps its own lane from working, and no other one.
    let standing = connection.consumer_standing(INTAKE, &fanout_consumer(Priority::Normal)).await;
    let until_ms = standing.map_or_else(|_| clock.now_ms(), |standing| standing.now_ms);
    let since = |last_ms| u64::try_from(until_ms.saturating_sub(last_ms)).unwrap_or(0);
    Ok(Some(Silence { ms: last_ms.map_or(u64::MAX, since), until_ms }))
}
