//! One notification: where its deliveries stand and everything that happened.

use askama::Template;
use axum::extract::State;
use axum::response::Html;
use peal_common::id::{AppId, NotificationId};

use super::Console;
use super::access::Viewer;
use super::overview::detail;
use super::page::{Failure, Frame, Moment, html};
use super::tone::{Tone, in_words};
use crate::http::params::Ids;
use crate::http::problem::Problem;
use crate::readmodel::{DeliveryView, EventView};

struct Delivery {
    recipient: String,
    channel: &'static str,
    status: String,
    tone: Tone,
    provider: String,
    attempts: u32,
    reason: String,
    updated: Moment,
}

impl Delivery {
    fn new(delivery: DeliveryView) -> Self {
        let mut reason = delivery.reason.as_deref().map(in_words).unwrap_or_default();
        if let Some(until) = delivery.until {
            let gap = if reason.is_empty() { "" } else { ", " };
            reason = format!("{reason}{gap}until {}", Moment::exact(until).short);
        }
        Delivery {
            recipient: delivery.recipient.map(|id| id.to_string()).unwrap_or_default(),
            channel: delivery.channel.map_or("", |channel| channel.as_str()),
            status: in_words(delivery.status.as_str()),
            tone: Tone::of(delivery.status),
            provider: delivery.provider.unwrap_or_default(),
            attempts: delivery.attempts,
            reason,
            updated: Moment::exact(delivery.updated_at),
        }
    }
}

struct Step {
    at: Moment,
    kind: String,
    tone: Tone,
    channel: &'static str,
    recipient: String,
    detail: String,
    provider_id: Option<String>,
}

impl Step {
    fn new(event: EventView) -> Self {
        Step {
            at: Moment::exact(event.at),
            kind: in_words(event.kind.as_str()),
            tone: Tone::of_event(event.kind),
            channel: event.channel.map_or("", |channel| channel.as_str()),
            detail: detail(&event),
            recipient: event.recipient.map(|id| id.to_string()).unwrap_or_default(),
            provider_id: event.provider_id,
        }
    }
}

#[derive(Template)]
#[template(path = "console/notification.html")]
struct Page {
    frame: Frame,
    app: String,
    id: String,
    status: String,
    tone: Tone,
    category: Option<String>,
    priority: Option<&'static str>,
    times: Vec<(&'static str, Moment)>,
    deliveries: Vec<Delivery>,
    deliveries_truncated: bool,
    steps: Vec<Step>,
    steps_truncated: bool,
}

/// One notification. Another app's reads like one that does not exist.
pub(super) async fn page(
    State(console): State<Console>,
    viewer: Viewer,
    Ids(app, id): Ids<AppId, NotificationId>,
) -> Result<Html<String>, Failure> {
    if !viewer.sees(&app) {
        return Err(Problem::not_found("notification").into());
    }
    let found = console.app.model.notification(&app, &id)?;
    let found = found.ok_or_else(|| Problem::not_found("notification"))?;
    let summary = found.summary;
    let times = [
        ("Accepted", Some(summary.accepted_at)),
        ("To be sent", summary.send_at),
        ("Of use until", summary.expires_at),
        ("Acknowledged", summary.acknowledged_at),
    ];
    html(&Page {
        frame: Frame::new(&console.app, &viewer, ""),
        app: app.to_string(),
        id: summary.id.to_string(),
        status: in_words(summary.status.as_str()),
        tone: Tone::of(summary.status),
        category: summary.category.map(|category| category.to_string()),
        priority: summary.priority.map(|priority| priority.as_str()),
        times: times.into_iter().filter_map(|(name, at)| Some((name, Moment::exact(at?)))).collect(),
        deliveries: summary.deliveries.into_iter().map(Delivery::new).collect(),
        deliveries_truncated: summary.deliveries_truncated,
        steps: found.events.into_iter().map(Step::new).collect(),
        steps_truncated: found.events_truncated,
    })
}
