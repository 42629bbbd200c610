//! The call of a push service.

use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use url::Url;

use peal_common::address;
use peal_common::clock::Clock;
use peal_common::outcome::Outcome;
use peal_common::template::MAX_WEBPUSH_BYTES;

use super::encrypt::Receiver;
use super::vapid::Vapid;
use super::{Options, outcome, request};
use crate::channels::endpoints::Endpoints;
use crate::channels::outcomes::permanent;
use crate::channels::{ConfigError, Message, Opened};

const TTL: HeaderName = HeaderName::from_static("ttl");
const URGENCY: HeaderName = HeaderName::from_static("urgency");
const TOPIC: HeaderName = HeaderName::from_static("topic");

/// Sends to the push services of all browsers, as one application server.
#[derive(Debug)]
pub struct Client {
    endpoints: Endpoints,
    vapid: Vapid,
    clock: Clock,
}

impl Client {
    /// A client. `clock` is what signatures and the time to live are counted from.
    ///
    /// # Errors
    /// [`ConfigError`] when TLS can't be set up.
    pub fn new(options: Options, clock: Clock) -> Result<Self, ConfigError> {
        let Options { key, subject, timeout, allowed_networks, hosts } = options;
        let endpoints = Endpoints::new(timeout, allowed_networks, hosts, clock.clone())?;
        Ok(Client { endpoints, vapid: Vapid::new(&key, subject), clock })
    }

    /// Sends one message. When it is sent again, the topic makes the second one replace the first.
    pub async fn send(&self, message: &Message<'_>) -> Outcome {
        match self.request(message) {
            Ok(request) => self.endpoints.call(request, outcome::of_answer).await,
            Err(refused) => refused,
        }
    }

    /// Why a push service that refuses our key is left alone, if there is one.
    pub(in crate::channels) fn refused(&self) -> Option<Opened> {
        self.endpoints.refused()
    }

    fn request(&self, message: &Message<'_>) -> Result<reqwest::Request, Outcome> {
        let subscription =
            message.contact.subscription.as_ref().ok_or_else(|| permanent("invalid_address"))?;
        let url = address::webhook(&subscription.endpoint).map_err(|_| permanent("invalid_address"))?;
        self.endpoints.check(&url)?;
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
