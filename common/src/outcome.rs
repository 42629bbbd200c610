//! What a provider call ended in: the one seam between a channel and the delivery that uses it.

use std::time::Duration;

use jiff::Timestamp;

/// The result of one attempt. A channel translates its provider's answers into this and nothing else; what follows
/// (acknowledgement, retry, event, invalid contact) is decided in one place, by the dispatcher's delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The recipient's side has it: a webhook endpoint answered 2xx, an inbox stored the item.
    Delivered {
        /// The provider's identifier of the message.
        provider_id: Option<String>,
    },
    /// The provider took the message over; whether it arrives is for a receipt to say. `provider_id` is the
    /// provider's name for it, where it gives one.
    Sent {
        /// The provider's identifier of the message.
        provider_id: Option<String>,
    },
    /// It may work later. `after` is what the provider asked for (Retry-After and the like), unbounded as it came.
    Retry {
        /// A stable word for the log and the event, such as `http_503`.
        reason: String,
        /// The wait that the provider asked for.
        after: Option<Duration>,
    },
    /// Nothing was sent: a limit of our own, a wait that the provider asked of everybody, or a refusal that may not be meant
    /// for this message held it back. It burns no attempt, or a burst would end in the dead letters.
    HeldBack {
        /// A stable word for the log and the event, such as `throttled`.
        reason: String,
        /// How long, where that is known.
        after: Option<Duration>,
    },
    /// This message will never be accepted, whatever is tried.
    Permanent {
        /// A stable word for the event, such as `payload_too_large`.
        reason: String,
    },
    /// The address does not exist or wants nothing any more: it is not to be used again.
    AddressDead {
        /// A stable word for the event, such as `http_410`.
        reason: String,
        /// Since when, where the provider says so: an address that was registered later is another one's.
        since: Option<Timestamp>,
    },
    /// The address takes nothing at present, since what it received lies unread. That is no reason to give it up, until it
    /// says the same for days.
    AddressFull {
        /// A stable word for the event, such as `smtp_552_5.2.2`.
        reason: String,
    },
    /// The account or the provider as a whole is out of order (credentials, suspension): retry without counting an
    /// attempt.
    Unavailable {
        /// A stable word for the event, such as `authentication_failed`.
        reason: String,
        /// The wait that the provider asked for.
        after: Option<Duration>,
    },
    /// The request went out and no answer came back: it may have been sent or not.
    Ambiguous {
        /// A stable word for the event, such as `timeout_after_send`.
        reason: String,
    },
}

impl Outcome {
    /// The outcome's name in metrics and logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Outcome::Delivered { .. } => "delivered",
            Outcome::Sent { .. } => "sent",
            Outcome::Retry { .. } => "retry",
            Outcome::HeldBack { .. } => "held_back",
            Outcome::Permanent { .. } => "permanent",
            Outcome::AddressDead { .. } => "address_dead",
            Outcome::AddressFull { .. } => "address_full",
            Outcome::Unavailable { .. } => "unavailable",
            Outcome::Ambiguous { .. } => "ambiguous",
        }
    }
}
