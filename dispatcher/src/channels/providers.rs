//! Which providers carry which channel.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use peal_common::channel::Channel;
use peal_common::clock::Clock;
use peal_common::seal::Sealer;
use peal_common::settings::{AccountSettings, ChannelSettings};
use peal_nats::Connection;
use peal_nats::catalog::{AccountVersion, AppAccount};
use peal_nats::turns::Turns;
use tokio::sync::Notify;

use super::accounts::{Account, Accounts, Admitted, Route, Sought};
use super::breaker::Opened;
use super::{
    ConfigError, Provider, alimtalk, apns, email, fcm, inbox, sandbox, sms, telegram, webhook, webpush,
};

/// How long a delivery waits in hand for its channel's only account to work again. What waits keeps its lane from taking
/// more, so a backlog stays in its queue; a dispatcher that ends waits for it.
const PATIENCE: Duration = Duration::from_secs(15);
/// The same where another account may serve what comes behind it.
const SHORT_PATIENCE: Duration = Duration::from_secs(1);

/// The accounts by channel. A channel without one is refused when deliveries are
/// planned.
#[derive(Debug, Default)]
pub struct Providers {
    by_channel: [Accounts; Channel::ALL.len()],
}

impl Providers {
    /// Sets up what the settings name, and the accounts that apps brought along; the sandbox takes what the settings leave
    /// out, if it is on.
    ///
    /// # Errors
    /// [`ConfigError`] with what to write.
    pub fn from_settings(
        settings: &ChannelSettings,
        own: &[AppAccount],
        connection: &Connection,
        sealer: &Arc<Sealer>,
        clock: &Clock,
    ) -> Result<Self, ConfigError> {
        let mut providers = Providers::default();
        let turns = Turns::shared(connection.clone());
        if settings.webhook.enabled {
            let options = webhook::Options::from_settings(&settings.webhook)?;
            let sealer = Arc::clone(sealer);
            let secrets = webhook::Secrets::from_settings(&settings.webhook, move |app| {
                webhook::SigningSecret::parse(&sealer.webhook_secret(app))
            })?;
            let client = webhook::Client::new(options, secrets, clock.clone())?;
            providers.add(Channel::Webhook, Provider::Webhook(client));
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
        providers.add_accounts(&settings.unnamed(), None, None, &turns, clock)?;
        for (name, account) in &settings.accounts {
            providers
                .add_accounts(account, Some(name), None, &turns, clock)
                .map_err(|source| ConfigError::Account { name: name.clone(), source: Box::new(source) })?;
        }
        if settings.sandbox.enabled {
            let sandboxed = Channel::ALL.into_iter().filter(|channel| *channel != Channel::Inbox);
            for channel in sandboxed.filter(|channel| !providers.has(*channel)).collect::<Vec<_>>() {
                let client = sandbox::Client::new(connection.clone(), clock.clone(), channel);
                providers.add(channel, Provider::Sandbox(client));
            }
        }
        Ok(providers.with_own(own, connection, clock))
    }

    /// The same with these accounts of apps in the place of those that it has. Whatever stays as it is keeps its connections,
    /// tokens and circuits: one app's change is nobody else's.
    #[must_use]
    pub fn with_own(&self, own: &[AppAccount], connection: &Connection, clock: &Clock) -> Self {
        let turns = Turns::shared(connection.clone());
        let mut providers = Providers::default();
        for (accounts, before) in providers.by_channel.iter_mut().zip(&self.by_channel) {
            let of_settings = before.all().iter().filter(|account| account.own().is_none());
            of_settings.for_each(|account| accounts.add(Arc::clone(account)));
        }
        // Of those that are alike the first one is tried first: their order is that of their names.
        for account in own {
            let (version, mut stays) = (account.version(), false);
            for (accounts, before) in providers.by_channel.iter_mut().zip(&self.by_channel) {
                for kept in before.all().iter().filter(|kept| kept.own() == Some(&version)) {
                    accounts.add(Arc::clone(kept));
                    stays = true;
                }
            }
            if !stays {
                providers.add_own(account, &version, &turns, clock);
            }
        }
        providers
    }

    /// Adds an account that an app brought along. One that can't be set up stands for what waits for it.
    fn add_own(&mut self, own: &AppAccount, version: &AccountVersion, turns: &Turns, clock: &Clock) {
        let mut settings = own.settings.clone();
        settings.route.apps = vec![own.app.clone()];
        let name = format!("{}/{}", own.app, own.name);
        if let Err(error) = self.add_accounts(&settings, Some(&name), Some(version), turns, clock) {
            tracing::error!(account = name, error = &error as &dyn Error, "an account is unusable");
            self.remove(&name);
            let route = Route::from_settings(&settings.route);
            for provider in settings.providers() {
                let account = Account::new(Provider::Unusable(provider), Some(&name), route.clone());
                let account = Arc::new(account.brought_along(Some(version.clone())));
                self.by_channel[channel_of(provider) as usize].add(account);
            }
        }
    }

    /// Removes what was set up of an account.
    fn remove(&mut self, name: &str) {
        let is_own = |account: &Account| account.name().split_once(':').is_some_and(|(_, own)| own == name);
        self.by_channel.iter_mut().for_each(|accounts| accounts.retain(|account| !is_own(account)));
    }

    /// Sets up an account at each provider that the settings name.
    fn add_accounts(
        &mut self,
        settings: &AccountSettings,
        name: Option<&str>,
        version: Option<&AccountVersion>,
        turns: &Turns,
        clock: &Clock,
    ) -> Result<(), ConfigError> {
        let route = Route::from_settings(&settings.route);
        let mut add = |channel: Channel, provider: Provider| {
            let rate = settings.rate_per_second(provider.name());
            let account = Account::new(provider, name, route.clone());
            let account = account.limited(rate, turns).brought_along(version.cloned());
            self.by_channel[channel as usize].add(Arc::new(account));
        };
        if let Some(apns) = &settings.apns {
            let client = apns::Client::new(apns::Options::from_settings(apns)?, clock.clone())?;
            add(Channel::Apns, Provider::Apns(client));
        }
        if let Some(fcm) = &settings.fcm {
            let client = fcm::Client::new(fcm::Options::from_settings(fcm)?, clock.clone())?;
            add(Channel::Fcm, Provider::Fcm(client));
        }
        if let Some(smtp) = &settings.smtp {
            let options = email::smtp::Options::from_settings(smtp)?;
            add(Channel::Email, Provider::Smtp(email::Smtp::new(options, clock.clone())));
        }
        if let Some(sendgrid) = &settings.sendgrid {
            let options = email::sendgrid::Options::from_settings(sendgrid)?;
            add(Channel::Email, Provider::Sendgrid(email::sendgrid::Client::new(options, clock.clone())?));
        }
        if let Some(mandrill) = &settings.mandrill {
            let options = email::mandrill::Options::from_settings(mandrill)?;
            add(Channel::Email, Provider::Mandrill(email::mandrill::Client::new(options, clock.clone())?));
        }
        if let Some(twilio) = &settings.twilio {
            let options = sms::twilio::Options::from_settings(twilio)?;
            add(Channel::Sms, Provider::Twilio(sms::twilio::Client::new(options, clock.clone())?));
        }
        if let Some(vonage) = &settings.vonage {
            let options = sms::vonage::Options::from_settings(vonage)?;
            add(Channel::Sms, Provider::Vonage(sms::vonage::Client::new(options, clock.clone())?));
        }
        if let Some(http) = &settings.sms_http {
            let options = sms::http::Options::from_settings(http)?;
            add(Channel::Sms, Provider::SmsHttp(sms::http::Client::new(options, clock.clone())?));
        }
        if let Some(bot) = &settings.telegram {
            let options = telegram::Options::from_settings(bot)?;
            add(
                Channel::Telegram,
                Provider::Telegram(telegram::Client::new(options, turns.clone(), clock.clone())?),
            );
        }
        if let Some(aligo) = &settings.aligo {
            let options = alimtalk::Options::from_settings(aligo)?;
            add(Channel::Alimtalk, Provider::Aligo(alimtalk::Client::new(options, clock.clone())?));
        }
        Ok(())
    }

    /// Gives a channel one more account, to be tried after those that it has.
    pub fn add(&mut self, channel: Channel, provider: Provider) {
        self.by_channel[channel as usize].add(Arc::new(Account::new(provider, None, Route::default())));
    }

    /// All accounts of a channel.
    #[must_use]
    pub fn of(&self, channel: Channel) -> &[Arc<Account>] {
        self.by_channel[channel as usize].all()
    }

    /// The account with this name.
    #[must_use]
    pub fn named(&self, channel: Channel, name: &str) -> Option<&Account> {
        self.of(channel).iter().map(Arc::as_ref).find(|account| **account.name() == *name)
    }

    /// The account that a message is meant for in the first place.
    #[must_use]
    pub fn first(&self, channel: Channel, sought: &Sought<'_>) -> Option<&Account> {
        self.taking(channel, sought).next()
    }

    /// The accounts that take a message, in the order in which they are tried.
    pub fn taking(&self, channel: Channel, sought: &Sought<'_>) -> impl Iterator<Item = &Account> + Clone {
        self.by_channel[channel as usize].taking(sought)
    }

    /// Whether the way of a channel's messages depends on where they go.
    #[must_use]
    pub fn tell_countries_apart(&self, channel: Channel) -> bool {
        self.by_channel[channel as usize].tell_countries_apart()
    }

    /// The first account that takes a message and is in order; waits a while for one where none is.
    ///
    /// # Errors
    /// `None` when no account takes it, [`Opened`] when all that do are out of order.
    pub async fn admit(&self, channel: Channel, sought: &Sought<'_>) -> Result<Admitted<'_>, Option<Opened>> {
        let accounts = self.taking(channel, sought);
        let first = accounts.clone().next().ok_or(None)?;
        if accounts.clone().nth(1).is_none() {
            return Ok(first.admit(PATIENCE).await?);
        }
        for account in accounts {
            if let Ok(admitted) = account.admit(Duration::ZERO).await {
                return Ok(admitted);
            }
        }
        Ok(first.admit(SHORT_PATIENCE).await?)
    }

    /// The next account in order behind one that could not take a message.
    pub async fn admit_after(
        &self,
        channel: Channel,
        sought: &Sought<'_>,
        failed: &Account,
    ) -> Option<Admitted<'_>> {
        let accounts = self.taking(channel, sought);
        for account in accounts.skip_while(|account| !std::ptr::eq(*account, failed)).skip(1) {
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

/// The channel that a provider serves, by its key in the settings.
fn channel_of(provider: &str) -> Channel {
    match provider {
        "apns" => Channel::Apns,
        "fcm" => Channel::Fcm,
        "twilio" | "vonage" | "sms_http" => Channel::Sms,
        "telegram" => Channel::Telegram,
        "aligo" => Channel::Alimtalk,
        _ => Channel::Email,
    }
}

/// The providers as they are set up at present. When settings are read again, or an app changes an account of its own, others
/// take their place; what is under way ends with those it began with.
#[derive(Debug)]
pub struct CurrentProviders {
    settings: Mutex<ChannelSettings>,
    /// The providers, and how often apps had changed their accounts by then.
    built: RwLock<(u64, Arc<Providers>)>,
    replaced: Notify,
}

impl CurrentProviders {
    /// Begins with these, of `settings` alone.
    #[must_use]
    pub fn new(settings: ChannelSettings, providers: Providers) -> Self {
        CurrentProviders {
            settings: Mutex::new(settings),
            built: RwLock::new((0, Arc::new(providers))),
            replaced: Notify::new(),
        }
    }

    /// Those of this moment.
    #[must_use]
    pub fn get(&self) -> Arc<Providers> {
        Arc::clone(&self.built.read().unwrap_or_else(PoisonError::into_inner).1)
    }

    /// How often apps had changed their accounts when those of this moment were set up.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.built.read().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Puts others in their place. `build` makes them from the settings, which `change` changes first.
    ///
    /// # Errors
    /// What `build` says; then everything stays as it was.
    pub fn replace<E>(
        &self,
        generation: u64,
        change: Option<ChannelSettings>,
        build: impl FnOnce(&ChannelSettings) -> Result<Providers, E>,
    ) -> Result<(), E> {
        // One at a time: the later one must not be overtaken by the one before.
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let providers = build(change.as_ref().unwrap_or(&settings))?;
        if let Some(change) = change {
            *settings = change;
        }
        *self.built.write().unwrap_or_else(PoisonError::into_inner) = (generation, Arc::new(providers));
        self.replaced.notify_waiters();
        Ok(())
    }

    /// Waits until others take their place.
    pub async fn replaced(&self) {
        self.replaced.notified().await;
    }
}
