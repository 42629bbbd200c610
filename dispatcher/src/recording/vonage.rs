//! A recording SMS API of Vonage.

use std::io;
use std::sync::Arc;

use serde_json::{Value, json};

use super::http::{Answer, Request, Server};

/// Takes messages on `http://127.0.0.1:<port>/sms/json` and answers that they were taken in one part, unless told
/// otherwise. Credentials are not looked at.
#[derive(Debug)]
pub struct Vonage(Server);

impl Vonage {
    /// Starts on a free port.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn start() -> io::Result<Self> {
        Ok(Vonage(Server::start(Arc::new(|_| Vonage::parts(&[0]))).await?))
    }

    /// What to write as `channels.sms.vonage.base_url`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.0.address())
    }

    /// Answers every message like this from now on.
    pub fn answer(&self, answer: Answer) {
        self.0.answer_with(Arc::new(move |_| answer.clone()));
    }

    /// Answers one message like this; several are used in order, before anything else.
    pub fn answer_next(&self, answer: Answer) {
        self.0.answer_next(answer);
    }

    /// An answer as Vonage gives it, with the status of each part. Parts with status 0 have ids that count from 1.
    #[must_use]
    pub fn parts(statuses: &[u16]) -> Answer {
        let part = |(index, status): (usize, &u16)| match status {
            0 => json!({"status": "0", "message-id": format!("{:016X}", index + 1), "network": "45005"}),
            status => json!({"status": status.to_string(), "error-text": "Told to."}),
        };
        let messages: Vec<Value> = statuses.iter().enumerate().map(part).collect();
        let body = json!({"message-count": statuses.len().to_string(), "messages": messages});
        Answer::status(200).header("content-type", "application/json").body(body.to_string())
    }

    /// What came so far, in order.
    #[must_use]
    pub fn received(&self) -> Vec<Request> {
        self.0.received()
    }

    /// How many came so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.count()
    }
}
