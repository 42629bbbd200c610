//! What all HTTP providers share: the client's safe defaults and the reading of bounded bodies.

use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};

use super::ConfigError;

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
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls_config()?)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .user_agent(USER_AGENT)
        .tcp_nodelay(true)
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_PER_HOST)
        .http2_keep_alive_interval(HTTP2_PING)
        .http2_keep_alive_timeout(HTTP2_PING_TIMEOUT))
}

/// Trusts what the machine trusts (an operator's own authority among it) and, since a slim image may have no
/// certificates at all, the bundled list of public authorities.
fn tls_config() -> Result<ClientConfig, ConfigError> {
    let mut roots = RootCertStore::empty();
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
