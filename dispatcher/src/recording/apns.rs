//! A recording APNs.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::TimedOut;
use super::http::{Answer, Request, Server};

/// Takes pushes on `http://127.0.0.1:<port>/3/device/<token>`, over HTTP/2 without TLS, and answers as Apple does: 200
/// with the push's own `apns-id`, unless told otherwise.
#[derive(Debug)]
pub struct Apns(Server);

impl Apns {
    /// Starts on a free port.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn start() -> io::Result<Self> {
        let answer = |request: &Request| Answer::status(200).header("apns-id", request.header("apns-id"));
        Ok(Apns(Server::start(Arc::new(answer)).await?))
    }

    /// What to write as `channels.apns.base_url`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.0.address())
    }

    /// A refusal as Apple words it; `timestamp` (milliseconds since the epoch) comes with 410.
    #[must_use]
    pub fn refusal(status: u16, reason: &str, timestamp: Option<i64>) -> Answer {
        let mut body = json!({"reason": reason});
        if let Some(timestamp) = timestamp {
            body["timestamp"] = timestamp.into();
        }
        Answer::status(status).header("content-type", "application/json").body(body.to_string())
    }

    /// Answers every push like this from now on.
    pub fn answer(&self, answer: Answer) {
        self.0.answer_with(Arc::new(move |_| answer.clone()));
    }

    /// Decides the answer push by push from now on.
    pub fn answer_with(&self, decide: impl Fn(&Request) -> Answer + Send + Sync + 'static) {
        self.0.answer_with(Arc::new(decide));
    }

    /// Answers one push like this; several are used in order, before anything else.
    pub fn answer_next(&self, answer: Answer) {
        self.0.answer_next(answer);
    }

    /// What came so far, in order (the first 100,000).
    #[must_use]
    pub fn received(&self) -> Vec<Request> {
        self.0.received()
    }

    /// How many pushes came so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.count()
    }

    /// Waits until `wanted` pushes have come, and gives all of them.
    ///
    /// # Errors
    /// [`TimedOut`] when there are fewer after `limit`.
    pub async fn wait_for(&self, wanted: usize, limit: Duration) -> Result<Vec<Request>, TimedOut> {
        self.0.wait_for(wanted, limit).await
    }
}
