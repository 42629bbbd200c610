//! Pulling work from a durable consumer, with a permit for every message in hand, and acknowledging it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::{AckKind, Message};
use async_nats::{Client, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::connect::{Connection, connects};
use crate::follow::StateError;
use crate::standing::ConsumerStanding;
use crate::subjects::Region;

/// How long one pull request stands at the server.
const EXPIRES: Duration = Duration::from_secs(10);
/// How often the server shows that a standing request is alive.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A request that has been silent for longer is lost, with the server that held it.
const SILENCE: Duration = Duration::from_millis(2_500);
/// Silence for which a server may have been lost and another one lead the consumer: they elect after 4 s (`raft.go`).
const BREAK: Duration = Duration::from_secs(2);
/// How often the server is told that a message is still in hand; well below the consumers' acknowledgement wait.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// A message is ours for so long after the server heard of us last: somewhat less than the consumers' acknowledgement wait of
/// 30 s, after which it is handed to somebody else. A process that stood still for longer does not know what is its own.
const LAPSE: Duration = Duration::from_secs(25);
/// How long a lane that has hardly a permit left waits for more of them before it asks again.
const GATHER: Duration = Duration::from_millis(2);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A message in hand. It comes again unless it is acknowledged.
pub struct Job {
    message: Message,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// How often it has been handed out, this time included.
    pub deliveries: u32,
    /// When the stream took it, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The stream.
    pub stream: String,
    /// The consumer that handed it out.
    pub consumer: String,
    /// The time for which the lane has heard of the consumer without a break.
    pub session: Session,
    /// How many waited behind it.
    behind: u64,
    /// When it was received at the earliest: it may have waited in a buffer.
    received: Instant,
    /// When the server was told last that it is in hand, in milliseconds after it was received.
    told_ms: AtomicU64,
    _permit: OwnedSemaphorePermit,
}

/// A time for which a lane heard of its consumer over one connection and without a break. In a break the server that led
/// the consumer may have been lost, and with it what it had handed out or been told last (2.15 writes that down a little
/// later). A server may be back sooner than its absence is felt: then the connection tells.
#[derive(Debug, Clone, Copy)]
pub struct Session {
    /// When it began.
    pub began: Instant,
    /// The same by the clock of the servers, as the other times here, in milliseconds since the Unix epoch.
    pub began_ms: i64,
    /// When the consumer was heard of last before that.
    pub before_ms: Option<i64>,
    /// When the consumer was made.
    pub consumer_since_ms: i64,
    connects: u64,
}

impl Session {
    /// Begins one, and tells how the consumer stands.
    async fn begin(
        connection: &Connection,
        lane: &Lane,
        before: Option<(Session, Instant)>,
    ) -> Result<(Self, ConsumerStanding), StateError> {
        let (began, connects) = (Instant::now(), connection.connects());
        let standing = connection.consumer_standing(&lane.stream, &lane.consumer).await?;
        let heard_ms = |(session, heard): (Session, Instant)| {
            let lasted = heard.saturating_duration_since(session.began).as_millis();
            session.began_ms.saturating_add(i64::try_from(lasted).unwrap_or(i64::MAX))
        };
        let session = Session {
            began,
            began_ms: standing.now_ms,
            before_ms: before.map(heard_ms),
            consumer_since_ms: standing.since_ms,
            connects,
        };
        Ok((session, standing))
    }

    /// Whether what comes now may come of a server that was started again.
    fn is_over(&self, client: &Client) -> bool {
        self.connects != connects(client)
    }
}

/// The server was not told. The message comes again after its acknowledgement wait.
#[derive(Debug, thiserror::Error)]
#[error("the message could not be acknowledged")]
pub struct AckError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl Job {
    fn new(
        message: Message,
        session: Session,
        received: Instant,
        permit: OwnedSemaphorePermit,
    ) -> Option<Self> {
        let (sequence, deliveries, at_ms, stream, consumer, behind) = {
            let info = message.info().ok()?;
            let at_ms = i64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).ok()?;
            (
                info.stream_sequence,
                u32::try_from(info.delivered).unwrap_or(u32::MAX),
                at_ms,
                info.stream.to_owned(),
                info.consumer.to_owned(),
                info.pending,
            )
        };
        Some(Job {
            message,
            sequence,
            deliveries,
            at_ms,
            stream,
            consumer,
            session,
            behind,
            received,
            told_ms: AtomicU64::new(0),
            _permit: permit,
        })
    }

    /// Whether an earlier consumer of this name may have handed it out: this one was made later than the message.
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.at_ms < self.session.consumer_since_ms
    }

    /// The message's subject.
    #[must_use]
    pub fn subject(&self) -> &str {
        self.message.subject.as_str()
    }

    /// The message's content.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.message.payload
    }

    /// The id by which its stream recognises it, if it has one.
    #[must_use]
    pub fn message_id(&self) -> Option<&str> {
        self.message.headers.as_ref()?.get(NATS_MESSAGE_ID).map(async_nats::HeaderValue::as_str)
    }

    /// Done. Fire and forget: when the acknowledgement is lost, the message comes again.
    ///
    /// # Errors
    /// [`AckError`] when the connection is closed.
    pub async fn ack(&self) -> Result<(), AckError> {
        self.message.ack().await.map_err(AckError)
    }

    /// Done, and the server has confirmed that it knows.
    ///
    /// # Errors
    /// [`AckError`] when it did not confirm in time.
    pub async fn double_ack(&self) -> Result<(), AckError> {
        self.message.double_ack().await.map_err(AckError)
    }

    /// Not now: again after `delay`. When the server that handed it out is gone this says nothing, and it comes again after
    /// its acknowledgement wait: the next server may have handed it to somebody else, from whom this would take it.
    ///
    /// # Errors
    /// [`AckError`] when the connection is closed.
    pub async fn nak(&self, delay: Duration) -> Result<(), AckError> {
        match self.is_ours() {
            true => self.message.ack_with(AckKind::Nak(Some(delay))).await.map_err(AckError),
            false => Ok(()),
        }
    }

    /// Still at it: the acknowledgement wait starts again. Not where that may be over.
    async fn progress(&self) -> Result<(), AckError> {
        if self.has_lapsed() {
            return Ok(());
        }
        self.told_ms.store(self.age_ms(), Ordering::Relaxed);
        self.message.ack_with(AckKind::Progress).await.map_err(AckError)
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.received.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether the acknowledgement wait may be over.
    fn has_lapsed(&self) -> bool {
        let silent_ms = self.age_ms().saturating_sub(self.told_ms.load(Ordering::Relaxed));
        u128::from(silent_ms) >= LAPSE.as_millis()
    }

    /// Does `work` and tells the server meanwhile that the message is still in hand. Without it the server hands the message
    /// to somebody else when its wait is over, who knows nothing of what is done here.
    pub async fn keep<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        let mut progress = tokio::time::interval_at(self.received + PROGRESS_INTERVAL, PROGRESS_INTERVAL);
        loop {
            // Cancel-safe: the work is pinned outside the loop and goes on.
            tokio::select! {
                done = &mut work => return done,
                _ = progress.tick() => {
                    if let Err(error) = self.progress().await {
                        tracing::debug!(error = &error as &dyn std::error::Error, "progress could not be told");
                    }
                }
            }
        }
    }

    /// Whether nobody else can have it: the connection stands over which it came, and this process has not stood still. A server
    /// that was started again, or that heard nothing of us, may have handed the message to somebody else.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        if self.has_lapsed() {
            return false;
        }
        let client = self.message.context.client();
        client.connection_state() == State::Connected && !self.session.is_over(&client)
    }

    /// Never again, and why: operators read the reason in the server's advisory.
    ///
    /// # Errors
    /// [`AckError`] when the connection is closed.
    pub async fn term(&self, connection: &Connection, reason: &str) -> Result<(), AckError> {
        // The client's own kind carries no reason; the server takes it after the word.
        let Some(reply) = self.message.reply.clone() else { return Ok(()) };
        let plain: String = reason.chars().filter(|c| !c.is_control()).take(100).collect();
        let sent = connection.client.publish(reply, format!("+TERM {plain}").into()).await;
        sent.map_err(|error| AckError(Box::new(error)))
    }
}

/// One lane: a durable consumer, and how many of its messages may be in hand at once.
#[derive(Debug, Clone)]
pub struct Lane {
    /// The stream.
    pub stream: String,
    /// The durable consumer.
    pub consumer: String,
    /// How many messages may be in hand at once.
    pub permits: usize,
    /// Whether it could take more than it is given.
    pub spare: Spare,
}

/// How many messages a lane would take at once beyond what its stream has for it: none while anything waits there, as far as
/// the lane has heard, while the consumer is paused, or while the lane does not pull. Clones show the same.
#[derive(Debug, Clone, Default)]
pub struct Spare(Arc<Shown>);

#[derive(Debug, Default)]
struct Shown {
    permits: AtomicUsize,
    is_paused: AtomicBool,
}

impl Spare {
    /// So many.
    #[must_use]
    pub fn count(&self) -> usize {
        match self.0.is_paused.load(Ordering::Relaxed) {
            true => 0,
            false => self.0.permits.load(Ordering::Relaxed),
        }
    }

    fn set(&self, permits: usize) {
        self.0.permits.store(permits, Ordering::Relaxed);
    }

    fn pause(&self, is_paused: bool) {
        self.0.is_paused.store(is_paused, Ordering::Relaxed);
    }
}

/// What the server says when somebody pauses a consumer, and when the pause is over.
#[derive(Deserialize)]
struct PauseAdvisory {
    paused: bool,
    #[serde(default)]
    domain: String,
}

/// Why pulling has to start again.
#[derive(Debug, thiserror::Error)]
enum PullError {
    /// The client can't subscribe or publish.
    #[error("the connection does not take requests")]
    Connection(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nobody answers for this consumer.
    #[error("nobody answers for this consumer; see `peal topology check`")]
    NoConsumer,
    /// The subscription has ended.
    #[error("the connection is closed")]
    Closed,
    /// What comes now may have been on its way for so long that others have it.
    #[error("this process stood still")]
    StoodStill,
}

/// A pull request as the server takes it (JetStream API, CONSUMER.MSG.NEXT). Times are in nanoseconds.
#[derive(Serialize)]
struct PullRequest {
    batch: usize,
    expires: u64,
    idle_heartbeat: u64,
}

/// What came in on a lane's subscription.
enum Incoming {
    Message(Box<async_nats::Message>),
    Alive,
    /// The standing request is over, as it should be.
    Expired,
    /// It is over for another reason, or nobody knows of it any more.
    BrokenOff,
}

impl Lane {
    /// Hands every message to `handle` until `stop`. Each message in hand holds a permit, which was taken before it was
    /// asked for. Errors are logged and tried again; `handle` must not block.
    pub async fn run(&self, connection: &Connection, stop: &CancellationToken, handle: impl FnMut(Job)) {
        let subject = format!("$JS.EVENT.ADVISORY.CONSUMER.PAUSE.{}.{}", self.stream, self.consumer);
        // Before the first session tells whether it is paused. What is missed while the connection is broken the next one
        // tells.
        let pauses = match connection.client.subscribe(subject).await {
            Ok(pauses) => pauses,
            // The client is closed: there is nothing to pull either.
            Err(error) => return self.warn(&error),
        };
        tokio::select! {
            () = self.pull_on(connection, stop, handle) => {}
            () = self.watch(pauses, &connection.region) => stop.cancelled().await,
        }
    }

    /// Hears of pauses.
    async fn watch(&self, mut pauses: Subscriber, region: &Region) {
        while let Some(message) = pauses.next().await {
            // Those of other regions cross the links.
            if let Ok(advisory) = serde_json::from_slice::<PauseAdvisory>(&message.payload)
                && advisory.domain == region.as_str()
            {
                self.spare.pause(advisory.paused);
            }
        }
    }

    async fn pull_on(&self, connection: &Connection, stop: &CancellationToken, mut handle: impl FnMut(Job)) {
        let permits = Arc::new(Semaphore::new(self.permits));
        let mut pause = FIRST_PAUSE;
        let mut heard = None;
        while !stop.is_cancelled() {
            let pulled = self.pull(connection, &permits, stop, &mut pause, &mut heard, &mut handle);
            let pulled = pulled.await;
            self.spare.set(0);
            if let Err(error) = pulled {
                self.warn(&error);
            }
            rest(&mut pause, stop).await;
        }
    }

    /// Pulls until something fails. The client's own batches are not used: with heartbeats they fall asleep, and without
    /// them a lost request is noticed late. One subscription serves the lane for good, so a message that comes after its
    /// request was given up is not lost either. `heard` is the last session, and when the consumer was heard of last.
    async fn pull(
        &self,
        connection: &Connection,
        permits: &Arc<Semaphore>,
        stop: &CancellationToken,
        pause: &mut Duration,
        heard: &mut Option<(Session, Instant)>,
        handle: &mut impl FnMut(Job),
    ) -> Result<(), PullError> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| PullError::Connection(error);
        let inbox = connection.client.new_inbox();
        let mut subscriber =
            connection.client.subscribe(inbox.clone()).await.map_err(|error| failed(Box::new(error)))?;
        let (mut is_broken, mut is_empty) = (true, false);
        let subject =
            format!("$JS.{}.API.CONSUMER.MSG.NEXT.{}.{}", connection.region, self.stream, self.consumer);
        loop {
            self.spare.set(0);
            let Some(mut held) = self.free_permits(permits, stop).await else { return Ok(()) };
            let request = PullRequest {
                batch: held.num_permits(),
                expires: nanoseconds(EXPIRES),
                idle_heartbeat: nanoseconds(HEARTBEAT),
            };
            let payload = serde_json::to_vec(&request).map_err(|error| failed(Box::new(error)))?;
            let mut session = match *heard {
                // A lane with all its messages in hand may not have asked for more while a leader was lost.
                Some((session, last))
                    if !is_broken && last.elapsed() < BREAK && !session.is_over(&connection.client) =>
                {
                    session
                }
                _ => match self.begin_session(connection, heard, pause, stop).await {
                    Some((session, has_all)) => {
                        is_empty = has_all;
                        session
                    }
                    None => return Ok(()),
                },
            };
            is_broken = false;
            let asked =
                connection.client.publish_with_reply(subject.clone(), inbox.clone(), payload.into()).await;
            asked.map_err(|error| failed(Box::new(error)))?;
            while held.num_permits() > 0 {
                self.spare.set(if is_empty { held.num_permits() } else { 0 });
                let incoming = tokio::select! {
                    // What is on its way comes again after its wait.
                    () = stop.cancelled() => return Ok(()),
                    incoming = receive(&mut subscriber) => incoming?,
                };
                let last = heard.map_or(session.began, |(_, last)| last);
                if last.elapsed() >= LAPSE {
                    return Err(PullError::StoodStill);
                }
                if !matches!(incoming, Incoming::BrokenOff) {
                    // The client keeps a request that it could not send, and sends it to the next server.
                    if session.is_over(&connection.client) {
                        match self.begin_session(connection, heard, pause, stop).await {
                            Some(begun) => (session, is_empty) = begun,
                            None => return Ok(()),
                        }
                    }
                    *heard = Some((session, Instant::now()));
                }
                match incoming {
                    Incoming::Message(message) => {
                        *pause = FIRST_PAUSE;
                        let Some(permit) = held.split(1) else { break };
                        let message = Message { message: *message, context: connection.jetstream.clone() };
                        if let Some(job) = Job::new(message, session, last, permit) {
                            is_empty = job.behind == 0;
                            handle(job);
                        }
                    }
                    Incoming::Alive => *pause = FIRST_PAUSE,
                    Incoming::Expired => break,
                    // The consumer may be gone, and another one be there under its name.
                    Incoming::BrokenOff => {
                        is_broken = true;
                        break;
                    }
                }
            }
            // Nobody knows what comes while all are in hand.
            is_empty &= held.num_permits() > 0;
        }
    }

    fn warn(&self, error: &(dyn std::error::Error + 'static)) {
        tracing::warn!(stream = %self.stream, consumer = %self.consumer, error, "cannot pull yet");
    }

    /// Tries until the consumer says when it was made, and whether it has handed out everything; what has come meanwhile
    /// waits. `None` when it is time to stop.
    async fn begin_session(
        &self,
        connection: &Connection,
        heard: &mut Option<(Session, Instant)>,
        pause: &mut Duration,
        stop: &CancellationToken,
    ) -> Option<(Session, bool)> {
        while !stop.is_cancelled() {
            match Session::begin(connection, self, *heard).await {
                Ok((session, standing)) => {
                    self.spare.pause(standing.is_paused);
                    *heard = Some((session, session.began));
                    return Some((session, standing.waiting == 0));
                }
                Err(error) => self.warn(&error),
            }
            rest(pause, stop).await;
        }
        None
    }

    /// All permits that are free, at least one. `None` when it is time to stop.
    async fn free_permits(
        &self,
        permits: &Arc<Semaphore>,
        stop: &CancellationToken,
    ) -> Option<OwnedSemaphorePermit> {
        let mut held = tokio::select! {
            () = stop.cancelled() => return None,
            permit = Arc::clone(permits).acquire_owned() => permit.ok()?,
        };
        // At work, permits come back one by one, and to ask for one message costs the server as much as to ask for many.
        if permits.available_permits() < self.permits / 8 {
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(GATHER) => {}
            }
        }
        if let Ok(free) = u32::try_from(permits.available_permits())
            && free > 0
            && let Ok(more) = Arc::clone(permits).try_acquire_many_owned(free)
        {
            held.merge(more);
        }
        Some(held)
    }
}

async fn receive(subscriber: &mut Subscriber) -> Result<Incoming, PullError> {
    let message = match tokio::time::timeout(SILENCE, subscriber.next()).await {
        Ok(Some(message)) => message,
        Ok(None) => return Err(PullError::Closed),
        Err(_) => return Ok(Incoming::BrokenOff),
    };
    match message.status {
        None | Some(StatusCode::OK) => Ok(Incoming::Message(Box::new(message))),
        Some(StatusCode::IDLE_HEARTBEAT) => Ok(Incoming::Alive),
        Some(StatusCode::NO_RESPONDERS) => Err(PullError::NoConsumer),
        Some(StatusCode::TIMEOUT | StatusCode::NOT_FOUND) => Ok(Incoming::Expired),
        Some(status) => {
            tracing::debug!(%status, description = message.description.as_deref(), "a pull request ended");
            Ok(Incoming::BrokenOff)
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

async fn rest(pause: &mut Duration, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(*pause) => {}
    }
    *pause = (*pause * 2).min(LONGEST_PAUSE);
}
