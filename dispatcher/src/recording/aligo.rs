//! A recording Aligo.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use jiff::tz::Offset;
use peal_common::clock::Clock;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::http::{Answer, Request, Server};

const SEND: &str = "/akv10/alimtalk/send/";

/// A message as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AligoMessage {
    /// The batch that it was in.
    pub batch: u64,
    /// The code of its text.
    pub code: String,
    /// The number.
    pub receiver: String,
    /// The text.
    pub text: String,
}

/// Takes Alimtalk messages below `http://127.0.0.1:<port>/akv10/` and answers like Aligo does. Credentials are not looked
/// at. What is not registered is taken and has the result 3016, as with the real one.
#[derive(Debug)]
pub struct Aligo {
    server: Server,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Debug, Default)]
struct Plan {
    texts: Vec<Value>,
    messages: Vec<AligoMessage>,
    batches: u64,
    /// Kakao's code by number; without one it is on its way.
    results: Vec<(String, String)>,
    all: Option<String>,
    sends: Option<Answer>,
    /// Whether what is taken is left without an answer.
    is_silent: bool,
    /// When each batch was taken.
    times: Vec<Timestamp>,
}

impl Plan {
    fn decide(&mut self, request: &Request, now: Timestamp) -> Answer {
        let form: Vec<(String, String)> = form_urlencoded::parse(&request.body).into_owned().collect();
        let field = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        match request.path.as_str() {
            SEND => {
                if let Some(answer) = &self.sends {
                    return answer.clone();
                }
                self.batches += 1;
                self.times.push(now);
                let code = field("tpl_code").unwrap_or_default();
                let mut count = 0;
                while let Some(receiver) = field(&format!("receiver_{}", count + 1)) {
                    count += 1;
                    let text = field(&format!("message_{count}")).unwrap_or_default();
                    self.messages.push(AligoMessage {
                        batch: self.batches,
                        code: code.to_owned(),
                        receiver: receiver.to_owned(),
                        text: text.to_owned(),
                    });
                }
                if self.is_silent {
                    return Answer::hang();
                }
                let info = json!({"type": "AT", "mid": self.batches, "scnt": count, "fcnt": 0});
                ok(&json!({"code": 0, "message": "taken", "info": info}))
            }
            "/akv10/template/list/" => ok(&json!({"code": 0, "message": "here", "list": self.texts})),
            "/akv10/history/list/" => {
                let entries = (1..).zip(&self.times).map(|(batch, at)| self.entry(batch, *at));
                let mut list: Vec<_> = entries.collect();
                list.reverse();
                ok(&json!({"code": 0, "list": list, "currentPage": "1", "totalPage": "1"}))
            }
            "/akv10/history/detail/" => {
                let batch = field("mid").and_then(|batch| batch.parse().ok()).unwrap_or(0_u64);
                let list: Vec<_> =
                    self.messages.iter().filter(|it| it.batch == batch).map(|it| self.row(it)).collect();
                ok(&json!({"code": 0, "list": list, "currentPage": 1, "totalPage": 1}))
            }
            _ => Answer::status(404),
        }
    }

    fn entry(&self, batch: u64, at: Timestamp) -> Value {
        let count = self.messages.iter().filter(|message| message.batch == batch).count();
        let at = Offset::constant(9).to_datetime(at).strftime("%Y-%m-%d %H:%M:%S").to_string();
        json!({"mid": batch.to_string(), "type": "AT", "msg_count": count.to_string(), "reg_date": at})
    }

    fn row(&self, message: &AligoMessage) -> Value {
        let own = self.results.iter().rfind(|(receiver, _)| *receiver == message.receiver);
        let code = own.map(|(_, code)| code).or(self.all.as_ref());
        let status = if code.is_some() { "완료" } else { "전송중" };
        json!({
            "phone": message.receiver,
            "status": status,
            "rslt": code,
            "msgid": "Q1",
            "tpl_code": message.code,
            "message": message.text,
        })
    }
}

impl Aligo {
    /// Starts on a free port.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn start() -> io::Result<Self> {
        let plan = Arc::new(Mutex::new(Plan { all: Some("0000".to_owned()), ..Plan::default() }));
        let shared = Arc::clone(&plan);
        let decide = move |request: &Request| {
            shared.lock().unwrap_or_else(PoisonError::into_inner).decide(request, Clock::System.now())
        };
        Ok(Aligo { server: Server::start(Arc::new(decide)).await?, plan })
    }

    fn plan<T>(&self, change: impl FnOnce(&mut Plan) -> T) -> T {
        change(&mut self.plan.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What to write as `channels.alimtalk.aligo.base_url`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Registers a text that Kakao has approved; `more` are further fields of Aligo's list.
    pub fn register(&self, code: &str, text: &str, more: &Value) {
        let mut entry =
            json!({"templtCode": code, "templtContent": text, "inspStatus": "APR", "status": "A"});
        if let (Some(entry), Some(more)) = (entry.as_object_mut(), more.as_object()) {
            entry.extend(more.clone());
        }
        self.plan(|plan| plan.texts.push(entry));
    }

    /// Kakao's code for messages to a number, as it is dialled in Korea.
    pub fn result(&self, receiver: &str, code: &str) {
        self.plan(|plan| plan.results.push((receiver.to_owned(), code.to_owned())));
    }

    /// Whether other messages arrive at once, or are on their way until this is called.
    pub fn deliver(&self, arrives: bool) {
        self.plan(|plan| plan.all = arrives.then(|| "0000".to_owned()));
    }

    /// Answers every call to send like this from now on.
    pub fn answer(&self, answer: Answer) {
        self.plan(|plan| plan.sends = Some(answer));
    }

    /// Whether messages are taken from now on without ever being answered.
    pub fn take_silently(&self, is_silent: bool) {
        self.plan(|plan| plan.is_silent = is_silent);
    }

    /// Takes messages again.
    pub fn take(&self) {
        self.plan(|plan| plan.sends = None);
    }

    /// An error as Aligo gives it.
    #[must_use]
    pub fn error(code: i32) -> Answer {
        ok(&json!({"code": code, "message": "told to"}))
    }

    /// The messages that were taken so far, in order.
    #[must_use]
    pub fn messages(&self) -> Vec<AligoMessage> {
        self.plan(|plan| plan.messages.clone())
    }

    /// All calls so far, questions among them.
    #[must_use]
    pub fn received(&self) -> Vec<Request> {
        self.server.received()
    }
}

/// Everything of Aligo's own has the status 200, and says that it is HTML.
fn ok(body: &Value) -> Answer {
    Answer::status(200).header("content-type", "text/html; charset=utf-8").body(body.to_string())
}
