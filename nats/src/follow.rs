//! Reading a stream from a position onwards, in batches, for ever: what the mirror, the read model and `peal tail` do. A
//! [`Reader`] ends where the stream does.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use async_nats::jetstream::consumer::{DeliverPolicy, ReplayPolicy};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageError, LastRawMessageErrorKind};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::Instant;

use crate::connect::Connection;

/// The most messages of one batch.
pub const MAX_BATCH: usize = 2_000;
/// How often a quiet stream is asked whether it is still the same one.
const IDENTITY_INTERVAL: Duration = Duration::from_secs(2);
/// How often it is looked whether the connection is another one. The server has forgotten the consumer then, which the
/// client itself notices only after several heartbeats.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(100);
/// At how many looks that find something which the consumer doesn't give it is made anew, at first and at most.
const FIRST_LOOKS: u32 = 4;
const MOST_LOOKS: u32 = 32;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long the leader of a replicated stream may say that it ends before what was read of it. One that was cut off or
/// stood still answers until it notices that others have elected another one: nats-server gives up leading after 10 s
/// without a majority (`lostQuorumInterval`) and looks for that every 10 s (`lostQuorumCheck`).
const STALE_LIMIT: Duration = Duration::from_secs(25);
/// How long a [`Reader`] waits for more.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// A message as it stands in a stream.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// Its subject.
    pub subject: String,
    /// When the stream took it, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Its content.
    pub payload: Bytes,
    headers: Option<HeaderMap>,
}

impl Stored {
    /// A header's first value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.as_ref()?.get(name).map(async_nats::HeaderValue::as_str)
    }

    /// The first value of each header.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.headers.iter().flat_map(HeaderMap::iter);
        all.filter_map(|(name, values)| Some((name.as_ref(), values.first()?.as_str())))
    }

    /// Whether the message stands for the removal of its key: a delete or purge of a key-value client, or the server's
    /// own marker for what has expired.
    #[must_use]
    pub fn is_removal(&self) -> bool {
        matches!(self.header("KV-Operation"), Some("DEL" | "PURGE"))
            || self.header("Nats-Marker-Reason").is_some()
    }

    fn read(message: async_nats::jetstream::Message) -> Option<Self> {
        let (sequence, at_ms) = {
            let info = message.info().ok()?;
            (info.stream_sequence, i64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).ok()?)
        };
        let message = message.message;
        Some(Stored {
            sequence,
            subject: message.subject.into_string(),
            at_ms,
            payload: message.payload,
            headers: message.headers,
        })
    }

    /// A message that was fetched by itself.
    #[must_use]
    pub fn fetched(message: StreamMessage) -> Self {
        Stored {
            sequence: message.sequence,
            subject: message.subject.into_string(),
            at_ms: i64::try_from(message.time.unix_timestamp_nanos() / 1_000_000).unwrap_or_default(),
            payload: message.payload,
            headers: Some(message.headers),
        }
    }
}

/// Which stream it is, and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamState {
    /// When it was created: a stream that was deleted and made again is another one.
    pub created: String,
    /// The sequence of its first message.
    pub first: u64,
    /// The sequence of its last message, 0 when it never had one.
    pub last: u64,
    /// How many messages it holds.
    pub messages: u64,
    /// How many bytes it holds.
    pub bytes: u64,
    /// Whether several servers keep it.
    pub is_replicated: bool,
}

/// JetStream did not say.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the state of stream {stream}")]
pub struct StateError {
    /// The stream.
    pub stream: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl StateError {
    pub(crate) fn new(stream: &str, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        StateError { stream: stream.to_owned(), source: Box::new(source) }
    }
}

impl Connection {
    /// Asks for the state of a stream.
    ///
    /// # Errors
    /// [`StateError`] when there is no such stream or nobody answers.
    pub async fn stream_state(&self, stream: &str) -> Result<StreamState, StateError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| StateError {
            stream: stream.to_owned(),
            source,
        };
        let found = self.jetstream.get_stream(stream).await.map_err(|error| failed(Box::new(error)))?;
        let info = found.cached_info();
        Ok(StreamState {
            created: info.created.unix_timestamp_nanos().to_string(),
            first: info.state.first_sequence,
            last: info.state.last_sequence,
            messages: info.state.messages,
            bytes: info.state.bytes,
            is_replicated: info.config.num_replicas > 1,
        })
    }

    /// Fetches one message by its sequence. `None` when it is gone.
    ///
    /// # Errors
    /// [`StateError`] when nobody answers.
    pub async fn message_at(&self, stream: &str, sequence: u64) -> Result<Option<Stored>, StateError> {
        use async_nats::jetstream::stream::DirectGetErrorKind;
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| StateError {
            stream: stream.to_owned(),
            source,
        };
        let handle =
            self.jetstream.get_stream_no_info(stream).await.map_err(|error| failed(Box::new(error)))?;
        match handle.direct_get(sequence).await {
            Ok(message) => Ok(Some(Stored::fetched(message))),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(Box::new(error))),
        }
    }

    /// Fetches the last message of a subject. `None` when there is none.
    ///
    /// # Errors
    /// [`StateError`] when nobody answers.
    pub async fn last_of(&self, stream: &str, subject: &str) -> Result<Option<Stored>, StateError> {
        use async_nats::jetstream::stream::DirectGetErrorKind;
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| StateError {
            stream: stream.to_owned(),
            source,
        };
        let handle =
            self.jetstream.get_stream_no_info(stream).await.map_err(|error| failed(Box::new(error)))?;
        match handle.direct_get_last_for_subject(subject).await {
            Ok(message) => Ok(Some(Stored::fetched(message))),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(Box::new(error))),
        }
    }

    /// Fetches the first message of `filter` from a sequence on, from the stream's leader: copies may be behind. `None`
    /// when there is none.
    ///
    /// # Errors
    /// [`StateError`] when nobody answers.
    pub async fn first_at_leader(
        &self,
        stream: &str,
        filter: &str,
        from: u64,
    ) -> Result<Option<Stored>, StateError> {
        let handle = self.jetstream.get_stream_no_info(stream).await;
        let handle = handle.map_err(|error| StateError::new(stream, error))?;
        at_leader(stream, handle.get_first_raw_message_by_subject(filter, from).await)
    }

    /// Fetches the last message of `filter` in the same way.
    ///
    /// # Errors
    /// [`StateError`] when nobody answers.
    pub async fn last_at_leader(&self, stream: &str, filter: &str) -> Result<Option<Stored>, StateError> {
        let handle = self.jetstream.get_stream_no_info(stream).await;
        let handle = handle.map_err(|error| StateError::new(stream, error))?;
        at_leader(stream, handle.get_last_raw_message_by_subject(filter).await)
    }
}

fn at_leader(
    stream: &str,
    answer: Result<StreamMessage, LastRawMessageError>,
) -> Result<Option<Stored>, StateError> {
    match answer {
        Ok(found) => Ok(Some(Stored::fetched(found))),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(StateError::new(stream, error)),
    }
}

/// What comes next in a stream.
#[derive(Debug)]
pub enum Followed {
    /// The next messages, in order.
    Messages(Vec<Stored>),
    /// Nothing new for a while, and nothing left: all that the stream had up to its end was given or is gone.
    Quiet(StreamState),
    /// The stream is not the one that was followed so far: it was made again, or it lost messages that had been read.
    /// What was derived from it must be built anew.
    Replaced(StreamState),
}

/// Reads what stands in a stream now, and ends.
pub struct Reader {
    follower: Follower,
    stream: String,
    end: u64,
    waiting: VecDeque<Stored>,
}

impl Reader {
    /// Reads `stream` from its beginning to the end that it has at this moment.
    ///
    /// # Errors
    /// [`StateError`] when there is no such stream or nobody answers.
    pub async fn open(connection: &Connection, stream: &str) -> Result<Self, StateError> {
        Self::of_subjects(connection, stream, "").await
    }

    /// The same of the subjects of `filter` alone.
    ///
    /// # Errors
    /// [`StateError`] when there is no such stream or nobody answers.
    pub async fn of_subjects(
        connection: &Connection,
        stream: &str,
        filter: &str,
    ) -> Result<Self, StateError> {
        let state = connection.stream_state(stream).await?;
        let end = if state.messages == 0 { 0 } else { state.last };
        let follower = Follower::new(connection.clone(), stream, filter, Some(state.created), 0);
        Ok(Reader { follower, stream: stream.to_owned(), end, waiting: VecDeque::new() })
    }

    /// The next message, which stays the next until it is [taken](Self::take). `None` at the end.
    ///
    /// # Errors
    /// [`StateError`] when the stream was made again meanwhile, or nothing comes for half a minute.
    pub async fn peek(&mut self) -> Result<Option<&Stored>, StateError> {
        while self.waiting.is_empty() && self.end > 0 {
            let next = tokio::time::timeout(READ_LIMIT, self.follower.next()).await;
            match next.map_err(|late| StateError::new(&self.stream, late))? {
                Followed::Messages(messages) => {
                    let end = self.end;
                    if messages.last().is_some_and(|last| last.sequence >= end) {
                        self.end = 0;
                    }
                    self.waiting.extend(messages.into_iter().filter(|message| message.sequence <= end));
                }
                // What stood at the end is gone.
                Followed::Quiet(_) => self.end = 0,
                Followed::Replaced(_) => {
                    return Err(StateError::new(&self.stream, std::io::Error::other("it was made again")));
                }
            }
        }
        Ok(self.waiting.front())
    }

    /// Takes the next message, if it is there already.
    pub fn take(&mut self) -> Option<Stored> {
        self.waiting.pop_front()
    }
}

/// Follows one stream. It reconnects, waits and starts again by itself; no message is left out or given twice.
pub struct Follower {
    connection: Connection,
    stream: String,
    filter: String,
    created: Option<String>,
    position: u64,
    since_ms: Option<i64>,
    /// The consumer that the messages come from. The client makes another one by itself when this one is gone, also on
    /// a stream that was made again; so another name means to look at the stream first.
    consumer: Option<String>,
    messages: Option<futures_util::stream::ReadyChunks<Ordered>>,
    /// How often the client had connected when the messages were asked for.
    connects: u64,
    quiet_since: Instant,
    /// Since when the stream is said to end before the position.
    short_since: Option<Instant>,
    /// How many looks found more than the consumer had given, and at how many of them it is made anew.
    looks: u32,
    patience: u32,
    /// Whether it was said that it can't be followed at present.
    is_told: bool,
    pause: Duration,
}

/// What the state of a stream says about what was read of it.
enum Identity {
    Same,
    /// It ends too early, which may be what only a server says that was left behind.
    Doubtful,
    Other,
}

impl Follower {
    /// Follows what comes after `position` (0 is the beginning) on the subjects of `filter`. `created` names the stream
    /// that the position belongs to, if there is one.
    #[must_use]
    pub fn new(
        connection: Connection,
        stream: &str,
        filter: &str,
        created: Option<String>,
        position: u64,
    ) -> Self {
        Follower {
            connection,
            stream: stream.to_owned(),
            filter: filter.to_owned(),
            created,
            position,
            since_ms: None,
            consumer: None,
            messages: None,
            connects: 0,
            quiet_since: Instant::now(),
            short_since: None,
            looks: 0,
            patience: FIRST_LOOKS,
            is_told: false,
            pause: FIRST_PAUSE,
        }
    }

    /// Follows all subjects of a stream from a time on, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn since(connection: Connection, stream: &str, since_ms: i64) -> Self {
        Follower { since_ms: Some(since_ms), ..Follower::new(connection, stream, "", None, 0) }
    }

    /// Goes back to the beginning of a stream that was made again.
    pub fn restart(&mut self, state: &StreamState) {
        self.created = Some(state.created.clone());
        self.position = 0;
        self.messages = None;
        self.short_since = None;
    }

    /// The next messages, or a sign that there are none. Errors are logged and tried again; dropping the future loses
    /// nothing.
    pub async fn next(&mut self) -> Followed {
        loop {
            let Some(messages) = &mut self.messages else {
                if let Some(replaced) = self.open().await {
                    return replaced;
                }
                continue;
            };
            match tokio::time::timeout(RECONNECT_INTERVAL, messages.next()).await {
                Ok(Some(chunk)) => {
                    self.quiet_since = Instant::now();
                    (self.looks, self.patience) = (0, FIRST_LOOKS);
                    if let Some(messages) = self.take(chunk) {
                        return Followed::Messages(messages);
                    }
                }
                Ok(None) => self.messages = None,
                Err(_) if self.connects != self.connection.connects() => self.messages = None,
                Err(_) if self.quiet_since.elapsed() >= IDENTITY_INTERVAL => {
                    self.quiet_since = Instant::now();
                    if let Some(quiet) = self.look().await {
                        return quiet;
                    }
                }
                Err(_) => {}
            }
        }
    }

    fn take(
        &mut self,
        chunk: Vec<
            Result<async_nats::jetstream::Message, async_nats::jetstream::consumer::pull::OrderedError>,
        >,
    ) -> Option<Vec<Stored>> {
        let mut out = Vec::with_capacity(chunk.len());
        for item in chunk {
            match item {
                Ok(message) => {
                    let Ok(info) = message.info() else { continue };
                    if self.consumer.as_deref() != Some(info.consumer) {
                        if self.consumer.is_some() {
                            self.messages = None;
                            break;
                        }
                        self.consumer = Some(info.consumer.to_owned());
                    }
                    let Some(stored) = Stored::read(message) else { continue };
                    if stored.sequence > self.position {
                        self.position = stored.sequence;
                        self.short_since = None;
                        out.push(stored);
                    }
                }
                Err(error) => {
                    tracing::debug!(stream = %self.stream, %error, "following starts again");
                    self.messages = None;
                    break;
                }
            }
        }
        self.pause = FIRST_PAUSE;
        (!out.is_empty()).then_some(out)
    }

    async fn open(&mut self) -> Option<Followed> {
        self.connects = self.connection.connects();
        match self.connection.stream_state(&self.stream).await {
            Ok(state) => match self.identify(&state) {
                Identity::Same => {
                    self.created.get_or_insert(state.created);
                }
                Identity::Doubtful => {
                    self.rest().await;
                    return None;
                }
                Identity::Other => return Some(Followed::Replaced(state)),
            },
            Err(error) => {
                self.tell(&error);
                self.rest().await;
                return None;
            }
        }
        match self.consume().await {
            Ok(messages) => {
                self.quiet_since = Instant::now();
                self.consumer = None;
                self.looks = 0;
                self.is_told = false;
                self.messages = Some(messages.ready_chunks(MAX_BATCH));
            }
            Err(error) => {
                self.tell(&*error);
                self.rest().await;
            }
        }
        None
    }

    async fn consume(&mut self) -> Result<Ordered, Box<dyn std::error::Error + Send + Sync>> {
        let deliver_policy = match (self.position, self.since_ms) {
            (0, None) => DeliverPolicy::All,
            (0, Some(ms)) => DeliverPolicy::ByStartTime {
                start_time: async_nats::datetime::from_nanos(i128::from(ms.max(0)) * 1_000_000)?,
            },
            (position, _) => DeliverPolicy::ByStartSequence { start_sequence: position + 1 },
        };
        let config = OrderedConfig {
            filter_subject: self.filter.clone(),
            deliver_policy,
            replay_policy: ReplayPolicy::Instant,
            ..OrderedConfig::default()
        };
        let stream = self.connection.jetstream.get_stream_no_info(&self.stream).await?;
        Ok(stream.create_consumer(config).await?.messages().await?)
    }

    async fn look(&mut self) -> Option<Followed> {
        match self.connection.stream_state(&self.stream).await {
            Ok(state) => match self.identify(&state) {
                Identity::Same => match self.has_more(&state).await {
                    Ok(true) => {
                        // A server that forgot the consumer, behind a link that was cut, sends nothing, which the client
                        // notices after half a minute only. But one that was just started may take long for the first
                        // message; it gets longer each time.
                        self.looks += 1;
                        if self.looks >= self.patience {
                            self.patience = (self.patience * 2).min(MOST_LOOKS);
                            self.messages = None;
                        }
                        None
                    }
                    Ok(false) => Some(Followed::Quiet(state)),
                    Err(error) => {
                        tracing::debug!(stream = %self.stream, %error, "the stream does not answer");
                        None
                    }
                },
                Identity::Doubtful => None,
                Identity::Other => Some(Followed::Replaced(state)),
            },
            Err(error) => {
                tracing::debug!(stream = %self.stream, error = %error, "the stream does not answer");
                None
            }
        }
    }

    /// Whether something is left that was not given yet. A shared borrow could not wait on another thread.
    async fn has_more(&mut self, state: &StreamState) -> Result<bool, StateError> {
        if state.messages == 0 || state.last <= self.position {
            return Ok(false);
        }
        let filter = if self.filter.is_empty() { ">" } else { &self.filter };
        let since = self.since_ms.filter(|_| self.position == 0);
        let found = match since {
            // Times grow with sequences: when the newest is too old, all are.
            Some(_) => self.connection.last_at_leader(&self.stream, filter).await?,
            None => self.connection.first_at_leader(&self.stream, filter, self.position + 1).await?,
        };
        Ok(found.is_some_and(|found| since.is_none_or(|since| found.at_ms >= since)))
    }

    fn identify(&mut self, state: &StreamState) -> Identity {
        if self.created.as_ref().is_some_and(|created| *created != state.created) {
            return Identity::Other;
        }
        if state.last >= self.position {
            self.short_since = None;
            return Identity::Same;
        }
        let since = *self.short_since.get_or_insert_with(Instant::now);
        match state.is_replicated && since.elapsed() < STALE_LIMIT {
            true => {
                tracing::debug!(stream = %self.stream, last = state.last, self.position, "it is said to end too early");
                Identity::Doubtful
            }
            false => Identity::Other,
        }
    }

    /// Once for each time that it can't be followed: it may be another domain's stream, and its link cut for long.
    fn tell(&mut self, error: &dyn std::fmt::Display) {
        match std::mem::replace(&mut self.is_told, true) {
            false => tracing::warn!(stream = %self.stream, %error, "cannot follow the stream yet"),
            true => tracing::debug!(stream = %self.stream, %error, "cannot follow the stream yet"),
        }
    }

    async fn rest(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}
