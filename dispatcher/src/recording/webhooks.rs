//! A recording endpoint for webhooks.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::TimedOut;
use super::http::{Answer, Request, Server};

/// Takes webhooks on `http://127.0.0.1:<port>/…` and answers 204 unless told otherwise.
#[derive(Debug)]
pub struct Webhooks(Server);

impl Webhooks {
    /// Starts on a free port.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn start() -> io::Result<Self> {
        Ok(Webhooks(Server::start(Arc::new(|_| Answer::status(204))).await?))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// The URL of a path, which starts with `/`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// Answers every request like this from now on.
    pub fn answer(&self, answer: Answer) {
        self.0.answer_with(Arc::new(move |_| answer.clone()));
    }

    /// Decides the answer request by request from now on.
    pub fn answer_with(&self, decide: impl Fn(&Request) -> Answer + Send + Sync + 'static) {
        self.0.answer_with(Arc::new(decide));
    }

    /// Answers one request like this; several are used in order, before anything else.
    pub fn answer_next(&self, answer: Answer) {
        self.0.answer_next(answer);
    }

    /// What came so far, in order (the first 100,000).
    #[must_use]
    pub fn received(&self) -> Vec<Request> {
        self.0.received()
    }

    /// How many came so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.count()
    }

    /// Waits until `wanted` requests have come, and gives all of them.
    ///
    /// # Errors
    /// [`TimedOut`] when there are fewer after `limit`.
    pub async fn wait_for(&self, wanted: usize, limit: Duration) -> Result<Vec<Request>, TimedOut> {
        self.0.wait_for(wanted, limit).await
    }

    /// Whether one of a request's signatures is right for a secret (`whsec_…`), as a receiver would check it. The age
    /// of the timestamp is not looked at.
    #[must_use]
    pub fn verify(request: &Request, secret: &str) -> bool {
        let Some(Ok(key)) = secret.strip_prefix("whsec_").map(|encoded| STANDARD.decode(encoded)) else {
            return false;
        };
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&key) else { return false };
        mac.update(
            format!("{}.{}.", request.header("webhook-id"), request.header("webhook-timestamp")).as_bytes(),
        );
        mac.update(&request.body);
        let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        request.header("webhook-signature").split(' ').any(|given| given == expected)
    }
}
