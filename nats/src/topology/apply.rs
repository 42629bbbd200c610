//! Carrying a plan out.

use std::time::Duration;

use async_nats::jetstream::context::DeleteStreamErrorKind;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::RetentionPolicy;
use async_nats::jetstream::{self, Context, ErrorCode, consumer, stream};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::change::{Change, Desired, Kind, Plan, Target};

/// How long one step may take. A stream or consumer with replicas is created only once its servers have elected a
/// leader, which takes longer than a request may take in everyday work.
const STEP_LIMIT: Duration = Duration::from_secs(10);

/// How long the other side of a link takes to notice that a queue of state is gone (10 s of silence in 2.15.1, and as
/// much again). Before that it acknowledges what a new one sends, unread.
const NOTICED: Duration = Duration::from_secs(20);

/// How long an origin may take to answer, and the pause before it is asked again.
const ORIGIN_LIMIT: Duration = Duration::from_secs(5);
const ORIGIN_PAUSE: Duration = Duration::from_millis(200);

/// Why a plan was not carried out. Steps before the one that failed stay done: plan again and apply again.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The plan would destroy something and that was not allowed. Nothing was changed.
    #[error("refused, nothing was changed: these steps lose data and need explicit permission\n{0}")]
    Destructive(Plan),
    /// The server refused a step.
    #[error("the server refused to {action} {target}")]
    Refused {
        /// What was tried: create, update, delete.
        action: &'static str,
        /// On what.
        target: Target,
        /// What the server says.
        #[source]
        source: async_nats::Error,
    },
    /// A stream is to be made that another region or the hub fills, and that does not answer: what it handed on to an
    /// earlier stream of this name would be missing from the new one.
    #[error(
        "{origin} does not answer, and {stream} would miss what {origin} handed on before: start its servers first, or \
         allow the loss when there is nothing to miss"
    )]
    Absent {
        /// The JetStream domain that does not answer.
        origin: String,
        /// The stream that is to be made.
        stream: String,
        /// What the client says.
        #[source]
        source: async_nats::Error,
    },
}

/// Carries out the steps of `plan` in order. Applying a plan twice does no harm: what exists as desired or is already
/// gone counts as done.
///
/// # Errors
/// [`ApplyError::Destructive`] before anything is changed when a step is dangerous and `allow_destructive` is false;
/// [`ApplyError::Refused`] when the server refuses a step or does not answer in time; [`ApplyError::Absent`], unless
/// `allow_destructive`, when an origin of a stream that is to be made does not answer.
pub async fn apply(jetstream: &Context, plan: &Plan, allow_destructive: bool) -> Result<(), ApplyError> {
    if !allow_destructive && plan.dangerous().next().is_some() {
        return Err(ApplyError::Destructive(Plan { changes: plan.dangerous().cloned().collect() }));
    }
    let mut patient = jetstream.clone();
    patient.set_timeout(STEP_LIMIT);
    for change in &plan.changes {
        step(&patient, change, allow_destructive).await?;
        tracing::info!(target = %change.target, kind = ?change.kind, "topology changed");
    }
    Ok(())
}

async fn step(jetstream: &Context, change: &Change, allow_destructive: bool) -> Result<(), ApplyError> {
    let failed = |action| {
        let target = change.target.clone();
        move |source| ApplyError::Refused { action, target, source }
    };
    if matches!(change.kind, Kind::Recreate | Kind::Remove) {
        delete(jetstream, &change.target).await.map_err(failed("delete"))?;
    }
    if matches!(&change.desired, Desired::Stream(config) if change.kind == Kind::Recreate && is_on_its_way(config))
    {
        tokio::time::sleep(NOTICED).await;
    }
    match (&change.target, &change.desired) {
        (Target::Stream { .. }, Desired::Stream(config)) if change.kind == Kind::Update => {
            update_stream(jetstream, config).await.map_err(failed("update"))
        }
        (Target::Stream { .. }, Desired::Stream(config)) => {
            match send_again(jetstream, config).await {
                Err(error) if !allow_destructive => return Err(error),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "gone on without an origin")
                }
                Ok(()) => {}
            }
            create_stream(jetstream, config).await.map_err(failed("create"))
        }
        (Target::Consumer { stream, .. }, Desired::Consumer(config)) => {
            upsert_consumer(jetstream, stream, config).await.map_err(failed("create or update"))
        }
        _ => Ok(()),
    }
}

/// Has the origins of a stream that is about to be made hand on everything from their beginning: their consumers stand
/// where a stream of this name stood before, if there was one. An origin that has no such consumer begins there anyway.
async fn send_again(jetstream: &Context, config: &stream::Config) -> Result<(), ApplyError> {
    let mut result = Ok(());
    for source in config.sources.iter().flatten() {
        let (Some(external), Some(consumer)) = (&source.external, &source.consumer) else { continue };
        let absent = |error: async_nats::Error| ApplyError::Absent {
            origin: external.api_prefix.split('.').nth(1).unwrap_or_default().to_owned(),
            stream: config.name.clone(),
            source: error,
        };
        let origin = Origin {
            api: jetstream::with_prefix(jetstream.client(), &external.api_prefix),
            prefix: &external.api_prefix,
            stream: &source.name,
            consumer: &consumer.name,
        };
        // One that is away keeps none of the others from being asked.
        result = result.and(origin.send_again().await.map_err(absent));
    }
    result
}

/// A stream of another domain, and the consumer that hands it on.
struct Origin<'a> {
    api: Context,
    prefix: &'a str,
    stream: &'a str,
    consumer: &'a str,
}

impl Origin<'_> {
    async fn send_again(mut self) -> Result<(), async_nats::Error> {
        self.api.set_timeout(STEP_LIMIT);
        // Asked first, since the server does not answer a reset when there is no such stream.
        let info = self.ask::<consumer::Info>(format!("CONSUMER.INFO.{}.{}", self.stream, self.consumer), "");
        let consumer = match info.await? {
            Response::Ok(found) => found.config,
            Response::Err { error } if is_absent(error.error_code()) => return Ok(()),
            Response::Err { error } => return Err(error.into()),
        };
        let info = self.ask::<stream::Info>(format!("STREAM.INFO.{}", self.stream), "").await?;
        let Response::Ok(stream::Info { config, .. }) = info else { return Ok(()) };
        if is_on_its_way(&config) {
            // What was handed on has left it; a new one takes everything once more from where it takes it.
            self.api.delete_stream(self.stream).await?;
            return self.create(&config, &consumer).await;
        }
        let reset = format!("CONSUMER.RESET.{}.{}", self.stream, self.consumer);
        match self.ask::<serde_json::Value>(reset, r#"{"seq":1}"#).await? {
            Response::Ok(_) => Ok(()),
            Response::Err { error } => Err(error.into()),
        }
    }

    /// Makes the stream and its consumer. A link that breaks just now must not leave the origin without them.
    async fn create(
        &self,
        config: &stream::Config,
        consumer: &consumer::Config,
    ) -> Result<(), async_nats::Error> {
        let deadline = Instant::now() + STEP_LIMIT;
        loop {
            let created = async {
                create_stream(&self.api, config).await?;
                upsert_consumer(&self.api, self.stream, consumer).await
            };
            match created.await {
                Err(_) if Instant::now() < deadline => tokio::time::sleep(ORIGIN_PAUSE).await,
                result => return result,
            }
        }
    }

    /// Asks. A link that is just being made answers a moment later.
    async fn ask<T: DeserializeOwned>(
        &self,
        what: String,
        body: &'static str,
    ) -> Result<Response<T>, async_nats::Error> {
        let subject = format!("{}.{what}", self.prefix);
        let deadline = Instant::now() + ORIGIN_LIMIT;
        loop {
            match self.api.client().request(subject.clone(), body.into()).await {
                Ok(answer) => return Ok(serde_json::from_slice(&answer.payload)?),
                Err(_) if Instant::now() < deadline => tokio::time::sleep(ORIGIN_PAUSE).await,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether what a stream holds leaves it once another domain has it.
fn is_on_its_way(config: &stream::Config) -> bool {
    config.retention == RetentionPolicy::WorkQueue && config.sources.is_some()
}

fn is_absent(code: ErrorCode) -> bool {
    [ErrorCode::CONSUMER_NOT_FOUND, ErrorCode::STREAM_NOT_FOUND].contains(&code)
}

async fn create_stream(jetstream: &Context, config: &stream::Config) -> Result<(), async_nats::Error> {
    jetstream.create_stream(config).await?;
    Ok(())
}

async fn update_stream(jetstream: &Context, config: &stream::Config) -> Result<(), async_nats::Error> {
    if config.subject_transform.is_some() {
        // Each copy of a stream takes over a change when it gets to it, and transforms subjects by what it knows then
        // (2.15). The subjects come after the transform, so that none stores a message under another subject than the rest.
        let mut first = jetstream.get_stream(&config.name).await?.cached_info().config.clone();
        if first.subject_transform != config.subject_transform {
            first.subject_transform.clone_from(&config.subject_transform);
            first.metadata.retain(|key, _| !key.starts_with("_nats."));
            jetstream.update_stream(&first).await?;
        }
    }
    jetstream.update_stream(config).await?;
    Ok(())
}

async fn upsert_consumer(
    jetstream: &Context,
    stream: &str,
    config: &consumer::Config,
) -> Result<(), async_nats::Error> {
    jetstream.create_consumer_on_stream(config.clone(), stream).await?;
    Ok(())
}

async fn delete(jetstream: &Context, target: &Target) -> Result<(), async_nats::Error> {
    match target {
        Target::Stream { stream } => match jetstream.delete_stream(stream).await {
            Err(error) if !is_stream_gone(&error.kind()) => Err(error.into()),
            _ => Ok(()),
        },
        Target::Consumer { stream, consumer } => {
            match jetstream.delete_consumer_from_stream(consumer, stream).await {
                Err(error) if !is_consumer_gone(&error.kind()) => Err(error.into()),
                _ => Ok(()),
            }
        }
    }
}

fn is_stream_gone(kind: &DeleteStreamErrorKind) -> bool {
    matches!(kind, DeleteStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

fn is_consumer_gone(kind: &stream::ConsumerErrorKind) -> bool {
    let stream::ConsumerErrorKind::JetStream(error) = kind else { return false };
    is_absent(error.error_code())
}
