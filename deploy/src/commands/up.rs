//! `peal up`: everything on this machine, until Ctrl-C.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use futures_util::future::try_join_all;
use peal_nats::Region;
use peal_nats::server::{Leaf, Login, free_port};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::output::{Output, UsageError};
use crate::region::DEFAULT_DIR;
use crate::up::folder::Folder;
use crate::up::place::{Place, Stack};
use crate::up::ready;
use crate::up::settings::{Linked, Wanted};
use crate::up::summary::{Summary, several};

const EXAMPLES: &str = "\
Examples:
  peal up                       everything in .peal, the API on port 8080
  peal up --port 9000           on another port, from now on
  peal up --config mine.toml    with more settings, such as a mail server
  peal up --regions eu,us,ap    three regions and their hub, each in a folder of its own in .peal
  PEAL__CHANNELS__WEBHOOK__ALLOWED_NETWORKS=127.0.0.0/8 peal up";

/// The name of the hub of `peal up --regions`.
const HUB: &str = "hub";
/// More regions than this on one machine are no test of anything.
const MAX_REGIONS: usize = 9;

/// Arguments of `peal up`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct UpArgs {
    /// The folder for settings, keys, data and logs
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    dir: PathBuf,
    /// The port of the HTTP API and the console, kept for later starts [default: 8080]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// The port of NATS, kept for later starts [default: 4222, or a free one when that is taken]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    nats_port: Option<u16>,
    /// The port of the dispatcher's health and metrics, kept [default: 8081, or a free one when that is taken]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    dispatcher_port: Option<u16>,
    /// Settings to lay over those of the folder; without [nats], since the server is `peal up`'s own
    #[arg(long, value_name = "FILE", env = "PEAL_CONFIG")]
    config: Option<PathBuf>,
    /// Several regions, linked by a hub; the second one's ports follow those of the first
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    regions: Vec<Region>,
}

/// Starts everything, delivers a first notification, and watches over it until it is told to stop.
///
/// # Errors
/// When something does not start, or dies again and again; what ran is stopped then.
pub async fn run(args: UpArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let folder = Folder::open(&args.dir)?;
    let mut stack = Stack::default();
    let ended = tokio::select! {
        // What is dropped when a signal comes is waiting; what was started is in the stack and is stopped below.
        ended = start_and_watch(&args, &folder, &mut stack, output) => ended,
        () = signals.any() => Ok(()),
    };
    if ended.is_ok() {
        output.progress("stopping …");
    }
    let stopped = tokio::select! {
        stopped = stack.stop() => stopped,
        () = signals.any() => {
            output.progress("killing what still runs");
            Ok(())
        }
    };
    ended?;
    stopped?;
    output.progress("stopped; the data stays for the next `peal up`");
    Ok(ExitCode::SUCCESS)
}

/// What ends `peal up`: Ctrl-C, a supervisor's SIGTERM, a terminal that is closed.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = kinds.map(signal);
        Ok(Signals([interrupt?, terminate?, hangup?]))
    }

    async fn any(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

async fn start_and_watch(
    args: &UpArgs,
    folder: &Folder,
    stack: &mut Stack,
    output: &Output,
) -> anyhow::Result<()> {
    match args.regions.as_slice() {
        [] => one(args, folder, stack, output).await,
        regions => linked(args, regions, folder, stack, output).await,
    }
}

impl UpArgs {
    fn wanted(&self, linked: Option<Linked>) -> Wanted {
        let number = linked.as_ref().map_or(0, |linked| linked.number);
        Wanted {
            port: self.port.map(|port| port.saturating_add(10 * number)),
            nats_port: self.nats_port.map(|port| port.saturating_add(number)),
            dispatcher_port: self.dispatcher_port.map(|port| port.saturating_add(10 * number)),
            config: self.config.clone(),
            linked,
        }
    }
}

/// One region by itself.
async fn one(args: &UpArgs, folder: &Folder, stack: &mut Stack, output: &Output) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut place = Place::prepare(folder.clone(), &args.wanted(None), output).await?;
    let programs = place.programs()?;
    let connection = place.start_nats(stack, output).await?;
    place.apply_topology(&connection, output).await?;
    let credentials = place.key_pair(&connection).await?;
    place.start(programs, stack, output).await?;
    let first = place.deliver_first(&credentials, output).await?;
    let settings = place.settings();
    let summary = Summary {
        folder,
        credentials: &credentials,
        dispatcher: ready::base_url(settings.dispatcher.listen),
        nats: settings.nats.urls.concat(),
        notification: &first,
        seconds: begun.elapsed().as_secs_f64(),
    };
    output.json(&summary.json())?;
    output.line(summary.text())?;
    place.watch(output).await
}

/// Several regions and their hub, each in a folder of its own.
async fn linked(
    args: &UpArgs,
    regions: &[Region],
    folder: &Folder,
    stack: &mut Stack,
    output: &Output,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let hub_name: Region = HUB.parse()?;
    check_regions(regions, &hub_name)?;
    folder.make_secrets()?;
    let prepare = async |name: &Region, number: usize| {
        let linked = Linked {
            name: name.clone(),
            hub: hub_name.clone(),
            regions: regions.to_vec(),
            key: folder.region_key(),
            number: u16::try_from(number)?,
        };
        let inner = Folder::open(&folder.path().join(name.as_str()))?;
        Place::prepare(inner, &args.wanted(Some(linked)), output).await
    };
    let mut places = Vec::new();
    for (number, name) in regions.iter().enumerate() {
        places.push(prepare(name, number).await?);
    }
    let mut hub = prepare(&hub_name, regions.len()).await?;
    let programs = places.iter().map(Place::programs).collect::<anyhow::Result<Vec<_>>>()?;
    let hub_programs = hub.programs()?;

    let leaf_port = free_port()?;
    let logins: Vec<_> = places.iter().map(leaf_login).collect::<anyhow::Result<_>>()?;
    hub.link(Leaf::Listens { port: leaf_port, regions: logins.clone() });
    let hub_connection = hub.start_nats(stack, output).await?;
    let mut connections = Vec::new();
    for (place, login) in places.iter_mut().zip(logins) {
        place.link(Leaf::Connects { ports: vec![leaf_port], login });
        connections.push(place.start_nats(stack, output).await?);
    }
    for (place, connection) in places.iter().zip(&connections) {
        place.apply_topology(connection, output).await?;
    }
    hub.apply_topology(&hub_connection, output).await?;
    let mut credentials = Vec::new();
    for ((place, connection), programs) in places.iter_mut().zip(&connections).zip(programs) {
        credentials.push(match credentials.first() {
            None => place.key_pair(connection).await?,
            Some(first) => place.take_key_pair(first)?,
        });
        place.start(programs, stack, output).await?;
    }
    hub.start(hub_programs, stack, output).await?;
    let mut summaries = Vec::new();
    let mut delivered = Vec::new();
    for (place, credentials) in places.iter_mut().zip(&credentials) {
        delivered.push(place.deliver_first(credentials, output).await?);
    }
    hub.gateway_ready().await?;
    for ((place, credentials), first) in places.iter().zip(&credentials).zip(&delivered) {
        summaries.push(Summary {
            folder: &place.folder,
            credentials,
            dispatcher: ready::base_url(place.settings().dispatcher.listen),
            nats: place.settings().nats.urls.concat(),
            notification: first,
            seconds: begun.elapsed().as_secs_f64(),
        });
    }
    let shown: serde_json::Map<_, _> =
        regions.iter().map(ToString::to_string).zip(summaries.iter().map(Summary::json)).collect();
    let (hub_nats, hub_url) = (hub.settings().nats.urls.concat(), hub.url());
    output.json(&json!({
        "regions": shown,
        "hub": {
            "api": hub_url,
            "console": format!("{hub_url}/console"),
            "nats": { "url": hub_nats, "context": hub.folder.nats_context() },
            "config": hub.folder.settings(),
        },
        "seconds": begun.elapsed().as_secs_f64(),
    }))?;
    output.line(several(regions, &summaries, &hub))?;
    places.push(hub);
    try_join_all(places.iter_mut().map(|place| place.watch(output))).await.map(drop)
}

fn check_regions(regions: &[Region], hub: &Region) -> anyhow::Result<()> {
    let wrong = |text: String| Err(UsageError(text).into());
    if regions.len() < 2 || regions.len() > MAX_REGIONS {
        return wrong(format!("--regions: name 2 to {MAX_REGIONS} regions, such as eu,us,ap"));
    }
    for (index, region) in regions.iter().enumerate() {
        if region == hub {
            return wrong(format!("--regions: {hub} is the name of the hub; call the region something else"));
        }
        if regions[..index].contains(region) {
            return wrong(format!("--regions: {region} stands there twice"));
        }
    }
    Ok(())
}

/// How a region's server signs in at the hub.
fn leaf_login(place: &Place) -> anyhow::Result<Login> {
    let password = place.folder.make_link_password()?;
    Ok(Login { user: place.settings().region.name.to_string(), password })
}
