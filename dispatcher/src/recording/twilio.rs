//! A recording Messages resource of Twilio.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::http::{Answer, Request, Server};

/// Takes messages on `http://127.0.0.1:<port>/2010-04-01/Accounts/<sid>/Messages.json` and answers like Twilio does, with
/// SIDs that count from 1, unless told otherwise. Credentials are not looked at.
#[derive(Debug)]
pub struct Twilio(Server);

impl Twilio {
    /// Starts on a free port.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn start() -> io::Result<Self> {
        let last = AtomicU64::new(0);
        let answer = move |_: &Request| {
            let sid = format!("SM{:032x}", last.fetch_add(1, Ordering::Relaxed) + 1);
            json_answer(
                201,
                &json!({"sid": sid, "status": "queued", "error_code": null, "num_segments": "0"}),
            )
        };
        Ok(Twilio(Server::start(Arc::new(answer)).await?))
    }

    /// What to write as `channels.sms.twilio.base_url`.
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

    /// An error as Twilio gives it.
    #[must_use]
    pub fn error(status: u16, code: u32) -> Answer {
        let more = format!("https://www.twilio.com/docs/errors/{code}");
        json_answer(
            status,
            &json!({"code": code, "message": "Told to.", "more_info": more, "status": status}),
        )
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

fn json_answer(status: u16, body: &Value) -> Answer {
    Answer::status(status).header("content-type", "application/json").body(body.to_string())
}
