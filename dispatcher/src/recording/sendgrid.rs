//! A recording SendGrid.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;

use super::http::{Answer, Request, Server};

/// Takes e-mails on `http://127.0.0.1:<port>/v3/mail/send`. They are answered like SendGrid does, with message ids that
/// count from 1, unless told otherwise.
#[derive(Debug)]
pub struct Sendgrid(Server);

impl Sendgrid {
    /// Starts on a free port.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn start() -> io::Result<Self> {
        let last = AtomicU32::new(0);
        let answer = move |request: &Request| {
            // What is only checked is not accepted (SendGrid, "Sandbox mode").
            if request.json()["mail_settings"]["sandbox_mode"]["enable"] == true {
                return Answer::status(200);
            }
            let id = format!("message-{}", last.fetch_add(1, Ordering::Relaxed) + 1);
            Answer::status(202).header("x-message-id", &id)
        };
        Ok(Sendgrid(Server::start(Arc::new(answer)).await?))
    }

    /// What to write as `channels.email.sendgrid.base_url`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.0.address())
    }

    /// Answers every e-mail like this from now on.
    pub fn answer(&self, answer: Answer) {
        self.0.answer_with(Arc::new(move |_| answer.clone()));
    }

    /// An error as SendGrid gives it.
    #[must_use]
    pub fn error(status: u16, field: Option<&str>) -> Answer {
        let errors = json!({"errors": [{"message": "Told to.", "field": field, "help": null}]});
        Answer::status(status).header("content-type", "application/json").body(errors.to_string())
    }

    /// The requests so far, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.0.received()
    }
}
