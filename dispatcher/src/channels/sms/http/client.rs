//! The call of a gateway.

use peal_common::clock::Clock;
use peal_common::outcome::Outcome;

use super::{Options, outcome, request};
use crate::channels::outcomes::permanent;
use crate::channels::refusals::Refusals;
use crate::channels::sms::account::Line;
use crate::channels::sms::text;
use crate::channels::{ConfigError, Message};

/// Sends messages through one gateway. It may be in a private network, since whoever runs Peal has written its URL.
#[derive(Debug)]
pub struct Client {
    line: Line,
    options: Options,
    refusals: Refusals,
}

impl Client {
    /// A client of one gateway. `clock` is what dates in Retry-After are compared with.
    ///
    /// # Errors
    /// [`ConfigError`] when TLS can't be set up.
    pub fn new(options: Options, clock: Clock) -> Result<Self, ConfigError> {
        let line = Line::new(options.calls.clone(), clock)?;
        Ok(Client { line, options, refusals: Refusals::default() })
    }

    /// Sends one message.
    pub async fn send(&self, message: &Message<'_>) -> Outcome {
        let checked = match text::check(message) {
            Ok(checked) => checked,
            Err(refused) => return refused,
        };
        let Some(request) = request::request(message, &checked, &self.options) else {
            return permanent("invalid_request");
        };
        let answer = match self.line.call(request).await {
            Ok(answer) => answer,
            Err(outcome) => return outcome,
        };
        match outcome::of_answer(&self.options.rules, &answer, self.line.clock.now()) {
            Outcome::Unavailable { reason, .. } if outcome::is_not_found(&answer) => {
                self.refusals.judge(message.delivery, reason)
            }
            outcome => {
                if matches!(outcome, Outcome::Sent { .. }) {
                    self.refusals.taken(message.delivery);
                }
                outcome
            }
        }
    }
}
