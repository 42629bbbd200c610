//! `peal-dispatcher`: see the crate's documentation.

use std::io::IsTerminal as _;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use peal_common::settings::Settings;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// The system's allocator takes twice as long for the many small pieces that messages are made of, most of which are
/// freed by another thread than asked for them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Delivers notifications from JetStream through their providers.
#[derive(Parser)]
#[command(name = "peal-dispatcher", version)]
struct Arguments {
    /// The settings file; see the defaults in common/src/settings/default.toml.
    #[arg(long, env = "PEAL_CONFIG")]
    config: Option<PathBuf>,
    /// How log lines are written. What is logged is said by PEAL_LOG, for example `info,peal_nats=debug`.
    #[arg(long, env = "PEAL_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("PEAL_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match arguments.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    let settings = match Settings::load(arguments.config.as_deref()) {
        Ok(settings) => settings,
        Err(error) => {
            tracing::error!(%error, "the settings cannot be used");
            return ExitCode::from(2);
        }
    };
    let started =
        runtime().map_err(Into::into).and_then(|runtime| runtime.block_on(start(settings, arguments.config)));
    match started {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the dispatcher ends");
            ExitCode::FAILURE
        }
    }
}

/// As many threads as half of the processors, unless TOKIO_WORKER_THREADS says otherwise. A dispatcher waits for others most
/// of the time, and the nats-server that it waits for is often on the same machine: with a thread on each of two processors
/// it delivered a tenth less, since work was handed back and forth between them.
fn runtime() -> std::io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        builder.worker_threads(processors.div_ceil(2));
    }
    builder.enable_all().build()
}

async fn start(settings: Settings, config: Option<PathBuf>) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let signalled = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        signalled.cancel();
    });
    let (reload, reloads) = mpsc::channel(1);
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            match Settings::load(config.as_deref()) {
                Ok(settings) => {
                    if reload.send(settings).await.is_err() {
                        return;
                    }
                }
                Err(error) => tracing::error!(%error, "the settings are not taken over"),
            }
        }
    });
    peal_dispatcher::run_reloading(settings, reloads, stop).await
}
