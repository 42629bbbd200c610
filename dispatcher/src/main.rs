//! `peal-dispatcher`: see the crate's documentation.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use peal_common::settings::Settings;
use tokio_util::sync::CancellationToken;

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
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("PEAL_LOG").unwrap_or_else(|_| "info".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    let settings = match Settings::load(arguments.config.as_deref()) {
        Ok(settings) => settings,
        Err(error) => {
            tracing::error!(%error, "the settings cannot be used");
            return ExitCode::from(2);
        }
    };
    match start(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the dispatcher ends");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn start(settings: Settings) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let signalled = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        signalled.cancel();
    });
    peal_dispatcher::run(settings, stop).await
}
