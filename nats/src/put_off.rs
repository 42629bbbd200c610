//! Deliveries that wait in SCHEDULE for their time, whoever puts them down there.

use jiff::Timestamp;
use peal_common::envelope::{Envelope as _, Work};

use crate::connect::Connection;
use crate::follow::StateError;
use crate::publish::{Outgoing, PublishError};
use crate::subjects::Subjects;
use crate::topology::SCHEDULE;

/// Why a delivery does not wait.
#[derive(Debug, thiserror::Error)]
pub enum PutOffError {
    /// JetStream does not take it.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// It can't be encoded.
    #[error("a delivery cannot be encoded")]
    Encode(#[from] serde_json::Error),
}

/// Puts a delivery down that goes back to its queue at `at`. It counts as another message then. One that waits already is
/// replaced.
///
/// # Errors
/// [`PutOffError`]
pub async fn put_off(
    connection: &Connection,
    subjects: &Subjects,
    work: Work,
    at: Timestamp,
) -> Result<(), PutOffError> {
    connection.publish(waiting(subjects, work, at)?).await?;
    Ok(())
}

/// Puts a delivery down in the same way unless one waits already, which stays as it is. Whether it was put down.
///
/// # Errors
/// [`PutOffError`]
pub async fn put_off_unless_waiting(
    connection: &Connection,
    subjects: &Subjects,
    work: Work,
    at: Timestamp,
) -> Result<bool, PutOffError> {
    match connection.publish(waiting(subjects, work, at)?.expect_last(0)).await {
        Ok(_) => Ok(true),
        Err(PublishError::Conflict) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether a delivery waits there that is a later message than `work`.
///
/// # Errors
/// [`StateError`] when nobody answers.
pub async fn waits(connection: &Connection, subjects: &Subjects, work: &Work) -> Result<bool, StateError> {
    let found = connection.last_of(SCHEDULE, &place(subjects, work)).await?;
    let waiting = found.and_then(|found| Work::decode(&found.payload).ok());
    Ok(waiting.is_some_and(|waiting| waiting.replays == work.replays && waiting.hops > work.hops))
}

fn place(subjects: &Subjects, work: &Work) -> String {
    subjects.schedule(&["work", work.delivery.as_str()])
}

fn waiting(subjects: &Subjects, mut work: Work, at: Timestamp) -> Result<Outgoing, PutOffError> {
    work.hops = work.hops.saturating_add(1);
    work.not_before = None;
    let app = work.notification.app.as_str();
    let target = subjects.due(&["work", work.channel.as_str(), work.notification.priority.as_str(), app]);
    let subject = place(subjects, &work);
    Ok(Outgoing::new(subject, work.encode()?).at(at, &target))
}
