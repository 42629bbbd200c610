//! The call of `/sms/json`.

use http::header::{CONTENT_TYPE, HeaderValue};

use peal_common::clock::Clock;
use peal_common::outcome::Outcome;

use super::{Options, outcome, request};
use crate::channels::probe::Probe;
use crate::channels::sms::account::Line;
use crate::channels::sms::text;
use crate::channels::{ConfigError, Message};

/// Sends messages as one account.
#[derive(Debug)]
pub struct Client {
    line: Line,
    options: Options,
}

impl Client {
    /// A client of one account. `clock` is what the time to live and dates in Retry-After are counted from.
    ///
    /// # Errors
    /// [`ConfigError`] when TLS can't be set up.
    pub fn new(options: Options, clock: Clock) -> Result<Self, ConfigError> {
        let line = Line::new(options.calls.clone(), clock)?;
        Ok(Client { line, options })
    }

    /// Asks for the balance (Vonage, Account API, "Get account balance").
    pub async fn probe(&self) -> Probe {
        let Options { endpoint, key, secret, .. } = &self.options;
        let mut url = endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop().pop().extend(["account", "get-balance"]);
        }
        url.query_pairs_mut().append_pair("api_key", key).append_pair("api_secret", secret.expose());
        self.line.probe(reqwest::Request::new(reqwest::Method::GET, url)).await
    }

    /// Sends one message.
    pub async fn send(&self, message: &Message<'_>) -> Outcome {
        let checked = match text::check(message) {
            Ok(checked) => checked,
            Err(refused) => return refused,
        };
        let body = request::form(message, &checked, &self.options, self.line.clock.now());
        let mut request = reqwest::Request::new(reqwest::Method::POST, self.options.endpoint.clone());
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, form);
        *request.body_mut() = Some(body.into());
        match self.line.call(request).await {
            Ok(answer) => outcome::of_answer(&answer, self.line.clock.now()),
            Err(outcome) => outcome,
        }
    }
}
