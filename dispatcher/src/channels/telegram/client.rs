//! The call of `sendMessage`.

use std::fmt;

use http::header::{CONTENT_TYPE, HeaderValue};
use tokio::time::Instant;

use peal_common::clock::Clock;
use peal_common::outcome::Outcome;
use peal_nats::turns::Turns;

use super::limits::Limits;
use super::request::{self, Chat};
use super::{Options, outcome};
use crate::channels::outcomes::permanent;
use crate::channels::probe::Probe;
use crate::channels::{ConfigError, Message, http as shared};

/// The longest answer that is read: a message of 4,096 characters comes back with escapes and entities.
const MAX_BODY_BYTES: usize = 256 * 1024;
/// How long connecting may take.
const CONNECT_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);
/// How long the bot is left alone when a 429 does not say.
const UNTOLD_PAUSE: std::time::Duration = std::time::Duration::from_secs(5);

/// Sends messages as one bot.
pub struct Client {
    http: reqwest::Client,
    options: Options,
    clock: Clock,
    limits: Limits,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of one bot, which takes `turns` with all others of it. `clock` is what dates in Retry-After are compared
    /// with.
    ///
    /// # Errors
    /// [`ConfigError`] when TLS can't be set up.
    pub fn new(options: Options, turns: Turns, clock: Clock) -> Result<Self, ConfigError> {
        let http = shared::client_builder()?
            .connect_timeout(CONNECT_LIMIT.min(options.timeout))
            .build()
            .map_err(ConfigError::Http)?;
        let limits = Limits::new(turns, options.token.expose());
        Ok(Client { http, options, clock, limits })
    }

    /// Sends one message, after waiting for its turn.
    pub async fn send(&self, message: &Message<'_>) -> Outcome {
        let Some(chat) = message.contact.address.as_deref().and_then(Chat::parse) else {
            return permanent("invalid_address");
        };
        let Some(body) = request::body(message, &chat) else { return permanent("invalid_request") };
        if let Err(held_back) = self.limits.turn(&chat, message.priority, self.options.max_wait).await {
            return held_back;
        }
        let outcome = self.call(body).await;
        if let Outcome::Retry { reason, after } = &outcome
            && reason == "http_429"
        {
            self.limits.pause(after.unwrap_or(UNTOLD_PAUSE)).await;
        }
        outcome
    }

    /// Asks who the bot is (Bot API, `getMe`).
    pub async fn probe(&self) -> Probe {
        let mut url = self.options.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop().push("getMe");
        }
        let request = reqwest::Request::new(reqwest::Method::GET, url);
        Probe::of_call(&self.http, request, Instant::now() + self.options.timeout).await
    }

    async fn call(&self, body: Vec<u8>) -> Outcome {
        let deadline = Instant::now() + self.options.timeout;
        let mut request = reqwest::Request::new(reqwest::Method::POST, self.options.endpoint.clone());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(body.into());
        match shared::call(&self.http, request, deadline, MAX_BODY_BYTES).await {
            Ok(answer) => {
                outcome::of_answer(answer.status, &answer.headers, answer.body.as_deref(), self.clock.now())
            }
            // There is no way to ask Telegram whether it got the message.
            Err(no_answer) => no_answer.ambiguous(),
        }
    }
}
