//! Deliveries that a provider reports as not arrived, for a reason that passes: a handset that was off, a queue that was full.

use std::time::Duration;

use jiff::Timestamp;
use peal_common::backoff::Backoff;
use peal_common::envelope::{Envelope as _, Intake, Work};
use peal_common::event::{Event, EventType};
use peal_nats::put_off::{PutOffError, put_off_unless_waiting};
use peal_nats::topology::INTAKE;

use crate::app::App;
use crate::http::problem::Problem;
use crate::readmodel::DeliveryView;

/// The waits before such a delivery is made again. What has passed after a second needs no report to get there.
const WAITS: Backoff = Backoff { base: Duration::from_secs(120), cap: Duration::from_secs(3_600) };

/// Has a delivery made once more, as a replay, and makes the event that says so of the one that says that it came back.
/// `None` when that one stands: no attempts or no time are left, another channel is to be tried, or nobody has the
/// notification any more.
///
/// # Errors
/// [`Problem`] when JetStream does not answer.
pub(super) async fn once_more(
    app: &App,
    delivery: &DeliveryView,
    bounced: &Event,
) -> Result<Option<Event>, Problem> {
    let attempts = delivery.attempts.max(1);
    if attempts >= app.settings.dispatcher.max_attempts {
        return Ok(None);
    }
    let wait = WAITS.delay(attempts, None, &mut rand::rng());
    let at = app.clock.now().saturating_add(wait).unwrap_or(Timestamp::MAX);
    let Some(work) = work(app, delivery, bounced).await? else { return Ok(None) };
    if work.notification.expires_at <= at || work.notification.fallback.is_some() {
        return Ok(None);
    }
    // Whoever is told of it a second time must not have it made a second time.
    let again = Work { repeat: true, repeat_since: Some(bounced.at), ..work.once_more(attempts) };
    let mut event = bounced.clone();
    (event.kind, event.at) = (EventType::Replayed, app.clock.now());
    event.replays = Some(again.replays);
    event.until = Some(at);
    // Of two who are told the same at once the slower one finds it waiting, or waiting for its next attempt already. It says
    // so again, since the faster one may have failed in between.
    put_off_unless_waiting(&app.connection, &app.subjects, again, at).await.map_err(|error| match error {
        PutOffError::Publish(error) => Problem::from(error),
        PutOffError::Encode(_) => Problem::internal(),
    })?;
    Ok(Some(event))
}

/// The delivery as it was planned.
async fn work(app: &App, delivery: &DeliveryView, bounced: &Event) -> Result<Option<Work>, Problem> {
    let (Some(recipient), Some(channel), Some(contact)) =
        (delivery.recipient.clone(), delivery.channel, delivery.contact.clone())
    else {
        return Ok(None);
    };
    let Some(accepted) = app.model.find_accepted(&bounced.app, &bounced.notification)? else {
        return Ok(None);
    };
    let Some(stored) = app.connection.message_at(INTAKE, accepted.sequence).await? else { return Ok(None) };
    let Ok(intake) = Intake::decode(&stored.payload) else { return Ok(None) };
    let Some(id) = bounced.delivery.clone() else { return Ok(None) };
    let notification = intake.notification.for_channel(channel);
    Ok(Some(Work {
        v: notification.version(),
        delivery: id,
        recipient,
        channel,
        contact,
        state_seq: intake.state_seq,
        attempts: 0,
        not_before: None,
        hops: 0,
        repeat: false,
        repeat_since: None,
        replays: delivery.replays,
        notification,
    }))
}
