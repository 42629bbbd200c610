//! The call of `messages:send`.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request};
use serde_json::json;
use tokio::time::Instant;
use url::Url;

use peal_common::clock::Clock;
use peal_common::outcome::Outcome;

use super::access_token::{Access, AccessToken};
use super::mismatches::Mismatches;
use super::{Options, outcome, payload};
use crate::channels::connections::Connections;
use crate::channels::outcomes::permanent;
use crate::channels::probe::Probe;
use crate::channels::{ConfigError, Message, http as shared};

/// The most HTTP/2 connections of one dispatcher: enough for what may be under way on the channel, unless much more is
/// allowed than by default.
const CONNECTIONS: usize = 8;
/// How long looking up a name, connecting and the TLS handshake may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The longest answer that is read. Errors quote what was wrong with the message.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Sends pushes as one service account, to devices of one Firebase project.
pub struct Client {
    connections: Connections,
    token: AccessToken,
    endpoint: Url,
    validate_only: bool,
    mismatches: Mismatches,
    clock: Clock,
    timeout: Duration,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("endpoint", &self.endpoint.as_str()).finish_non_exhaustive()
    }
}

impl Client {
    /// A client. `clock` is what access tokens and the time to live are counted by.
    ///
    /// # Errors
    /// [`ConfigError`] when TLS can't be set up.
    pub fn new(options: Options, clock: Clock) -> Result<Self, ConfigError> {
        let connect_limit = options.timeout.min(CONNECT_LIMIT);
        let build = |builder: reqwest::ClientBuilder| {
            builder.connect_timeout(connect_limit).build().map_err(ConfigError::Http)
        };
        let builders = shared::client_builders_trusting(options.authorities, CONNECTIONS)?;
        let clients = builders.into_iter().map(build).collect::<Result<Vec<_>, _>>()?;
        // Tokens are asked for so rarely that they need no client of their own.
        let connections = Connections::new(clients);
        let http = connections.place().http().clone();
        Ok(Client {
            connections,
            token: AccessToken::new(http, options.account, options.token_url, clock.clone()),
            endpoint: options.endpoint,
            validate_only: options.validate_only,
            mismatches: Mismatches::default(),
            clock,
            timeout: options.timeout,
        })
    }

    /// Sends one push.
    pub async fn send(&self, message: &Message<'_>) -> Outcome {
        let deadline = Instant::now() + self.timeout;
        let body = match self.body(message) {
            Ok(body) => Bytes::from(body),
            Err(refused) => return refused,
        };
        let outcome = match self.token.access(deadline).await {
            Ok(access) => self.send_as(access, body, deadline).await,
            Err(outcome) => outcome,
        };
        self.mismatches.judge(outcome)
    }

    /// Has Firebase look at a message to a device that does not exist, without sending it (`validate_only`).
    pub async fn probe(&self) -> Probe {
        let deadline = Instant::now() + self.timeout;
        let message = json!({ "token": "peal-doctor", "notification": { "title": "peal doctor" } });
        let body = json!({ "validate_only": true, "message": message }).to_string();
        match self.token.access(deadline).await {
            Ok(access) => Probe::of_outcome(self.send_as(access, body.into(), deadline).await),
            Err(outcome) => Probe::of_outcome(outcome),
        }
    }

    fn body(&self, message: &Message<'_>) -> Result<Vec<u8>, Outcome> {
        let token = message.contact.token.as_deref().filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| permanent("invalid_address"))?;
        payload::body(message, token, self.validate_only, self.clock.now())
    }

    /// Sends with an access token, and once more with another one when Firebase does not take it.
    async fn send_as(&self, access: Access, body: Bytes, deadline: Instant) -> Outcome {
        let first = self.call(&access, body.clone(), deadline).await;
        if !matches!(&first, Outcome::Unavailable { reason, .. } if reason == outcome::UNAUTHENTICATED) {
            return first;
        }
        match self.token.instead_of(&access, deadline).await {
            Ok(Some(another)) => self.call(&another, body, deadline).await,
            Ok(None) => first,
            Err(outcome) => outcome,
        }
    }

    async fn call(&self, access: &Access, body: Bytes, deadline: Instant) -> Outcome {
        let mut request = Request::new(Method::POST, self.endpoint.clone());
        request.headers_mut().insert(AUTHORIZATION, access.header.clone());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(body.into());
        let place = self.connections.place();
        match shared::call(place.http(), request, deadline, MAX_BODY_BYTES).await {
            Ok(answer) => {
                outcome::of_answer(answer.status, &answer.headers, answer.body.as_deref(), self.clock.now())
            }
            // The second message takes the place of the first.
            Err(no_answer) => no_answer.repeatable(),
        }
    }
}
