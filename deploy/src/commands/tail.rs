//! `peal tail`: what happens to notifications, live, from INTAKE and EVENTS.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::SignedDuration;
use peal_common::clock::Clock;
use peal_common::envelope::{Envelope as _, Intake};
use peal_common::event::{Event, EventType};
use peal_common::id::{AppId, NotificationId};
use peal_nats::connect::Connection;
use peal_nats::follow::{Followed, Follower, Stored};
use peal_nats::topology::{EVENTS, INTAKE};
use peal_nats::{Region, Subjects};
use serde::de::IntoDeserializer as _;
use serde::{Deserialize as _, Serialize};

use super::keys::duration;
use crate::output::Output;
use crate::region::ConfigArgs;

/// How long nothing must come before what came is shown.
const SETTLE: Duration = Duration::from_millis(30);
/// How many events are held back for that at most.
const MAX_PENDING: usize = 1_000;

const EXAMPLES: &str = "\
Examples:
  peal tail                                     everything from now on
  peal tail --since 10m --type dead_lettered    what was given up in the last ten minutes, and from now on
  peal tail --notification order-1042-shipped --since 1d
  peal tail --json | jq .reason                 one JSON object a line";

/// Arguments of `peal tail`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct TailArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Only this app
    #[arg(long)]
    app: Option<AppId>,
    /// Only events of this type, such as accepted, sent or dead_lettered; repeat it or write commas
    #[arg(long = "type", value_name = "TYPE", value_parser = event_type, value_delimiter = ',')]
    types: Vec<EventType>,
    /// Only this notification
    #[arg(long, value_name = "ID")]
    notification: Option<NotificationId>,
    /// Begin this long ago, such as 10m, 2h or 1d, instead of now
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    since: Option<SignedDuration>,
    /// End after this many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

fn event_type(text: &str) -> Result<EventType, String> {
    let text: serde::de::value::StrDeserializer<'_, serde::de::value::Error> = text.into_deserializer();
    EventType::deserialize(text).map_err(|error| error.to_string())
}

impl TailArgs {
    fn wants(&self, event: &Event) -> bool {
        self.app.as_ref().is_none_or(|app| event.app == *app)
            && (self.types.is_empty() || self.types.contains(&event.kind))
            && self.notification.as_ref().is_none_or(|notification| event.notification == *notification)
    }
}

/// Follows until Ctrl-C, or until `--count` events were shown.
///
/// # Errors
/// When the settings don't fit or no server answers; what fails later is tried again.
pub async fn run(args: TailArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let (settings, connection) = args.config.connect().await?;
    // What is written again for the hub has been told in its region before.
    let is_hub = settings.is_hub();
    let mut intake = follower(&connection, INTAKE, &args).await?;
    let mut events = follower(&connection, EVENTS, &args).await?;
    if args.since.is_none() {
        output.progress(format!("following region {} from now on; Ctrl-C ends", connection.region));
    }
    let mut left = args.count;
    let mut pending: Vec<Told> = Vec::new();
    loop {
        // Two streams come in parallel; a moment's wait lets them be told in the order in which things happened.
        let settled = tokio::time::sleep(if pending.is_empty() { Duration::MAX } else { SETTLE });
        // Every branch can be dropped: a follower loses nothing, and the signal comes again.
        let (followed, from) = tokio::select! {
            followed = intake.next() => (followed, INTAKE),
            followed = events.next() => (followed, EVENTS),
            () = settled => {
                if show(&mut pending, &mut left, output)? {
                    return Ok(ExitCode::SUCCESS);
                }
                continue;
            }
            done = tokio::signal::ctrl_c() => {
                done?;
                return Ok(ExitCode::SUCCESS);
            }
        };
        match followed {
            Followed::Messages(messages) => {
                let told = messages.iter().filter(|message| is_hub || !Subjects::is_again(&message.subject));
                pending.extend(told.flat_map(|stored| {
                    let region = is_hub.then(|| Subjects::region_of(&stored.subject)).flatten();
                    let events = read(stored).into_iter().filter(|event| args.wants(event));
                    events.map(move |event| Told { region: region.clone(), event }).collect::<Vec<_>>()
                }));
                // A stream that never rests must not be waited for, nor fill the memory.
                if pending.len() >= MAX_PENDING && show(&mut pending, &mut left, output)? {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            Followed::Quiet(_) => {}
            Followed::Replaced(state) => {
                output.progress(format!("stream {from} was made again: following the new one"));
                if from == INTAKE { intake.restart(&state) } else { events.restart(&state) }
            }
        }
    }
}

/// What is shown of an event.
#[derive(Serialize)]
struct Told {
    /// Where it happened. Told by the hub alone: elsewhere it goes without saying.
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<Region>,
    #[serde(flatten)]
    event: Event,
}

/// Prints what came, in order of time. True when as many were shown as were asked for.
fn show(pending: &mut Vec<Told>, left: &mut Option<u64>, output: &Output) -> anyhow::Result<bool> {
    pending.sort_by_key(|told| told.event.at);
    for told in pending.drain(..) {
        output.json(&told)?;
        output.line(line(&told))?;
        *left = left.map(|left| left - 1);
        if *left == Some(0) {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn follower(connection: &Connection, stream: &str, args: &TailArgs) -> anyhow::Result<Follower> {
    // Also looks whether the stream is there: a follower would wait for it without a word.
    let state = connection.stream_state(stream).await?;
    Ok(match args.since {
        Some(since) => {
            let from = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
            Follower::since(connection.clone(), stream, Clock::System.now_ms().saturating_sub(from))
        }
        None => Follower::new(connection.clone(), stream, "", Some(state.created), state.last),
    })
}

/// The steps that a message of EVENTS tells, or the acceptance that an INTAKE message stands for. What is neither is left
/// out: the gateways put it aside and say so.
fn read(stored: &Stored) -> Vec<Event> {
    match Event::decode(&stored.payload) {
        Ok(event) => event.steps().collect(),
        Err(_) => accepted(stored).into_iter().collect(),
    }
}

fn accepted(stored: &Stored) -> Option<Event> {
    let intake = Intake::decode(&stored.payload).ok()?;
    let notification = intake.notification;
    let mut event =
        Event::new(EventType::Accepted, notification.accepted_at, notification.app, notification.id);
    if let [only] = intake.targets.as_slice() {
        event.recipient = Some(only.recipient.clone());
    }
    Some(event)
}

/// One line for people: when, at the hub where, what, on which channel, about what, to whom, why.
fn line(Told { region, event }: &Told) -> String {
    let channel = event.channel.map_or("-", |channel| channel.as_str());
    let region = region.as_ref().map_or_else(String::new, |region| format!("{:<8}  ", region.as_str()));
    let mut text = format!(
        "{}  {region}{:<13}  {channel:<8}  {}/{}",
        event.at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"),
        event.kind.as_str(),
        event.app,
        event.notification,
    );
    if let Some(recipient) = &event.recipient {
        text.push_str(&format!("  to {recipient}"));
    }
    match event.deliveries.as_slice() {
        [] => {}
        [_] => text.push_str("  1 delivery"),
        planned => text.push_str(&format!("  {} deliveries", planned.len())),
    }
    if let Some(provider) = &event.provider {
        text.push_str(&format!("  by {provider}"));
    }
    if let Some(attempts) = event.attempts.filter(|attempts| *attempts > 1) {
        text.push_str(&format!("  attempt {attempts}"));
    }
    if let Some(reason) = &event.reason {
        text.push_str(&format!("  because {reason}"));
    }
    if let Some(until) = event.until {
        text.push_str(&format!("  until {until}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use peal_common::channel::Channel;

    use super::*;

    #[test]
    fn a_line_says_when_what_where_to_whom_and_why() {
        let at = "2026-01-02T03:04:05.006Z".parse().unwrap();
        let mut event =
            Event::new(EventType::DeadLettered, at, "shop".parse().unwrap(), "order-1".parse().unwrap());
        event.channel = Some(Channel::Email);
        event.recipient = Some("u-42".parse().unwrap());
        event.reason = Some("attempts_exhausted".to_owned());
        event.attempts = Some(10);
        let mut told = Told { region: None, event };
        assert_eq!(
            line(&told),
            "2026-01-02T03:04:05.006Z  dead_lettered  email     shop/order-1  to u-42  attempt 10  because attempts_exhausted"
        );
        told.region = Some("eu".parse().unwrap());
        assert!(line(&told).starts_with("2026-01-02T03:04:05.006Z  eu        dead_lettered  email"));
    }

    #[test]
    fn types_are_those_of_the_api() {
        assert_eq!(event_type("dead_lettered"), Ok(EventType::DeadLettered));
        assert!(event_type("exploded").unwrap_err().contains("accepted"));
    }
}
