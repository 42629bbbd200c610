//! Acceptance: from a request to a durable message in INTAKE.
//!
//! A notification is checked, its targets and template are looked up in the mirror, and it is published under its id.
//! The answer is given after JetStream has acknowledged it, never before. An id that comes again is recognised by the
//! gateway's index of INTAKE, within the duplicate window also by the stream itself, and while the first request is
//! still on its way by the list of ids in flight. An id that another region accepted is recognised as soon as that
//! region has told it ([`Elsewhere`]).

mod cancel;
mod draft;
mod elsewhere;
mod in_flight;
mod resolve;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use peal_common::clock::Clock;
use peal_common::envelope::{Envelope as _, Intake};
use peal_common::id::{AppId, NotificationId, Region};
use peal_common::notification::Notification;
use peal_common::problem::FieldError;
use peal_nats::catalog::{Catalog, CatalogError};
use peal_nats::group::GroupPublisher;
use peal_nats::mirror::NotReady;
use peal_nats::publish::{Outgoing, PublishError, Published};
use peal_nats::state::{StateWriter, WriteError};
use peal_nats::topology::INTAKE;
use peal_nats::{Connection, Subjects};
use tokio::time::Instant;

use crate::readmodel::ReadModel;
use draft::Draft;
use in_flight::InFlight;

pub use elsewhere::{Elsewhere, ElsewhereTask};
pub use resolve::{Networks, wrong_region};

/// An accepted notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acceptance {
    /// Its id.
    pub id: NotificationId,
    /// Whether it had been accepted before.
    pub duplicate: bool,
    /// When it was accepted: the first time.
    pub accepted_at: Timestamp,
    /// Where.
    pub region: Region,
}

/// Why a notification was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Something is wrong with it.
    #[error("the notification is not valid")]
    Invalid(Vec<FieldError>),
    /// Its id was used for another notification.
    #[error("the id was used before for another notification")]
    IdReused,
    /// A request with its id is still on its way.
    #[error("a request with the same id is still being handled")]
    InFlight,
    /// It is too large for the servers.
    #[error("the notification is larger than the servers accept")]
    TooLarge,
    /// This gateway can't decide or store it now.
    #[error("{reason}")]
    Unavailable {
        /// A plain word for the caller.
        reason: &'static str,
        /// What happened.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

impl From<CatalogError> for Refusal {
    fn from(error: CatalogError) -> Self {
        unavailable("the gateway's copy of the region's state is not ready", error)
    }
}

impl From<NotReady> for Refusal {
    fn from(error: NotReady) -> Self {
        unavailable("the gateway's copy of the region's state is not ready", error)
    }
}

impl From<crate::readmodel::NotReady> for Refusal {
    fn from(error: crate::readmodel::NotReady) -> Self {
        unavailable("the gateway's index of accepted notifications is not ready", error)
    }
}

impl From<elsewhere::NotRead> for Refusal {
    fn from(error: elsewhere::NotRead) -> Self {
        unavailable("the gateway's index of what other regions accepted is not ready", error)
    }
}

impl From<PublishError> for Refusal {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::TooLarge => Refusal::TooLarge,
            error => unavailable("JetStream cannot acknowledge", error),
        }
    }
}

impl From<WriteError> for Refusal {
    fn from(error: WriteError) -> Self {
        unavailable("JetStream cannot acknowledge", error)
    }
}

fn unavailable(reason: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Refusal {
    Refusal::Unavailable { reason, source: Some(Box::new(source)) }
}

/// What the settings say about acceptance.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The private networks that webhooks may reach.
    pub networks: Networks,
    /// How far the index may be behind before a repeated id can't be told from a new one: less than the duplicate window,
    /// in which the stream itself recognises it.
    pub longest_lag: Duration,
    /// Whether everything is pinned to this region.
    pub pinned: bool,
}

/// What was accepted before.
pub struct Known {
    /// In this region.
    pub here: ReadModel,
    /// In the other regions.
    pub elsewhere: Elsewhere,
}

/// Accepts notifications. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    inner: Arc<Inner>,
}

struct Inner {
    connection: Connection,
    publisher: GroupPublisher,
    subjects: Subjects,
    catalog: Catalog,
    writer: StateWriter,
    model: ReadModel,
    elsewhere: Elsewhere,
    clock: Clock,
    rules: Rules,
    in_flight: InFlight,
}

/// What was accepted under an id before.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Before {
    /// Where.
    region: Region,
    /// When.
    accepted_at: Timestamp,
    /// What tells a repetition from another notification; keyed when it comes from another region.
    fingerprint: String,
}

/// What a notification came to after its checks.
enum Checked {
    /// To be published.
    New(Box<Draft>),
    /// It was accepted before.
    Before(Acceptance),
}

/// A notification whose answer is not known yet, or known already.
enum Started<F> {
    /// It is on its way to the stream, and this is its acknowledgement.
    Sent(Box<Draft>, F),
    /// It was accepted before.
    Before(Acceptance),
}

impl Acceptor {
    /// An acceptor for the connection's region.
    #[must_use]
    pub fn new(
        connection: Connection,
        publisher: GroupPublisher,
        catalog: Catalog,
        writer: StateWriter,
        known: Known,
        clock: Clock,
        rules: Rules,
    ) -> Self {
        let subjects = Subjects::new(&connection.region);
        let in_flight = InFlight::default();
        Acceptor {
            inner: Arc::new(Inner {
                connection,
                publisher,
                subjects,
                catalog,
                writer,
                model: known.here,
                elsewhere: known.elsewhere,
                clock,
                rules,
                in_flight,
            }),
        }
    }

    /// Whether a webhook or a push endpoint may be registered with this URL.
    #[must_use]
    pub fn allows_webhook(&self, url: &str) -> bool {
        self.inner.rules.networks.allow(url)
    }

    /// Accepts one notification of an app.
    ///
    /// # Errors
    /// [`Refusal`]; nothing was stored, except that [`Refusal::Unavailable`] after a time-out leaves it open: repeat it
    /// with the same id.
    pub async fn accept(&self, app: &AppId, notification: Notification) -> Result<Acceptance, Refusal> {
        match self.start(app, notification).await? {
            Started::Sent(draft, answer) => self.finish(draft, answer.await).await,
            Started::Before(acceptance) => Ok(acceptance),
        }
    }

    /// Accepts many notifications of an app at once. Each has a result of its own, in order. One that repeats an id of the
    /// same batch is handled after the first one.
    pub async fn accept_all(
        &self,
        app: &AppId,
        notifications: Vec<Result<Notification, Refusal>>,
    ) -> Vec<Result<Acceptance, Refusal>> {
        // Everything is on its way before the first answer is waited for. What takes a while to check, such as an address
        // that has to be written down first, goes on beside the others.
        let deadline = Instant::now() + self.inner.publisher.limit();
        let repeated = repeated(&notifications);
        let mut results: Vec<_> = std::iter::repeat_with(|| None).take(notifications.len()).collect();
        let mut sent = Vec::with_capacity(notifications.len());
        let mut slow = Vec::new();
        let mut later = Vec::new();
        for (index, notification) in notifications.into_iter().enumerate() {
            let notification = match notification {
                Ok(notification) => notification,
                Err(refusal) => {
                    results[index] = Some(Err(refusal));
                    continue;
                }
            };
            if repeated.contains(&index) {
                later.push((index, notification));
                continue;
            }
            if notification.to.iter().any(|target| target.inline().is_some()) {
                slow.push((index, notification));
                continue;
            }
            match within(deadline, self.start(app, notification)).await {
                Ok(Started::Sent(draft, answer)) => sent.push((index, draft, answer)),
                Ok(Started::Before(acceptance)) => results[index] = Some(Ok(acceptance)),
                Err(refusal) => results[index] = Some(Err(refusal)),
            }
        }
        let slow = slow.into_iter().map(async |(index, notification)| {
            (index, within(deadline, self.accept(app, notification)).await)
        });
        for (index, result) in join_all(slow).await {
            results[index] = Some(result);
        }
        for (index, draft, answer) in sent {
            results[index] = Some(within(deadline, async { self.finish(draft, answer.await).await }).await);
        }
        for (index, notification) in later {
            results[index] = Some(within(deadline, self.accept(app, notification)).await);
        }
        let lost = || Refusal::Unavailable { reason: "the notification was not handled", source: None };
        results.into_iter().map(|result| result.unwrap_or_else(|| Err(lost()))).collect()
    }

    /// Checks a notification and puts it on its way.
    async fn start(
        &self,
        app: &AppId,
        notification: Notification,
    ) -> Result<Started<impl Future<Output = Result<Published, PublishError>> + Send + use<>>, Refusal> {
        match self.check(app, notification).await? {
            Checked::New(mut draft) => {
                let linked = !self.inner.connection.others.is_empty();
                let tell = linked.then(|| self.inner.catalog.sealer().keyed_digest(&draft.fingerprint));
                let answer = self.inner.publisher.send(draft.outgoing(tell.as_deref())).await?;
                Ok(Started::Sent(draft, answer))
            }
            Checked::Before(acceptance) => Ok(Started::Before(acceptance)),
        }
    }

    async fn check(&self, app: &AppId, notification: Notification) -> Result<Checked, Refusal> {
        let inner = &self.inner;
        let now = inner.clock.now();
        let given = notification.id.is_some();
        let mut notification = notification.normalize(now).map_err(Refusal::Invalid)?;
        let fingerprint = draft::fingerprint(&mut notification)?;
        let id = notification.id.clone().unwrap_or_else(|| draft::new_id(now));
        let message_id = message_id(app, &id);
        let guard = match given {
            true => Some(inner.in_flight.enter(&message_id).ok_or(Refusal::InFlight)?),
            false => None,
        };
        if given && inner.model.behind_for() > inner.rules.longest_lag {
            let reason = "the gateway's index of accepted notifications is too far behind";
            return Err(Refusal::Unavailable { reason, source: None });
        }
        if given && let Some(before) = self.before(app, &id, &message_id, now)? {
            // What another region tells is keyed: nobody can try out there what a request may have said.
            let expected = match before.region == inner.connection.region {
                true => fingerprint,
                false => inner.catalog.sealer().keyed_digest(&fingerprint),
            };
            if before.fingerprint != expected {
                return Err(Refusal::IdReused);
            }
            let (accepted_at, region) = (before.accepted_at, before.region);
            return Ok(Checked::Before(Acceptance { id, duplicate: true, accepted_at, region }));
        }
        let resolved = resolve::resolve(inner, app, &mut notification).await?;
        let intake =
            draft::intake(&inner.connection.region, app, id, fingerprint, notification, resolved, now);
        Ok(Checked::New(Box::new(Draft::new(message_id, intake, &inner.subjects, guard)?)))
    }

    /// What was accepted under an id before, here or in another region.
    fn before(
        &self,
        app: &AppId,
        id: &NotificationId,
        message_id: &str,
        now: Timestamp,
    ) -> Result<Option<Before>, Refusal> {
        let inner = &self.inner;
        Ok(match inner.model.find_accepted(app, id)? {
            Some(here) => Some(Before {
                region: inner.connection.region.clone(),
                accepted_at: here.accepted_at,
                fingerprint: here.fingerprint,
            }),
            None => inner.elsewhere.find(message_id, now)?,
        })
    }

    async fn finish(
        &self,
        draft: Box<Draft>,
        published: Result<Published, PublishError>,
    ) -> Result<Acceptance, Refusal> {
        let published = published?;
        let mut acceptance = Acceptance {
            id: draft.id.clone(),
            duplicate: published.duplicate,
            accepted_at: draft.accepted_at,
            region: self.inner.connection.region.clone(),
        };
        if published.duplicate {
            let first = Box::pin(self.first(published.sequence)).await?;
            if first.fingerprint != draft.fingerprint {
                return Err(Refusal::IdReused);
            }
            acceptance.accepted_at = first.notification.accepted_at;
        }
        Ok(acceptance)
    }

    /// The message that the stream took a repetition for.
    async fn first(&self, sequence: u64) -> Result<Intake, Refusal> {
        let gone =
            || Refusal::Unavailable { reason: "the first message of this id cannot be read", source: None };
        let stored = self
            .inner
            .connection
            .message_at(INTAKE, sequence)
            .await
            .map_err(|error| unavailable("JetStream does not answer", error))?
            .ok_or_else(gone)?;
        Intake::decode(&stored.payload).map_err(|_| gone())
    }
}

/// The places of those whose id one before them has.
fn repeated(notifications: &[Result<Notification, Refusal>]) -> HashSet<usize> {
    let mut seen = HashSet::with_capacity(notifications.len());
    let ids = notifications.iter().map(|it| it.as_ref().ok()?.id.as_ref()).enumerate();
    ids.filter_map(|(place, id)| (!seen.insert(id?)).then_some(place)).collect()
}

/// Nobody waits for a batch longer than for a single notification.
async fn within<T>(deadline: Instant, work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    let late = Refusal::Unavailable { reason: "JetStream has not acknowledged in time", source: None };
    tokio::time::timeout_at(deadline, work).await.unwrap_or(Err(late))
}

/// The id by which INTAKE recognises a notification.
fn message_id(app: &AppId, id: &NotificationId) -> Arc<str> {
    [app.as_str(), ":", id.as_str()].concat().into()
}

impl Draft {
    /// The message for INTAKE, with the digest that other regions shall hear of, if there are any.
    fn outgoing(&mut self, told: Option<&str>) -> Outgoing {
        let payload = std::mem::take(&mut self.payload);
        let outgoing = Outgoing::new(std::mem::take(&mut self.subject), payload).id(&self.message_id);
        match told {
            Some(digest) => elsewhere::tell(outgoing, self.accepted_at, digest),
            None => outgoing,
        }
    }
}
