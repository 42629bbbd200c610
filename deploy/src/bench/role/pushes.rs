//! Takes pushes: HTTP/2 over TLS, answered as APNs and FCM do while all is well.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::body::{Body, to_bytes};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::sink::Arrivals;
use crate::bench::wall;

/// The largest push: those of APNs and FCM hold 4 KiB.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// Pushes under way on one connection: what Apple's servers allow at most (seen in their SETTINGS).
const STREAMS: u32 = 1_000;
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// What it answers to who asks for an access token (RFC 6749 §5.1).
const ACCESS_TOKEN: &str = r#"{"access_token":"bench","expires_in":3599,"token_type":"Bearer"}"#;
/// What it answers to a push through FCM.
const FCM_NAME: &str = r#"{"name":"projects/bench/messages/1"}"#;

/// Takes connections.
#[derive(Clone)]
pub(super) struct Pushes {
    tls: TlsAcceptor,
    /// What callers have to trust, as PEM.
    pub(super) certificate: String,
}

impl Pushes {
    /// With a certificate of its own for 127.0.0.1.
    pub(super) fn new() -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Pushes { tls: TlsAcceptor::from(Arc::new(config)), certificate: made.cert.pem() })
    }

    /// Serves one connection until its end.
    pub(super) async fn serve(&self, stream: TcpStream, arrivals: Arrivals) -> anyhow::Result<()> {
        let stream = tokio::time::timeout(HANDSHAKE_LIMIT, self.tls.accept(stream))
            .await
            .context("no handshake in time")??;
        let take = service_fn(|request| {
            let arrivals = Arc::clone(&arrivals);
            async move { Ok::<_, Infallible>(take(request, &arrivals).await) }
        });
        let mut server = http2::Builder::new(TokioExecutor::new());
        server.max_concurrent_streams(STREAMS);
        Ok(server.serve_connection(TokioIo::new(stream), take).await?)
    }
}

async fn take(request: Request<Incoming>, arrivals: &Arrivals) -> Response<Body> {
    let (head, body) = request.into_parts();
    if head.uri.path() == "/token" {
        return Response::new(ACCESS_TOKEN.into());
    }
    let at_ns = wall::nanos();
    let Ok(body) = to_bytes(Body::new(body), MAX_BODY_BYTES).await else { return Response::default() };
    let id = head.headers.get("apns-id").and_then(|id| id.to_str().ok());
    super::sink::arrived(arrivals, id.unwrap_or_default(), &body, at_ns);
    let mut answer = Response::new(if id.is_some() { Body::empty() } else { FCM_NAME.into() });
    if let Some(id) = head.headers.get("apns-id") {
        answer.headers_mut().insert("apns-id", id.clone());
    }
    answer
}
