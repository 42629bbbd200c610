//! The call of `messages/send`.

use std::fmt;

use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};

use peal_common::clock::Clock;
use peal_common::outcome::Outcome;

use super::{Options, outcome, request};
use crate::channels::email::api::Api;
use crate::channels::outcomes::permanent;
use crate::channels::probe::Probe;
use crate::channels::{ConfigError, Message};

/// Sends e-mail through one account at Mailchimp Transactional.
pub struct Client {
    api: Api,
    options: Options,
    clock: Clock,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Client {
    /// A client. `clock` is what dates in Retry-After are compared with.
    ///
    /// # Errors
    /// [`ConfigError`] when TLS can't be set up.
    pub fn new(options: Options, clock: Clock) -> Result<Self, ConfigError> {
        Ok(Client { api: Api::new(options.endpoint.clone())?, options, clock })
    }

    /// Pings (Mailchimp Transactional, `/users/ping`).
    pub async fn probe(&self) -> Probe {
        let body = serde_json::json!({ "key": self.options.key.expose() }).to_string();
        let json = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let path = ["users", "ping.json"];
        self.api.probe(2, &path, HeaderMap::from_iter([json]), Some(body.into_bytes())).await
    }

    /// Sends one e-mail.
    pub async fn send(&self, message: &Message<'_>) -> Outcome {
        let body = match request::body(message, &self.options) {
            Ok(body) => body,
            Err(reason) => return permanent(reason),
        };
        match self.api.post(HeaderMap::new(), body).await {
            Ok(answer) => outcome::of_answer(&answer, self.clock.now()),
            // Mailchimp recognises no repetition, and tells of an e-mail that it did not name by events alone.
            Err(no_answer) => no_answer.ambiguous(),
        }
    }
}
