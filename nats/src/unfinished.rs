//! Reading from INTAKE and EVENTS which notifications of a region have not ended.

use std::time::Duration;

use async_nats::header::NATS_MESSAGE_ID;
use jiff::Timestamp;
use peal_common::envelope::{Envelope as _, Intake};
use peal_common::event::Event;
use peal_common::id::{AppId, NotificationId};
use peal_common::takeover::Unfinished;

use crate::connect::Connection;
use crate::follow::{Reader, StateError, Stored};
use crate::subjects::{Region, Subjects};
use crate::topology::{EVENTS, INTAKE};

/// What stands between the id of a message and the region that it is taken back from, where the stream has the id already
/// and may still recognise it. No id of a notification holds it.
pub const TAKEN_BACK: char = '~';

/// How far clocks of one region may differ.
const CLOCKS: Duration = Duration::from_secs(60);

/// What the streams tell of the notifications of a region.
#[derive(Debug)]
pub struct Told {
    /// Which have not ended. Their places are the sequences in INTAKE.
    pub unfinished: Unfinished,
    /// How many it accepted.
    pub accepted: u64,
    /// How many of them are older than what is left of EVENTS. They count as ended.
    pub too_old: u64,
    /// The last sequence of INTAKE that was read.
    pub end: u64,
}

/// Reads what `region` accepted and what happened, from the streams of `connection` (its own, or the hub's) up to their
/// present ends. They are read about in the order of time, so that little has to be kept in mind at once: what is on its
/// way. `progress` is told after each message how many were read and how many notifications are kept in mind.
///
/// # Errors
/// [`StateError`] when JetStream does not answer.
pub async fn unfinished(
    connection: &Connection,
    region: &Region,
    mut progress: impl FnMut(u64, usize),
) -> Result<Told, StateError> {
    let since = first_accepted(connection, region).await?;
    // What happened to the last notification that is read must be read, too.
    let mut intake = Reader::open(connection, INTAKE).await?;
    let mut events = Reader::open(connection, EVENTS).await?;
    let first_event = events.peek().await?;
    let events_since = first_event.filter(|first| first.sequence > 1).map_or(i64::MIN, |first| first.at_ms);
    let unfinished = Unfinished::new(region.clone(), since);
    let mut told = Told { unfinished, accepted: 0, too_old: 0, end: 0 };
    let mut read = 0_u64;
    loop {
        let intake_at = intake.peek().await?.map(|message| message.at_ms);
        let events_at = events.peek().await?.map(|message| message.at_ms);
        let (is_event, reader) = match (intake_at, events_at) {
            (None, None) => return Ok(told),
            (Some(accepted), happened) if happened.is_none_or(|happened| accepted <= happened) => {
                (false, &mut intake)
            }
            _ => (true, &mut events),
        };
        let Some(message) = reader.take() else { continue };
        read += 1;
        progress(read, told.unfinished.len());
        if !is_event {
            told.end = message.sequence;
        }
        let Some(from) = Subjects::region_of(&message.subject) else { continue };
        if from == connection.region && Subjects::is_again(&message.subject) {
            continue;
        }
        if is_event {
            if let Ok(event) = Event::decode(&message.payload) {
                told.unfinished.happened(&from, &event);
            }
        } else if from == *region
            && let Some((app, id)) = name(&message)
        {
            told.accepted += 1;
            if message.at_ms < events_since {
                told.too_old += 1;
            } else {
                told.unfinished.accepted(app, id, timestamp(message.at_ms), message.sequence);
            }
        }
    }
}

/// When the first notification of a region that INTAKE still has was accepted, or a little earlier: nothing that happened
/// to it has an earlier time. The time of the message does not tell: the hub may have got events before it.
async fn first_accepted(connection: &Connection, region: &Region) -> Result<Timestamp, StateError> {
    let subjects = Subjects::new(region);
    let first = connection.first_at_leader(INTAKE, &subjects.intake_all(), 0).await?;
    let mut earliest = first.map(|first| accepted_at(&first));
    // What the hub missed and got later stands behind what was accepted after it.
    let again = subjects.intake_again();
    if *region != connection.region && connection.first_at_leader(INTAKE, &again, 0).await?.is_some() {
        let mut again = Reader::of_subjects(connection, INTAKE, &again).await?;
        while again.peek().await?.is_some() {
            let late = again.take().map(|late| accepted_at(&late));
            earliest = earliest.into_iter().chain(late).min();
        }
    }
    Ok(earliest.and_then(|at| at.checked_sub(CLOCKS).ok()).unwrap_or_default())
}

/// When a notification was accepted; of one that can't be read, when its message came.
fn accepted_at(message: &Stored) -> Timestamp {
    let intake = Intake::decode(&message.payload);
    intake.map_or(timestamp(message.at_ms), |intake| intake.notification.accepted_at)
}

/// App and id of an accepted notification, which its message is recognised by.
#[must_use]
pub fn name(message: &Stored) -> Option<(AppId, NotificationId)> {
    let (app, id) = message.header(NATS_MESSAGE_ID.as_ref())?.split_once(':')?;
    let id = id.split(TAKEN_BACK).next()?;
    Some((app.parse().ok()?, id.parse().ok()?))
}

fn timestamp(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or_default()
}
