//! An address that its provider calls dead is not written to again, nor is one that has been full for days.

use jiff::Timestamp;
use peal_common::clock::Stamp;
use peal_common::envelope::Work;
use peal_common::outcome::Outcome;
use peal_common::state::Record;
use peal_common::suppression::{self, Suppression};
use peal_nats::state::WriteError;

use crate::context::Context;

/// Notes what an outcome says about the address of a delivery. When that can't be written, the provider says the same at
/// the next notification.
pub(super) async fn after(context: &Context, work: &Work, registered_ms: u64, outcome: &Outcome) {
    match outcome {
        Outcome::AddressDead { reason, since } => {
            suppress(context, work, registered_ms, reason, *since).await;
        }
        Outcome::AddressFull { .. } => {
            let now = context.clock.now();
            write(context, work, |record, stamp| Suppression::note_full(record, now, stamp)).await;
        }
        _ => {}
    }
}

/// Suppresses the address of a delivery, unless it was registered after it had died: then it is another one's by now.
async fn suppress(
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
    if suppression.holds_for(work.channel, registered_ms) {
        write(context, work, |record, stamp| suppression.write(record, stamp)).await;
    }
}

async fn write(context: &Context, work: &Work, change: impl Fn(&mut Record, &Stamp)) {
    let notification = &work.notification;
    let key = suppression::key(&notification.app, work.channel, &work.contact, notification.pinned);
    let written = context.writer.update(&key, |record, stamp| {
        change(record, stamp);
        Ok::<_, WriteError>(())
    });
    if let Err(error) = written.await {
        tracing::warn!(
            delivery.channel = %work.channel,
            error = &error as &dyn std::error::Error,
            "what a provider says of an address could not be noted"
        );
    }
}
