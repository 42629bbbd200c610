//! The regions: what runs and waits in each, and what the hub has not got yet.

use std::collections::BTreeSet;

use askama::Template;
use axum::extract::State;
use axum::response::Html;

use super::Console;
use super::access::Viewer;
use super::page::{Failure, Frame, html};
use super::tone::Tone;
use crate::app::App;
use crate::regions::{InstanceView, LagView, RegionState, RegionView};

struct Row<'a> {
    name: String,
    here: bool,
    tone: Tone,
    state: &'static str,
    reasons: &'a [String],
    waiting: String,
    in_hand: String,
    scheduled: String,
    dead_letters: String,
    lag: String,
    gateways: String,
    dispatchers: String,
}

impl<'a> Row<'a> {
    fn new(region: &'a RegionView, app: &App) -> Self {
        let number = |value: Option<u64>| value.map_or("–".to_owned(), |value| value.to_string());
        let (tone, state) = match region.state {
            RegionState::Ready => (Tone::Good, "ready"),
            RegionState::Degraded => (Tone::Warn, "degraded"),
            RegionState::NotReady => (Tone::Warn, "not ready"),
            RegionState::Unreachable => (Tone::Bad, "does not answer"),
        };
        Row {
            name: region.name.to_string(),
            here: region.name == app.connection.region,
            tone,
            state,
            reasons: if region.reachable { &region.reasons } else { &[] },
            waiting: number(region.waiting),
            in_hand: number(region.in_hand),
            scheduled: number(region.scheduled),
            dead_letters: number(region.dead_letters),
            lag: region.lag.map_or_else(|| "–".to_owned(), missing),
            gateways: running(region, &region.gateways),
            dispatchers: running(region, &region.dispatchers),
        }
    }
}

/// What the hub has not got, in words.
fn missing(LagView { notifications, events, state }: LagView) -> String {
    let counts = [(notifications, "notification"), (events, "event"), (state, "change")];
    let told: Vec<_> = counts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, one)| format!("{count} {one}{}", if count == 1 { "" } else { "s" }))
        .collect();
    if told.is_empty() { "nothing".to_owned() } else { told.join(", ") }
}

/// How many there are, and their versions. Nobody knows what runs in a region that does not answer.
fn running(region: &RegionView, instances: &[InstanceView]) -> String {
    let versions: BTreeSet<_> = instances.iter().map(|instance| instance.version.as_str()).collect();
    let versions: Vec<_> = versions.into_iter().collect();
    match instances.len() {
        0 if region.reachable => "0".to_owned(),
        0 => "–".to_owned(),
        count => format!("{count} of {}", versions.join(", ")),
    }
}

#[derive(Template)]
#[template(path = "console/regions.html")]
struct Regions<'a> {
    frame: Frame,
    rows: Vec<Row<'a>>,
    /// The hub's name, if there is one.
    hub: Option<String>,
}

/// The page of regions.
pub(super) async fn page(State(console): State<Console>, viewer: Viewer) -> Result<Html<String>, Failure> {
    let app = &console.app;
    let regions = app.regions.all().await;
    html(&Regions {
        frame: Frame::new(app, &viewer, "regions"),
        rows: regions.iter().map(|region| Row::new(region, app)).collect(),
        hub: app.settings.topology.hub.as_ref().map(ToString::to_string),
    })
}
