//! Looking at a region from outside, for `peal doctor` and `peal keys list`: what the server is, what waits in its
//! streams, and all records under a prefix. These requests cost the server more than everyday work: not for hot paths.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::stream;
use futures_util::TryStreamExt as _;
use jiff::Timestamp;
use peal_common::clock::Clock;
use peal_common::state::{Record, RecordKey};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::connect::Connection;
use crate::follow::Stored;
use crate::subjects::{Region, Subjects};
use crate::topology::{OTHERS_STATE, metadata, state_to};

/// What the server puts before what it says of where a message of a source came from: its stream, its sequence there.
const SOURCE_HEADER: &str = "Nats-Stream-Source";
/// Sources give a sign of life every second.
const HEARD: Duration = Duration::from_secs(3);

/// JetStream did not say.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {what}")]
pub struct InspectError {
    /// What was asked for.
    pub what: &'static str,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: &'static str,
) -> impl FnOnce(E) -> InspectError {
    move |source| InspectError { what, source: source.into() }
}

/// The server at the other end of the connection.
#[derive(Debug, Clone, Serialize)]
pub struct ServerFacts {
    /// Its name.
    pub name: String,
    /// Its version, such as `2.15.1`.
    pub version: String,
    /// Its cluster, if it belongs to one.
    pub cluster: Option<String>,
    /// Its JetStream domain, if it has one.
    pub domain: Option<String>,
    /// The largest message that it takes, in bytes.
    pub max_payload: usize,
    /// How long JetStream takes to answer.
    pub round_trip: Duration,
    /// Bytes that this account's streams take on disk.
    pub storage: u64,
    /// Bytes on disk that this account may take, unless there is no limit of its own.
    pub storage_limit: Option<u64>,
}

/// A stream of this region and its durable consumers.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StreamFacts {
    /// Its name.
    pub name: String,
    /// Messages that it holds.
    pub messages: u64,
    /// Bytes that it holds.
    pub bytes: u64,
    /// Bytes at which it is full, if it has such a limit.
    pub max_bytes: Option<u64>,
    /// Copies of each message.
    pub replicas: usize,
    /// Its durable consumers.
    pub consumers: Vec<ConsumerFacts>,
    /// Where it takes its messages from, when it gathers those of other streams.
    pub sources: Vec<SourceFacts>,
}

/// A stream from which another one takes messages, mostly of another domain.
#[derive(Debug, Clone, Serialize)]
pub struct SourceFacts {
    /// The domain.
    pub from: String,
    /// Messages that have not come yet, as far as is known.
    pub lag: u64,
    /// How long ago something was heard of it; `None` when nothing ever was.
    pub silent_for: Option<Duration>,
}

impl SourceFacts {
    pub(crate) fn is_heard(&self) -> bool {
        self.silent_for.is_some_and(|silence| silence < HEARD)
    }
}

/// A durable consumer.
#[derive(Debug, Clone, Serialize)]
pub struct ConsumerFacts {
    /// Its name.
    pub name: String,
    /// Messages that nobody has been given yet.
    pub pending: u64,
    /// Messages that somebody was given and has not acknowledged.
    pub unacknowledged: usize,
    /// Messages among those that were given more than once.
    pub redelivered: usize,
    /// Pull requests that wait for messages: 0 means that nobody asks.
    pub waiting: usize,
    /// Whether it hands its messages on by itself, as to another domain.
    pub pushes: bool,
}

/// How far the server's clock is from this machine's.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ClockSkew {
    /// Milliseconds that the server is ahead; negative when it is behind.
    pub ahead_ms: i64,
    /// The error of that: half the time that asking took, in milliseconds.
    pub uncertainty_ms: i64,
}

/// What the server says of the sources of a stream. The client leaves out whose they are.
#[derive(Default, Deserialize)]
struct SourcesInfo {
    #[serde(default)]
    sources: Vec<SourceInfo>,
}

#[derive(Deserialize)]
struct SourceInfo {
    #[serde(default)]
    lag: u64,
    /// In nanoseconds; -1 when nothing was ever heard.
    active: i64,
    external: Option<ExternalInfo>,
}

#[derive(Deserialize)]
struct ExternalInfo {
    api: String,
}

impl SourceInfo {
    fn facts(self, region: &Region) -> SourceFacts {
        let info = self;
        let domain = info
            .external
            .and_then(|external| Some(external.api.strip_prefix("$JS.")?.strip_suffix(".API")?.to_owned()));
        SourceFacts {
            from: domain.unwrap_or_else(|| region.to_string()),
            lag: info.lag,
            silent_for: u64::try_from(info.active).ok().map(Duration::from_nanos),
        }
    }
}

impl Connection {
    /// Asks the server what it is.
    ///
    /// # Errors
    /// [`InspectError`] when nobody answers.
    pub async fn server_facts(&self) -> Result<ServerFacts, InspectError> {
        let asked = Instant::now();
        let account = self.jetstream.query_account().await.map_err(failed("the JetStream account"))?;
        let round_trip = asked.elapsed();
        let info = self.client.server_info();
        Ok(ServerFacts {
            name: info.server_name,
            version: info.version,
            cluster: info.cluster,
            domain: account.domain,
            max_payload: info.max_payload,
            round_trip,
            storage: account.storage,
            storage_limit: account.limits.max_storage.and_then(|limit| u64::try_from(limit).ok()),
        })
    }

    /// The streams of this region with what waits in them, by name.
    ///
    /// # Errors
    /// [`InspectError`] when nobody answers.
    pub async fn stream_facts(&self) -> Result<Vec<StreamFacts>, InspectError> {
        let infos: Vec<stream::Info> =
            self.jetstream.streams().try_collect().await.map_err(failed("the list of streams"))?;
        let mut streams = Vec::new();
        for info in infos {
            let region = info.config.metadata.get(metadata::REGION).map(String::as_str);
            if region != Some(self.region.as_str()) {
                continue;
            }
            let sources = match &info.config.sources {
                Some(sources) if !sources.is_empty() => self.sources(&info.config.name).await?,
                _ => Vec::new(),
            };
            streams.push(StreamFacts {
                consumers: self.consumer_facts(&info.config.name).await?,
                sources,
                name: info.config.name,
                messages: info.state.messages,
                bytes: info.state.bytes,
                max_bytes: u64::try_from(info.config.max_bytes).ok().filter(|limit| *limit > 0),
                replicas: info.config.num_replicas,
            });
        }
        streams.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(streams)
    }

    /// Where a stream takes its messages from, and how far it is behind.
    ///
    /// # Errors
    /// [`InspectError`] when there is no such stream or nobody answers.
    pub async fn sources(&self, stream: &str) -> Result<Vec<SourceFacts>, InspectError> {
        let subject = format!("$JS.{}.API.STREAM.INFO.{stream}", self.region);
        let answer = self.client.request(subject, Default::default()).await.map_err(failed("a stream"))?;
        let info: SourcesInfo = serde_json::from_slice(&answer.payload).map_err(failed("a stream"))?;
        let mut sources: Vec<SourceFacts> =
            info.sources.into_iter().map(|source| source.facts(&self.region)).collect();
        sources.sort_by(|a, b| a.from.cmp(&b.from));
        Ok(sources)
    }

    /// How many changes of state the hub has that this region has not got: at least so many that it is 0 only when there
    /// are none. `None` while a stream on their way says nothing. Only for a region that has others beside it.
    ///
    /// # Errors
    /// [`InspectError`] when the hub or this region does not answer.
    pub async fn state_missing(&self, hub: &Region) -> Result<Option<u64>, InspectError> {
        let (hub, queue) = (self.in_domain(hub), state_to(&self.region));
        let (into_queue, out_of_it) = (hub.sources(&queue).await?, self.sources(OTHERS_STATE).await?);
        if out_of_it.is_empty() || !into_queue.iter().chain(&out_of_it).all(SourceFacts::is_heard) {
            return Ok(None);
        }
        let queued = hub.last_sequence(&queue).await?;
        let came = self.last_source_sequence(OTHERS_STATE).await?;
        // A sequence that the queue has not reached is of a queue that stood there before.
        let came = match came {
            Some(came) if came <= hub.last_sequence(&queue).await? => came,
            _ => hub.acknowledged(&queue, self.region.as_str()).await?,
        };
        let behind: u64 = into_queue.iter().map(|source| source.lag).sum();
        Ok(Some(behind + queued.saturating_sub(came)))
    }

    /// The sequence that the last message of `stream` had where it came from; `None` when that message is gone, or there was none.
    async fn last_source_sequence(&self, stream: &str) -> Result<Option<u64>, InspectError> {
        let last = self.last_sequence(stream).await?;
        if last == 0 {
            return Ok(None);
        }
        let last = self.message_at(stream, last).await.map_err(failed("the last message of a stream"))?;
        Ok(last.and_then(|last| last.header(SOURCE_HEADER)?.split(' ').nth(1)?.parse().ok()))
    }

    async fn last_sequence(&self, stream: &str) -> Result<u64, InspectError> {
        let state = self.stream_state(stream).await.map_err(failed("a stream"))?;
        Ok(state.last)
    }

    /// The sequence up to which everything is acknowledged to a consumer.
    async fn acknowledged(&self, stream: &str, consumer: &str) -> Result<u64, InspectError> {
        let handle = self.jetstream.get_stream_no_info(stream).await.map_err(failed("a stream"))?;
        let info = handle.consumer_info(consumer).await.map_err(failed("a consumer"))?;
        Ok(info.ack_floor.stream_sequence)
    }

    async fn consumer_facts(&self, stream: &str) -> Result<Vec<ConsumerFacts>, InspectError> {
        let handle = self.jetstream.get_stream_no_info(stream).await.map_err(failed("a stream"))?;
        let infos: Vec<async_nats::jetstream::consumer::Info> =
            handle.consumers().try_collect().await.map_err(failed("the consumers of a stream"))?;
        let durable = infos.into_iter().filter(|info| info.config.durable_name.is_some());
        let mut consumers: Vec<_> = durable
            .map(|info| ConsumerFacts {
                name: info.name,
                pending: info.num_pending,
                unacknowledged: info.num_ack_pending,
                redelivered: info.num_redelivered,
                waiting: info.num_waiting,
                pushes: info.config.deliver_subject.is_some(),
            })
            .collect();
        consumers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(consumers)
    }

    /// The last message of every subject that matches `filter`, in the order of subjects. Meant for few subjects: each
    /// costs a request.
    ///
    /// # Errors
    /// [`InspectError`] when there is no such stream or nobody answers.
    pub async fn last_of_each(&self, stream: &str, filter: &str) -> Result<Vec<Stored>, InspectError> {
        let handle = self.jetstream.get_stream_no_info(stream).await.map_err(failed("the stream"))?;
        let subjects = handle.info_with_subjects(filter).await.map_err(failed("the stream's subjects"))?;
        let mut subjects: Vec<(String, usize)> =
            subjects.try_collect().await.map_err(failed("the stream's subjects"))?;
        subjects.sort();
        let mut found = Vec::with_capacity(subjects.len());
        for (subject, _) in subjects {
            found.extend(self.last_of(stream, &subject).await.map_err(failed("a message"))?);
        }
        Ok(found)
    }

    /// The records whose keys begin with `prefix`, as all regions wrote them that this one knows of. Meant for few
    /// records: each costs a request, for every region that wrote it.
    ///
    /// # Errors
    /// [`InspectError`] when nobody answers.
    pub async fn records(&self, prefix: &str) -> Result<BTreeMap<RecordKey, Record>, InspectError> {
        let mut merged = BTreeMap::<RecordKey, Record>::new();
        for region in self.others.iter().chain(std::iter::once(&self.region)) {
            let subjects = Subjects::new(region);
            let own = subjects.state_stream();
            let stream = if *region == self.region { own.as_str() } else { OTHERS_STATE };
            for stored in self.last_of_each(stream, &subjects.state(&format!("{prefix}>"))).await? {
                let key = stored.subject.strip_prefix(&subjects.state("")).map(RecordKey::from_text);
                let record = serde_json::from_slice(&stored.payload).ok().filter(|_| !stored.is_removal());
                if let (Some(key), Some(record)) = (key, record) {
                    merged.entry(key).or_default().merge(record);
                }
            }
        }
        Ok(merged)
    }

    /// Compares the server's clock with `clock`, by what `stream` says of the time.
    ///
    /// # Errors
    /// [`InspectError`] when there is no such stream or nobody answers.
    pub async fn clock_skew(&self, stream: &str, clock: &Clock) -> Result<ClockSkew, InspectError> {
        #[derive(Deserialize)]
        struct Dated {
            ts: Timestamp,
        }
        let subject = format!("$JS.{}.API.STREAM.INFO.{stream}", self.region);
        let before = clock.now_ms();
        let answer =
            self.client.request(subject, Default::default()).await.map_err(failed("the server's time"))?;
        let after = clock.now_ms();
        let dated: Dated = serde_json::from_slice(&answer.payload).map_err(failed("the server's time"))?;
        Ok(ClockSkew {
            ahead_ms: dated.ts.as_millisecond() - (before + after) / 2,
            uncertainty_ms: (after - before) / 2 + 1,
        })
    }
}
