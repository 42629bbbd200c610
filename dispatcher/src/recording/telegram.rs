//! A recording Bot API.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::TimedOut;
use super::http::{Answer, Request, Server};

/// A call of a bot's method.
#[derive(Debug, Clone, PartialEq)]
pub struct TelegramCall {
    /// The bot's token.
    pub token: String,
    /// The method, such as `sendMessage`.
    pub method: String,
    /// The parameters.
    pub parameters: Value,
}

impl TelegramCall {
    fn read(request: &Request) -> Self {
        let mut segments = request.path.rsplit('/');
        let method = segments.next().unwrap_or_default().to_owned();
        let token = segments.next().and_then(|part| part.strip_prefix("bot")).unwrap_or_default().to_owned();
        TelegramCall { token, method, parameters: request.json() }
    }
}

/// Takes calls on `http://127.0.0.1:<port>/bot<token>/<method>`. `sendMessage` is answered like Telegram does, with
/// message ids that count from 1, other methods with `true`, unless told otherwise.
#[derive(Debug)]
pub struct Telegram(Server);

impl Telegram {
    /// Starts on a free port.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn start() -> io::Result<Self> {
        let last = AtomicI64::new(0);
        let answer = move |request: &Request| {
            let call = TelegramCall::read(request);
            let result = match call.method.as_str() {
                "sendMessage" => json!({
                    "message_id": last.fetch_add(1, Ordering::Relaxed) + 1,
                    "date": 1_700_000_000,
                    "chat": {"id": call.parameters["chat_id"], "type": "private"},
                    "text": call.parameters["text"],
                }),
                _ => json!(true),
            };
            json_answer(200, &json!({"ok": true, "result": result}))
        };
        Ok(Telegram(Server::start(Arc::new(answer)).await?))
    }

    /// What to write as `channels.telegram.base_url`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.0.address())
    }

    /// Answers every call like this from now on.
    pub fn answer(&self, answer: Answer) {
        self.0.answer_with(Arc::new(move |_| answer.clone()));
    }

    /// Decides the answer call by call from now on.
    pub fn answer_with(&self, decide: impl Fn(&TelegramCall) -> Answer + Send + Sync + 'static) {
        self.0.answer_with(Arc::new(move |request| decide(&TelegramCall::read(request))));
    }

    /// Answers one call like this; several are used in order, before anything else.
    pub fn answer_next(&self, answer: Answer) {
        self.0.answer_next(answer);
    }

    /// An error as the Bot API gives it.
    #[must_use]
    pub fn error(code: u16, description: &str, retry_after: Option<u64>) -> Answer {
        let mut body = json!({"ok": false, "error_code": code, "description": description});
        if let Some(seconds) = retry_after {
            body["parameters"] = json!({"retry_after": seconds});
        }
        json_answer(code, &body)
    }

    /// The calls so far, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<TelegramCall> {
        self.0.received().iter().map(TelegramCall::read).collect()
    }

    /// How many calls there were so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.count()
    }

    /// Waits until there were `wanted` calls, and gives all of them.
    ///
    /// # Errors
    /// [`TimedOut`] when there are fewer after `limit`.
    pub async fn wait_for(&self, wanted: usize, limit: Duration) -> Result<Vec<TelegramCall>, TimedOut> {
        let requests = self.0.wait_for(wanted, limit).await?;
        Ok(requests.iter().map(TelegramCall::read).collect())
    }
}

fn json_answer(status: u16, body: &Value) -> Answer {
    Answer::status(status).header("content-type", "application/json").body(body.to_string())
}
