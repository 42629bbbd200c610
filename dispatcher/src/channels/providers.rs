//! Which providers carry which channel.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use peal_common::channel::Channel;
use peal_common::clock::Clock;
use peal_common::outcome::Outcome;
use peal_common::seal::Sealer;
use peal_common::settings::ChannelSettings;
use peal_nats::Connection;

use super::breaker::{Admission, Breaker, Opened};
use super::{ConfigError, Message, Provider, apns, email, fcm, inbox, sandbox, telegram, webhook, webpush};

/// How long a delivery waits in hand for its channel's only account to work again. What waits keeps its lane from taking
/// more, so a backlog stays in its queue; a dispatcher that ends waits for it.
const PATIENCE: Duration = Duration::from_secs(15);
/// The same where another account may serve what comes behind it.
const SHORT_PATIENCE: Duration = Duration::from_secs(1);

/// An account at a provider, and whether it is in order.
#[derive(Debug)]
pub struct Account {
    provider: Provider,
    breaker: Option<Breaker>,
}

impl Account {
    fn new(provider: Provider) -> Self {
        let breaker = provider.is_shared().then(Breaker::default);
        Account { provider, breaker }
    }

    /// The provider's name in events, metrics and the API.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.provider.name()
    }

    /// Why it is left alone at present, if it is.
    #[must_use]
    pub fn opened(&self) -> Option<Opened> {
        self.breaker.as_ref().and_then(Breaker::opened)
    }

    async fn admit(&self, patience: Duration) -> Result<Admitted<'_>, Opened> {
        let admission = match &self.breaker {
            Some(breaker) => breaker.admit(patience).await?,
            None => Admission::free(),
        };
        Ok(Admitted { account: self, admission })
    }
}

/// An account that may be called, once.
#[derive(Debug)]
pub struct Admitted<'a> {
    account: &'a Account,
    admission: Admission<'a>,
}

impl<'a> Admitted<'a> {
    /// Calls it. See [`Provider::send`].
    pub async fn send(self, message: &Message<'_>, clock: &Clock) -> (Outcome, &'a Account) {
        let outcome = self.account.provider.send(message).await;
        self.admission.settle(&outcome, clock.now());
        (outcome, self.account)
    }
}

/// The accounts by channel, in the order in which they are tried. A channel without one is refused when deliveries are
/// planned.
#[derive(Debug, Default)]
pub struct Providers {
    by_channel: [Vec<Account>; Channel::ALL.len()],
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
            providers.add(Channel::Webhook, Provider::Webhook(client));
        }
        if let Some(apns) = &settings.apns {
            let client = apns::Client::new(apns::Options::from_settings(apns)?, clock.clone())?;
            providers.add(Channel::Apns, Provider::Apns(client));
        }
        if let Some(fcm) = &settings.fcm {
            let client = fcm::Client::new(fcm::Options::from_settings(fcm)?, clock.clone())?;
            providers.add(Channel::Fcm, Provider::Fcm(client));
        }
        if let Some(webpush) = &settings.webpush {
            let options = webpush::Options::from_settings(webpush)?;
            let client = webpush::Client::new(options, clock.clone())?;
            providers.add(Channel::Webpush, Provider::Webpush(client));
        }
        if settings.inbox.enabled {
            providers
                .add(Channel::Inbox, Provider::Inbox(inbox::Client::new(connection.clone(), clock.clone())));
        }
        if let Some(smtp) = &settings.email.smtp {
            let options = email::smtp::Options::from_settings(smtp)?;
            providers.add(Channel::Email, Provider::Smtp(email::Smtp::new(options, clock.clone())));
        }
        if let Some(bot) = &settings.telegram {
            let options = telegram::Options::from_settings(bot)?;
            providers
                .add(Channel::Telegram, Provider::Telegram(telegram::Client::new(options, clock.clone())?));
        }
        if settings.sandbox.enabled {
            for channel in Channel::ALL.into_iter().filter(|channel| *channel != Channel::Inbox) {
                if !providers.has(channel) {
                    let client = sandbox::Client::new(connection.clone(), clock.clone(), channel);
                    providers.add(channel, Provider::Sandbox(client));
                }
            }
        }
        Ok(providers)
    }

    /// Gives a channel one more account, to be tried after those that it has.
    pub fn add(&mut self, channel: Channel, provider: Provider) {
        self.by_channel[channel as usize].push(Account::new(provider));
    }

    /// The accounts of a channel, in the order in which they are tried.
    #[must_use]
    pub fn of(&self, channel: Channel) -> &[Account] {
        &self.by_channel[channel as usize]
    }

    /// The first account of a channel that is in order; waits a while for one where none is.
    ///
    /// # Errors
    /// `None` when the channel has no account, [`Opened`] when all are out of order.
    pub async fn admit(&self, channel: Channel) -> Result<Admitted<'_>, Option<Opened>> {
        let (mut patience, accounts) = (PATIENCE, self.of(channel));
        if accounts.len() > 1 {
            patience = SHORT_PATIENCE;
            for account in accounts {
                if let Ok(admitted) = account.admit(Duration::ZERO).await {
                    return Ok(admitted);
                }
            }
        }
        Ok(accounts.first().ok_or(None)?.admit(patience).await?)
    }

    /// The next account in order behind one that could not take a message.
    pub async fn admit_after(&self, channel: Channel, failed: &Account) -> Option<Admitted<'_>> {
        let behind = self.of(channel).iter().skip_while(|account| !std::ptr::eq(*account, failed)).skip(1);
        for account in behind {
            if let Ok(admitted) = account.admit(Duration::ZERO).await {
                return Some(admitted);
            }
        }
        None
    }

    /// Whether a channel has an account.
    #[must_use]
    pub fn has(&self, channel: Channel) -> bool {
        !self.of(channel).is_empty()
    }

    /// The channels that have an account.
    pub fn channels(&self) -> impl Iterator<Item = Channel> {
        Channel::ALL.into_iter().filter(|channel| self.has(*channel))
    }
}

/// The providers as they are set up at present. A reload puts others in their place; what is under way ends with those it
/// began with.
#[derive(Debug)]
pub struct CurrentProviders(RwLock<Arc<Providers>>);

impl CurrentProviders {
    /// Begins with these.
    #[must_use]
    pub fn new(providers: Providers) -> Self {
        CurrentProviders(RwLock::new(Arc::new(providers)))
    }

    /// Those of this moment.
    #[must_use]
    pub fn get(&self) -> Arc<Providers> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts others in their place.
    pub fn replace(&self, providers: Providers) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(providers);
    }
}
