//! How a notification stands, for the dispatchers of the region: they look after fallbacks, and gateways know every receipt
//! and every reaction.

use std::time::Duration;

use bytes::Bytes;
use peal_common::event::Status;
use peal_common::fallback::{DeliveryStanding, FallbackUntil, NotificationStanding};
use peal_nats::fallback::Question;
use peal_nats::service::Refusal;
use peal_nats::topology::EVENTS;

use crate::app::App;
use crate::readmodel::DeliveryView;

/// How long the read model may take to reach what is the end of the events when somebody asks.
const LIMIT: Duration = Duration::from_secs(4);

/// Answers a dispatcher.
///
/// # Errors
/// [`Refusal`] when it is to be asked again.
pub async fn asked(app: &App, question: &[u8]) -> Result<Bytes, Refusal> {
    let refused = |code, title: &str| Refusal { code, title: title.to_owned(), body: Bytes::new() };
    let Question { app: owner, notification } =
        serde_json::from_slice(question).map_err(|_| refused(400, "not a question for a notification"))?;
    let unready = |_| refused(503, "the read model is not ready");
    let end =
        app.connection.stream_state(EVENTS).await.map_err(|_| refused(503, "JetStream does not answer"))?;
    app.model.wait_for(LIMIT, |positions| positions.events >= end.last).await.map_err(unready)?;
    let found = app.model.notification(&owner, &notification).map_err(unready)?;
    let summary = found.ok_or_else(|| refused(503, "the notification is not known yet"))?.summary;
    let standing = NotificationStanding {
        acknowledged: summary.acknowledged_at.is_some(),
        deliveries: summary.deliveries.iter().filter_map(delivery).collect(),
    };
    serde_json::to_vec(&standing).map(Bytes::from).map_err(|_| refused(500, "Internal Server Error"))
}

fn delivery(delivery: &DeliveryView) -> Option<DeliveryStanding> {
    let DeliveryView { seen_at, opened_at, clicked_at, acknowledged_at, .. } = delivery;
    let is_seen = [seen_at, opened_at, clicked_at].into_iter().any(Option::is_some);
    let reached = if acknowledged_at.is_some() {
        Some(FallbackUntil::Acknowledged)
    } else if is_seen {
        Some(FallbackUntil::Seen)
    } else {
        (delivery.status == Status::Delivered).then_some(FallbackUntil::Delivered)
    };
    Some(DeliveryStanding {
        recipient: delivery.recipient.clone()?,
        channel: delivery.channel,
        status: delivery.status,
        reached,
    })
}
