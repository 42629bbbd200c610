//! The calls of Aligo.

use std::fmt;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request};
use tokio::time::Instant;

use peal_common::clock::Clock;
use peal_common::outcome::Outcome;
use peal_common::recipient::Contact;

use super::Options;
use super::batches::{Batches, Call};
use super::history;
use super::options::domestic;
use super::outcome::{self, Sending};
use super::registered::Texts;
use super::request::{self, Prepared};
use super::results::Asked;
use crate::channels::http::{self as shared, Answer, NoAnswer};
use crate::channels::outcomes::permanent;
use crate::channels::probe::Probe;
use crate::channels::{CALL_LIMIT, CallTime, ConfigError, Found, Message};

/// The longest answer that is read: 500 results, or the texts of a channel.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;
/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);
/// How long a question may take.
const QUESTION_LIMIT: Duration = Duration::from_secs(5);
/// What is left of a message's time after its call.
const MARGIN: Duration = Duration::from_secs(2);

/// Sends messages as one Kakao channel.
pub struct Client {
    batches: Batches<Aligo>,
    texts: Texts,
    asked: Asked,
    has_failover: bool,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("options", &self.aligo().options).finish_non_exhaustive()
    }
}

/// The account.
struct Aligo {
    http: reqwest::Client,
    options: Options,
    clock: Clock,
}

impl Aligo {
    async fn post(&self, path: &[&str], form: String, limit: Duration) -> Result<Answer, NoAnswer> {
        let mut url = self.options.base.clone();
        // Aligo's paths end with a slash.
        shared::add_path(&mut url, path.iter().copied().chain([""]));
        let mut request = Request::new(Method::POST, url);
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, kind);
        *request.body_mut() = Some(form.into());
        shared::call(&self.http, request, Instant::now() + limit, MAX_BODY_BYTES).await
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, path: &[&str], form: String) -> Result<T, Outcome> {
        let answer = self.post(path, form, QUESTION_LIMIT.min(self.options.timeout)).await;
        outcome::of_question(answer, self.clock.now())
    }

    async fn list<T: serde::de::DeserializeOwned>(&self) -> Result<T, Outcome> {
        self.ask(&["akv10", "template", "list"], request::list(&self.options)).await
    }
}

impl Call for Aligo {
    async fn call(&self, code: &str, messages: &[&Prepared]) -> Sending {
        let form = request::send(&self.options, code, messages.iter().copied());
        let answer = self.post(&["akv10", "alimtalk", "send"], form, self.options.timeout).await;
        outcome::of_send(answer, self.clock.now())
    }
}

impl Client {
    /// A client. `clock` is what dates in Retry-After are compared with.
    ///
    /// # Errors
    /// [`ConfigError`] when TLS can't be set up.
    pub fn new(options: Options, clock: Clock) -> Result<Self, ConfigError> {
        let http = shared::client_builder_trusting(options.authorities.clone())?
            .connect_timeout(CONNECT_LIMIT.min(options.timeout))
            .build()
            .map_err(ConfigError::Http)?;
        let has_failover = options.failover;
        let batches = Batches::new(Aligo { http, options, clock });
        Ok(Client { batches, texts: Texts::default(), asked: Asked::default(), has_failover })
    }

    fn aligo(&self) -> &Aligo {
        self.batches.call()
    }

    /// Asks for the registered texts.
    pub async fn probe(&self) -> Probe {
        match self.aligo().list::<serde_json::Value>().await {
            Ok(_) => Probe::Works,
            Err(outcome) => Probe::of_outcome(outcome),
        }
    }

    /// Sends one message, with others of the same text that come at the same time. Nothing is sent that is not the
    /// registered text.
    pub async fn send(&self, message: &Message<'_>) -> Outcome {
        let begin_by = Instant::now() + CALL_LIMIT.saturating_sub(self.aligo().options.timeout + MARGIN);
        let rendered = message.rendered;
        let Some(receiver) = receiver(message.contact) else { return permanent("invalid_address") };
        let Some(code) = rendered.template_code.as_deref() else { return permanent("no_template_code") };
        match self.texts.find(code, async || self.aligo().list().await).await {
            Ok(Some(registered)) => {
                if let Some(reason) = registered.difference(rendered) {
                    return permanent(reason);
                }
            }
            Ok(None) => return permanent("template_unknown"),
            Err(outcome) => return outcome,
        }
        let prepared = Prepared {
            receiver,
            title: rendered.title.clone(),
            text: rendered.text.clone(),
            buttons: rendered.buttons.clone(),
        };
        self.batches.send(code, prepared, begin_by).await
    }

    /// What became of a message that was sent: `None` while nobody knows.
    ///
    /// # Errors
    /// The outcome of the question, when Aligo can't tell.
    pub async fn result(&self, batch: &str, contact: &Contact) -> Result<Option<Outcome>, Outcome> {
        let Some(receiver) = receiver(contact) else { return Ok(None) };
        let read = async || {
            let form = request::detail(&self.aligo().options, batch);
            self.aligo().ask(&["akv10", "history", "detail"], form).await
        };
        self.asked.result(batch, &receiver, read).await
    }

    /// Looks for a message in the batches of the time of its call.
    ///
    /// # Errors
    /// The outcome of the question, when Aligo can't be asked now.
    pub async fn find(&self, message: &Message<'_>, call: CallTime) -> Result<Found, Outcome> {
        // Without a number or a code nothing was called.
        let Some(receiver) = receiver(message.contact) else { return Ok(Found::NotTaken) };
        let Some(code) = message.rendered.template_code.as_deref() else { return Ok(Found::NotTaken) };
        let (from, until) = history::days(call);
        let form = request::history(&self.aligo().options, &from, &until);
        let Some(batches) =
            history::batches(self.aligo().ask(&["akv10", "history", "list"], form).await?, call)
        else {
            return Ok(Found::Unknown);
        };
        let mut all = Found::NotTaken;
        for batch in batches {
            let form = request::detail(&self.aligo().options, &batch.id);
            let detail = self.aligo().ask(&["akv10", "history", "detail"], form).await?;
            match history::search(&batch, detail, &receiver, code, &message.rendered.text) {
                Found::NotTaken => {}
                Found::Unknown => all = Found::Unknown,
                taken @ Found::Taken(_) => return Ok(taken),
            }
        }
        Ok(all)
    }

    /// Whether Aligo sends a text message where Alimtalk reaches nobody.
    #[must_use]
    pub const fn has_failover(&self) -> bool {
        self.has_failover
    }
}

fn receiver(contact: &Contact) -> Option<String> {
    domestic(contact.address.as_deref()?)
}
