//! Which provider carries which channel.

use std::sync::Arc;

use peal_common::channel::Channel;
use peal_common::clock::Clock;
use peal_common::seal::Sealer;
use peal_common::settings::ChannelSettings;
use peal_nats::Connection;

use super::{ConfigError, Provider, email, inbox, sandbox, telegram, webhook, webpush};

/// The providers by channel. A channel without one is refused when deliveries are planned.
#[derive(Debug, Default)]
pub struct Providers {
    by_channel: [Option<Provider>; Channel::ALL.len()],
}

impl Providers {
    /// Sets up what the settings name; the sandbox takes the other channels if it is on.
    ///
    /// # Errors
    /// [`ConfigError`] with what to write.
    pub fn from_settings(
        settings: &ChannelSettings,
        connection: &Connection,
        sealer: &Arc<Sealer>,
        clock: &Clock,
    ) -> Result<Self, ConfigError> {
        let mut providers = Providers::default();
        if settings.webhook.enabled {
            let options = webhook::Options::from_settings(&settings.webhook)?;
            let sealer = Arc::clone(sealer);
            let secrets = webhook::Secrets::from_settings(&settings.webhook, move |app| {
                webhook::SigningSecret::parse(&sealer.webhook_secret(app))
            })?;
            let client = webhook::Client::new(options, secrets, clock.clone())?;
            providers.set(Channel::Webhook, Provider::Webhook(client));
        }
        if let Some(webpush) = &settings.webpush {
            let options = webpush::Options::from_settings(webpush)?;
            let client = webpush::Client::new(options, clock.clone())?;
            providers.set(Channel::Webpush, Provider::Webpush(client));
        }
        if settings.inbox.enabled {
            providers
                .set(Channel::Inbox, Provider::Inbox(inbox::Client::new(connection.clone(), clock.clone())));
        }
        if let Some(smtp) = &settings.email.smtp {
            let options = email::smtp::Options::from_settings(smtp)?;
            providers.set(Channel::Email, Provider::Smtp(email::Smtp::new(options, clock.clone())));
        }
        if let Some(bot) = &settings.telegram {
            let options = telegram::Options::from_settings(bot)?;
            providers
                .set(Channel::Telegram, Provider::Telegram(telegram::Client::new(options, clock.clone())?));
        }
        if settings.sandbox.enabled {
            for channel in Channel::ALL.into_iter().filter(|channel| *channel != Channel::Inbox) {
                if !providers.has(channel) {
                    let client = sandbox::Client::new(connection.clone(), clock.clone(), channel);
                    providers.set(channel, Provider::Sandbox(client));
                }
            }
        }
        Ok(providers)
    }

    /// Gives a channel to a provider.
    pub fn set(&mut self, channel: Channel, provider: Provider) {
        self.by_channel[channel as usize] = Some(provider);
    }

    /// The provider of a channel.
    #[must_use]
    pub fn of(&self, channel: Channel) -> Option<&Provider> {
        self.by_channel[channel as usize].as_ref()
    }

    /// Whether a channel has a provider.
    #[must_use]
    pub fn has(&self, channel: Channel) -> bool {
        self.of(channel).is_some()
    }

    /// The channels that have a provider.
    pub fn channels(&self) -> impl Iterator<Item = Channel> {
        Channel::ALL.into_iter().filter(|channel| self.has(*channel))
    }
}
