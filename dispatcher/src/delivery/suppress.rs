//! An address that its provider calls dead is not written to again.

use jiff::Timestamp;
use peal_common::envelope::Work;
use peal_common::suppression::{self, Suppression};
use peal_nats::state::WriteError;

use crate::context::Context;

/// Suppresses the address of a delivery, unless it was registered after it had died: then it is another one's by now.
/// When that can't be written, the provider says the same at the next notification.
pub(super) async fn suppress(
    context: &Context,
    work: &Work,
    registered_ms: u64,
    reason: &str,
    since: Option<Timestamp>,
) {
    // By a clock that is behind, it may have been registered only in a moment.
    let registered = i64::try_from(registered_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let since = since.unwrap_or_else(|| context.clock.now().max(registered.unwrap_or_default()));
    let suppression = Suppression { reason: reason.to_owned(), since };
    if !suppression.holds_for(work.channel, registered_ms) {
        return;
    }
    let notification = &work.notification;
    let key = suppression::key(&notification.app, work.channel, &work.contact, notification.pinned);
    let written = context.writer.update(&key, |record, stamp| {
        suppression.write(record, stamp);
        Ok::<_, WriteError>(())
    });
    if let Err(error) = written.await {
        tracing::warn!(
            delivery.channel = %work.channel,
            error = &error as &dyn std::error::Error,
            "a dead address could not be suppressed"
        );
    }
}
