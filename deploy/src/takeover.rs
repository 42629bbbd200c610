//! Taking over what a region left that is gone for good: `peal region takeover`.
//!
//! The hub holds what the region accepted and what it said became of it. What has no outcome goes into INTAKE of the region
//! that takes over, under the same id, so that doing it twice does no harm. Before that the state says of each such
//! notification who has it now: should the lost region come back, its dispatchers leave these alone. What it accepted
//! without the hub having heard of it is still its own.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use peal_common::clock::Clock;
use peal_common::envelope::{Accepted, Envelope as _, Intake, WhenAmbiguous};
use peal_common::event::Event;
use peal_common::id::{AppId, NotificationId};
use peal_common::settings::Settings;
use peal_common::state::{Kind, RecordKey};
use peal_common::takeover::{Rest, Unfinished};
use peal_nats::catalog::TAKEN_OVER_FACET;
use peal_nats::follow::{Reader, Stored};
use peal_nats::publish::{ACCEPTED_HEADER, Outgoing};
use peal_nats::state::{StateWriter, WriteError};
use peal_nats::topology::{EVENTS, INTAKE, OTHERS_STATE};
use peal_nats::{Connection, Region, Subjects};
use serde_json::Value;
use tokio::time::Instant;

use crate::output::Output;
use crate::region::state_writer;

/// How long processes of the region may take to say that they are there.
const ALIVE_LIMIT: Duration = Duration::from_secs(2);
/// How long the hub may take to tell this region all that it knows of the state.
const LEVEL_LIMIT: Duration = Duration::from_secs(30);
const LEVEL_INTERVAL: Duration = Duration::from_millis(500);
/// The hub gives a sign of life every second.
const HEARD: Duration = Duration::from_secs(3);
/// Notifications that are handed over at once.
const AT_ONCE: usize = 64;
/// How often it is told how far it is.
const TELL_EVERY: u64 = 100_000;
/// The record of a takeover has no meaning any more this long after the notification itself has none.
const KEPT_AFTER_EXPIRY_MS: i64 = 24 * 60 * 60 * 1000;
const MESSAGE_ID: &str = "Nats-Msg-Id";

/// What was done.
#[derive(Debug)]
pub struct Done {
    /// What the hub knows that the region accepted.
    pub accepted: u64,
    /// What had no outcome and is this region's now.
    pub taken: u64,
    /// Messages that a newer version of Peal wrote, or somebody else.
    pub unreadable: u64,
    /// When the region was last heard of.
    pub last: Timestamp,
}

/// Takes over what `from` left, into the region of the connection.
///
/// # Errors
/// When `from` is no other region, still lives or was heard of lately; when the hub or this region does not answer. What
/// was handed over by then stays so; the next try goes on from there.
pub async fn take_over(
    settings: &Settings,
    connection: &Connection,
    from: &Region,
    when_ambiguous: WhenAmbiguous,
    output: &Output,
) -> anyhow::Result<Done> {
    let Some(name) = settings.topology.hub.as_ref().filter(|_| !settings.is_hub()) else {
        bail!(
            "these are the settings of no linked region (topology.hub): use those of the region that takes over"
        );
    };
    ensure!(
        connection.others.contains(from),
        "it is none of the other regions of {} (topology.regions)",
        connection.region
    );
    let hub = connection.in_domain(name);
    is_gone(connection, &hub, from, Duration::from_secs(settings.topology.silence_seconds)).await?;
    has_all_state(connection).await?;

    let (rest, accepted, last) = unfinished(connection, &hub, from, output).await?;
    output.progress(format!("{} of {accepted} have no outcome", rest.len()));
    let handover = Handover {
        hub: &hub,
        here: connection,
        subjects: Subjects::new(&connection.region),
        state: state_writer(connection),
        last,
        when_ambiguous,
    };
    let mut done = Done { accepted, taken: 0, unreadable: 0, last };
    let mut handed = stream::iter(rest).map(|rest| handover.hand_over(rest)).buffer_unordered(AT_ONCE);
    while let Some(handed) = handed.try_next().await? {
        match handed {
            Handed::Over => done.taken += 1,
            Handed::Unreadable => done.unreadable += 1,
            Handed::Nothing => {}
        }
        if done.taken % TELL_EVERY == TELL_EVERY - 1 {
            output.progress(format!("{} are handed over", done.taken + 1));
        }
    }
    Ok(done)
}

/// Fails while the region lives, as far as can be seen from here.
async fn is_gone(
    connection: &Connection,
    hub: &Connection,
    from: &Region,
    silence: Duration,
) -> anyhow::Result<()> {
    let instances = connection.instances(ALIVE_LIMIT).await?;
    let alive =
        instances.iter().filter(|it| it.metadata.get("region").is_some_and(|region| region == from.as_str()));
    let alive: Vec<_> = alive.map(|instance| format!("{} {}", instance.name, instance.id)).collect();
    ensure!(alive.is_empty(), "it still answers: stop {} first", alive.join(", "));
    let sources =
        hub.sources(EVENTS).await.context("the hub does not answer; what the region left is there")?;
    let source = sources.iter().find(|source| source.from == from.as_str());
    if let Some(heard) = source.and_then(|source| source.silent_for)
        && heard < silence
    {
        bail!(
            "the hub heard of it {} s ago: wait until that is {} s (topology.silence_seconds)",
            heard.as_secs(),
            silence.as_secs()
        );
    }
    Ok(())
}

/// Waits until this region has all state that the hub has: recipients and wishes that the lost region wrote.
async fn has_all_state(connection: &Connection) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut look = tokio::time::interval(LEVEL_INTERVAL);
    loop {
        look.tick().await;
        let sources = connection.sources(OTHERS_STATE).await?;
        let behind: u64 = sources.iter().map(|source| source.lag).sum();
        let heard = sources.iter().all(|source| source.silent_for.is_some_and(|silence| silence < HEARD));
        if heard && behind == 0 {
            return Ok(());
        }
        ensure!(
            began.elapsed() < LEVEL_LIMIT,
            "this region has not got all state from the hub yet ({behind} changes are missing): look at `peal doctor`"
        );
    }
}

/// Reads what the region accepted and what happened, about in the order of time, so that little has to be kept in mind.
async fn unfinished(
    connection: &Connection,
    hub: &Connection,
    from: &Region,
    output: &Output,
) -> anyhow::Result<(Vec<Rest>, u64, Timestamp)> {
    let mut unfinished = Unfinished::new(from.clone());
    let (mut accepted, mut read) = (0, 0_u64);
    let (mut intake, mut events) = (Reader::open(hub, INTAKE).await?, Reader::open(hub, EVENTS).await?);
    loop {
        let intake_at = intake.peek().await?.map(|message| message.at_ms);
        let events_at = events.peek().await?.map(|message| message.at_ms);
        let (is_event, reader) = match (intake_at, events_at) {
            (None, None) => break,
            (Some(accepted), happened) if happened.is_none_or(|happened| accepted <= happened) => {
                (false, &mut intake)
            }
            _ => (true, &mut events),
        };
        let Some(message) = reader.take() else { continue };
        read += 1;
        if read.is_multiple_of(TELL_EVERY) {
            output.progress(format!(
                "{read} messages of the hub are read, {} notifications are open",
                unfinished.len()
            ));
        }
        let Some(region) = Subjects::region_of(&message.subject) else { continue };
        if is_event {
            if let Ok(event) = Event::decode(&message.payload) {
                unfinished.happened(&region, &event);
            }
        } else if region == *from
            && let Some((app, id)) = names(&message)
        {
            accepted += 1;
            unfinished.accepted(app, id, Timestamp::from_millisecond(message.at_ms)?, message.sequence);
        }
    }
    // What another region accepted under the same id it delivers; so does this one with what it took over before. Its
    // own stream is asked, since the hub may be behind it.
    for (connection, here) in [(hub, false), (connection, true)] {
        let mut reader = Reader::open(connection, INTAKE).await?;
        while !unfinished.is_empty() && reader.peek().await?.is_some() {
            let Some(message) = reader.take() else { continue };
            let elsewhere =
                here || Subjects::region_of(&message.subject).is_some_and(|region| region != *from);
            if elsewhere && let Some((app, id)) = names(&message) {
                unfinished.is_elsewhere(&app, &id);
            }
        }
    }
    let (rest, last) = unfinished.finish();
    Ok((rest, accepted, last))
}

/// App and id of an accepted notification, which its message is recognised by.
fn names(message: &Stored) -> Option<(AppId, NotificationId)> {
    let (app, id) = message.header(MESSAGE_ID)?.split_once(':')?;
    Some((app.parse().ok()?, id.parse().ok()?))
}

struct Handover<'a> {
    hub: &'a Connection,
    here: &'a Connection,
    subjects: Subjects,
    state: StateWriter,
    last: Timestamp,
    when_ambiguous: WhenAmbiguous,
}

/// What became of one notification.
enum Handed {
    Over,
    /// Nothing is left to do, or its message has expired.
    Nothing,
    Unreadable,
}

impl Handover<'_> {
    async fn hand_over(&self, rest: Rest) -> anyhow::Result<Handed> {
        let Some(message) = self.hub.message_at(INTAKE, rest.place).await? else {
            return Ok(Handed::Nothing);
        };
        let (Ok(intake), Some(id)) = (Intake::decode(&message.payload), message.header(MESSAGE_ID)) else {
            return Ok(Handed::Unreadable);
        };
        let Some(intake) = rest.taken_over(intake, self.last, self.when_ambiguous) else {
            return Ok(Handed::Nothing);
        };
        let notification = &intake.notification;
        // What is of no use any more only gets its end: that it expired.
        if notification.expires_at > Clock::System.now() {
            self.say(notification).await?;
        }
        let subject = self.subjects.intake(notification.priority, notification.app.as_str());
        let mut outgoing = Outgoing::new(subject, intake.encode()?).id(id);
        if let Some(told) = message.header(ACCEPTED_HEADER) {
            outgoing = outgoing.header(ACCEPTED_HEADER, told);
        }
        self.here
            .publish(outgoing)
            .await
            .with_context(|| format!("{} does not take it", self.here.region))?;
        Ok(Handed::Over)
    }

    /// Says who has the notification now, for the region that may come back.
    async fn say(&self, notification: &Accepted) -> Result<(), WriteError> {
        let key = RecordKey::new(Kind::Cancellation, &notification.app, notification.id.as_str());
        let by = Value::from(self.here.region.as_str());
        let expires = notification.expires_at.as_millisecond().saturating_add(KEPT_AFTER_EXPIRY_MS);
        let written = self.state.update::<WriteError>(&key, |record, stamp| {
            if record.get(TAKEN_OVER_FACET) != Some(&by) {
                record.set(TAKEN_OVER_FACET, by.clone(), stamp);
                record.expires_ms = record.expires_ms.max(u64::try_from(expires).ok());
            }
            Ok(())
        });
        written.await.map(|_| ())
    }
}
