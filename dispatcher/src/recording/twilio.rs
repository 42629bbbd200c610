//! A recording Messages resource of Twilio.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use http::Method;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use peal_common::clock::Clock;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::http::{Answer, Request, Server};

/// Takes messages on `http://127.0.0.1:<port>/2010-04-01/Accounts/<sid>/Messages.json` and answers like Twilio does, with
/// SIDs that count from 1, unless told otherwise. It lists what it has taken. Credentials are not looked at.
#[derive(Debug)]
pub struct Twilio {
    server: Server,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Debug, Default)]
struct Plan {
    /// What was taken, the latest first.
    taken: Vec<Value>,
    /// Whether what is taken is left without an answer.
    is_silent: bool,
}

impl Plan {
    fn decide(&mut self, request: &Request, now: Timestamp) -> Answer {
        let query = request.path.split_once('?').map_or("", |(_, query)| query);
        if request.method == Method::GET {
            let to = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "To");
            let is_asked_for = |message: &&Value| to.as_ref().is_none_or(|(_, to)| message["to"] == **to);
            let messages: Vec<_> = self.taken.iter().filter(is_asked_for).collect();
            return json_answer(200, &json!({ "messages": messages }));
        }
        let form: Vec<_> = form_urlencoded::parse(&request.body).into_owned().collect();
        let field = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let message = json!({
            "sid": format!("SM{:032x}", self.taken.len() + 1),
            "status": "queued",
            "error_code": null,
            "num_segments": "0",
            "to": field("To"),
            "body": field("Body"),
            "date_created": DateTimePrinter::new().timestamp_to_string(&now).ok(),
        });
        self.taken.insert(0, message.clone());
        if self.is_silent { Answer::hang() } else { json_answer(201, &message) }
    }
}

impl Twilio {
    /// Starts on a free port.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn start() -> io::Result<Self> {
        let plan = Arc::<Mutex<Plan>>::default();
        let shared = Arc::clone(&plan);
        let answer = move |request: &Request| {
            shared.lock().unwrap_or_else(PoisonError::into_inner).decide(request, Clock::System.now())
        };
        Ok(Twilio { server: Server::start(Arc::new(answer)).await?, plan })
    }

    /// Whether messages are taken from now on without ever being answered.
    pub fn take_silently(&self, is_silent: bool) {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).is_silent = is_silent;
    }

    /// How many messages were taken so far.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).taken.len()
    }

    /// What to write as `channels.sms.twilio.base_url`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Answers every message like this from now on.
    pub fn answer(&self, answer: Answer) {
        self.server.answer_with(Arc::new(move |_| answer.clone()));
    }

    /// Decides the answer message by message from now on.
    pub fn answer_with(&self, decide: impl Fn(&Request) -> Answer + Send + Sync + 'static) {
        self.server.answer_with(Arc::new(decide));
    }

    /// Answers one message like this; several are used in order, before anything else.
    pub fn answer_next(&self, answer: Answer) {
        self.server.answer_next(answer);
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
        self.server.received()
    }

    /// How many came so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.server.count()
    }
}

fn json_answer(status: u16, body: &Value) -> Answer {
    Answer::status(status).header("content-type", "application/json").body(body.to_string())
}
