//! A region of its own for each test: nats-server, gateway and dispatchers as processes.

mod api;
pub mod balancer;
mod hub;
mod leaders;
pub mod network;
mod program;
mod settings;
pub mod tap;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::try_join_all;
use peal_common::clock::Clock;
use peal_common::id::{AppId, Region as RegionName};
use peal_common::key::{Grant, Scope};
use peal_common::seal::{KEY_BYTES, Sealer};
use peal_nats::connect::Options as ConnectOptions;
use peal_nats::inspect::StreamFacts;
use peal_nats::keys::Keys;
use peal_nats::server::{Leaf, Link, Routes, Server, ServerConfig, find};
use peal_nats::topology::{self, Current, Links, Topology};
use peal_nats::{Connection, Subjects};
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

use self::balancer::Balancer;
use self::network::{Host, Network};
use self::settings::{Settings, address_on};
use self::tap::Tap;
use crate::spread::Spread;
use crate::wait::{self, Patience};

pub use api::{Answer, Api, plain_client};
pub use hub::{Hub, LINK_LIMIT};
pub use program::{END_LIMIT, Program};

/// The app that everything belongs to.
pub const APP: &str = "shop";
/// The category of all notifications.
pub const CATEGORY: &str = "orders";
/// A category of advertisements beside it.
pub const NEWS: &str = "news";
/// Registered recipients, `u-0`, `u-1`, …
pub const RECIPIENTS: u64 = 40;

const NAME: &str = "faulty";
const GIB: u64 = 1024 * 1024 * 1024;
/// What the server may store; the streams reserve their sizes of it.
const STORE_BYTES: u64 = 128 * GIB;
/// How long it may take until the first write is taken.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long the server may take to come back: it reads its streams first, on a machine that does much else.
const SERVER_LIMIT: Duration = Duration::from_secs(60);
/// A server that missed what the log no longer has needs a snapshot of its leader, which puts snapshots off while it sends
/// others their missing entries: four times, 15 s apart (nats-server 2.15.1).
const COPY_LIMIT: Duration = Duration::from_secs(180);

/// What a test wants to have.
pub struct Wanted<'a> {
    /// How many gateways.
    pub gateways: usize,
    /// How many dispatchers.
    pub dispatchers: usize,
    /// After how long the server hands a message out again; `None` is what Peal's own topology says.
    pub ack_wait: Option<Duration>,
    /// Where webhooks go.
    pub webhook: &'a str,
    /// Where the server keeps its streams, unless it is the test's own folder.
    pub nats_folder: Option<PathBuf>,
    /// How many servers.
    pub nodes: usize,
    /// Its name.
    pub name: &'a str,
    /// The library with which the clocks of the gateway and the dispatchers can be set.
    pub clocks: Option<PathBuf>,
    /// The network on which each gateway and each dispatcher has a host of its own.
    pub network: Option<Network>,
    /// Whether the gateways are called through a load balancer.
    pub is_balanced: bool,
    /// The folder of an older build, which gateways and dispatchers are started from at first.
    pub old_programs: Option<PathBuf>,
    /// Whether the gateway reaches the server over a link that can be cut.
    pub relayed: bool,
    /// Whether the dispatchers reach the server over a tap that can keep back single messages.
    pub tapped: bool,
    /// Further settings of all programs, such as those of channels.
    pub channels: &'a str,
    /// The hub and the other regions, and how its server reaches the hub.
    pub linked: Option<(Links, Leaf)>,
}

impl<'a> Wanted<'a> {
    /// A region as users run it, with one gateway and one dispatcher, whose webhooks go to `webhook`.
    pub fn new(webhook: &'a str) -> Self {
        Wanted {
            gateways: 1,
            dispatchers: 1,
            ack_wait: None,
            webhook,
            nats_folder: None,
            nodes: 1,
            name: NAME,
            clocks: None,
            network: None,
            is_balanced: false,
            old_programs: None,
            relayed: false,
            tapped: false,
            channels: "",
            linked: None,
        }
    }
}

/// Everything that runs. It ends when it is dropped.
pub struct Region {
    /// The nats-servers: one, or a cluster.
    pub nodes: Vec<Server>,
    /// The gateways.
    pub gateways: Vec<Program>,
    /// The dispatchers.
    pub dispatchers: Vec<Program>,
    /// For looking into the streams.
    pub connection: Connection,
    /// For calling the gateway, or the load balancer before several.
    pub api: Api,
    /// How fast changes of its state are in all of its programs.
    pub spread: Spread,
    /// Whether messages came in that nobody can read.
    pub is_poisoned: bool,
    /// How long the last [`until_copied`](Self::until_copied) waited.
    pub copied_after: Option<Duration>,
    topology: Topology,
    routes: Option<Routes>,
    gateway_link: Option<Link>,
    tap: Option<Tap>,
    folder: TempDir,
    _balancer: Option<Balancer>,
}

impl Region {
    /// Starts everything, waits until it is ready, and makes the category and the recipients.
    pub async fn start(wanted: Wanted<'_>) -> anyhow::Result<Self> {
        let mut folder = tempfile::tempdir()?;
        folder.disable_cleanup(std::env::var_os("PEAL_FAULT_KEEP").is_some());
        let name: RegionName = wanted.name.parse()?;
        let (links, leaf) = wanted.linked.unzip();
        let nats_folder = wanted.nats_folder.unwrap_or_else(|| folder.path().join("nats"));
        let mut config = ServerConfig::new(name.clone(), nats_folder);
        config.max_file_store = Some(STORE_BYTES);
        config.start_limit = SERVER_LIMIT;
        config.leaf = leaf;
        if wanted.network.is_some() {
            config.host = network::OWN.into();
        }
        let routes = if wanted.nodes > 1 { Some(Routes::new(wanted.nodes).await?) } else { None };
        let nodes = match &routes {
            Some(routes) => start_cluster(config, wanted.nodes, routes).await?,
            None => vec![Server::start(config).await?],
        };
        let urls: Vec<_> = nodes.iter().map(Server::url).collect();
        let others = links.as_ref().map(|links| links.others.clone()).unwrap_or_default();
        let options = ConnectOptions { others, ..ConnectOptions::new(&urls, name, "peal-faults") };
        let connection = peal_nats::connect(&options).await?;
        let options = topology::Options {
            links: links.clone(),
            replicas: wanted.nodes,
            ..topology::Options::default()
        };
        let topology = make_topology(&connection, wanted.ack_wait, &options).await?;

        let region_key = STANDARD.encode([7; KEY_BYTES]);
        let (key, secret) = make_key(&connection, Arc::new(Sealer::from_base64(&region_key)?)).await?;
        let settings = Settings {
            name: wanted.name,
            links,
            folder: folder.path(),
            region_key: &region_key,
            clocks: wanted.clocks.as_deref(),
            channels: wanted.channels,
            old_programs: wanted.old_programs.as_deref(),
        };
        let gateway_link = match wanted.relayed {
            true => Some(Link::to(nodes[0].client_port()).await?),
            false => None,
        };
        let over_link = gateway_link.iter().map(|link| format!("nats://127.0.0.1:{}", link.port()));
        let over_link: Vec<_> = over_link.collect();
        let gateway_nats = if over_link.is_empty() { &urls } else { &over_link };
        let tap = match wanted.tapped {
            true => Some(Tap::to(nodes[0].client_port()).await?),
            false => None,
        };
        let over_tap: Vec<_> = tap.iter().map(|tap| format!("nats://127.0.0.1:{}", tap.port())).collect();
        let dispatcher_nats = if over_tap.is_empty() { &urls } else { &over_tap };
        let mut network = wanted.network;
        let mut gateways = Vec::new();
        for number in 0..wanted.gateways {
            let host = another_host(&mut network).await?;
            let mut gateway = settings.program("gateway", number, gateway_nats, host)?;
            gateway.start()?;
            gateways.push(gateway);
        }
        let mut dispatchers = Vec::new();
        for number in 0..wanted.dispatchers {
            let host = another_host(&mut network).await?;
            let mut dispatcher = settings.program("dispatcher", number, dispatcher_nats, host)?;
            dispatcher.start()?;
            dispatchers.push(dispatcher);
        }
        for program in gateways.iter_mut().chain(&mut dispatchers) {
            program.until_ready().await?;
        }
        let (balancer, address) = match wanted.is_balanced {
            true => {
                let host = another_host(&mut network).await?;
                let address = address_on(host.as_ref())?;
                let behind: Vec<_> = gateways.iter().map(|gateway| gateway.address).collect();
                (Some(Balancer::start(folder.path(), address, host, &behind)?), address)
            }
            false => (None, gateways[0].address),
        };
        let api = Api::new(address, &key, &secret)?;
        let programs = gateways.iter().chain(&dispatchers).map(|program| program.address).collect();
        let spread = Spread::start(&api, &connection, programs)?;
        let region = Region {
            spread,
            nodes,
            gateways,
            dispatchers,
            connection,
            api,
            is_poisoned: false,
            copied_after: None,
            topology,
            routes,
            gateway_link,
            tap,
            folder,
            _balancer: balancer,
        };
        region.until_it_takes_writes(READY_LIMIT).await?;
        region.register(wanted.webhook).await?;
        Ok(region)
    }

    async fn register(&self, webhook: &str) -> anyhow::Result<()> {
        let category = json!({ "class": "transactional", "channels": ["webhook"] });
        self.api.put(&format!("/v1/categories/{CATEGORY}"), &category).await?;
        let news = json!({ "class": "marketing", "channels": ["sms"] });
        self.api.put(&format!("/v1/categories/{NEWS}"), &news).await?;
        for number in 0..RECIPIENTS {
            // Each has an endpoint of its own, as users do.
            let contact = json!({ "channel": "webhook", "address": format!("{webhook}/{number}") });
            self.api.put(&format!("/v1/recipients/u-{number}"), &json!({ "contacts": [contact] })).await?;
        }
        Ok(())
    }

    /// The link between the gateway and its server.
    ///
    /// # Errors
    /// When it was not wanted.
    pub fn gateway_link(&self) -> anyhow::Result<&Link> {
        self.gateway_link.as_ref().context("the gateway is not relayed")
    }

    /// The tap between the dispatchers and their server.
    ///
    /// # Errors
    /// When it was not wanted.
    pub fn tap(&self) -> anyhow::Result<&Tap> {
        self.tap.as_ref().context("the dispatchers are not tapped")
    }

    /// The network between its servers.
    ///
    /// # Errors
    /// When it has one only.
    pub fn routes(&self) -> anyhow::Result<&Routes> {
        self.routes.as_ref().context("one server has no routes")
    }

    /// Makes streams and consumers that are missing.
    pub async fn apply_topology(&self) -> anyhow::Result<()> {
        apply(&self.connection, &self.topology).await
    }

    /// Kills everything that runs, at once.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            node.kill().await?;
        }
        for program in self.gateways.iter_mut().chain(&mut self.dispatchers) {
            program.kill().await?;
        }
        Ok(())
    }

    /// Starts everything again on the same data and waits until it is ready.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            node.restart().await?;
        }
        for program in self.gateways.iter_mut().chain(&mut self.dispatchers) {
            program.start()?;
        }
        for program in self.gateways.iter_mut().chain(&mut self.dispatchers) {
            program.until_ready().await?;
        }
        Ok(())
    }

    /// Runs `peal` with the region's settings; what it printed, on both channels, and whether it succeeded.
    pub async fn peal(&self, arguments: &[&str]) -> anyhow::Result<(bool, String)> {
        program::run("peal", arguments, &self.folder.path().join("gateway-0.toml")).await
    }

    /// Fails when a process has ended by itself.
    pub fn check(&mut self) -> anyhow::Result<()> {
        self.gateways.iter_mut().chain(&mut self.dispatchers).try_for_each(Program::check)
    }

    /// One of the gateways and dispatchers.
    pub fn any_program(&mut self, rng: &mut StdRng) -> &mut Program {
        let number = rng.random_range(0..self.gateways.len() + self.dispatchers.len());
        match number.checked_sub(self.gateways.len()) {
            Some(number) => &mut self.dispatchers[number],
            None => &mut self.gateways[number],
        }
    }

    /// Waits until the gateway takes writes.
    pub async fn until_it_takes_writes(&self, limit: Duration) -> anyhow::Result<()> {
        self.until_writes("writes are taken", limit, |answer| (200..300).contains(&answer.status)).await
    }

    /// Waits until the gateway refuses writes and says when to come back.
    pub async fn until_it_refuses_writes(&self, limit: Duration) -> anyhow::Result<()> {
        self.until_writes("writes are refused", limit, Answer::is_come_back).await
    }

    async fn until_writes(
        &self,
        what: &str,
        limit: Duration,
        wanted: fn(&Answer) -> bool,
    ) -> anyhow::Result<()> {
        let patience = Patience::new(what, limit);
        loop {
            // Another content each time, since the same is not written again.
            let body = json!({ "attributes": { "probed": wait::now_ms() } });
            if self.api.send_put("/v1/recipients/probe", &body).await.is_ok_and(|answer| wanted(&answer)) {
                return Ok(());
            }
            patience.pause().await?;
        }
    }

    /// Waits until the region and the stock `nats` command, where there is one, know of all its gateways and dispatchers, and
    /// of no others.
    pub async fn until_all_are_seen(&self) -> anyhow::Result<()> {
        let patience = Patience::new("all gateways and dispatchers are listed", READY_LIMIT);
        let nats = find::nats_command()?;
        let all = (self.gateways.len(), self.dispatchers.len());
        loop {
            if let Ok(answer) = self.api.get("/v1/regions").await {
                let count = |of: &str| answer.body["data"][0][of].as_array().map_or(0, Vec::len);
                let listed = match &nats {
                    Some(nats) => self.listed(nats).await?,
                    None => all,
                };
                if (count("gateways"), count("dispatchers")) == all && listed == all {
                    return Ok(());
                }
            }
            patience.pause().await?;
        }
    }

    /// How many gateways and dispatchers `nats micro ls` tells of.
    async fn listed(&self, nats: &Path) -> anyhow::Result<(usize, usize)> {
        let mut command = tokio::process::Command::new(nats);
        command.args(["--server", &self.nodes[0].url(), "micro", "ls", "--json"]).kill_on_drop(true);
        let output = tokio::time::timeout(READY_LIMIT, command.output()).await??;
        // It writes no list when it has found none.
        let services: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let services = services.as_array().map_or(&[][..], Vec::as_slice);
        let count = |name: &str| services.iter().filter(|service| service["name"] == name).count();
        Ok((count("peal-gateway"), count("peal-dispatcher")))
    }

    /// Waits until every server has what the others have.
    pub async fn until_copied(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        let patience = Patience::new("all copies are current", COPY_LIMIT);
        loop {
            let report = topology::check(&self.connection.jetstream, &self.topology).await;
            if report.is_ok_and(|report| report.is_ok()) {
                self.copied_after = Some(began.elapsed());
                return Ok(());
            }
            patience.pause().await?;
        }
    }

    /// Waits until it has recovered from the loss of servers: it takes writes, and all copies are current.
    pub async fn until_recovered(&mut self) -> anyhow::Result<()> {
        self.until_it_takes_writes(SERVER_LIMIT).await?;
        self.until_copied().await
    }

    /// Waits until no server leads INTAKE. A leader that has lost the others goes on for about 20 s (nats-server 2.15).
    pub async fn until_nobody_leads(&self) -> anyhow::Result<()> {
        let patience = Patience::new("no server leads INTAKE", SERVER_LIMIT);
        loop {
            let connects = self.connection.connects();
            let leader = self.known_leader().await;
            // Silence says something only when the question has arrived.
            let asked = self.connection.is_connected() && self.connection.connects() == connects;
            if asked && leader.is_none() {
                return Ok(());
            }
            patience.pause().await?;
        }
    }

    /// Which server says that it leads INTAKE, if any does.
    async fn known_leader(&self) -> Option<usize> {
        let stream = self.connection.jetstream.get_stream(topology::INTAKE).await.ok()?;
        let leader = stream.cached_info().cluster.as_ref()?.leader.as_deref()?;
        leader.strip_prefix("node-")?.parse().ok()
    }

    /// Whatever still waits in a stream or is with a dispatcher, a line for each; nothing when all work is done and as many
    /// deliveries are put aside as there ended so that nobody knows whether they were made.
    pub async fn left_over(&self, ambiguous: u64) -> anyhow::Result<Vec<String>> {
        if self.is_poisoned {
            // Nobody can tell whose they are. The operator has seen them, and sees them again: a server that was killed
            // may forget that they were put aside.
            let foreign = Subjects::new(&self.connection.region).dead_of("none");
            self.connection.purge(topology::DEAD_LETTERS, &foreign).await?;
        }
        let facts = self.connection.stream_facts().await?;
        Ok(facts.iter().flat_map(|stream| unfinished(stream, ambiguous)).collect())
    }

    /// The ends of all logs, for errors.
    pub fn logs(&self) -> String {
        let programs = self.gateways.iter().chain(&self.dispatchers);
        let mut logs: Vec<_> =
            programs.map(|program| format!("-- {}\n{}", program.name, program.log_tail())).collect();
        let nodes = self.nodes.iter();
        logs.extend(nodes.map(|node| format!("-- nats-server\n{}", program::tail(&node.log_file()))));
        logs.push(format!("-- folder: {}", self.folder.path().display()));
        logs.join("\n")
    }
}

fn unfinished(stream: &StreamFacts, ambiguous: u64) -> Vec<String> {
    let mut found = Vec::new();
    // A server that was killed may keep messages of a work queue whose acknowledgement its consumers do know: nobody is
    // given them any more. What is still to be done in a work queue is what its consumers have.
    let wanted = match stream.name.as_str() {
        topology::SCHEDULE => 0,
        topology::DEAD_LETTERS => ambiguous,
        _ => stream.messages,
    };
    if stream.messages != wanted {
        found.push(format!("{}: {} messages", stream.name, stream.messages));
    }
    // What goes to another domain is acknowledged in a pause, or after thousands: the scenarios compare the streams.
    for consumer in stream.consumers.iter().filter(|consumer| !consumer.pushes) {
        let waits = consumer.pending + consumer.unacknowledged as u64;
        if waits > 0 {
            found.push(format!("{} {}: {waits} in work", stream.name, consumer.name));
        }
    }
    found
}

/// A cluster of `count` servers.
async fn start_cluster(config: ServerConfig, count: usize, routes: &Routes) -> anyhow::Result<Vec<Server>> {
    let start = async |number: usize| {
        let cluster = Some(routes.of(number, config.region.as_str())?);
        let data = config.data.join(format!("node-{number}"));
        anyhow::Ok(Server::start(ServerConfig { cluster, data, ..config.clone() }).await?)
    };
    try_join_all((0..count).map(start)).await
}

async fn make_topology(
    connection: &Connection,
    ack_wait: Option<Duration>,
    options: &topology::Options,
) -> anyhow::Result<Topology> {
    let mut wanted = Topology::for_region(&connection.region, options);
    if let Some(ack_wait) = ack_wait {
        let consumers = wanted.streams.iter_mut().flat_map(|stream| &mut stream.consumers);
        // What hands on to other regions is acknowledged by flow control and has no such wait.
        let pulled = consumers.filter(|consumer| consumer.deliver_subject.is_none());
        pulled.for_each(|consumer| consumer.ack_wait = ack_wait);
    }
    apply(connection, &wanted).await?;
    Ok(wanted)
}

async fn apply(connection: &Connection, wanted: &Topology) -> anyhow::Result<()> {
    // Servers that just met may not know each other's resources yet and refuse to place a stream.
    let patience = Patience::new("the topology can be applied", SERVER_LIMIT);
    let jetstream = &connection.jetstream;
    loop {
        let applied = async {
            let current = Current::read(jetstream, wanted).await?;
            topology::apply(jetstream, &topology::plan(&current, wanted), false).await?;
            anyhow::Ok(())
        };
        let Err(error) = applied.await else { return Ok(()) };
        patience.pause().await.context(error)?;
    }
}

async fn make_key(connection: &Connection, sealer: Arc<Sealer>) -> anyhow::Result<(String, String)> {
    let keys = Keys::new(peal::region::state_writer(connection), sealer);
    let app: AppId = APP.parse()?;
    let grant = Grant {
        app,
        name: "fault tests".to_owned(),
        scopes: vec![Scope::Send, Scope::Read, Scope::Manage, Scope::Admin],
        created_at: Clock::System.now(),
        expires_at: None,
        rate_limit_per_second: Some(1_000_000),
    };
    let made = keys.create(grant, &mut rand::make_rng::<StdRng>()).await?;
    Ok((made.key.key.to_string(), made.secret.to_string()))
}

async fn another_host(network: &mut Option<Network>) -> anyhow::Result<Option<Host>> {
    match network {
        Some(network) => Ok(Some(network.host().await?)),
        None => Ok(None),
    }
}
