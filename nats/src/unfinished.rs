//! Reading from INTAKE and EVENTS which notifications of a region have not ended.

use async_nats::header::NATS_MESSAGE_ID;
use jiff::Timestamp;
use peal_common::envelope::Envelope as _;
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
    // What happened to the last notification that is read must be read, too.
    let mut intake = Reader::open(connection, INTAKE).await?;
    let mut events = Reader::open(connection, EVENTS).await?;
    let since = intake.peek().await?.map_or(0, |first| first.at_ms);
    let first_event = events.peek().await?;
    let events_since = first_event.filter(|first| first.sequence > 1).map_or(i64::MIN, |first| first.at_ms);
    let unfinished = Unfinished::new(region.clone(), timestamp(since));
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
