//! NATS micro services: a process that `nats micro ls` finds, with endpoints that answer requests.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::service::ServiceExt as _;
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::connect::Connection;

/// The header of a refusal (NATS ADR-32).
const ERROR_CODE: &str = "Nats-Service-Error-Code";

/// The service could not be registered.
#[derive(Debug, thiserror::Error)]
#[error("cannot register the service {name}")]
pub struct RegisterError {
    /// Its name.
    pub name: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// A request that came over NATS.
pub struct Request {
    inner: async_nats::service::Request,
}

impl Request {
    /// The subject that it was sent to.
    #[must_use]
    pub fn subject(&self) -> &str {
        self.inner.message.subject.as_str()
    }

    /// Its content.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.inner.message.payload
    }

    /// A header's first value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.inner.message.headers.as_ref()?.get(name).map(async_nats::HeaderValue::as_str)
    }

    /// Answers. `Err` sets the micro service error headers beside the body.
    pub async fn answer(&self, answer: Result<Bytes, Refusal>) {
        let answered = match answer {
            Ok(body) => self.inner.respond(Ok(body)).await,
            Err(refusal) => self.refuse(refusal).await,
        };
        if let Err(error) = answered {
            tracing::debug!(%error, "an answer could not be sent");
        }
    }

    async fn refuse(&self, refusal: Refusal) -> Result<(), async_nats::PublishError> {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(ERROR_CODE, refusal.code.to_string().as_str());
        headers.insert("Nats-Service-Error", refusal.title.as_str());
        self.inner.respond_with_headers(Ok(refusal.body), headers).await
    }
}

/// An error as micro services tell it: a number and a word in headers, details in the body.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The number, as over HTTP.
    pub code: u16,
    /// The word.
    pub title: String,
    /// The details.
    pub body: Bytes,
}

/// What a service is.
#[derive(Debug, Clone)]
pub struct Description {
    /// Its name, `[A-Za-z0-9_-]+`.
    pub name: &'static str,
    /// Its version, semantic.
    pub version: &'static str,
    /// A sentence for `nats micro info`.
    pub description: &'static str,
    /// Further facts for `nats micro info`.
    pub metadata: HashMap<String, String>,
}

/// A registered service. Dropping it takes it away.
pub struct Service {
    inner: async_nats::service::Service,
}

impl Service {
    /// Registers a service.
    ///
    /// # Errors
    /// [`RegisterError`]
    pub async fn register(connection: &Connection, description: &Description) -> Result<Self, RegisterError> {
        let builder = connection
            .client
            .service_builder()
            .description(description.description)
            .metadata(description.metadata.clone());
        let inner = builder
            .start(description.name, description.version)
            .await
            .map_err(|source| RegisterError { name: description.name.to_owned(), source })?;
        Ok(Service { inner })
    }

    /// Answers requests to `subject` with `handle` until `stop`, at most `concurrent` at once; further ones wait at the
    /// server.
    ///
    /// # Errors
    /// [`RegisterError`] when the endpoint can't be added.
    pub async fn serve<F>(
        &self,
        name: &str,
        subject: &str,
        concurrent: usize,
        stop: &CancellationToken,
        mut handle: impl FnMut(Request) -> F,
    ) -> Result<(), RegisterError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut endpoint = self
            .inner
            .endpoint_builder()
            .name(name)
            .add(subject)
            .await
            .map_err(|source| RegisterError { name: name.to_owned(), source })?;
        let permits = Arc::new(Semaphore::new(concurrent));
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return Ok(()) };
            let request = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                request = endpoint.next() => request,
            };
            let Some(inner) = request else { return Ok(()) };
            let answer = handle(Request { inner });
            tokio::spawn(async move {
                answer.await;
                drop(permit);
            });
        }
    }

    /// Takes the service away.
    pub async fn stop(self) {
        if let Err(error) = self.inner.stop().await {
            tracing::debug!(%error, "the service could not be taken away");
        }
    }
}

/// A running process that registered as a micro service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Instance {
    /// The service's name.
    pub name: String,
    /// What tells it from others of the same name.
    pub id: String,
    /// Its version.
    pub version: String,
    /// Further facts.
    #[serde(default)]
    pub metadata: HashMap<String, String>,
}

/// Nobody could be asked, or nobody answered in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer to {subject}")]
pub struct NoAnswer {
    /// What was asked.
    pub subject: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Connection {
    /// The micro services that answer within `limit`, in this region and in all that are linked with it. Nobody knows
    /// how many there are: it always takes that long.
    ///
    /// # Errors
    /// [`NoAnswer`] when the question can't be asked.
    pub async fn instances(&self, limit: Duration) -> Result<Vec<Instance>, NoAnswer> {
        const SUBJECT: &str = "$SRV.PING";
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| NoAnswer {
            subject: SUBJECT.to_owned(),
            source: Some(source),
        };
        let inbox = self.client.new_inbox();
        let answers = self.client.subscribe(inbox.clone()).await.map_err(|error| failed(error.into()))?;
        let asked = self.client.publish_with_reply(SUBJECT, inbox, Bytes::new()).await;
        asked.map_err(|error| failed(error.into()))?;
        let end = tokio::time::sleep(limit);
        let answers = answers
            .take_until(end)
            .filter_map(async |message| serde_json::from_slice::<Instance>(&message.payload).ok());
        Ok(answers.collect().await)
    }

    /// Asks a service and waits for its answer, at most `limit`.
    ///
    /// # Errors
    /// [`NoAnswer`], also when it refuses.
    pub async fn ask(&self, subject: String, question: Bytes, limit: Duration) -> Result<Bytes, NoAnswer> {
        let asked = tokio::time::timeout(limit, self.client.request(subject.clone(), question)).await;
        match asked {
            Ok(Ok(message)) => match message.headers.as_ref().and_then(|headers| headers.get(ERROR_CODE)) {
                Some(code) => {
                    Err(NoAnswer { subject, source: Some(format!("it refuses with {code}").into()) })
                }
                None => Ok(message.payload),
            },
            Ok(Err(error)) => Err(NoAnswer { subject, source: Some(error.into()) }),
            Err(_) => Err(NoAnswer { subject, source: None }),
        }
    }
}
