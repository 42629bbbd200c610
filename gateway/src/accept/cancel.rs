//! Cancelling: what has not been sent is not sent any more.

use peal_common::clock::Stamp;
use peal_common::envelope::{Envelope as _, Intake, Work};
use peal_common::id::{AppId, NotificationId};
use peal_common::state::Record;
use peal_nats::catalog::{CANCELLED_FACET, cancellation_key};
use peal_nats::fallback;
use peal_nats::publish::Outgoing;
use peal_nats::state::WriteError;
use peal_nats::topology::SCHEDULE;
use serde_json::Value;

use super::{Acceptor, Inner, Refusal, unavailable};
use crate::readmodel::NotificationView;

/// A cancellation has no meaning any more this long after the notification itself has none.
const KEPT_AFTER_EXPIRY_MS: i64 = 24 * 3600 * 1000;

impl Acceptor {
    /// Cancels a notification: every dispatcher looks for this just before it sends. What waits for its time is brought
    /// forward, so that its end shows at once and not when it would have been due.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`]
    pub async fn cancel(&self, app: &AppId, found: &NotificationView) -> Result<(), Refusal> {
        let inner = &self.inner;
        let id = &found.summary.id;
        let expires = found.summary.expires_at.map(|at| at.as_millisecond() + KEPT_AFTER_EXPIRY_MS);
        // Whether it is pinned is unknown once the index was rebuilt after its acceptance had left the stream.
        let pinned = found.summary.pinned.map_or(vec![true, false], |pinned| vec![pinned]);
        let mut state_seq = 0;
        for key in pinned.into_iter().map(|pinned| cancellation_key(app, id, pinned)) {
            let cancel = |record: &mut Record, stamp: &Stamp| {
                if record.get(CANCELLED_FACET).is_none() {
                    record.set(CANCELLED_FACET, Value::Bool(true), stamp);
                    record.expires_ms = expires.and_then(|ms| u64::try_from(ms).ok());
                }
                Ok::<_, WriteError>(())
            };
            state_seq = inner.writer.update(&key, cancel).await?.sequence.max(state_seq);
        }
        inner.bring_forward(app, id, state_seq).await?;
        for delivery in found.summary.deliveries.iter().filter(|delivery| !delivery.status.is_settled()) {
            inner.bring_forward_delivery(&delivery.id, state_seq).await?;
        }
        // Nobody is to get it on another channel.
        let fallback = fallback::subject(&inner.subjects, app, id);
        let purged = inner.connection.purge(SCHEDULE, &fallback).await;
        purged.map(drop).map_err(|error| unavailable("JetStream does not answer", error))
    }

    /// Whether somebody may still get a notification on another channel.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`]
    pub async fn has_fallback(&self, app: &AppId, id: &NotificationId) -> Result<bool, Refusal> {
        let subject = fallback::subject(&self.inner.subjects, app, id);
        Ok(self.inner.scheduled(&subject).await?.is_some())
    }
}

impl Inner {
    async fn bring_forward(&self, app: &AppId, id: &NotificationId, state_seq: u64) -> Result<(), Refusal> {
        let subject = self.subjects.schedule(&["intake", app.as_str(), id.as_str()]);
        let Some(payload) = self.scheduled(&subject).await? else { return Ok(()) };
        let Ok(mut intake) = Intake::decode(&payload) else { return Ok(()) };
        intake.state_seq = intake.state_seq.max(state_seq);
        let due = self.subjects.due(&["intake", intake.notification.priority.as_str(), app.as_str()]);
        let payload = intake.encode().map_err(|error| unavailable("the message cannot be encoded", error))?;
        self.move_up(&subject, due, payload).await
    }

    async fn bring_forward_delivery(&self, delivery: &str, state_seq: u64) -> Result<(), Refusal> {
        let subject = self.subjects.schedule(&["work", delivery]);
        let Some(payload) = self.scheduled(&subject).await? else { return Ok(()) };
        let Ok(mut work) = Work::decode(&payload) else { return Ok(()) };
        work.state_seq = work.state_seq.max(state_seq);
        let app = work.notification.app.as_str();
        let due =
            self.subjects.due(&["work", work.channel.as_str(), work.notification.priority.as_str(), app]);
        let payload = work.encode().map_err(|error| unavailable("the message cannot be encoded", error))?;
        self.move_up(&subject, due, payload).await
    }

    async fn scheduled(&self, subject: &str) -> Result<Option<bytes::Bytes>, Refusal> {
        let found = self.connection.last_of(SCHEDULE, subject).await;
        let found = found.map_err(|error| unavailable("JetStream does not answer", error))?;
        Ok(found.map(|message| message.payload))
    }

    /// First due, then unscheduled: a crash in between brings it twice, which the cancellation makes harmless.
    async fn move_up(&self, subject: &str, due: String, payload: Vec<u8>) -> Result<(), Refusal> {
        self.connection.publish(Outgoing::new(due, payload)).await?;
        let purged = self.connection.purge(SCHEDULE, subject).await;
        purged.map(drop).map_err(|error| unavailable("JetStream does not answer", error))
    }
}
