//! A region of its own for each test: nats-server, gateway and dispatchers as processes.

mod api;
mod hub;
mod program;

use std::net::{Ipv4Addr, SocketAddr};
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
use peal_nats::Connection;
use peal_nats::connect::Options as ConnectOptions;
use peal_nats::inspect::StreamFacts;
use peal_nats::keys::Keys;
use peal_nats::server::{ClusterConfig, Leaf, Link, Server, ServerConfig, free_port};
use peal_nats::topology::{self, Current, Links, Topology};
use rand::rngs::StdRng;
use serde_json::json;
use tempfile::TempDir;

use crate::wait::{self, Patience};

pub use api::{Answer, Api};
pub use hub::{Hub, LINK_LIMIT};
pub use program::Program;

/// The app that everything belongs to.
pub const APP: &str = "shop";
/// The category of all notifications.
pub const CATEGORY: &str = "orders";
/// Registered recipients, `u-0`, `u-1`, …
pub const RECIPIENTS: u64 = 40;

const NAME: &str = "faulty";
const GIB: u64 = 1024 * 1024 * 1024;
/// What the server may store; the streams reserve their sizes of it.
const STORE_BYTES: u64 = 128 * GIB;
/// How long a linked region is silent before another one may take it over.
const SILENCE_SECONDS: u64 = 3;
/// How long the server may take to come back: it reads its streams first, on a machine that does much else.
const SERVER_LIMIT: Duration = Duration::from_secs(60);

/// What a test wants to have.
pub struct Wanted<'a> {
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
    /// Whether the gateway reaches the server over a link that can be cut.
    pub relayed: bool,
    /// The hub and the other regions, and how its server reaches the hub.
    pub linked: Option<(Links, Leaf)>,
}

impl<'a> Wanted<'a> {
    /// A region as users run it, with one dispatcher, whose webhooks go to `webhook`.
    pub fn new(webhook: &'a str) -> Self {
        Wanted {
            dispatchers: 1,
            ack_wait: None,
            webhook,
            nats_folder: None,
            nodes: 1,
            name: NAME,
            relayed: false,
            linked: None,
        }
    }
}

/// Everything that runs. It ends when it is dropped.
pub struct Region {
    /// The nats-servers: one, or a cluster.
    pub nodes: Vec<Server>,
    /// The gateway.
    pub gateway: Program,
    /// The dispatchers.
    pub dispatchers: Vec<Program>,
    /// For looking into the streams.
    pub connection: Connection,
    /// For calling the gateway.
    pub api: Api,
    topology: Topology,
    gateway_link: Option<Link>,
    folder: TempDir,
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
        let nodes = start_nodes(config, wanted.nodes).await?;
        let urls: Vec<_> = nodes.iter().map(Server::url).collect();
        let others = links.as_ref().map(|links| links.others.clone()).unwrap_or_default();
        let options = ConnectOptions { others, ..ConnectOptions::new(&urls, name, "peal-faults") };
        let connection = peal_nats::connect(&options).await?;
        let options = topology::Options {
            links: links.clone(),
            replicas: wanted.nodes,
            ..topology::Options::default()
        };
        let topology = apply_topology(&connection, wanted.ack_wait, &options).await?;

        let region_key = STANDARD.encode([7; KEY_BYTES]);
        let (key, secret) = make_key(&connection, Arc::new(Sealer::from_base64(&region_key)?)).await?;
        let settings = Settings {
            name: wanted.name,
            links,
            folder: folder.path(),
            region_key: &region_key,
            nats: &urls,
        };
        let gateway_link = match wanted.relayed {
            true => Some(Link::to(nodes[0].client_port()).await?),
            false => None,
        };
        let over_link =
            gateway_link.iter().map(|link| format!("nats://127.0.0.1:{}", link.port())).collect::<Vec<_>>();
        let gateway_nats = if over_link.is_empty() { &urls } else { &over_link };
        let mut gateway = Settings { nats: gateway_nats, ..settings.clone() }.program(
            "peal-gateway",
            "gateway",
            "gateway",
        )?;
        gateway.start()?;
        let mut dispatchers = Vec::new();
        for number in 0..wanted.dispatchers {
            let mut dispatcher =
                settings.program("peal-dispatcher", &format!("dispatcher-{number}"), "dispatcher")?;
            dispatcher.start()?;
            dispatchers.push(dispatcher);
        }
        gateway.until_ready().await?;
        for dispatcher in &mut dispatchers {
            dispatcher.until_ready().await?;
        }
        let api = Api::new(gateway.address, &key, &secret)?;
        let region = Region { nodes, gateway, dispatchers, connection, api, topology, gateway_link, folder };
        region.register(wanted.webhook).await?;
        Ok(region)
    }

    async fn register(&self, webhook: &str) -> anyhow::Result<()> {
        let category = json!({ "class": "transactional", "channels": ["webhook"] });
        self.api.put(&format!("/v1/categories/{CATEGORY}"), &category).await?;
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

    /// Kills everything that runs, at once.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            node.kill().await?;
        }
        self.gateway.kill().await?;
        for dispatcher in &mut self.dispatchers {
            dispatcher.kill().await?;
        }
        Ok(())
    }

    /// Starts everything again on the same data and waits until it is ready.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            node.restart().await?;
        }
        for program in std::iter::once(&mut self.gateway).chain(&mut self.dispatchers) {
            program.start()?;
        }
        for program in std::iter::once(&mut self.gateway).chain(&mut self.dispatchers) {
            program.until_ready().await?;
        }
        Ok(())
    }

    /// Runs `peal` with the region's settings; what it printed, on both channels, and whether it succeeded.
    pub async fn peal(&self, arguments: &[&str]) -> anyhow::Result<(bool, String)> {
        program::run("peal", arguments, &self.folder.path().join("gateway.toml")).await
    }

    /// Fails when a process has ended by itself.
    pub fn check(&mut self) -> anyhow::Result<()> {
        self.gateway.check()?;
        self.dispatchers.iter_mut().try_for_each(Program::check)
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

    /// Waits until every server has what the others have.
    pub async fn until_copied(&self) -> anyhow::Result<()> {
        let patience = Patience::new("all copies are current", SERVER_LIMIT);
        loop {
            let report = topology::check(&self.connection.jetstream, &self.topology).await;
            if report.is_ok_and(|report| report.is_ok()) {
                return Ok(());
            }
            patience.pause().await?;
        }
    }

    /// Waits until it has recovered from the loss of servers: it takes writes, and all copies are current.
    pub async fn until_recovered(&self) -> anyhow::Result<()> {
        self.until_it_takes_writes(SERVER_LIMIT).await?;
        self.until_copied().await
    }

    /// Which server of a cluster leads INTAKE; waits until one does.
    pub async fn leader_of_intake(&self) -> anyhow::Result<usize> {
        let patience = Patience::new("a server leads INTAKE", SERVER_LIMIT);
        loop {
            if let Some(leader) = self.known_leader().await {
                return Ok(leader);
            }
            patience.pause().await?;
        }
    }

    /// Waits until another server than `node` leads INTAKE.
    pub async fn until_another_leads(&self, node: usize) -> anyhow::Result<()> {
        let patience = Patience::new("another server leads INTAKE", SERVER_LIMIT);
        while self.known_leader().await.is_none_or(|leader| leader == node) {
            patience.pause().await?;
        }
        Ok(())
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

    /// Whatever still waits in a stream or is with a dispatcher, a line for each; nothing when all work is done.
    pub async fn left_over(&self) -> anyhow::Result<Vec<String>> {
        Ok(self.connection.stream_facts().await?.iter().flat_map(unfinished).collect())
    }

    /// The ends of all logs, for errors.
    pub fn logs(&self) -> String {
        let programs = std::iter::once(&self.gateway).chain(&self.dispatchers);
        let mut logs: Vec<_> =
            programs.map(|program| format!("-- {}\n{}", program.name, program.log_tail())).collect();
        let nodes = self.nodes.iter();
        logs.extend(nodes.map(|node| format!("-- nats-server\n{}", program::tail(&node.log_file()))));
        logs.push(format!("-- folder: {}", self.folder.path().display()));
        logs.join("\n")
    }
}

fn unfinished(stream: &StreamFacts) -> Vec<String> {
    let mut found = Vec::new();
    // A server that was killed may keep messages of a work queue whose acknowledgement its consumers do know: nobody is
    // given them any more. What is still to be done in a work queue is what its consumers have.
    let counts = [topology::SCHEDULE, topology::DEAD_LETTERS].contains(&stream.name.as_str());
    if stream.messages > 0 && counts {
        found.push(format!("{}: {} messages", stream.name, stream.messages));
    }
    for consumer in &stream.consumers {
        let waits = consumer.pending + consumer.unacknowledged as u64;
        if waits > 0 {
            found.push(format!("{} {}: {waits} in work", stream.name, consumer.name));
        }
    }
    found
}

/// One server, or a cluster of several.
async fn start_nodes(config: ServerConfig, count: usize) -> anyhow::Result<Vec<Server>> {
    if count == 1 {
        return Ok(vec![Server::start(config).await?]);
    }
    let routes = (0..count).map(|_| free_port()).collect::<Result<Vec<_>, _>>()?;
    let start = |(number, port): (usize, &u16)| {
        let cluster = ClusterConfig {
            name: config.region.to_string(),
            server_name: format!("node-{number}"),
            port: *port,
            routes: routes.clone(),
        };
        let data = config.data.join(format!("node-{number}"));
        Server::start(ServerConfig { cluster: Some(cluster), data, ..config.clone() })
    };
    Ok(try_join_all(routes.iter().enumerate().map(start)).await?)
}

async fn apply_topology(
    connection: &Connection,
    ack_wait: Option<Duration>,
    options: &topology::Options,
) -> anyhow::Result<Topology> {
    let mut wanted = Topology::for_region(&connection.region, options);
    if let Some(ack_wait) = ack_wait {
        let consumers = wanted.streams.iter_mut().flat_map(|stream| &mut stream.consumers);
        consumers.for_each(|consumer| consumer.ack_wait = ack_wait);
    }
    // Servers that just met may not know each other's resources yet and refuse to place a stream.
    wait::until("the topology can be applied", SERVER_LIMIT, async || {
        let current = Current::read(&connection.jetstream, &wanted).await.ok()?;
        topology::apply(&connection.jetstream, &topology::plan(&current, &wanted), false).await.ok()
    })
    .await?;
    Ok(wanted)
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

/// What the settings of all programs have in common.
#[derive(Clone)]
struct Settings<'a> {
    name: &'a str,
    links: Option<Links>,
    folder: &'a Path,
    region_key: &'a str,
    nats: &'a [String],
}

impl Settings<'_> {
    fn topology(&self) -> String {
        let Some(Links { hub, others }) = &self.links else { return String::new() };
        let regions = others.iter().map(RegionName::as_str).chain([self.name]);
        let regions: Vec<_> = regions.map(|name| format!("\"{name}\"")).collect();
        format!(
            "[topology]\nhub = \"{hub}\"\nregions = [{}]\nsilence_seconds = {SILENCE_SECONDS}\n\n",
            regions.join(", ")
        )
    }

    /// A program with settings of its own; `section` is the one that says where it listens and keeps its data.
    fn program(&self, binary: &str, name: &str, section: &str) -> anyhow::Result<Program> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let data = self.folder.join(name);
        let text = format!(
            "[region]\nname = \"{}\"\nkey = \"{}\"\n\n[nats]\nurls = [{}]\n\n{}\
             [{section}]\nlisten = \"{address}\"\ndata_dir = \"{}\"\n{}\n\
             [channels.webhook]\nallowed_networks = [\"127.0.0.0/8\"]\n",
            self.name,
            self.region_key,
            self.nats.iter().map(|url| format!("\"{url}\"")).collect::<Vec<_>>().join(", "),
            self.topology(),
            data.display(),
            if section == "dispatcher" { "retry_base_ms = 50\n" } else { "" },
        );
        let file = self.folder.join(format!("{name}.toml"));
        std::fs::write(&file, text)?;
        Program::new(binary, name, file, address)
    }
}
