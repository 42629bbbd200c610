//! Fallback: another channel for a recipient, when one failed or nobody reacted in time.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::channel::Channel;
use crate::event::Status;
use crate::id::RecipientId;
use crate::problem::FieldError;

/// The longest wait: as long as a notification may live.
const MAX_AFTER_SECONDS: u32 = crate::notification::MAX_TTL_SECONDS;

/// Another channel when one failed, or when nobody reacted in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Fallback {
    /// How long each channel is given, 1 to 604,800. What failed for good is not waited for.
    pub after_seconds: u32,
    /// What counts as a reaction.
    pub until: FallbackUntil,
}

/// What ends the wait of a fallback. What comes later in this list counts for what comes earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FallbackUntil {
    /// A receipt of delivery.
    Delivered,
    /// The recipient saw it: it was on the screen, was opened, or a link in it was followed.
    Seen,
    /// The recipient acknowledged it, or somebody acknowledged the notification.
    Acknowledged,
}

impl Fallback {
    /// Checks what types can't say.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), FieldError> {
        if (1..=MAX_AFTER_SECONDS).contains(&self.after_seconds) {
            return Ok(());
        }
        let detail = "write 1 to 604800 (7 days)";
        Err(FieldError::new("fallback.after_seconds", "out_of_range", detail))
    }

    /// How long each channel is given.
    #[must_use]
    pub fn after(&self) -> SignedDuration {
        SignedDuration::from_secs(i64::from(self.after_seconds))
    }

    /// What is to be done for a recipient who was last sent something at `since`. `deliveries` are that recipient's.
    ///
    /// What waits for the end of quiet hours is waited for: any other channel would wait, too. What may have been sent has
    /// not failed.
    #[must_use]
    pub fn verdict<'a>(
        &self,
        deliveries: impl IntoIterator<Item = &'a DeliveryStanding>,
        since: Timestamp,
        now: Timestamp,
    ) -> Verdict {
        let (mut any, mut all_failed, mut is_held) = (false, true, false);
        for delivery in deliveries {
            if delivery.reached.is_some_and(|reached| reached >= self.until) {
                return Verdict::Reached;
            }
            any = true;
            is_held |= matches!(delivery.status, Status::Held | Status::Scheduled);
            all_failed &= matches!(
                delivery.status,
                Status::Failed | Status::Bounced | Status::DeadLettered | Status::Suppressed
            );
        }
        if any && all_failed {
            return Verdict::Next;
        }
        let until =
            if is_held { now.saturating_add(self.after()) } else { since.saturating_add(self.after()) };
        match until {
            Ok(until) if until > now => Verdict::Wait(if is_held { now } else { since }),
            _ => Verdict::Next,
        }
    }
}

/// What is to be done for a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing more.
    Reached,
    /// Nothing yet: the wait began then.
    Wait(Timestamp),
    /// The next channel.
    Next,
}

/// How a notification stands, as the gateways of its region tell their dispatchers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotificationStanding {
    /// Whether somebody acknowledged it as a whole.
    pub acknowledged: bool,
    /// Its deliveries, and what stands for those that there are none of.
    pub deliveries: Vec<DeliveryStanding>,
}

/// How a delivery stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryStanding {
    /// The recipient.
    pub recipient: RecipientId,
    /// The channel; unknown where no channel was usable.
    pub channel: Option<Channel>,
    /// Where it stands.
    pub status: Status,
    /// The most that is known of whom it reached.
    pub reached: Option<FallbackUntil>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const FALLBACK: Fallback = Fallback { after_seconds: 600, until: FallbackUntil::Seen };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn delivery(status: Status, reached: Option<FallbackUntil>) -> DeliveryStanding {
        DeliveryStanding { recipient: "u".parse().unwrap(), channel: Some(Channel::Email), status, reached }
    }

    #[test]
    fn nobody_is_written_to_who_reacted() {
        use FallbackUntil::{Acknowledged, Delivered, Seen};
        for (reached, is_enough) in
            [(None, false), (Some(Delivered), false), (Some(Seen), true), (Some(Acknowledged), true)]
        {
            let verdict = FALLBACK.verdict(&[delivery(Status::Delivered, reached)], at(0), at(600));
            assert_eq!(verdict == Verdict::Reached, is_enough, "{reached:?}");
        }
        let failed = delivery(Status::Failed, None);
        let seen = delivery(Status::Delivered, Some(Seen));
        assert_eq!(FALLBACK.verdict(&[failed, seen], at(0), at(600)), Verdict::Reached);
    }

    #[test]
    fn what_failed_is_not_waited_for_and_what_may_have_been_sent_is() {
        for status in [Status::Failed, Status::Bounced, Status::DeadLettered, Status::Suppressed] {
            assert_eq!(
                FALLBACK.verdict(&[delivery(status, None)], at(0), at(1)),
                Verdict::Next,
                "{status:?}"
            );
            let other = [delivery(status, None), delivery(Status::Queued, None)];
            assert_eq!(FALLBACK.verdict(&other, at(0), at(1)), Verdict::Wait(at(0)), "{status:?}");
        }
        for status in [Status::Ambiguous, Status::Sent, Status::Delivered, Status::Queued, Status::Expired] {
            let one = [delivery(status, None)];
            assert_eq!(FALLBACK.verdict(&one, at(0), at(599)), Verdict::Wait(at(0)), "{status:?}");
            assert_eq!(FALLBACK.verdict(&one, at(0), at(600)), Verdict::Next, "{status:?}");
        }
        // Nothing is known of it yet.
        assert_eq!(FALLBACK.verdict(&[], at(0), at(599)), Verdict::Wait(at(0)));
    }

    #[test]
    fn what_waits_for_the_end_of_quiet_hours_is_given_its_time_afterwards() {
        let held = [delivery(Status::Held, None)];
        assert_eq!(FALLBACK.verdict(&held, at(0), at(5_000)), Verdict::Wait(at(5_000)));
    }

    #[test]
    fn waits_have_bounds() {
        let check = |after_seconds| Fallback { after_seconds, ..FALLBACK }.check();
        assert!(check(1).is_ok() && check(604_800).is_ok());
        assert!(check(0).is_err() && check(604_801).is_err());
    }
}
