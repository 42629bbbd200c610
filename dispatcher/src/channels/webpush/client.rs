//! The call of a push service.

use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use peal_common::address;
use peal_common::clock::Clock;
use peal_common::outcome::Outcome;
use peal_common::template::MAX_WEBPUSH_BYTES;

use super::encrypt::Receiver;
use super::vapid::Vapid;
use super::{Options, outcome, request};
use crate::channels::endpoints::Endpoints;
use crate::channels::outcomes::{permanent, retry};
use crate::channels::target::{Resolver, Targets};
use crate::channels::{ConfigError, Message, http as shared};

const TTL: HeaderName = HeaderName::from_static("ttl");
const URGENCY: HeaderName = HeaderName::from_static("urgency");
const TOPIC: HeaderName = HeaderName::from_static("topic");
/// How long looking up a name, connecting and the TLS handshake may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How much of an answer's body is read (and dropped) to save its connection, and how long that may take.
const MAX_BODY_BYTES: u64 = 64 * 1024;
const DRAIN_LIMIT: Duration = Duration::from_millis(500);

/// Sends to the push services of all browsers, as one application server.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    targets: Targets,
    endpoints: Endpoints,
    vapid: Vapid,
    clock: Clock,
    timeout: Duration,
}

impl Client {
    /// A client. `clock` is what signatures and the time to live are counted from.
    ///
    /// # Errors
    /// [`ConfigError`] when TLS can't be set up.
    pub fn new(options: Options, clock: Clock) -> Result<Self, ConfigError> {
        let targets = Targets::new(options.allowed_networks);
        let http = shared::client_builder()?
            .connect_timeout(options.timeout.min(CONNECT_LIMIT))
            .dns_resolver(Resolver::new(targets.clone(), options.hosts))
            .build()
            .map_err(ConfigError::Http)?;
        let vapid = Vapid::new(&options.key, options.subject);
        let endpoints = Endpoints::default();
        Ok(Client { http, targets, endpoints, vapid, clock, timeout: options.timeout })
    }

    /// Sends one message.
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
        let _ = timeout(DRAIN_LIMIT, shared::discard_capped(response, MAX_BODY_BYTES)).await;
        outcome
    }

    fn request(&self, message: &Message<'_>) -> Result<reqwest::Request, Outcome> {
        let subscription =
            message.contact.subscription.as_ref().ok_or_else(|| permanent("invalid_address"))?;
        let url = address::webhook(&subscription.endpoint).map_err(|_| permanent("invalid_address"))?;
        self.targets.check_literal(&url).map_err(|_| permanent("private_target"))?;
        let receiver =
            Receiver::parse(&subscription.keys).map_err(|_| permanent("invalid_subscription_keys"))?;
        let payload = request::payload(message).ok_or_else(|| permanent("invalid_request"))?;
        let too_large =
            || permanent(format!("payload_too_large: {} of {MAX_WEBPUSH_BYTES} bytes", payload.len()));
        if payload.len() > MAX_WEBPUSH_BYTES {
            return Err(too_large());
        }
        let encrypted = receiver.encrypt(&payload).ok_or_else(too_large)?;
        let headers = self.headers(message, &url).ok_or_else(|| permanent("invalid_request"))?;
        let mut request = reqwest::Request::new(reqwest::Method::POST, url);
        *request.headers_mut() = headers;
        *request.body_mut() = Some(encrypted.into());
        Ok(request)
    }

    fn headers(&self, message: &Message<'_>, url: &Url) -> Option<HeaderMap> {
        let now = self.clock.now();
        let mut authorization = HeaderValue::try_from(self.vapid.authorization(url, now)?).ok()?;
        authorization.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, authorization);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("aes128gcm"));
        headers.insert(TTL, request::time_to_live(message.expires_at, now).into());
        headers.insert(URGENCY, HeaderValue::from_static(request::urgency(message.priority)));
        headers.insert(TOPIC, HeaderValue::try_from(request::topic(message)).ok()?);
        Some(headers)
    }
}
