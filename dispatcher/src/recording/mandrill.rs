//! A recording Mailchimp Transactional.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::http::{Answer, Request, Server};

/// Takes e-mails on `http://127.0.0.1:<port>/api/1.0/messages/send.json`. They are answered like Mailchimp does, with
/// ids that count from 1, unless told otherwise.
#[derive(Debug)]
pub struct Mandrill(Server);

impl Mandrill {
    /// Starts on a free port.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn start() -> io::Result<Self> {
        let last = AtomicU32::new(0);
        let answer = move |request: &Request| {
            let number = last.fetch_add(1, Ordering::Relaxed) + 1;
            let to = request.json()["message"]["to"][0]["email"].clone();
            let taken =
                json!([{"email": to, "status": "sent", "reject_reason": null, "_id": number.to_string()}]);
            json_answer(200, &taken)
        };
        Ok(Mandrill(Server::start(Arc::new(answer)).await?))
    }

    /// What to write as `channels.email.mandrill.base_url`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.0.address())
    }

    /// Answers every e-mail like this from now on.
    pub fn answer(&self, answer: Answer) {
        self.0.answer_with(Arc::new(move |_| answer.clone()));
    }

    /// An e-mail that was not taken, as Mailchimp says it.
    #[must_use]
    pub fn rejected(reason: &str) -> Answer {
        json_answer(200, &json!([{"email": "x", "status": "rejected", "reject_reason": reason, "_id": "0"}]))
    }

    /// An error as Mailchimp gives it.
    #[must_use]
    pub fn error(status: u16, code: i32, name: &str) -> Answer {
        json_answer(status, &json!({"status": "error", "code": code, "name": name, "message": "Told to."}))
    }

    /// The requests so far, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.0.received()
    }
}

fn json_answer(status: u16, body: &Value) -> Answer {
    Answer::status(status).header("content-type", "application/json").body(body.to_string())
}
