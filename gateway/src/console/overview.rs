//! The first page: what happens right now, how much waits where, and what came of what was sent.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::State;
use axum::response::Html;
use jiff::Timestamp;
use peal_common::channel::Priority;
use peal_common::event::Status;

use super::Console;
use super::access::Viewer;
use super::page::{Failure, Frame, Moment, html, render};
use super::sandbox::{self, Message};
use super::tone::{Tone, in_words};
use crate::app::App;
use crate::http::problem::Problem;
use crate::queues::{Depths, Lanes};
use crate::readmodel::{Counts, EventFilter, EventView, LiveEvent, NotReady};

/// How many events the overview shows.
pub(super) const SHOWN_EVENTS: usize = 50;
/// How many messages of the sandbox the overview shows.
const SHOWN_MESSAGES: usize = 4;
/// The length of a bar, in its own units.
const BAR: u64 = 1_000;

/// An event as a line of the feed.
#[derive(Debug)]
pub(super) struct Row {
    at: Moment,
    kind: String,
    tone: Tone,
    app: String,
    notification: Option<String>,
    channel: Option<&'static str>,
    recipient: Option<String>,
    detail: String,
}

impl Row {
    fn new(live: &LiveEvent, now: Timestamp) -> Self {
        let event = &live.event;
        Row {
            at: Moment::new(event.at, now),
            kind: in_words(event.kind.as_str()),
            tone: Tone::of_event(event.kind),
            app: live.app.to_string(),
            notification: event.notification.as_ref().map(ToString::to_string),
            channel: event.channel.map(|channel| channel.as_str()),
            recipient: event.recipient.as_ref().map(ToString::to_string),
            detail: detail(event),
        }
    }
}

/// What an event says beside its kind, in words.
pub(super) fn detail(event: &EventView) -> String {
    let attempts =
        event.attempts.filter(|attempts| *attempts > 1).map(|attempts| format!("attempt {attempts}"));
    let parts = [event.provider.clone(), attempts, event.detail.as_deref().map(in_words)];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

#[derive(Template)]
#[template(path = "console/rows.html")]
struct Rows {
    rows: Vec<Row>,
}

/// Renders events as lines of the feed.
pub(super) fn rows<'a>(
    events: impl Iterator<Item = &'a LiveEvent>,
    now: Timestamp,
) -> Result<String, Failure> {
    render(&Rows { rows: events.map(|event| Row::new(event, now)).collect() })
}

/// The latest events that a viewer may see, the latest first.
pub(super) fn latest(app: &App, viewer: &Viewer) -> Result<Vec<LiveEvent>, NotReady> {
    match viewer {
        Viewer::Everybody => app.model.latest(SHOWN_EVENTS),
        Viewer::App(own) => {
            let found = app.model.events(own, &EventFilter::default(), None, SHOWN_EVENTS)?;
            Ok(found.data.into_iter().map(|event| LiveEvent { app: own.clone(), event }).collect())
        }
    }
}

struct Check {
    name: &'static str,
    ok: bool,
    reason: String,
}

struct Queue {
    name: &'static str,
    lanes: Lanes,
}

/// How much of a line stands in one status.
struct Share {
    status: String,
    tone: Tone,
    count: u64,
    from: u64,
    length: u64,
}

struct Outcome {
    name: &'static str,
    total: u64,
    shares: Vec<Share>,
}

impl Outcome {
    fn new(name: &'static str, counts: &BTreeMap<Status, u64>) -> Self {
        let total = counts.values().sum::<u64>();
        let mut counts: Vec<_> =
            counts.iter().map(|(status, count)| (Tone::of(*status), *status, *count)).collect();
        counts.sort();
        let mut before = 0;
        let shares = counts.into_iter().map(|(tone, status, count)| {
            // Counts of a region's deliveries are far from where this product would overflow.
            let at = |count: u64| count.saturating_mul(BAR) / total.max(1);
            let from = at(before);
            before += count;
            Share { status: in_words(status.as_str()), tone, count, from, length: at(before) - from }
        });
        Outcome { name, total, shares: shares.collect() }
    }
}

struct Totals {
    notifications: u64,
    deliveries: u64,
    good: u64,
    busy: u64,
    bad: u64,
}

impl Totals {
    fn new(counts: &Counts) -> Self {
        let of = |wanted: &[Tone]| {
            let found = counts.deliveries.iter().filter(|(status, _)| wanted.contains(&Tone::of(**status)));
            found.map(|(_, count)| count).sum()
        };
        Totals {
            notifications: counts.notifications.values().sum(),
            deliveries: counts.deliveries.values().sum(),
            good: of(&[Tone::Good]),
            busy: of(&[Tone::Busy]),
            bad: of(&[Tone::Warn, Tone::Bad]),
        }
    }
}

#[derive(Template)]
#[template(path = "console/figures.html")]
struct Figures {
    ready: bool,
    checks: Vec<Check>,
    totals: Option<Totals>,
    kept_days: u64,
    outcomes: Vec<Outcome>,
    priorities: [Priority; Priority::ALL.len()],
    depths: Option<std::sync::Arc<Depths>>,
    queues: Vec<Queue>,
}

/// Renders what the overview counts: health, totals, outcomes, queues.
pub(super) async fn figures(console: &Console) -> Result<String, Failure> {
    let app = &console.app;
    let depths = console.app.queues.depths().await;
    let readiness = app.health.readiness();
    let checks = [
        ("NATS", readiness.nats),
        ("State", readiness.mirror),
        ("Read model", readiness.model),
        ("Storage", readiness.storage),
        ("Gateway", readiness.running),
    ];
    let check = |(name, check): (_, crate::health::Check)| Check {
        name,
        ok: check.ok,
        reason: check.reason.unwrap_or_default(),
    };
    let counts = app.model.counts().ok();
    let outcomes = counts.iter().flat_map(|counts| {
        let channels = counts.channels.iter();
        let channels = channels.map(|(channel, counts)| Outcome::new(channel.as_str(), counts));
        std::iter::once(Outcome::new("notifications", &counts.notifications)).chain(channels)
    });
    let queues = depths.iter().flat_map(|depths| {
        let channels = depths.channels.iter();
        let channels = channels.map(|(channel, lanes)| Queue { name: channel.as_str(), lanes: *lanes });
        std::iter::once(Queue { name: "fan-out", lanes: depths.fanout }).chain(channels)
    });
    render(&Figures {
        ready: readiness.ready,
        checks: checks.into_iter().map(check).collect(),
        totals: counts.as_ref().map(Totals::new),
        kept_days: app.settings.topology.events_max_age_days,
        outcomes: outcomes.collect(),
        priorities: Priority::ALL,
        queues: queues.collect(),
        depths,
    })
}

#[derive(Template)]
#[template(path = "console/overview.html")]
struct Overview {
    frame: Frame,
    figures: String,
    rows: String,
    /// Why there is no feed.
    not_ready: Option<&'static str>,
    /// The latest messages of the sandbox, if there is one.
    messages: Option<Vec<Message>>,
}

/// The overview.
pub(super) async fn page(State(console): State<Console>, viewer: Viewer) -> Result<Html<String>, Failure> {
    let figures = figures(&console).await?;
    let app = console.app.clone();
    let of = viewer.clone();
    let events =
        tokio::task::spawn_blocking(move || latest(&app, &of)).await.map_err(|_| Problem::internal())?;
    let (events, not_ready) = match events {
        Ok(events) => (events, None),
        Err(NotReady(why)) => (Vec::new(), Some(why)),
    };
    let has_sandbox = console.app.queues.depths().await.is_some_and(|depths| depths.sandbox);
    let messages =
        if has_sandbox { sandbox::latest(&console.app, &viewer, SHOWN_MESSAGES).await.ok() } else { None };
    html(&Overview {
        frame: Frame::new(&console.app, &viewer, "overview"),
        figures,
        rows: rows(events.iter(), console.app.clock.now())?,
        not_ready,
        messages,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_of_a_line_fill_it_without_gaps() {
        let counts =
            BTreeMap::from([(Status::Sent, 1), (Status::Failed, 1), (Status::Queued, 1), (Status::Held, 4)]);
        let outcome = Outcome::new("sms", &counts);
        let mut end = 0;
        for share in &outcome.shares {
            assert_eq!(share.from, end);
            end += share.length;
        }
        assert_eq!((end, outcome.total), (BAR, 7));
        let tones: Vec<_> = outcome.shares.iter().map(|share| share.tone).collect();
        assert_eq!(tones, [Tone::Good, Tone::Busy, Tone::Busy, Tone::Bad]);
        assert!(Outcome::new("sms", &BTreeMap::new()).shares.is_empty());
    }
}
