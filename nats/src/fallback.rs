//! Where checks for fallbacks wait: a dispatcher puts one down for each notification that has a fallback, and whoever learns
//! that a delivery of it failed brings it forward.

use jiff::{SignedDuration, Timestamp};
use peal_common::id::{AppId, NotificationId};

use crate::connect::Connection;
use crate::follow::StateError;
use crate::publish::{Outgoing, PublishError};
use crate::subjects::Subjects;
use crate::topology::SCHEDULE;

/// The gateways' door at which dispatchers ask how a notification stands. The question is a [`Question`].
pub const DOOR: &str = "standing";

/// How soon a check comes that is brought forward: schedules are in whole seconds, and failures often come together.
const SOON: SignedDuration = SignedDuration::from_secs(1);

/// Which notification.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Question {
    /// The app.
    pub app: AppId,
    /// The notification.
    pub notification: NotificationId,
}

/// Why a check could not be brought forward.
#[derive(Debug, thiserror::Error)]
pub enum HurryError {
    /// JetStream does not answer.
    #[error(transparent)]
    State(#[from] StateError),
    /// It does not take the check.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// Where the check of a notification waits.
#[must_use]
pub fn subject(subjects: &Subjects, app: &AppId, notification: &NotificationId) -> String {
    subjects.schedule(&["fallback", app.as_str(), notification.as_str()])
}

/// Has the check of a notification come within two seconds of `now`. Nothing happens where none waits. However many
/// deliveries fail at the same moment, there is one check.
///
/// # Errors
/// [`HurryError`]
pub async fn hurry(
    connection: &Connection,
    subjects: &Subjects,
    missed: &Question,
    now: Timestamp,
) -> Result<(), HurryError> {
    let subject = subject(subjects, &missed.app, &missed.notification);
    let at = now.saturating_add(SOON).unwrap_or(now);
    let Some(waiting) = connection.last_of(SCHEDULE, &subject).await? else { return Ok(()) };
    let Some(target) = waiting.header("Nats-Schedule-Target").map(str::to_owned) else { return Ok(()) };
    let check = Outgoing::new(subject, waiting.payload.clone()).at(at, &target).expect_last(waiting.sequence);
    match connection.publish(check).await {
        // Whoever was faster has brought it forward, or looks at everything now.
        Ok(_) | Err(PublishError::Conflict) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
