//! The call of a webhook.

use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use tokio::time::{Instant, timeout, timeout_at};

use peal_common::address;
use peal_common::clock::Clock;
use peal_common::outcome::Outcome;

use super::signature::Signers;
use super::{Options, Secrets, outcome, request};
use crate::channels::endpoints::Endpoints;
use crate::channels::outcomes::{permanent, retry, unavailable};
use crate::channels::target::{Resolver, Targets};
use crate::channels::{ConfigError, Message, http as shared};

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// How long looking up a name, connecting and the TLS handshake may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How much of an answer's body is read (and dropped) to save its connection.
const MAX_BODY_BYTES: u64 = 64 * 1024;
/// How long that may take. The status has decided by then, so nobody should wait for a dawdling body.
const DRAIN_LIMIT: Duration = Duration::from_millis(500);

/// Calls webhooks. One client serves all endpoints and keeps their connections.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    targets: Targets,
    endpoints: Endpoints,
    signers: Signers,
    clock: Clock,
    timeout: Duration,
}

impl Client {
    /// A client that signs with `secrets` and takes the time of its signatures from `clock`.
    ///
    /// # Errors
    /// [`ConfigError`] when TLS can't be set up.
    pub fn new(options: Options, secrets: Secrets, clock: Clock) -> Result<Self, ConfigError> {
        let targets = Targets::new(options.allowed_networks);
        let http = shared::client_builder()?
            .connect_timeout(options.timeout.min(CONNECT_LIMIT))
            .dns_resolver(Resolver::new(targets.clone(), options.hosts))
            .build()
            .map_err(ConfigError::Http)?;
        let endpoints = Endpoints::default();
        Ok(Client {
            http,
            targets,
            endpoints,
            signers: Signers::new(secrets),
            clock,
            timeout: options.timeout,
        })
    }

    /// Calls the contact's URL once.
    pub async fn send(&self, message: &Message<'_>) -> Outcome {
        match self.request(message) {
            Ok(request) => {
                let url = request.url().clone();
                self.endpoints.call(&url, &self.clock, self.call(request)).await
            }
            Err(refused) => refused,
        }
    }

    async fn call(&self, request: reqwest::Request) -> Outcome {
        let deadline = Instant::now() + self.timeout;
        let response = match timeout_at(deadline, self.http.execute(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return outcome::of_error(&error),
            Err(_) => return retry("timeout", None),
        };
        let outcome = outcome::of_answer(response.status(), response.headers(), self.clock.now());
        // A body that does not end in time costs its connection and nothing else.
        let _ = timeout(DRAIN_LIMIT, shared::discard_capped(response, MAX_BODY_BYTES)).await;
        outcome
    }

    fn request(&self, message: &Message<'_>) -> Result<reqwest::Request, Outcome> {
        let url = message.contact.address.as_deref().map(address::webhook);
        let Some(Ok(url)) = url else { return Err(permanent("invalid_address")) };
        self.targets.check_literal(&url).map_err(|_| permanent("private_target"))?;
        let body = request::body(message).ok_or_else(|| permanent("invalid_request"))?;

        let id = message.delivery.as_str();
        let timestamp = self.clock.now().as_second().to_string();
        let signer = self.signers.of(message.app).map_err(|_| unavailable("signing_secret_invalid"))?;
        let signature = signer.sign(id, &timestamp, &body);
        let mut request = reqwest::Request::new(reqwest::Method::POST, url);
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, JSON);
        for (name, value) in [
            (WEBHOOK_ID, id),
            (WEBHOOK_TIMESTAMP, timestamp.as_str()),
            (WEBHOOK_SIGNATURE, signature.as_str()),
        ] {
            headers.insert(name, HeaderValue::from_str(value).map_err(|_| permanent("invalid_request"))?);
        }
        *request.body_mut() = Some(body.into());
        Ok(request)
    }
}
