//! What changes on the overview, as server-sent events whose data are the parts of the page themselves:
//!
//! - `feed`: the latest events; what the feed begins with, and what it goes on with when it fell behind
//! - `events`: new events, the latest first
//! - `figures`: health, totals, outcomes and queues, when they changed

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use futures_util::stream::{self, Stream, StreamExt as _};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::Console;
use super::access::Viewer;
use super::overview::{SHOWN_EVENTS, figures, latest, rows};
use super::page::Failure;
use crate::http::problem::Problem;
use crate::queues::ASK_INTERVAL;
use crate::readmodel::LiveEvent;

/// How often new events are shown: eyes see no more, and thousands a second must not keep a browser busy.
const SHOW_INTERVAL: Duration = Duration::from_millis(250);
/// How often a quiet stream shows that it is alive: below what proxies wait.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// After this time the stream ends and the browser comes back: so long a revoked key can look on.
const STREAM_LIMIT: Duration = Duration::from_secs(30 * 60);

/// The feed of the overview.
pub(super) async fn watch(
    State(console): State<Console>,
    viewer: Viewer,
) -> Result<Sse<impl Stream<Item = Result<SseEvent, Infallible>>>, Problem> {
    let permit = console.app.streams.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Problem::unavailable("too_many_streams", "too many streams are open"))?;
    let mut ticks = tokio::time::interval(SHOW_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stop = console.app.stop.clone();
    let watcher = Watcher {
        events: console.app.model.watch_events(),
        console,
        viewer,
        ticks,
        behind: true,
        figures: String::new(),
        figured: None,
        _permit: permit,
    };
    let ended = async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(STREAM_LIMIT) => {}
        }
    };
    let changes = stream::unfold(watcher, Watcher::next).flat_map(stream::iter).take_until(ended);
    Ok(Sse::new(changes).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// One open feed.
struct Watcher {
    console: Console,
    viewer: Viewer,
    events: Receiver<Arc<LiveEvent>>,
    ticks: Interval,
    /// Whether events may have been missed.
    behind: bool,
    /// The figures as they were shown last, and when they were looked at.
    figures: String,
    figured: Option<Instant>,
    _permit: OwnedSemaphorePermit,
}

impl Watcher {
    /// Waits for something to show. `None` ends the feed: a page cannot be rendered, and the browser comes back.
    async fn next(mut self) -> Option<(Vec<Result<SseEvent, Infallible>>, Self)> {
        loop {
            self.ticks.tick().await;
            let mut changes = Vec::new();
            changes.extend(self.new_events().await.ok()?.map(Ok));
            changes.extend(self.new_figures().await.ok()?.map(Ok));
            if !changes.is_empty() {
                return Some((changes, self));
            }
        }
    }

    async fn new_events(&mut self) -> Result<Option<SseEvent>, Failure> {
        let mut found = Vec::new();
        loop {
            match self.events.try_recv() {
                Ok(event) if self.viewer.sees(&event.app) => found.push(event),
                Ok(_) => {}
                Err(TryRecvError::Lagged(_)) => self.behind = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        let now = self.console.app.clock.now();
        if self.behind || found.len() > SHOWN_EVENTS {
            let (app, viewer) = (self.console.app.clone(), self.viewer.clone());
            let latest = tokio::task::spawn_blocking(move || latest(&app, &viewer)).await;
            // While the read model is being built there is nothing to show; the next look may find it.
            let Ok(events) = latest.map_err(|_| Problem::internal())? else {
                self.behind = true;
                return Ok(None);
            };
            self.behind = false;
            return Ok(Some(part("feed", rows(events.iter(), now)?)));
        }
        if found.is_empty() {
            return Ok(None);
        }
        Ok(Some(part("events", rows(found.iter().rev().map(|event| &**event), now)?)))
    }

    async fn new_figures(&mut self) -> Result<Option<SseEvent>, Failure> {
        if self.figured.is_some_and(|at| at.elapsed() < ASK_INTERVAL) {
            return Ok(None);
        }
        self.figured = Some(Instant::now());
        let now = figures(&self.console).await?;
        if now == self.figures {
            return Ok(None);
        }
        self.figures.clone_from(&now);
        Ok(Some(part("figures", now)))
    }
}

fn part(name: &str, html: String) -> SseEvent {
    SseEvent::default().event(name).data(html)
}
