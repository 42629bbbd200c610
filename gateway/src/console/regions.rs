//! The regions: what runs and waits in each, and what the hub has not got yet.

use askama::Template;
use axum::extract::State;
use axum::response::Html;

use super::Console;
use super::access::Viewer;
use super::page::{Failure, Frame, html};
use super::tone::Tone;
use crate::app::App;
use crate::regions::RegionView;

struct Row {
    name: String,
    here: bool,
    tone: Tone,
    state: &'static str,
    waiting: String,
    in_hand: String,
    scheduled: String,
    dead_letters: String,
    lag: String,
    gateways: usize,
    dispatchers: usize,
}

impl Row {
    fn new(region: &RegionView, app: &App) -> Self {
        let number = |value: Option<u64>| value.map_or("–".to_owned(), |value| value.to_string());
        let (tone, state) = match region {
            RegionView { reachable: false, .. } => (Tone::Bad, "does not answer"),
            RegionView { ready: false, .. } => (Tone::Warn, "not ready"),
            _ => (Tone::Good, "ready"),
        };
        let lag = region.lag.map(|lag| format!("{} events, {} changes", lag.events, lag.state));
        Row {
            name: region.name.to_string(),
            here: region.name == app.connection.region,
            tone,
            state,
            waiting: number(region.waiting),
            in_hand: number(region.in_hand),
            scheduled: number(region.scheduled),
            dead_letters: number(region.dead_letters),
            lag: lag.unwrap_or_else(|| "–".to_owned()),
            gateways: region.gateways.len(),
            dispatchers: region.dispatchers.len(),
        }
    }
}

#[derive(Template)]
#[template(path = "console/regions.html")]
struct Regions {
    frame: Frame,
    rows: Vec<Row>,
    /// The hub's name, if there is one.
    hub: Option<String>,
}

/// The page of regions.
pub(super) async fn page(State(console): State<Console>, viewer: Viewer) -> Result<Html<String>, Failure> {
    let app = &console.app;
    html(&Regions {
        frame: Frame::new(app, &viewer, "regions"),
        rows: app.regions.all().await.iter().map(|region| Row::new(region, app)).collect(),
        hub: app.settings.topology.hub.as_ref().map(ToString::to_string),
    })
}
