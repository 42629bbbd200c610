//! `peal up`: everything on this machine, until Ctrl-C.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use peal_common::settings::{self, Settings};
use peal_nats::connect::Connection;
use peal_nats::server::{Login, Server, ServerConfig, Sync};
use peal_nats::topology::{self, Current};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::api::{self, Gateway};
use crate::credentials::{Credentials, write_private};
use crate::output::{Output, chain};
use crate::region::{self, DEFAULT_DIR};
use crate::up::first;
use crate::up::folder::Folder;
use crate::up::process::{NATS_SERVER, Process, Program, log_end, stop_leftovers};
use crate::up::ready;
use crate::up::settings::{Prepared, Wanted, prepare};
use crate::up::summary::Summary;
use crate::up::supervise::{Notice, Supervised, notices};

const EXAMPLES: &str = "\
Examples:
  peal up                       everything in .peal, the API on port 8080
  peal up --port 9000           on another port, from now on
  peal up --config mine.toml    with more settings, such as a mail server
  PEAL__CHANNELS__WEBHOOK__ALLOWED_NETWORKS=127.0.0.0/8 peal up";

/// How long gateway and dispatcher may take until they are ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long the first notification may take.
const DELIVERY_LIMIT: Duration = Duration::from_secs(30);
/// What a power cut can cost on a laptop at most; a crash of a process costs nothing.
const SYNC_INTERVAL: Duration = Duration::from_secs(10);
/// More than all streams of a laptop's topology together.
const MAX_FILE_STORE: u64 = 4 * 1024 * 1024 * 1024;
const MAX_MEMORY_STORE: u64 = 64 * 1024 * 1024;

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

/// What runs, in the order in which it was started.
#[derive(Default)]
struct Stack(Vec<Supervised>);

impl Stack {
    /// Stops the last first: the dispatcher finishes what it has in hand while NATS still takes it.
    async fn stop(&mut self) -> anyhow::Result<()> {
        let mut done = Ok(());
        while let Some(supervised) = self.0.pop() {
            let stopped = supervised.stop().await;
            done = done.and(stopped);
        }
        done
    }
}

async fn start_and_watch(
    args: &UpArgs,
    folder: &Folder,
    stack: &mut Stack,
    output: &Output,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    for leftover in stop_leftovers(folder).await? {
        output.progress(format!("stopped {leftover}, left over from a `peal up` that was killed"));
    }
    let wanted = Wanted {
        port: args.port,
        nats_port: args.nats_port,
        dispatcher_port: args.dispatcher_port,
        config: args.config.clone(),
    };
    let prepared = prepare(folder, &wanted)?;
    for note in &prepared.notes {
        output.progress(note);
    }
    // Looked for before anything is started, so that nothing runs in vain.
    let programs = ["gateway", "dispatcher"].map(|name| Program::find(name, folder, &prepared.file));
    let [gateway, dispatcher] = programs;
    let (gateway, dispatcher) = (gateway?, dispatcher?);

    let (notice, mut noticed) = notices();
    let server = start_nats(folder, &prepared, output).await?;
    stack.0.push(Supervised::watch(Process::Nats(Box::new(server)), folder.pids(), notice.clone()));
    let credentials = set_up_region(folder, &prepared, output).await?;
    for program in [gateway, dispatcher] {
        let mut process = Process::Program(program);
        output.progress(format!("starting {}", process.name()));
        process.start().await?;
        stack.0.push(Supervised::watch(process, folder.pids(), notice.clone()));
    }
    let first = tokio::select! {
        first = deliver_first(&prepared, &credentials, output) => first?,
        died = first_death(&mut noticed) => return Err(died),
    };
    let summary = Summary {
        folder,
        credentials: &credentials,
        dispatcher: ready::base_url(prepared.settings.dispatcher.listen),
        nats: prepared.settings.nats.urls.concat(),
        notification: &first,
        seconds: begun.elapsed().as_secs_f64(),
    };
    output.json(&summary.json())?;
    output.line(summary.text())?;
    watch(&prepared, &mut noticed, output).await
}

async fn start_nats(folder: &Folder, prepared: &Prepared, output: &Output) -> anyhow::Result<Server> {
    let settings = &prepared.settings;
    let password = settings::secret(
        "nats.password_file",
        settings.nats.password.as_ref(),
        settings.nats.password_file.as_deref(),
    )?;
    let login = settings.nats.user.clone().zip(password);
    let login = login.map(|(user, password)| Login { user, password: password.expose().to_owned() });
    if let Some(Login { user, password }) = &login {
        let context = json!({
            "description": "Peal, started by `peal up`",
            "url": settings.nats.urls.concat(),
            "user": user,
            "password": password,
        });
        write_private(&folder.nats_context(), &format!("{context:#}\n"))
            .context("cannot write the nats context")?;
    }
    let config = ServerConfig {
        port: prepared.nats_port,
        sync: Sync::Every(SYNC_INTERVAL),
        max_file_store: Some(MAX_FILE_STORE),
        max_memory_store: Some(MAX_MEMORY_STORE),
        login,
        own_process_group: true,
        ..ServerConfig::new(settings.region.name.clone(), folder.nats())
    };
    output.progress(format!("starting nats-server on port {}", prepared.nats_port));
    Ok(Server::start(config).await?)
}

/// Streams, consumers and the key pair: all that has to be there before the gateway starts.
async fn set_up_region(folder: &Folder, prepared: &Prepared, output: &Output) -> anyhow::Result<Credentials> {
    let settings = &prepared.settings;
    let connection = region::connect(settings).await?;
    apply_topology(&connection, settings, output).await?;
    first::key_pair(&connection, settings, folder, &ready::base_url(settings.gateway.listen)).await
}

async fn apply_topology(connection: &Connection, settings: &Settings, output: &Output) -> anyhow::Result<()> {
    let wanted = region::topology(settings);
    let plan = topology::plan(&Current::read(&connection.jetstream, &wanted).await?, &wanted);
    if !plan.is_empty() {
        output.progress(format!("setting up streams: {} steps", plan.changes.len()));
    }
    Ok(topology::apply(&connection.jetstream, &plan, false).await?)
}

async fn deliver_first(
    prepared: &Prepared,
    credentials: &Credentials,
    output: &Output,
) -> anyhow::Result<serde_json::Value> {
    let settings = &prepared.settings;
    let client = api::client()?;
    for (name, listen) in [("gateway", settings.gateway.listen), ("dispatcher", settings.dispatcher.listen)] {
        let ready = ready::wait(&client, &ready::base_url(listen), READY_LIMIT).await;
        ready
            .map_err(|missing| anyhow::anyhow!("the {name} is not ready after {READY_LIMIT:?}: {missing}"))?;
    }
    output.progress("gateway and dispatcher are ready; delivering a first notification");
    let gateway = Gateway::new(&credentials.url, &credentials.key, &credentials.secret)?;
    first::notification(&gateway, settings, DELIVERY_LIMIT).await
}

/// While things start, a death is an error: it is told with what the process said last.
async fn first_death(noticed: &mut mpsc::Receiver<Notice>) -> anyhow::Error {
    loop {
        match noticed.recv().await {
            Some(Notice::Died { name, how, log, .. }) => {
                let told = format!("{name} died while starting ({how}); the end of {}:", log.display());
                return anyhow::anyhow!("{told}\n{}", log_end(&log));
            }
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

async fn restore_streams(settings: &Settings, output: &Output) -> anyhow::Result<()> {
    let connection = region::connect(settings).await?;
    apply_topology(&connection, settings, output).await
}

async fn watch(
    prepared: &Prepared,
    noticed: &mut mpsc::Receiver<Notice>,
    output: &Output,
) -> anyhow::Result<()> {
    while let Some(notice) = noticed.recv().await {
        match notice {
            Notice::Died { name, how, pause, .. } => {
                output.progress(format!("{name} died ({how}); starting it again in {pause:?}"));
            }
            Notice::NoRoom { name } => {
                output.progress(format!("no room on the disk for {name}; it is started once there is some"));
            }
            Notice::Unwell { name, why, pause } => {
                let when = match pause {
                    Duration::ZERO => "once there is room on the disk".to_owned(),
                    _ => format!("once there is room on the disk, not before {pause:?} have passed"),
                };
                output.progress(format!("{name} is unwell ({why}); restarting it {when}"));
            }
            Notice::Restarting { name } => {
                output.progress(format!("there is room on the disk: restarting {name}"));
            }
            Notice::Back { name } => {
                if name == NATS_SERVER {
                    // What the sandbox recorded is kept in memory, so its stream went with the server.
                    let restored = restore_streams(&prepared.settings, output).await;
                    if let Err(error) = restored {
                        output.progress(format!("cannot set up streams again: {}", chain(&error)));
                    }
                }
                output.progress(format!("{name} runs again"));
            }
            Notice::GivenUp { name, log } => {
                let end = log_end(&log);
                anyhow::bail!("{name} dies again and again; the end of {}:\n{end}", log.display());
            }
        }
    }
    Ok(())
}
