//! The calls of `Messages.json`.

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};

use peal_common::clock::Clock;
use peal_common::outcome::Outcome;

use super::{Options, found, outcome, request};
use crate::channels::probe::Probe;
use crate::channels::sms::account::Line;
use crate::channels::sms::text;
use crate::channels::{CallTime, Claim, ConfigError, Found, Message};

/// Sends messages as one account.
#[derive(Debug)]
pub struct Client {
    line: Line,
    options: Options,
}

impl Client {
    /// A client of one account. `clock` is what validity and dates in Retry-After are counted from.
    ///
    /// # Errors
    /// [`ConfigError`] when TLS can't be set up.
    pub fn new(options: Options, clock: Clock) -> Result<Self, ConfigError> {
        let line = Line::new(options.calls.clone(), clock)?;
        Ok(Client { line, options })
    }

    /// Asks for one of the account's messages, which is not looked at (Twilio, "Messages resource", list). The account
    /// itself is out of reach for API keys.
    pub async fn probe(&self) -> Probe {
        let Options { endpoint, authorization, .. } = &self.options;
        let mut request = reqwest::Request::new(reqwest::Method::GET, endpoint.clone());
        request.url_mut().query_pairs_mut().append_pair("PageSize", "1");
        request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        self.line.probe(request).await
    }

    /// Sends one message.
    pub async fn send(&self, message: &Message<'_>) -> Outcome {
        let checked = match text::check(message) {
            Ok(checked) => checked,
            Err(refused) => return refused,
        };
        let Options { endpoint, authorization, sender, receipts_url, .. } = &self.options;
        let body = request::form(message, &checked, sender, receipts_url.as_ref(), self.line.clock.now());
        let mut request = reqwest::Request::new(reqwest::Method::POST, endpoint.clone());
        request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, form);
        *request.body_mut() = Some(body.into());
        match self.line.call(request).await {
            Ok(answer) => outcome::of_answer(&answer, self.line.clock.now()),
            Err(outcome) => outcome,
        }
    }

    /// Looks for a message among the last ones to its number.
    ///
    /// # Errors
    /// The outcome of the question, when Twilio can't be asked now.
    pub async fn find(
        &self,
        message: &Message<'_>,
        call: CallTime,
        claim: Claim<'_>,
    ) -> Result<Found, Outcome> {
        // What is refused before the call was never sent.
        let Ok(checked) = text::check(message) else { return Ok(Found::NotTaken) };
        let Options { endpoint, authorization, .. } = &self.options;
        let mut request = reqwest::Request::new(reqwest::Method::GET, endpoint.clone());
        request::ask_for_last(&mut request.url_mut().query_pairs_mut(), checked.to);
        request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        let answer = self.line.ask(request).await?;
        found::of_list(&answer, checked.text, call, claim, self.line.clock.now())
    }
}
