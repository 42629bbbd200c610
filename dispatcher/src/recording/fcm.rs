//! A recording FCM, with the server that gives out access tokens.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::http::{Answer, Request, Server};

const TOKEN_PATH: &str = "/token";

/// Takes pushes on `http://127.0.0.1:<port>/v1/projects/<project>/messages:send` and gives out access tokens at
/// `/token`. Pushes that bear the newest of these are answered with a name, others with 401, like Firebase does, unless
/// told otherwise.
#[derive(Debug)]
pub struct Fcm {
    server: Server,
    plan: Arc<Mutex<Plan>>,
}

/// What is to be said, and what was.
#[derive(Default)]
struct Plan {
    next_grants: VecDeque<Answer>,
    next_pushes: VecDeque<Answer>,
    grants: Option<Answer>,
    pushes: Option<Answer>,
    /// How many access tokens were given.
    given: usize,
    /// The first one that still serves.
    serving: usize,
    /// How many pushes were taken.
    taken: usize,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("given", &self.given).field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl Plan {
    fn decide(&mut self, request: &Request) -> Answer {
        if request.path == TOKEN_PATH {
            let planned = self.next_grants.pop_front().or_else(|| self.grants.clone());
            return planned.unwrap_or_else(|| self.grant());
        }
        let planned = self.next_pushes.pop_front().or_else(|| self.pushes.clone());
        planned.unwrap_or_else(|| self.push(request))
    }

    fn grant(&mut self) -> Answer {
        self.given += 1;
        Fcm::grant(&format!("ya29.{}", self.given), 3599)
    }

    fn push(&mut self, request: &Request) -> Answer {
        let number = request.header("authorization").strip_prefix("Bearer ya29.");
        let number = number.and_then(|number| number.parse().ok());
        if !number.is_some_and(|number: usize| (self.serving..=self.given).contains(&number)) {
            return Fcm::error(401, "UNAUTHENTICATED", &[]);
        }
        self.taken += 1;
        let project = request.path.split('/').nth(3).unwrap_or_default();
        json_answer(200, &json!({"name": format!("projects/{project}/messages/{}", self.taken)}))
    }
}

impl Fcm {
    /// Starts on a free port.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn start() -> io::Result<Self> {
        let plan = Arc::new(Mutex::new(Plan { serving: 1, ..Plan::default() }));
        let shared = Arc::clone(&plan);
        let decide =
            move |request: &Request| shared.lock().unwrap_or_else(PoisonError::into_inner).decide(request);
        Ok(Fcm { server: Server::start(Arc::new(decide)).await?, plan })
    }

    /// What to write as `channels.fcm.base_url`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// What to write as `channels.fcm.token_url`.
    #[must_use]
    pub fn token_url(&self) -> String {
        self.base_url() + TOKEN_PATH
    }

    fn plan(&self, change: impl FnOnce(&mut Plan)) {
        change(&mut self.plan.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Answers every push like this from now on.
    pub fn answer(&self, answer: Answer) {
        self.plan(|plan| plan.pushes = Some(answer));
    }

    /// Answers one push like this; several are used in order, before anything else.
    pub fn answer_next(&self, answer: Answer) {
        self.plan(|plan| plan.next_pushes.push_back(answer));
    }

    /// Answers everybody who asks for an access token like this from now on.
    pub fn answer_grants(&self, answer: Answer) {
        self.plan(|plan| plan.grants = Some(answer));
    }

    /// Answers whoever asks next for an access token like this; several are used in order, before anything else.
    pub fn answer_next_grant(&self, answer: Answer) {
        self.plan(|plan| plan.next_grants.push_back(answer));
    }

    /// Gives out access tokens as it did in the beginning.
    pub fn grant_again(&self) {
        self.plan(|plan| plan.grants = None);
    }

    /// Takes no access token any more that was given so far.
    pub fn revoke(&self) {
        self.plan(|plan| plan.serving = plan.given + 1);
    }

    /// An access token, as Google gives it.
    #[must_use]
    pub fn grant(token: &str, expires_in: u64) -> Answer {
        json_answer(200, &json!({"access_token": token, "expires_in": expires_in, "token_type": "Bearer"}))
    }

    /// An error as the HTTP v1 API gives it.
    #[must_use]
    pub fn error(code: u16, status: &str, details: &[Value]) -> Answer {
        let error = json!({"code": code, "message": "Told to.", "status": status, "details": details});
        json_answer(code, &json!({"error": error}))
    }

    /// A detail of an error with a code of FCM's own.
    #[must_use]
    pub fn code(code: &str) -> Value {
        json!({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code})
    }

    /// A detail of an error that names a field.
    #[must_use]
    pub fn violation(field: &str) -> Value {
        json!({
            "@type": "type.googleapis.com/google.rpc.BadRequest",
            "fieldViolations": [{"field": field, "description": "Told to."}],
        })
    }

    /// The pushes so far, in order.
    #[must_use]
    pub fn pushes(&self) -> Vec<Request> {
        self.server.received().into_iter().filter(|request| request.path != TOKEN_PATH).collect()
    }

    /// The requests for access tokens so far, in order.
    #[must_use]
    pub fn grants(&self) -> Vec<Request> {
        self.server.received().into_iter().filter(|request| request.path == TOKEN_PATH).collect()
    }
}

fn json_answer(status: u16, body: &Value) -> Answer {
    Answer::status(status).header("content-type", "application/json; charset=UTF-8").body(body.to_string())
}
