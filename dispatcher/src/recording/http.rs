//! The HTTP server under the recorders.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

use super::{Counter, TimedOut};

/// Requests that are kept. Later ones are counted only, so that a benchmark does not measure the recorder's memory.
const MAX_KEPT: usize = 100_000;
const CHUNK: &[u8] = &[b'x'; 8 * 1024];

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Request {
    /// A header as text; empty when it is missing or no text.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// How a request is answered.
#[derive(Debug, Clone)]
pub struct Answer {
    kind: Kind,
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
    delay: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Respond,
    Hang,
    Reset,
}

#[derive(Debug, Clone)]
enum Body {
    Fixed(Bytes),
    Endless,
    Stalled,
}

impl Answer {
    /// An answer without a body. A number that is no status counts as 500.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Answer {
            kind: Kind::Respond,
            status,
            headers: Vec::new(),
            body: Body::Fixed(Bytes::new()),
            delay: Duration::ZERO,
        }
    }

    /// Takes the request and never answers.
    #[must_use]
    pub fn hang() -> Self {
        Answer { kind: Kind::Hang, ..Answer::status(200) }
    }

    /// Takes the request and closes the connection without an answer.
    #[must_use]
    pub fn reset() -> Self {
        Answer { kind: Kind::Reset, ..Answer::status(200) }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Body::Fixed(body.into());
        self
    }

    /// Sends a body that never ends, as fast as it is read.
    #[must_use]
    pub fn endless(mut self) -> Self {
        self.body = Body::Endless;
        self
    }

    /// Sends the beginning of a body and then nothing.
    #[must_use]
    pub fn stalled(mut self) -> Self {
        self.body = Body::Stalled;
        self
    }

    /// Waits before answering.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    async fn give(self) -> io::Result<Response<BoxBody<Bytes, io::Error>>> {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        match self.kind {
            Kind::Hang => std::future::pending().await,
            // An error of the service closes the connection.
            Kind::Reset => return Err(io::Error::other("told to")),
            Kind::Respond => {}
        }
        let chunk = || Ok::<_, io::Error>(Frame::data(Bytes::from_static(CHUNK)));
        let body = match self.body {
            Body::Fixed(bytes) => Full::new(bytes).map_err(|never| match never {}).boxed(),
            Body::Endless => BodyExt::boxed(StreamBody::new(stream::repeat_with(chunk))),
            Body::Stalled => {
                let beginning = stream::once(async move { chunk() });
                BodyExt::boxed(StreamBody::new(beginning.chain(stream::pending())))
            }
        };
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::builder().status(status);
        for (name, value) in self.headers {
            response = response.header(name, value);
        }
        response.body(body).map_err(io::Error::other)
    }
}

/// Decides the answer to a request.
type Decide = dyn Fn(&Request) -> Answer + Send + Sync;

/// What the server has seen and what it is to say.
struct Shared {
    received: Mutex<Vec<Request>>,
    count: Counter,
    next: Mutex<VecDeque<Answer>>,
    otherwise: Mutex<Arc<Decide>>,
}

/// A recording server of HTTP/1.1 and, for clients that begin with it, HTTP/2.
pub(super) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The accept loop owns the connections' tasks: they end with it.
        self.task.abort();
    }
}

impl Server {
    /// Starts on a free port of the loopback; `otherwise` answers whatever nothing else was planned for.
    pub(super) async fn start(otherwise: Arc<Decide>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            received: Mutex::default(),
            count: Counter::new(),
            next: Mutex::default(),
            otherwise: Mutex::new(otherwise),
        });
        let task = tokio::spawn(accept(listener, shared.clone())).abort_handle();
        Ok(Server { address, shared, task })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn answer_with(&self, decide: Arc<Decide>) {
        *self.shared.otherwise.lock().unwrap_or_else(PoisonError::into_inner) = decide;
    }

    pub(super) fn answer_next(&self, answer: Answer) {
        self.shared.next.lock().unwrap_or_else(PoisonError::into_inner).push_back(answer);
    }

    pub(super) fn received(&self) -> Vec<Request> {
        self.shared.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn count(&self) -> usize {
        self.shared.count.get()
    }

    pub(super) async fn wait_for(&self, wanted: usize, limit: Duration) -> Result<Vec<Request>, TimedOut> {
        self.shared.count.wait_for(wanted, limit).await?;
        Ok(self.received())
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let shared = shared.clone();
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            let service = service_fn(move |request| handle(request, shared.clone()));
            // Errors are the business of whoever called.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn handle(
    request: http::Request<Incoming>,
    shared: Arc<Shared>,
) -> io::Result<Response<BoxBody<Bytes, io::Error>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let request = Request { method: head.method, path, headers: head.headers, body };

    let planned = shared.next.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let decide = shared.otherwise.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let answer = planned.unwrap_or_else(|| decide(&request));
    {
        let mut received = shared.received.lock().unwrap_or_else(PoisonError::into_inner);
        if received.len() < MAX_KEPT {
            received.push(request);
        }
    }
    shared.count.increment();
    answer.give().await
}
