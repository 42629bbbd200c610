//! An address that its provider calls dead is not written to again, nor is one that has been full for days.

use jiff::{SignedDuration, Timestamp};
use peal_common::clock::Stamp;
use peal_common::envelope::Work;
use peal_common::outcome::Outcome;
use peal_common::state::Record;
use peal_common::suppression::{self, Suppression};
use peal_nats::state::WriteError;

use crate::context::Context;

/// How long a provider may call a device dead that has registered again since it died. After that it means the one that
/// registered: times are those of the recipient, and somebody may have written all devices down once more for another one's
/// sake.
const RENEWED: SignedDuration = SignedDuration::from_hours(1);

/// Notes what an outcome says about the address of a delivery. When that can't be written, the provider says the same at
/// the next notification.
pub(super) async fn after(context: &Context, work: &Work, registered_ms: u64, outcome: &Outcome) {
    match outcome {
        Outcome::AddressDead { reason, since } => {
            Box::pin(suppress(context, work, registered_ms, reason, *since)).await;
        }
        Outcome::AddressFull { .. } => {
            let now = context.clock.now();
            let noted = write(context, work, |record, stamp| Suppression::note_full(record, now, stamp));
            Box::pin(noted).await;
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
    let registered = i64::try_from(registered_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let since = dead_since(since, registered.unwrap_or_default(), context.clock.now());
    let suppression = Suppression { reason: reason.to_owned(), since };
    if suppression.holds_for(work.channel, registered_ms) {
        write(context, work, |record, stamp| suppression.write(record, stamp)).await;
    }
}

/// Since when an address is dead that was called now, where its provider may have `said` since when.
fn dead_since(said: Option<Timestamp>, registered: Timestamp, now: Timestamp) -> Timestamp {
    match said {
        Some(said) if said >= registered || now.duration_since(registered) < RENEWED => said,
        // By a clock that is behind, it may have been registered only in a moment.
        _ => now.max(registered),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_dead_since_it_died_unless_it_registered_again_a_moment_ago() {
        let at = |minute: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minute);
        for (said, registered, now, since) in [
            (None, 10, 20, 20),
            (None, 20, 10, 20),
            (Some(15), 10, 20, 15),
            (Some(15), 15, 500, 15),
            // What is said may be meant for the one before.
            (Some(5), 10, 20, 5),
            (Some(5), 10, 69, 5),
            (Some(5), 10, 9, 5),
            // An hour later it is not.
            (Some(5), 10, 70, 70),
        ] {
            assert_eq!(
                dead_since(said.map(at), at(registered), at(now)),
                at(since),
                "{said:?} {registered} {now}"
            );
        }
    }
}
