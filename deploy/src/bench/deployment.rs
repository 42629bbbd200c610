//! What is measured: a nats-server, a gateway and a dispatcher as processes of their own, with an API key and what
//! notifications refer to. Everything listens on loopback and keeps its data in one folder, which goes away with it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use peal_common::clock::{Clock, HybridClock};
use peal_common::id::{AppId, Region};
use peal_common::key::{Grant, Scope};
use peal_common::seal::{KEY_BYTES, Sealer};
use peal_common::settings::GroupCommit;
use peal_nats::connect::Options;
use peal_nats::keys::Keys;
use peal_nats::server::{Server, ServerConfig, Sync, free_port};
use peal_nats::topology::{self, Current, MaxBytes, StreamSpec, Topology};
use peal_nats::{Connection, Subjects};
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::http::{Connection as Http, write_request};
use super::process::{Memory, Program, beside, processor_seconds};

/// The app that everything belongs to.
pub const APP: &str = "bench";
/// The stream that the raw rate is measured with.
pub const RAW_STREAM: &str = "BENCH_RAW";
/// Its subject.
pub const RAW_SUBJECT: &str = "bench.raw";

const REGION: &str = "bench";
const GIB: u64 = 1024 * 1024 * 1024;
/// What the server may store. Written out, since its own default depends on what is free and streams reserve their
/// sizes.
const STORE_BYTES: u64 = 64 * GIB;
/// How long a process may take until it is ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// A key with this limit is never held back.
const REQUESTS_PER_SECOND: u32 = 100_000_000;
/// Processes that take less than this share of a processor together have nothing left to do.
const IDLE_SHARE: f64 = 0.10;
const IDLE_INTERVAL: Duration = Duration::from_millis(250);

/// Everything that runs.
pub struct Deployment {
    /// The nats-server.
    pub server: Server,
    /// A connection to it, for what is not measured.
    pub connection: Connection,
    /// The region's subjects.
    pub subjects: Subjects,
    /// Where the gateway listens.
    pub gateway: SocketAddr,
    /// What requests bear.
    pub authorization: String,
    /// Seals recipients as the gateway would.
    pub sealer: Arc<Sealer>,
    /// Stamps what is written straight into the state.
    pub hybrid: HybridClock,
    dispatcher: SocketAddr,
    folder: PathBuf,
    settings: PathBuf,
    processes: BTreeMap<&'static str, Program>,
}

impl Deployment {
    /// Starts a nats-server and a gateway, and waits until they are ready. The dispatcher is started apart.
    ///
    /// # Errors
    /// When something does not start; what did start is ended.
    pub async fn start(folder: &Path, sync: Sync, group_commit: GroupCommit) -> anyhow::Result<Self> {
        Deployment::start_with(folder, sync, group_commit, "").await
    }

    /// The same with more settings.
    ///
    /// # Errors
    /// As [`Deployment::start`].
    pub async fn start_with(
        folder: &Path,
        sync: Sync,
        group_commit: GroupCommit,
        more: &str,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let region: Region = REGION.parse()?;
        let mut config = ServerConfig::new(region.clone(), folder.join("nats"));
        config.sync = sync;
        config.max_file_store = Some(STORE_BYTES);
        let server = Server::start(config).await?;
        let connection =
            peal_nats::connect(&Options::new([server.url()], region.clone(), "peal-bench")).await?;
        apply_topology(&connection).await?;

        let mut rng: StdRng = rand::make_rng();
        let mut key = [0; KEY_BYTES];
        rng.fill_bytes(&mut key);
        let key = STANDARD.encode(key);
        let sealer = Arc::new(Sealer::from_base64(&key)?);
        let authorization = make_key(&connection, &sealer, &mut rng).await?;

        let gateway = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let dispatcher = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let settings = folder.join("peal.toml");
        let text = settings_text(folder, &key, &server.url(), gateway, dispatcher, group_commit);
        std::fs::write(&settings, text + more)?;
        let mut deployment = Deployment {
            subjects: Subjects::new(&region),
            hybrid: HybridClock::new(Clock::System, region),
            server,
            connection,
            gateway,
            dispatcher,
            authorization,
            sealer,
            folder: folder.to_owned(),
            settings,
            processes: BTreeMap::new(),
        };
        deployment.launch("peal-gateway", gateway).await?;
        Ok(deployment)
    }

    /// Starts the dispatcher and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_dispatcher(&mut self) -> anyhow::Result<()> {
        self.launch("peal-dispatcher", self.dispatcher).await
    }

    /// Ends the dispatcher; what was in flight comes again.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn stop_dispatcher(&mut self) -> anyhow::Result<()> {
        match self.processes.remove("peal-dispatcher") {
            Some(mut program) => program.kill().await,
            None => Ok(()),
        }
    }

    async fn launch(&mut self, name: &'static str, address: SocketAddr) -> anyhow::Result<()> {
        let program =
            Program::start(&beside(name)?, &self.settings, self.folder.join(format!("{name}.log")))?;
        let program = self.processes.entry(name).or_insert(program);
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            program.check().context(name)?;
            if get(address, "/readyz", "none").await.is_ok_and(|status| status == 200) {
                return Ok(());
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "{name} is not ready after {READY_LIMIT:?}; the end of its log:\n{}",
                program.log_tail()
            );
            sleep(POLL).await;
        }
    }

    /// The processes by name.
    #[must_use]
    pub fn pids(&self) -> BTreeMap<String, u32> {
        let programs = self.processes.iter().map(|(name, program)| ((*name).to_owned(), program.pid()));
        let all = programs.chain([("nats-server".to_owned(), self.server.pid())]);
        all.filter_map(|(name, pid)| Some((name, pid?))).collect()
    }

    /// The memory of each process.
    #[must_use]
    pub fn memory(&self) -> BTreeMap<String, Memory> {
        self.pids().into_iter().filter_map(|(name, pid)| Some((name, Memory::of(pid)?))).collect()
    }

    /// Waits until gateway, dispatcher and nats-server have nothing left to do, such as to index what was accepted;
    /// gives how long that took.
    ///
    /// # Errors
    /// When they are still at work after `limit`.
    pub async fn settle(&self, limit: Duration) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let used = || self.pids().values().map(|pid| processor_seconds(*pid)).sum::<f64>();
        let mut before = used();
        loop {
            sleep(IDLE_INTERVAL).await;
            let now = used();
            if now - before < IDLE_SHARE * IDLE_INTERVAL.as_secs_f64() {
                return Ok(start.elapsed().saturating_sub(IDLE_INTERVAL));
            }
            before = now;
            anyhow::ensure!(
                start.elapsed() < limit,
                "the processes are still at work {limit:?} after the load"
            );
        }
    }

    /// The first lines of what went wrong, for errors.
    #[must_use]
    pub fn logs(&self) -> String {
        let tails = self.processes.iter().map(|(name, program)| format!("{name}: {}", program.log_tail()));
        tails.collect::<Vec<_>>().join("\n")
    }

    /// Asks the gateway for something and gives the status.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn get(&self, path: &str) -> anyhow::Result<u16> {
        get(self.gateway, path, &self.authorization).await
    }

    /// Ends everything and deletes the folder.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn end(mut self) -> anyhow::Result<()> {
        for program in self.processes.values_mut() {
            program.kill().await?;
        }
        self.server.kill().await?;
        tokio::fs::remove_dir_all(&self.folder).await.context("cannot delete the folder of the measurement")
    }
}

async fn get(address: SocketAddr, path: &str, authorization: &str) -> anyhow::Result<u16> {
    let mut request = Vec::new();
    write_request(&mut request, "GET", path, authorization, "");
    Ok(Http::open(address).await?.call(&request).await?)
}

/// The region's topology with generous sizes, and one more stream, configured as INTAKE is, for the raw rate.
async fn apply_topology(connection: &Connection) -> anyhow::Result<()> {
    let options = topology::Options {
        max_bytes: MaxBytes {
            intake: 8 * GIB,
            work: 2 * GIB,
            events: 8 * GIB,
            dead_letters: GIB,
            attempts: GIB,
            inbox: GIB,
            state: 4 * GIB,
        },
        ..topology::Options::default()
    };
    let mut wanted = Topology::for_region(&connection.region, &options);
    let intake = wanted.stream(topology::INTAKE).context("the topology has no INTAKE")?.config.clone();
    let mut raw = intake;
    RAW_STREAM.clone_into(&mut raw.name);
    raw.subjects = vec![RAW_SUBJECT.to_owned()];
    wanted.streams.push(StreamSpec { config: raw, consumers: Vec::new() });
    let current = Current::read(&connection.jetstream, &wanted).await?;
    topology::apply(&connection.jetstream, &topology::plan(&current, &wanted), false).await?;
    Ok(())
}

/// Makes an API key that may do everything; gives what requests bear.
async fn make_key(connection: &Connection, sealer: &Arc<Sealer>, rng: &mut StdRng) -> anyhow::Result<String> {
    let keys = Keys::new(crate::region::state_writer(connection), Arc::clone(sealer));
    let app: AppId = APP.parse()?;
    let grant = Grant {
        app,
        name: "peal bench".to_owned(),
        scopes: vec![Scope::Admin],
        created_at: Clock::System.now(),
        expires_at: None,
        rate_limit_per_second: Some(REQUESTS_PER_SECOND),
    };
    let made = keys.create(grant, rng).await?;
    let pair = format!("{}:{}", made.key.key, made.secret.as_str());
    Ok(format!("Basic {}", STANDARD.encode(pair)))
}

/// The settings of both processes: the defaults, except for places and for webhooks that may reach this machine.
fn settings_text(
    folder: &Path,
    key: &str,
    nats: &str,
    gateway: SocketAddr,
    dispatcher: SocketAddr,
    group_commit: GroupCommit,
) -> String {
    let group_commit = match group_commit {
        GroupCommit::Auto => "auto",
        GroupCommit::Never => "never",
        GroupCommit::Always => "always",
    };
    let data = |name: &str| toml::Value::String(folder.join(name).to_string_lossy().into_owned());
    format!(
        "[region]\nname = \"{REGION}\"\nkey = \"{key}\"\n\n[nats]\nurls = [\"{nats}\"]\n\n\
         [gateway]\nlisten = \"{gateway}\"\ndata_dir = {}\ngroup_commit = \"{group_commit}\"\n\n\
         [dispatcher]\nlisten = \"{dispatcher}\"\ndata_dir = {}\n\n\
         [channels.webhook]\nallowed_networks = [\"127.0.0.0/8\"]\n\n",
        data("gateway"),
        data("dispatcher")
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use peal_common::settings::Settings;

    use super::*;

    #[test]
    fn the_settings_are_those_that_processes_read() {
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let key = STANDARD.encode([1; KEY_BYTES]);
        let text = settings_text(
            Path::new("/a \"b\""),
            &key,
            "nats://127.0.0.1:2",
            address,
            address,
            GroupCommit::Never,
        );
        let settings = Settings::parse(Some(&text), HashMap::new()).unwrap();
        assert_eq!(settings.gateway.data_dir, Path::new("/a \"b\"/gateway"));
        assert_eq!(settings.gateway.group_commit, GroupCommit::Never);
        assert!(settings.sealer().is_ok());
    }
}
