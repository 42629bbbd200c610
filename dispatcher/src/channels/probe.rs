//! Asking a provider something harmless: whether an account works, without a message to anybody.

use reqwest::Request;
use serde::Serialize;
use tokio::time::Instant;

use peal_common::outcome::Outcome;

use super::http as shared;

/// The longest answer that is read.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Probe {
    /// The provider answers and takes the credentials.
    Works,
    /// It does not.
    Fails {
        /// Why, in the words of outcomes, such as `http_401` or `connect_failed`.
        reason: String,
    },
    /// There is nothing to ask without sending something.
    Unknown,
}

impl Probe {
    /// Of a message to nobody: a provider that complains of the address has taken the credentials. The same of
    /// whatever failed before there was a message.
    pub(super) fn of_outcome(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Sent { .. }
            | Outcome::Delivered { .. }
            | Outcome::AddressDead { .. }
            | Outcome::AddressFull { .. } => Probe::Works,
            Outcome::Permanent { reason }
            | Outcome::Retry { reason, .. }
            | Outcome::HeldBack { reason, .. }
            | Outcome::Unavailable { reason, .. }
            | Outcome::Ambiguous { reason, .. } => Probe::Fails { reason },
        }
    }

    /// Of a call that only asks.
    pub(super) async fn of_call(http: &reqwest::Client, request: Request, deadline: Instant) -> Self {
        match shared::call(http, request, deadline, MAX_BODY_BYTES).await {
            Ok(answer) if answer.status.is_success() => Probe::Works,
            Ok(answer) => Probe::Fails { reason: format!("http_{}", answer.status.as_u16()) },
            Err(no_answer) => Probe::of_outcome(no_answer.repeatable()),
        }
    }
}
