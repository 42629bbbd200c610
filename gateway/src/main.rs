//! The process: settings, logging, signals. What it does is in the library.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use peal_common::settings::Settings;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// The system's allocator takes twice as long for the many small pieces that messages are made of, most of which are
/// freed by another thread than asked for them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Takes notifications over HTTP and NATS and answers once JetStream has them.
#[derive(Parser)]
#[command(name = "peal-gateway", version)]
struct Arguments {
    /// The settings file; every key can be overridden with PEAL__SECTION__KEY.
    #[arg(long, env = "PEAL_CONFIG", value_name = "FILE")]
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

#[tokio::main]
async fn main() -> ExitCode {
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
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the gateway ends");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let settings = Settings::load(arguments.config.as_deref())?;
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let (reload, reloads) = mpsc::channel(1);
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            match Settings::load(arguments.config.as_deref()) {
                Ok(settings) => {
                    if reload.send(settings).await.is_err() {
                        return;
                    }
                }
                Err(error) => tracing::error!(%error, "the settings are not taken over"),
            }
        }
    });
    let mut gateway = tokio::spawn(peal_gateway::run_reloading(settings, reloads, stop.clone()));
    tokio::select! {
        ended = &mut gateway => return ended?,
        pressed = tokio::signal::ctrl_c() => pressed?,
        _ = terminate.recv() => {}
    }
    // A soft stop: what is in flight is finished first.
    stop.cancel();
    gateway.await?
}
