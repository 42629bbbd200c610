//! The call of a webhook.

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};

use peal_common::address;
use peal_common::clock::Clock;
use peal_common::outcome::Outcome;

use super::signature::Signers;
use super::{Options, Secrets, outcome, request};
use crate::channels::endpoints::Endpoints;
use crate::channels::outcomes::{permanent, unavailable};
use crate::channels::{ConfigError, Message};

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Calls webhooks.
#[derive(Debug)]
pub struct Client {
    endpoints: Endpoints,
    signers: Signers,
    clock: Clock,
}

impl Client {
    /// A client that signs with `secrets` and takes the time of its signatures from `clock`.
    ///
    /// # Errors
    /// [`ConfigError`] when TLS can't be set up.
    pub fn new(options: Options, secrets: Secrets, clock: Clock) -> Result<Self, ConfigError> {
        let Options { timeout, allowed_networks, hosts } = options;
        let endpoints = Endpoints::new(timeout, allowed_networks, hosts, clock.clone())?;
        Ok(Client { endpoints, signers: Signers::new(secrets), clock })
    }

    /// Calls the contact's URL once. Whether the endpoint got a request without an answer does not matter: the same request
    /// with the same `webhook-id` may be sent again.
    pub async fn send(&self, message: &Message<'_>) -> Outcome {
        match self.request(message) {
            Ok(request) => self.endpoints.call(request, outcome::of_answer).await,
            Err(refused) => refused,
        }
    }

    fn request(&self, message: &Message<'_>) -> Result<reqwest::Request, Outcome> {
        let url = message.contact.address.as_deref().map(address::webhook);
        let Some(Ok(url)) = url else { return Err(permanent("invalid_address")) };
        self.endpoints.check(&url)?;
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
