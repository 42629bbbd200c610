//! The hub of two regions.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use peal_common::id::Region as Name;
use peal_nats::Subjects;
use peal_nats::connect::{self, Connection, Options as ConnectOptions};
use peal_nats::follow::Reader;
use peal_nats::server::{Leaf, Link, Login, Server, ServerConfig, free_port};
use peal_nats::topology::{self, ALL_STATE, Current, EVENTS, INTAKE, Links, Topology};
use tempfile::TempDir;
use tokio::time::Instant;

use super::{Region, Wanted, program};
use crate::wait;

/// How long servers may take until they first take messages from each other: where a consumer is not there yet they try
/// again after a pause that grows to two minutes.
pub const LINK_LIMIT: Duration = Duration::from_secs(240);
/// What its streams may reserve.
const STORE_BYTES: u64 = 256 << 30;
/// How many messages are shown that it misses.
const SHOWN: usize = 8;

/// The hub of the regions `eu` and `us`: a nats-server with its streams. It ends when it is dropped.
pub struct Hub {
    connection: Connection,
    port: u16,
    /// Its nats-server.
    pub server: Server,
    _folder: TempDir,
}

fn names() -> [Name; 2] {
    ["eu", "us"].map(|name| name.parse().expect("a name of a region"))
}

fn login(name: &Name) -> Login {
    Login { user: name.to_string(), password: format!("link of {name}") }
}

impl Hub {
    /// Starts it.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (name, port): (Name, _) = ("hub".parse()?, free_port()?);
        let mut config = ServerConfig::new(name.clone(), folder.path());
        config.max_file_store = Some(STORE_BYTES);
        config.leaf = Some(Leaf::Listens { port, regions: names().iter().map(login).collect() });
        let server = Server::start(config).await?;
        let connection =
            connect::connect(&ConnectOptions::new([server.url()], name.clone(), "peal-faults")).await?;
        let wanted = Topology::for_hub(&name, &names(), &topology::Options::default());
        let current = Current::read(&connection.jetstream, &wanted).await?;
        // No region runs yet, so that none can have handed anything on.
        topology::apply(&connection.jetstream, &topology::plan(&current, &wanted), true).await?;
        Ok(Hub { connection, port, server, _folder: folder })
    }

    /// Starts one of its regions, which is reached over the returned link.
    pub async fn region(&self, name: &str, webhook: &str) -> anyhow::Result<(Region, Link)> {
        self.linked(Wanted { name, ..Wanted::new(webhook) }).await
    }

    /// Starts one of its regions, as wanted otherwise.
    pub async fn linked(&self, wanted: Wanted<'_>) -> anyhow::Result<(Region, Link)> {
        let link = Link::to(self.port).await?;
        let others = names().into_iter().filter(|other| other.as_str() != wanted.name).collect();
        let links = Links { hub: self.connection.region.clone(), others };
        let leaf = Leaf::Connects { ports: vec![link.port()], login: login(&wanted.name.parse()?) };
        Ok((Region::start(Wanted { linked: Some((links, leaf)), ..wanted }).await?, link))
    }

    /// Waits until it has everything that the regions have; returns how long that took.
    ///
    /// # Errors
    /// When it does not within `limit`, with what is missing.
    pub async fn level_with(&self, regions: &[&Region], limit: Duration) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let level = wait::until("the hub has everything", limit, async || {
            self.is_level_with(regions).await.then(|| began.elapsed())
        });
        let error = match level.await {
            Ok(after) => return Ok(after),
            Err(error) => error,
        };
        let counts = self.compared_with(regions).await;
        let what = self.differs_from(regions).await.unwrap_or_else(|error| format!("{error:#}"));
        Err(error.context(format!("messages at the hub, and in the regions: {counts:?}; {what}")))
    }

    /// Whether it has everything that the regions have.
    pub async fn is_level_with(&self, regions: &[&Region]) -> bool {
        let [here, there] = self.compared_with(regions).await;
        here == there
    }

    /// How many accepted notifications, events and records it has, and how many the regions have.
    pub async fn compared_with(&self, regions: &[&Region]) -> [[u64; 3]; 2] {
        let count = async |connection: &Connection, stream: &str| {
            connection.stream_state(stream).await.map_or(0, |state| state.messages)
        };
        let mut there = [0; 3];
        for region in regions {
            let state = Subjects::new(&region.connection.region).state_stream();
            for (sum, stream) in there.iter_mut().zip([INTAKE, EVENTS, &state]) {
                *sum += count(&region.connection, stream).await;
            }
        }
        let mut here = [0; 3];
        for (own, stream) in here.iter_mut().zip([INTAKE, EVENTS, ALL_STATE]) {
            *own = count(&self.connection, stream).await;
        }
        [here, there]
    }

    /// What only one side has, and the end of the hub's log.
    async fn differs_from(&self, regions: &[&Region]) -> anyhow::Result<String> {
        let mut told = String::new();
        for stream in [INTAKE, EVENTS, ALL_STATE] {
            let mut here = messages_of(&self.connection, stream).await?;
            let mut missing = Vec::new();
            for region in regions {
                let own = match stream {
                    ALL_STATE => Subjects::new(&region.connection.region).state_stream(),
                    _ => stream.to_owned(),
                };
                for (key, place) in messages_of(&region.connection, &own).await? {
                    if here.remove(&key).is_none() {
                        missing.push((place, key));
                    }
                }
            }
            missing.sort_unstable();
            let (few, only) = (&missing[..missing.len().min(SHOWN)], here.len());
            writeln!(told, "{stream}: {} missing at the hub, {only} only there; first {few:?}", missing.len())?;
        }
        let log = program::tail(&self.server.log_file());
        Ok(format!("{told}-- hub\n{log}"))
    }
}

/// The messages of a stream by subject and content, and where and when they were stored.
async fn messages_of(
    connection: &Connection,
    stream: &str,
) -> anyhow::Result<BTreeMap<(String, Bytes), (u64, i64)>> {
    let mut reader = Reader::open(connection, stream).await?;
    let mut found = BTreeMap::new();
    while reader.peek().await?.is_some() {
        let Some(message) = reader.take() else { continue };
        found.insert((message.subject, message.payload), (message.sequence, message.at_ms));
    }
    Ok(found)
}
