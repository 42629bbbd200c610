//! Taking over what a region left that is gone for good: `peal region takeover`.
//!
//! The hub holds what the region accepted and what it said became of it. What has no outcome goes into INTAKE of the region
//! that takes over, under the same id, and the state says of each such notification who has it now: should the lost region
//! come back, its dispatchers leave these alone. What it accepted without the hub having heard of it is still its own. The
//! state also tells whose a notification is that was taken over before, so doing it twice does no harm.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use peal_common::clock::Clock;
use peal_common::envelope::{Accepted, Envelope as _, Intake, WhenAmbiguous};
use peal_common::id::{AppId, NotificationId};
use peal_common::settings::Settings;
use peal_common::state::RecordKey;
use peal_common::takeover::{Finish, Rest};
use peal_nats::catalog::{TAKEN_OVER_FACET, cancellation_key};
use peal_nats::follow::{Reader, Stored};
use peal_nats::publish::{ACCEPTED_HEADER, Outgoing};
use peal_nats::state::{StateWriter, WriteError};
use peal_nats::topology::{EVENTS, INTAKE};
use peal_nats::unfinished::{TAKEN_BACK, Told, name, unfinished};
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
/// Notifications that are handed over at once.
const AT_ONCE: usize = 64;
/// How often it is told how far it is.
const TELL_EVERY: u64 = 100_000;
/// The record of a takeover has no meaning any more this long after the notification itself has none.
const KEPT_AFTER_EXPIRY_MS: i64 = 24 * 60 * 60 * 1000;

/// What was done.
#[derive(Debug)]
pub struct Done {
    /// What the hub knows that the region accepted.
    pub accepted: u64,
    /// What had no outcome and was handed to this region.
    pub taken: u64,
    /// What is not known well enough to be handed over.
    pub left: Left,
    /// When the region was last heard of.
    pub last: Timestamp,
}

/// Notifications that are not handed over.
#[derive(Debug, Default)]
pub struct Left {
    /// Their messages were written by a newer version of Peal, or by somebody else.
    pub unreadable: u64,
    /// What happened to them at first has left the hub's EVENTS: they may have ended long ago.
    pub too_old: u64,
    /// They wait for a time, and their messages have left the hub's INTAKE: only the region has them.
    pub out_of_reach: u64,
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
    has_all_state(connection, name).await?;

    let known = read(connection, &hub, from, output).await?;
    let Told { unfinished, accepted, too_old, .. } = known.told;
    let Finish { rest, out_of_reach, last } = unfinished.finish();
    output.progress(format!("{} of {accepted} have no outcome", rest.len()));
    let handover = Handover {
        from,
        known: (&known.here, &known.elsewhere),
        hub: &hub,
        here: connection,
        subjects: Subjects::new(&connection.region),
        state: state_writer(connection),
        when_ambiguous,
    };
    let left = Left { unreadable: 0, too_old, out_of_reach: out_of_reach as u64 };
    let mut done = Done { accepted, taken: 0, left, last };
    let mut handed = stream::iter(rest).map(|rest| handover.hand_over(rest)).buffer_unordered(AT_ONCE);
    while let Some(handed) = handed.try_next().await? {
        match handed {
            Handed::Over => done.taken += 1,
            Handed::Unreadable => done.left.unreadable += 1,
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
    let heard = match heard_of(hub, from).await? {
        // The hub was started since: if the region lives, it is heard of in this time.
        None => {
            tokio::time::sleep(silence).await;
            heard_of(hub, from).await?
        }
        heard => heard,
    };
    if let Some(heard) = heard.filter(|heard| *heard < silence) {
        bail!(
            "the hub heard of it {} s ago: wait until that is {} s (topology.silence_seconds)",
            heard.as_secs(),
            silence.as_secs()
        );
    }
    Ok(())
}

/// How long ago the hub heard of a region; `None` when it never did since it was started.
async fn heard_of(hub: &Connection, from: &Region) -> anyhow::Result<Option<Duration>> {
    let sources =
        hub.sources(EVENTS).await.context("the hub does not answer; what the region left is there")?;
    Ok(sources.iter().find(|source| source.from == from.as_str()).and_then(|source| source.silent_for))
}

/// Waits until this region has all state that the hub has: recipients and wishes that the lost region wrote.
async fn has_all_state(connection: &Connection, hub: &Region) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut look = tokio::time::interval(LEVEL_INTERVAL);
    loop {
        look.tick().await;
        let missing = connection.state_missing(hub).await?;
        if missing == Some(0) {
            return Ok(());
        }
        ensure!(
            began.elapsed() < LEVEL_LIMIT,
            "this region has not got all state from the hub yet ({} changes are missing): look at `peal doctor`",
            missing.map_or_else(|| "nobody knows how many".to_owned(), |missing| missing.to_string())
        );
    }
}

type Name = (AppId, NotificationId);

/// What the streams say.
struct Known {
    told: Told,
    /// What stands in this region's INTAKE, and in that of others, of what may be unfinished.
    here: HashSet<Name>,
    elsewhere: HashSet<Name>,
}

/// Reads what the region accepted and what happened, and what of it others have.
async fn read(
    connection: &Connection,
    hub: &Connection,
    from: &Region,
    output: &Output,
) -> anyhow::Result<Known> {
    let told = unfinished(hub, from, |read, open| {
        if read.is_multiple_of(TELL_EVERY) {
            output.progress(format!("{read} messages of the hub are read, {open} notifications are open"));
        }
    });
    let mut known = Known { told: told.await?, here: HashSet::new(), elsewhere: HashSet::new() };
    let unfinished = &known.told.unfinished;
    // The own stream is asked too, since the hub may be behind it.
    for (connection, is_here) in [(hub, false), (connection, true)] {
        let mut reader = Reader::open(connection, INTAKE).await?;
        while !unfinished.is_empty() && reader.peek().await?.is_some() {
            let Some(message) = reader.take() else { continue };
            let is_other = Subjects::region_of(&message.subject).is_some_and(|region| region != *from);
            let Some(name) = name(&message).filter(|name| is_other && unfinished.has(name)) else {
                continue;
            };
            let found = if is_here { &mut known.here } else { &mut known.elsewhere };
            found.insert(name);
        }
    }
    Ok(known)
}

struct Handover<'a> {
    from: &'a Region,
    /// What stands in this region's INTAKE, and in that of others.
    known: (&'a HashSet<Name>, &'a HashSet<Name>),
    hub: &'a Connection,
    here: &'a Connection,
    subjects: Subjects,
    state: StateWriter,
    when_ambiguous: WhenAmbiguous,
}

/// What became of one notification.
enum Handed {
    Over,
    /// Nothing is left to do, it is another region's, or its message has expired.
    Nothing,
    Unreadable,
}

impl Handover<'_> {
    async fn hand_over(&self, rest: Rest) -> anyhow::Result<Handed> {
        let intake_of = Subjects::new(self.from).intake_all();
        let found = self.hub.first_at_leader(INTAKE, &intake_of, rest.place).await?;
        let Some(message) = found.filter(|found| found.sequence == rest.place) else {
            return Ok(Handed::Nothing);
        };
        let (Ok(intake), Some(name)) = (Intake::decode(&message.payload), name(&message)) else {
            return Ok(Handed::Unreadable);
        };
        let now = Clock::System.now();
        let Some(mut intake) = rest.taken_over(intake, now, self.when_ambiguous) else {
            return Ok(Handed::Nothing);
        };
        let notification = intake.notification.clone();
        let (is_here, is_elsewhere) = (self.known.0.contains(&name), self.known.1.contains(&name));
        let key = cancellation_key(&notification.app, &notification.id, false);
        let (said, record) = self.state.fetch(&key).await?;
        let owner = record.get(TAKEN_OVER_FACET).and_then(Value::as_str);
        match owner {
            // An earlier try was broken off before it came here, or it did.
            Some(owner) if owner == self.here.region.as_str() => {
                if is_here {
                    return Ok(Handed::Nothing);
                }
                intake.state_seq = said;
                self.publish(&message, &intake).await?;
            }
            // The lost region had taken it over: until a dispatcher has seen otherwise, it leaves it alone.
            Some(owner) if owner == self.from.as_str() => {
                intake.state_seq = self.say(&key, &notification, now).await?;
                self.publish(&message, &intake).await?;
            }
            Some(_) => return Ok(Handed::Nothing),
            // Accepted here too, or an earlier try was broken off before it said so.
            None if is_here => {
                self.say(&key, &notification, now).await?;
                return Ok(Handed::Nothing);
            }
            None if is_elsewhere => return Ok(Handed::Nothing),
            // Should this be broken off in between, the lost region may deliver it too, which is better than nobody.
            None => {
                self.publish(&message, &intake).await?;
                self.say(&key, &notification, now).await?;
            }
        }
        Ok(Handed::Over)
    }

    async fn publish(&self, accepted: &Stored, intake: &Intake) -> anyhow::Result<()> {
        let notification = &intake.notification;
        let subject = self.subjects.intake(notification.priority, notification.app.as_str());
        let name = (notification.app.clone(), notification.id.clone());
        let mut id = format!("{}:{}", name.0, name.1);
        if self.known.0.contains(&name) {
            id = format!("{id}{TAKEN_BACK}{}", self.from);
        }
        let mut outgoing = Outgoing::new(subject, intake.encode()?).id(&id);
        if let Some(told) = accepted.header(ACCEPTED_HEADER) {
            outgoing = outgoing.header(ACCEPTED_HEADER, told);
        }
        let taken = self.here.publish(outgoing).await;
        taken.map(drop).with_context(|| format!("{} does not take it", self.here.region))
    }

    /// Says who has the notification now, for the region that may come back. What is of no use any more only gets its end:
    /// that it expired. Gives the position in this region's state that a dispatcher must have seen.
    async fn say(&self, key: &RecordKey, notification: &Accepted, now: Timestamp) -> Result<u64, WriteError> {
        if notification.expires_at <= now {
            return Ok(0);
        }
        let by = Value::from(self.here.region.as_str());
        let expires = notification.expires_at.as_millisecond().saturating_add(KEPT_AFTER_EXPIRY_MS);
        let written = self.state.update::<WriteError>(key, |record, stamp| {
            if record.get(TAKEN_OVER_FACET) != Some(&by) {
                record.set(TAKEN_OVER_FACET, by.clone(), stamp);
                record.expires_ms = record.expires_ms.max(u64::try_from(expires).ok());
            }
            Ok(())
        });
        written.await.map(|written| written.sequence)
    }
}
