//! What all HTTP providers share: the client's safe defaults, the call, and the reading of bounded bodies.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::{Instant, timeout_at};
use url::Url;

use peal_common::outcome::Outcome;

use super::outcomes::{ambiguous, permanent, retry, unavailable};
use super::{ConfigError, retry_after};

/// Idle connections are kept this long: below the 60 s after which common proxies close them.
const POOL_IDLE: Duration = Duration::from_secs(50);
/// Idle connections kept per host: more than the calls that are usually under way to one, since each call beyond it
/// would connect anew.
const POOL_PER_HOST: usize = 256;
/// How often an HTTP/2 connection is asked whether it is still there, and how long the answer may take.
const HTTP2_PING: Duration = Duration::from_secs(20);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(10);
const USER_AGENT: &str = concat!("Peal/", env!("CARGO_PKG_VERSION"));

/// A client builder without redirects and proxies, with TLS from ring. Time limits are for the caller to set.
pub(crate) fn client_builder() -> Result<reqwest::ClientBuilder, ConfigError> {
    client_builder_trusting(Authorities::default())
}

/// The same, trusting `more` beside the usual authorities.
pub(crate) fn client_builder_trusting(more: Authorities) -> Result<reqwest::ClientBuilder, ConfigError> {
    Ok(builder(tls_config(more)?))
}

/// Builders of several clients that trust the same authorities: those are read once.
pub(crate) fn client_builders_trusting(
    more: Authorities,
    count: usize,
) -> Result<Vec<reqwest::ClientBuilder>, ConfigError> {
    let tls = tls_config(more)?;
    Ok((0..count).map(|_| builder(tls.clone())).collect())
}

/// The same for a provider that speaks HTTP/2 alone, also without TLS, where the base URL says `http`. A server that does
/// not speak it is refused in the handshake (RFC 9113 §3.2).
pub(crate) fn http2_client_builders_trusting(
    more: Authorities,
    count: usize,
) -> Result<Vec<reqwest::ClientBuilder>, ConfigError> {
    let mut tls = tls_config(more)?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok((0..count).map(|_| builder(tls.clone()).http2_prior_knowledge()).collect())
}

fn builder(tls: ClientConfig) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .user_agent(USER_AGENT)
        .tcp_nodelay(true)
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_PER_HOST)
        .http2_keep_alive_interval(HTTP2_PING)
        .http2_keep_alive_timeout(HTTP2_PING_TIMEOUT)
}

/// Trusts what the machine trusts (an operator's own authority among it) and, since a slim image may have no
/// certificates at all, the bundled list of public authorities.
fn tls_config(Authorities(mut roots): Authorities) -> Result<ClientConfig, ConfigError> {
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError::invalid("TLS", error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Authorities that are trusted beside the usual ones.
#[derive(Debug, Clone)]
pub(crate) struct Authorities(RootCertStore);

impl Default for Authorities {
    fn default() -> Self {
        Authorities(RootCertStore::empty())
    }
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        self.0.roots == other.0.roots
    }
}

/// The authorities in a PEM file that a setting names; none where it names no file.
pub(crate) fn authorities(key: &'static str, file: Option<&Path>) -> Result<Authorities, ConfigError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = file else { return Ok(Authorities(roots)) };
    let unreadable = |why: String| ConfigError::invalid(key, format!("{}: {why}", path.display()));
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| unreadable(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unreadable("there is no certificate in it".to_owned()));
    }
    Ok(Authorities(roots))
}

/// A provider's base URL from the settings, to which paths are added.
pub(crate) fn base_url(key: &'static str, text: &str) -> Result<Url, ConfigError> {
    let invalid = || ConfigError::invalid(key, "write a URL such as https://api.example.com");
    let mut url = Url::parse(text).map_err(|_| invalid())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(invalid());
    }
    url.path_segments_mut().map_err(|()| invalid())?.pop_if_empty();
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

/// Adds segments to the path of a [`base_url`], each encoded as one.
pub(crate) fn add_path<'a>(url: &mut Url, segments: impl IntoIterator<Item = &'a str>) {
    if let Ok(mut path) = url.path_segments_mut() {
        path.extend(segments);
    }
}

/// An answer: what a provider said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// `None` when it was too long, broke off or did not end in time.
    pub(crate) body: Option<Vec<u8>>,
}

/// Why a call has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// It can't be made, ever.
    Invalid,
    /// There was no connection: nobody saw the request.
    NotSent,
    /// Somebody may have seen it.
    Lost,
    /// Somebody may have seen it, and the time is over.
    TimedOut,
}

impl NoAnswer {
    pub(crate) fn of(error: &reqwest::Error) -> Self {
        if error.is_builder() {
            NoAnswer::Invalid
        } else if error.is_connect() {
            NoAnswer::NotSent
        } else if error.is_timeout() {
            NoAnswer::TimedOut
        } else {
            NoAnswer::Lost
        }
    }

    /// The outcome where a second request does no harm, because it is recognised or takes the place of the first.
    pub(crate) fn repeatable(self) -> Outcome {
        match self {
            NoAnswer::Invalid => permanent("invalid_request"),
            NoAnswer::NotSent => retry("connect_failed", None),
            NoAnswer::Lost => retry("connection_lost", None),
            NoAnswer::TimedOut => retry("timeout", None),
        }
    }

    /// The outcome where a second request may be a second message.
    pub(crate) fn ambiguous(self) -> Outcome {
        match self {
            NoAnswer::Invalid => permanent("invalid_request"),
            NoAnswer::NotSent => retry("connect_failed", None),
            NoAnswer::Lost | NoAnswer::TimedOut => ambiguous("no_answer_after_send"),
        }
    }
}

/// Makes a call and reads at most `cap` bytes of what comes back, all of it before `deadline`.
pub(crate) async fn call(
    http: &reqwest::Client,
    request: reqwest::Request,
    deadline: Instant,
    cap: usize,
) -> Result<Answer, NoAnswer> {
    let response = match timeout_at(deadline, http.execute(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(NoAnswer::of(&error)),
        Err(_) => return Err(NoAnswer::TimedOut),
    };
    let (status, headers) = (response.status(), response.headers().clone());
    let body = timeout_at(deadline, read_capped(response, cap)).await.ok().flatten();
    Ok(Answer { status, headers, body })
}

/// The outcome of a status that is no success, where a second request may be a second message and nothing more is known.
///
/// 429 and a 503 with Retry-After (RFC 9110 §15.6.4) say that nothing was done. Behind any other 5xx a gateway may have
/// given up on a server that has taken the message. Redirections, 404 and 405 tell of a base URL that is wrong for everybody.
pub(crate) fn of_status(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> Outcome {
    let reason = format!("http_{}", status.as_u16());
    let after = retry_after::parse(headers, now);
    match status.as_u16() {
        429 => retry(reason, after),
        503 if after.is_some() => retry(reason, after),
        500.. => ambiguous(reason),
        300..=399 | 401 | 403 | 404 | 405 | 407 => unavailable(reason),
        _ => permanent(reason),
    }
}

/// Reads a body of at most `cap` bytes. `None` when it is longer or breaks off; then the connection is closed.
pub(crate) async fn read_capped(mut response: reqwest::Response, cap: usize) -> Option<Vec<u8>> {
    let announced = response.content_length().unwrap_or(0);
    if announced > cap as u64 {
        return None;
    }
    let mut body = Vec::with_capacity(usize::try_from(announced).unwrap_or(0));
    while let Some(chunk) = response.chunk().await.ok()? {
        if body.len() + chunk.len() > cap {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    Some(body)
}

/// Reads a body of at most `cap` bytes and forgets it, so that its connection can serve the next request. A longer one
/// costs the connection.
pub(crate) async fn discard_capped(mut response: reqwest::Response, cap: u64) {
    if response.content_length().is_some_and(|announced| announced > cap) {
        return;
    }
    let mut seen = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        seen += chunk.len() as u64;
        if seen > cap {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_told_apart_by_whether_something_may_have_been_sent() {
        let outcome = |status: u16, wait: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(wait) = wait {
                headers.insert("retry-after", wait.parse().unwrap());
            }
            let now = "1994-11-06T08:49:00Z".parse().unwrap();
            of_status(StatusCode::from_u16(status).unwrap(), &headers, now)
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let cases = [
            (429, None, retry("http_429", None)),
            (429, Some("7"), retry("http_429", seconds(7))),
            (429, Some("soon"), retry("http_429", None)),
            (429, Some("1000000000"), retry("http_429", seconds(1_000_000_000))),
            (503, Some("Sun, 06 Nov 1994 08:49:37 GMT"), retry("http_503", seconds(37))),
            (503, Some("soon"), ambiguous("http_503")),
            (503, None, ambiguous("http_503")),
            (500, Some("7"), ambiguous("http_500")),
            (502, None, ambiguous("http_502")),
            (504, None, ambiguous("http_504")),
            (301, None, unavailable("http_301")),
            (401, None, unavailable("http_401")),
            (403, None, unavailable("http_403")),
            (404, None, unavailable("http_404")),
            (405, None, unavailable("http_405")),
            (407, None, unavailable("http_407")),
            (400, None, permanent("http_400")),
            (413, None, permanent("http_413")),
        ];
        for (status, wait, expected) in cases {
            assert_eq!(outcome(status, wait), expected, "{status} {wait:?}");
        }
    }
}
