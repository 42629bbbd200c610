//! The hub of two regions.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use peal_common::id::Region as Name;
use peal_common::seal::KEY_BYTES;
use peal_nats::Subjects;
use peal_nats::connect::{self, Connection, Options as ConnectOptions};
use peal_nats::follow::Reader;
use peal_nats::server::{Leaf, Link, Login, Server, ServerConfig, free_port};
use peal_nats::topology::{self, ALL_STATE, Current, EVENTS, INTAKE, Links, Topology};
use tempfile::TempDir;
use tokio::time::Instant;

use super::program::Program;
use super::settings::Settings;
use super::{Region, Wanted, program};
use crate::wait::Patience;

/// How long servers may take until they first take messages from each other: where a consumer is not there yet they try
/// again after a pause that grows to two minutes.
pub const LINK_LIMIT: Duration = Duration::from_secs(240);
/// What its streams may reserve.
const STORE_BYTES: u64 = 256 << 30;
/// Where numbers differ the messages themselves are compared, which takes long: when none has come for this time.
const STILL: Duration = Duration::from_secs(2);

/// The hub of the regions `eu` and `us`: a nats-server with its streams, and a gateway. It ends when it is dropped.
pub struct Hub {
    connection: Connection,
    port: u16,
    gateway: Program,
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
        let settings = Settings {
            name: name.as_str(),
            links: Some(Links { hub: name.clone(), others: names().to_vec() }),
            folder: folder.path(),
            region_key: &STANDARD.encode([7; KEY_BYTES]),
            clocks: None,
            channels: "",
            old_programs: None,
        };
        let mut gateway = settings.program("gateway", 0, &[server.url()], None)?;
        // Nobody waits for it: the longer the regions are not there, the more seldom the server tries to reach them.
        gateway.start()?;
        Ok(Hub { connection, port, gateway, server, _folder: folder })
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
        let (began, patience) = (Instant::now(), Patience::new("the hub has everything", limit));
        let (mut had, mut since) = ([0; 3], Instant::now());
        loop {
            let [here, there] = self.compared_with(regions).await;
            if here == there {
                return Ok(began.elapsed());
            }
            if here != had {
                (had, since) = (here, Instant::now());
            } else if since.elapsed() > STILL {
                // What was missed and written again counts twice in its region.
                if self.lacks(regions).await.is_ok_and(|lacks| lacks.is_empty()) {
                    return Ok(began.elapsed());
                }
                since = Instant::now();
            }
            if let Err(error) = patience.pause().await {
                let lacks = self.lacks(regions).await.unwrap_or_else(|error| format!("{error:#}"));
                let (server, gateway) = (program::tail(&self.server.log_file()), self.gateway.log_tail());
                let told = format!("messages here and there: {here:?} {there:?}\n{lacks}");
                return Err(error.context(format!("{told}-- hub\n{server}\n-- its gateway\n{gateway}")));
            }
        }
    }

    /// How what the regions hand on to it stands.
    pub async fn standing(&self, regions: &[&Region]) -> String {
        let mut told = String::new();
        for stream in [INTAKE, EVENTS, ALL_STATE] {
            match self.connection.sources(stream).await {
                Ok(sources) => told += &format!("{stream}: {sources:?}\n"),
                Err(error) => told += &format!("{stream}: {error}\n"),
            }
        }
        for region in regions {
            told += &queue(&region.connection, &self.connection.region).await;
        }
        told
    }

    /// Whether it has as much as the regions have.
    pub async fn is_level_with(&self, regions: &[&Region]) -> bool {
        let [here, there] = self.compared_with(regions).await;
        here == there
    }

    /// How many accepted notifications, events and records it has, and how many the regions have: more by what was written
    /// again for it, once it has everything.
    pub async fn compared_with(&self, regions: &[&Region]) -> [[u64; 3]; 2] {
        let count = async |connection: &Connection, stream: &str| {
            connection.stream_state(stream).await.map_or(0, |state| state.messages)
        };
        let mut there = [0; 3];
        for region in regions {
            for (sum, (_, own)) in there.iter_mut().zip(streams(region)) {
                *sum += count(&region.connection, &own).await;
            }
        }
        let mut here = [0; 3];
        for (own, stream) in here.iter_mut().zip([INTAKE, EVENTS, ALL_STATE]) {
            *own = count(&self.connection, stream).await;
        }
        [here, there]
    }

    /// Which messages of the regions it does not have.
    async fn lacks(&self, regions: &[&Region]) -> anyhow::Result<String> {
        let mut told = String::new();
        for region in regions {
            for (at_hub, own) in streams(region) {
                let mut lacks = messages_of(&region.connection, &own).await?;
                let here = messages_of(&self.connection, at_hub).await?;
                lacks.retain(|content, _| !here.contains_key(content));
                let mut places: Vec<_> = lacks.into_values().collect();
                places.sort_unstable();
                if let Some(first) = places.first() {
                    let count = places.len();
                    writeln!(
                        told,
                        "{count} of {own} of {}, the first at {first:?}",
                        region.connection.region
                    )?;
                }
            }
        }
        Ok(told)
    }
}

/// How the state stands that is on its way to the hub, and whom the server hands it to.
async fn queue(connection: &Connection, hub: &Name) -> String {
    let told = async {
        let queue = connection.jetstream.get_stream(topology::state_to(hub)).await?;
        let mut consumers = Vec::new();
        let mut names = queue.consumer_names();
        while let Some(name) = names.try_next().await? {
            let info = queue.consumer_info(&name).await?;
            consumers.push(format!(
                "{name}: delivered {:?}, confirmed {:?}, {} unconfirmed, {} waiting, bound {}",
                info.delivered, info.ack_floor, info.num_ack_pending, info.num_pending, info.push_bound
            ));
        }
        anyhow::Ok(format!(
            "{}: {:?}\n{}\n",
            connection.region,
            queue.cached_info().state,
            consumers.join("\n")
        ))
    };
    told.await.unwrap_or_else(|error| format!("{error:#}\n"))
}

/// The streams of a region that the hub gathers, and where it does.
fn streams(region: &Region) -> [(&'static str, String); 3] {
    let state = Subjects::new(&region.connection.region).state_stream();
    [(INTAKE, INTAKE.to_owned()), (EVENTS, EVENTS.to_owned()), (ALL_STATE, state)]
}

/// The messages of a stream by content, and where and when they were stored.
async fn messages_of(connection: &Connection, stream: &str) -> anyhow::Result<HashMap<Bytes, (u64, i64)>> {
    let mut reader = Reader::open(connection, stream).await?;
    let mut found = HashMap::new();
    while reader.peek().await?.is_some() {
        let Some(message) = reader.take() else { continue };
        found.insert(message.payload, (message.sequence, message.at_ms));
    }
    Ok(found)
}
