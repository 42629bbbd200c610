//! The call of `mail/send`.

use std::fmt;

use http::HeaderMap;
use http::header::AUTHORIZATION;

use peal_common::clock::Clock;
use peal_common::outcome::Outcome;

use super::{Options, outcome, request};
use crate::channels::email::api::Api;
use crate::channels::outcomes::permanent;
use crate::channels::probe::Probe;
use crate::channels::{ConfigError, Message};

/// Sends e-mail through one account at SendGrid.
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
    /// A client. `clock` is what the times in answers are compared with.
    ///
    /// # Errors
    /// [`ConfigError`] when TLS can't be set up.
    pub fn new(options: Options, clock: Clock) -> Result<Self, ConfigError> {
        Ok(Client { api: Api::new(options.endpoint.clone())?, options, clock })
    }

    /// Asks what the key may do (SendGrid, "API key permissions", `GET /v3/scopes`).
    pub async fn probe(&self) -> Probe {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, self.options.authorization.clone())]);
        self.api.probe(2, &["scopes"], headers, None).await
    }

    /// Sends one e-mail.
    pub async fn send(&self, message: &Message<'_>) -> Outcome {
        let Options { from, sandbox_mode, authorization, .. } = &self.options;
        let body = match request::body(message, from, *sandbox_mode) {
            Ok(body) => body,
            Err(reason) => return permanent(reason),
        };
        let headers = HeaderMap::from_iter([(AUTHORIZATION, authorization.clone())]);
        match self.api.post(headers, body).await {
            Ok(answer) => outcome::of_answer(&answer, *sandbox_mode, self.clock.now()),
            // SendGrid recognises no repetition, and tells of an e-mail by events alone.
            Err(no_answer) => no_answer.ambiguous(),
        }
    }
}
