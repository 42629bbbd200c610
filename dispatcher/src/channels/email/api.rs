//! The HTTP side of the providers that take e-mail as JSON.

use std::time::Duration;

use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request};
use tokio::time::Instant;
use url::Url;

use peal_common::settings::Secret;

use crate::channels::ConfigError;
use crate::channels::connections::Connections;
use crate::channels::http::{self as shared, Answer, Authorities, NoAnswer};
use crate::channels::probe::Probe;

/// The most HTTP/2 connections of one dispatcher: enough for what may be under way on the channel, unless much more is
/// allowed than by default.
const CONNECTIONS: usize = 8;
/// How long looking up a name, connecting and the TLS handshake may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The longest answer that is read. Errors quote what was wrong with the message.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Where a provider takes e-mail.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Endpoint {
    /// The call that sends one.
    pub(super) url: Url,
    /// Trusted beside the usual authorities.
    pub(super) authorities: Authorities,
    /// How long a call may take. At most 20 s, see [`crate::channels::CALL_LIMIT`].
    pub(super) timeout: Duration,
}

/// The connections to it.
#[derive(Debug)]
pub(super) struct Api {
    connections: Connections,
    url: Url,
    timeout: Duration,
}

impl Api {
    /// Connects when the first e-mail is sent.
    pub(super) fn new(endpoint: Endpoint) -> Result<Self, ConfigError> {
        let connect_limit = endpoint.timeout.min(CONNECT_LIMIT);
        let build = |builder: reqwest::ClientBuilder| {
            builder.connect_timeout(connect_limit).build().map_err(ConfigError::Http)
        };
        let builders = shared::client_builders_trusting(endpoint.authorities, CONNECTIONS)?;
        let clients = builders.into_iter().map(build).collect::<Result<Vec<_>, _>>()?;
        Ok(Api { connections: Connections::new(clients), url: endpoint.url, timeout: endpoint.timeout })
    }

    /// Asks the call at `path`, from `depth` segments above the one for sending. A body is posted.
    pub(super) async fn probe(
        &self,
        depth: usize,
        path: &[&str],
        headers: HeaderMap,
        body: Option<Vec<u8>>,
    ) -> Probe {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            for _ in 0..depth {
                segments.pop();
            }
            segments.extend(path);
        }
        let mut request = Request::new(if body.is_some() { Method::POST } else { Method::GET }, url);
        *request.headers_mut() = headers;
        *request.body_mut() = body.map(Into::into);
        let deadline = Instant::now() + self.timeout;
        Probe::of_call(self.connections.place().http(), request, deadline).await
    }

    /// Posts JSON.
    pub(super) async fn post(&self, headers: HeaderMap, body: Vec<u8>) -> Result<Answer, NoAnswer> {
        let deadline = Instant::now() + self.timeout;
        let mut request = Request::new(Method::POST, self.url.clone());
        *request.headers_mut() = headers;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(body.into());
        shared::call(self.connections.place().http(), request, deadline, MAX_BODY_BYTES).await
    }
}

/// The provider's key, which has to be one word of ASCII.
pub(super) fn key(name: &'static str, key: Option<Secret>) -> Result<Secret, ConfigError> {
    key.filter(|key| {
        let key = key.expose();
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic())
    })
    .ok_or_else(|| ConfigError::invalid(name, "write the API key, one word, or key_file with its file"))
}
