//! Other settings of the providers while the dispatcher runs, such as credentials that were replaced.

use peal_common::channel::Channel;
use peal_common::settings::Settings;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::NoProvider;
use crate::channels::{ConfigError, Providers};
use crate::context::{BuildError, Context, Shared};

/// Takes over what `reloads` brings until `stop`. `served` are the channels that the settings have a provider for: those do
/// not change before the dispatcher is started again.
pub async fn run(
    context: Shared,
    served: Vec<Channel>,
    mut reloads: mpsc::Receiver<Settings>,
    stop: CancellationToken,
) {
    while let Some(Some(settings)) = stop.run_until_cancelled(reloads.recv()).await {
        match take_over(&context, &served, &settings) {
            Ok(()) => tracing::info!("the settings of the channels are in force"),
            Err(error) => tracing::error!(%error, "the settings are not taken over"),
        }
    }
    // Nobody brings any, or no more.
    stop.cancelled().await;
}

/// Why settings are not taken over.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    NoProvider(#[from] NoProvider),
    #[error("they name other channels ({0}) than before: start the dispatcher again")]
    OtherChannels(Channel),
}

fn take_over(context: &Context, served: &[Channel], settings: &Settings) -> Result<(), ReloadError> {
    let sealer = context.catalog.sealer();
    // Accounts of apps come and go by themselves.
    let (before, connection, clock) = (context.providers.get(), &context.connection, &context.clock);
    let providers = Providers::from_settings(&settings.channels, &[], &before, connection, sealer, clock)?;
    let others = crate::served(&settings.dispatcher, &providers)?;
    let other = Channel::ALL.into_iter().find(|it| others.contains(it) != served.contains(it));
    if let Some(channel) = other {
        return Err(ReloadError::OtherChannels(channel));
    }
    Ok(context.take_over(&settings.channels)?)
}
