//! What every stage of the dispatcher needs: connections, knowledge, and the two ways to say what happened.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use peal_common::backoff::Backoff;
use peal_common::channel::Channel;
use peal_common::clock::Clock;
use peal_common::envelope::{Accepted, DeadLetter, DecodeError, ENVELOPE_VERSION, Envelope as _, Work};
use peal_common::event::{Event, EventType};
use peal_common::settings::ChannelSettings;
use peal_common::state::Kind;
use peal_common::takeover::TAKEN_OVER;
use peal_nats::catalog::{Catalog, CatalogError, Stop};
use peal_nats::dead_letter::dead_letter_id;
use peal_nats::mirror::{Mirror, NotReady};
use peal_nats::publish::{Outgoing, Pending, PublishError};
use peal_nats::pull::Job;
use peal_nats::state::StateWriter;
use peal_nats::topology::work_stream;
use peal_nats::{Connection, Region, Subjects};

use crate::channels::{ConfigError, CurrentProviders, Providers};
use crate::delivery::{AtOnce, InHand};
use crate::fanout::Inherited;
use crate::homecoming::Doubt;
use crate::outcomes::RecentOutcomes;

/// How long a decision waits for the mirror to reach the position that it depends on.
const MIRROR_LIMIT: Duration = Duration::from_secs(5);

/// The pause before a message comes again whose version is not known here.
const UPGRADE_PAUSE: Duration = Duration::from_secs(5);

/// Limits of a delivery, from the settings.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Attempts before a delivery goes to the dead letters.
    pub max_attempts: u32,
    /// Waits between attempts.
    pub backoff: Backoff,
    /// Deliveries in flight on one channel.
    pub concurrency: usize,
    /// How long messages of a later version are left to others.
    pub upgrade: Duration,
}

/// Shared by all stages.
pub struct Context {
    /// The region's JetStream.
    pub connection: Connection,
    /// The hub, where regions are linked.
    pub hub: Option<Region>,
    /// The region's subjects.
    pub subjects: Subjects,
    /// The time.
    pub clock: Clock,
    /// The local copy of state.
    pub mirror: Mirror,
    /// Typed access to it.
    pub catalog: Catalog,
    /// Changes of state.
    pub writer: StateWriter,
    /// Who sends on which channel.
    pub providers: CurrentProviders,
    /// What recently became of deliveries, asked after redeliveries.
    pub outcomes: RecentOutcomes,
    /// What is left of INTAKE when a consumer of it was made again.
    pub inherited: Inherited,
    /// What other regions may have taken over.
    pub doubt: Doubt,
    /// The deliveries that are being made right now.
    pub in_hand: InHand,
    /// Those of them that never were in a queue.
    pub at_once: AtOnce,
    /// Limits.
    pub policy: Policy,
    /// The address under which people reach the region's gateway, without a slash at its end.
    pub public_base: Option<String>,
}

/// A message could not be written as JSON or JetStream did not take it.
#[derive(Debug, thiserror::Error)]
pub enum SayError {
    /// JetStream did not take it.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// It can't be encoded.
    #[error("a message cannot be encoded")]
    Encode(#[from] serde_json::Error),
}

/// The providers can't be set up now.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The accounts of apps can't be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The settings don't fit.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl Context {
    /// The providers, with the accounts of apps as the mirror has them by now.
    pub fn providers(&self) -> Arc<Providers> {
        let generation = self.mirror.generation(Kind::Account);
        if generation != self.providers.generation() {
            let rebuilt = self.providers.replace(generation, None, |_| {
                let own = self.catalog.accounts()?;
                Ok::<_, CatalogError>(self.providers.get().with_own(&own, &self.connection, &self.clock))
            });
            if let Err(error) = rebuilt {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(error, "the accounts of apps are not in force yet");
            }
        }
        self.providers.get()
    }

    /// Puts other settings of the channels in force. Accounts that stay as they are keep their connections, tokens and circuits.
    ///
    /// # Errors
    /// [`BuildError`]; then everything stays as it was.
    pub fn take_over(&self, settings: &ChannelSettings) -> Result<(), BuildError> {
        let generation = self.mirror.generation(Kind::Account);
        self.providers.replace(generation, Some(settings.clone()), |settings| self.build(settings))
    }

    fn build(&self, settings: &ChannelSettings) -> Result<Providers, BuildError> {
        let own = self.catalog.accounts()?;
        let (before, sealer) = (self.providers.get(), self.catalog.sealer());
        Ok(Providers::from_settings(settings, &own, &before, &self.connection, sealer, &self.clock)?)
    }

    /// Waits until the mirror has seen what a decision depends on.
    ///
    /// # Errors
    /// [`NotReady`] when it doesn't in time.
    pub async fn caught_up(&self, state_seq: u64) -> Result<(), NotReady> {
        self.mirror.wait_for(state_seq, MIRROR_LIMIT).await
    }

    /// Writes an event to the connection; its acknowledgement is waited for apart.
    ///
    /// # Errors
    /// [`SayError`]
    pub async fn send_event(&self, event: &Event) -> Result<Pending, SayError> {
        let subject = self.subjects.of_event(event);
        if event.planned_at.is_some() {
            crate::metrics::event(EventType::Planned, None);
        }
        crate::metrics::event(event.kind, event.channel);
        Ok(self.connection.send(Outgoing::new(subject, event.encode()?)).await?)
    }

    /// Publishes an event and waits until it is durable.
    ///
    /// # Errors
    /// [`SayError`]
    pub async fn event(&self, event: &Event) -> Result<(), SayError> {
        self.send_event(event).await?.acknowledged().await?;
        Ok(())
    }

    /// Puts a delivery aside, durably.
    ///
    /// # Errors
    /// [`SayError`]
    pub async fn dead_letter(&self, work: Box<Work>, attempts: u32, reason: &str) -> Result<(), SayError> {
        let subject = self.subjects.dead(Some(work.channel), work.notification.app.as_str());
        let id = format!("{}:{}", work.delivery, work.replays);
        let letter = DeadLetter {
            v: DeadLetter::version_with(&work),
            at: self.clock.now(),
            reason: reason.to_owned(),
            stream: work_stream(work.channel),
            subject: self.subjects.work(
                work.channel,
                work.notification.priority,
                work.notification.app.as_str(),
            ),
            attempts,
            work: Some(work),
            raw: None,
        };
        self.connection.publish(Outgoing::new(subject, letter.encode()?).id(&id)).await?;
        Ok(())
    }

    /// Whether a notification is not to be sent by this region any more, and the reason in its event.
    ///
    /// # Errors
    /// [`CatalogError::NotReady`]
    pub fn stopped(&self, notification: &Accepted) -> Result<Option<&'static str>, CatalogError> {
        Ok(self.catalog.stopped(notification)?.map(|stop| match stop {
            Stop::Cancelled => "cancelled",
            Stop::TakenOver => TAKEN_OVER,
        }))
    }

    /// Whether nothing is to be sent to an address any more, which was registered at that time.
    ///
    /// # Errors
    /// [`CatalogError::NotReady`]
    pub fn is_suppressed(
        &self,
        notification: &Accepted,
        channel: Channel,
        index: &str,
        registered_ms: u64,
    ) -> Result<bool, CatalogError> {
        let found = self.catalog.suppression(&notification.app, channel, index, notification.pinned)?;
        Ok(found.is_some_and(|found| found.holds_for(channel, registered_ms)))
    }

    /// Deals with a message that can't be read. One of a later version is left to the newer dispatchers beside this one
    /// for a while, as in a rolling upgrade.
    pub async fn unreadable(&self, job: &Job, channel: Option<Channel>, error: &DecodeError) {
        // Not by its age: behind a backlog it may be old before anybody looks at it.
        let left_for = UPGRADE_PAUSE * job.deliveries.saturating_sub(1);
        if matches!(error, DecodeError::Version(_)) && left_for < self.policy.upgrade {
            tracing::warn!(stream = %job.stream, sequence = job.sequence, %error, "a message is left to others");
            if let Err(error) = job.nak(UPGRADE_PAUSE).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "it will come again");
            }
            return;
        }
        self.foreign(job, channel, error).await;
    }

    /// Puts a message aside that is none of ours, tells the server never to hand it out again, and goes on.
    pub async fn foreign(
        &self,
        job: &Job,
        channel: Option<Channel>,
        error: &(dyn std::error::Error + Send + Sync + 'static),
    ) {
        let reason = error.to_string();
        tracing::warn!(stream = %job.stream, sequence = job.sequence, reason, "a message is none of ours");
        let letter = DeadLetter {
            v: ENVELOPE_VERSION,
            at: self.clock.now(),
            reason,
            stream: job.stream.clone(),
            subject: job.subject().to_owned(),
            attempts: 0,
            work: None,
            raw: Some(STANDARD.encode(job.payload())),
        };
        let published = match letter.encode() {
            Ok(payload) => {
                let id = dead_letter_id(&job.stream, job.sequence);
                let subject = self.subjects.dead(channel, "none");
                self.connection.publish(Outgoing::new(subject, payload).id(&id)).await.map_err(SayError::from)
            }
            Err(error) => Err(error.into()),
        };
        let ended = match published {
            Ok(_) => job.term(&self.connection, &letter.reason).await,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a foreign message could not be put aside"
                );
                job.nak(FOREIGN_PAUSE).await
            }
        };
        if let Err(error) = ended {
            tracing::warn!(error = &error as &dyn std::error::Error, "it will come again");
        }
    }

    /// Publishes `payload` so that it arrives on `target` at `at`.
    ///
    /// # Errors
    /// [`SayError`]
    pub async fn schedule(
        &self,
        name: &[&str],
        target: &str,
        at: Timestamp,
        payload: Vec<u8>,
    ) -> Result<(), SayError> {
        let outgoing = Outgoing::new(self.subjects.schedule(name), payload).at(at, target);
        self.connection.publish(outgoing).await?;
        Ok(())
    }
}

/// The pause before a message is taken up again that could not even be put aside.
const FOREIGN_PAUSE: Duration = Duration::from_secs(5);

/// Everything, shared.
pub type Shared = Arc<Context>;
