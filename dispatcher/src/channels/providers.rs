//! Which providers carry which channel.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use peal_common::channel::Channel;
use peal_common::clock::Clock;
use peal_common::seal::Sealer;
use peal_common::settings::{AccountSettings, ChannelSettings};
use peal_nats::Connection;
use peal_nats::catalog::{AccountVersion, AppAccount};
use peal_nats::turns::Turns;

use super::accounts::{Account, Accounts, Admitted, MadeOf, Route, Sought};
use super::breaker::Opened;
use super::setup::Setup;
use super::{
    ConfigError, Provider, alimtalk, apns, email, fcm, inbox, sandbox, sms, telegram, webhook, webpush,
};

/// How long a delivery waits in hand for its channel's only account to work again. What waits keeps its lane from taking
/// more, so a backlog stays in its queue; a dispatcher that ends waits for it.
const PATIENCE: Duration = Duration::from_secs(15);
/// The same where another account may serve what comes behind it.
const SHORT_PATIENCE: Duration = Duration::from_secs(1);

/// What accounts are set up with.
struct Tools<'a> {
    /// The accounts that there were.
    before: &'a Providers,
    turns: Turns,
    clock: &'a Clock,
}

/// The accounts by channel. A channel without one is refused when deliveries are
/// planned.
#[derive(Debug, Default)]
pub struct Providers {
    by_channel: [Accounts; Channel::ALL.len()],
}

impl Providers {
    /// Sets up what the settings name, and the accounts that apps brought along; the sandbox takes what the settings leave
    /// out, if it is on. Accounts of `before` that would be made of the same are kept: they have connections, tokens and
    /// circuits.
    ///
    /// # Errors
    /// [`ConfigError`] with what to write.
    pub fn from_settings(
        settings: &ChannelSettings,
        own: &[AppAccount],
        before: &Self,
        connection: &Connection,
        sealer: &Arc<Sealer>,
        clock: &Clock,
    ) -> Result<Self, ConfigError> {
        let mut providers = Providers::default();
        let tools = Tools { before, turns: Turns::shared(connection.clone()), clock };
        let of_channel = |setup| MadeOf { name: None, route: Route::default(), rate: None, setup };
        if settings.webhook.enabled {
            let options = webhook::Options::from_settings(&settings.webhook)?;
            let sealer = Arc::clone(sealer);
            let secrets = webhook::Secrets::from_settings(&settings.webhook, move |app| {
                webhook::SigningSecret::parse(&sealer.webhook_secret(app))
            })?;
            let made_of = of_channel(Setup::Webhook(options.clone(), secrets.fixed().to_vec()));
            providers.add(&tools, Channel::Webhook, made_of, None, |_| {
                Ok(Provider::Webhook(webhook::Client::new(options, secrets, clock.clone())?))
            })?;
        }
        if let Some(webpush) = &settings.webpush {
            let options = webpush::Options::from_settings(webpush)?;
            let made_of = of_channel(Setup::Webpush(Box::new(options.clone())));
            providers.add(&tools, Channel::Webpush, made_of, None, |_| {
                Ok(Provider::Webpush(webpush::Client::new(options, clock.clone())?))
            })?;
        }
        if settings.inbox.enabled {
            providers.add(&tools, Channel::Inbox, of_channel(Setup::Inbox), None, |_| {
                Ok(Provider::Inbox(inbox::Client::new(connection.clone(), clock.clone())))
            })?;
        }
        providers.add_accounts(&settings.unnamed(), None, None, &tools)?;
        for (name, account) in &settings.accounts {
            providers
                .add_accounts(account, Some(name), None, &tools)
                .map_err(|source| ConfigError::Account { name: name.clone(), source: Box::new(source) })?;
        }
        if settings.sandbox.enabled {
            let sandboxed = Channel::ALL.into_iter().filter(|channel| *channel != Channel::Inbox);
            for channel in sandboxed.filter(|channel| !providers.has(*channel)).collect::<Vec<_>>() {
                providers.add(&tools, channel, of_channel(Setup::Sandbox), None, |_| {
                    Ok(Provider::Sandbox(sandbox::Client::new(connection.clone(), clock.clone(), channel)))
                })?;
            }
        }
        providers.take_over(own, &tools);
        Ok(providers)
    }

    /// The same with these accounts of apps in the place of those that it has. Whatever stays as it is keeps its connections,
    /// tokens and circuits: one app's change is nobody else's.
    #[must_use]
    pub fn with_own(&self, own: &[AppAccount], connection: &Connection, clock: &Clock) -> Self {
        let mut providers = Providers::default();
        for (accounts, before) in providers.by_channel.iter_mut().zip(&self.by_channel) {
            let of_settings = before.all().iter().filter(|account| account.own().is_none());
            of_settings.for_each(|account| accounts.add(Arc::clone(account)));
        }
        let tools = Tools { before: self, turns: Turns::shared(connection.clone()), clock };
        providers.take_over(own, &tools);
        providers
    }

    /// Adds accounts of apps. Of those that are alike the first one is tried first: their order is that of their names.
    fn take_over(&mut self, own: &[AppAccount], tools: &Tools<'_>) {
        for account in own {
            let (version, mut stays) = (account.version(), false);
            for (accounts, before) in self.by_channel.iter_mut().zip(&tools.before.by_channel) {
                for kept in before.all().iter().filter(|kept| kept.own() == Some(&version)) {
                    accounts.add(Arc::clone(kept));
                    stays = true;
                }
            }
            if !stays {
                self.add_own(account, &version, tools);
            }
        }
    }

    /// Adds an account that an app brought along. One that can't be set up stands for what waits for it.
    fn add_own(&mut self, own: &AppAccount, version: &AccountVersion, tools: &Tools<'_>) {
        let mut settings = own.settings.clone();
        settings.route.apps = vec![own.app.clone()];
        let name = format!("{}/{}", own.app, own.name);
        if let Err(error) = self.add_accounts(&settings, Some(&name), Some(version), tools) {
            tracing::error!(account = name, error = &error as &dyn Error, "an account is unusable");
            self.remove(&name);
            for provider_name in settings.providers() {
                let made_of = MadeOf {
                    name: Some(name.clone()),
                    route: Route::from_settings(&settings.route),
                    rate: None,
                    setup: Setup::Unusable(provider_name),
                };
                let provider = Provider::Unusable(provider_name);
                let account = Account::new(provider, made_of, Some(version.clone()), &tools.turns);
                self.by_channel[channel_of(provider_name) as usize].add(Arc::new(account));
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
        tools: &Tools<'_>,
    ) -> Result<(), ConfigError> {
        let clock = || tools.clock.clone();
        let made_of = |provider: &str, setup: Setup| MadeOf {
            name: name.map(str::to_owned),
            route: Route::from_settings(&settings.route),
            rate: settings.rate_per_second(provider),
            setup,
        };
        if let Some(apns) = &settings.apns {
            let options = apns::Options::from_settings(apns)?;
            let made_of = made_of("apns", Setup::Apns(Box::new(options.clone())));
            self.add(tools, Channel::Apns, made_of, version, |others| {
                let others: Vec<_> = others.filter_map(Account::apns).collect();
                Ok(Provider::Apns(apns::Client::beside(&others, options, clock())?))
            })?;
        }
        if let Some(fcm) = &settings.fcm {
            let options = fcm::Options::from_settings(fcm)?;
            let made_of = made_of("fcm", Setup::Fcm(Box::new(options.clone())));
            self.add(tools, Channel::Fcm, made_of, version, |_| {
                Ok(Provider::Fcm(fcm::Client::new(options, clock())?))
            })?;
        }
        if let Some(smtp) = &settings.smtp {
            let options = email::smtp::Options::from_settings(smtp)?;
            let made_of = made_of("smtp", Setup::Smtp(Box::new(options.clone())));
            self.add(tools, Channel::Email, made_of, version, |_| {
                Ok(Provider::Smtp(email::Smtp::new(options, clock())))
            })?;
        }
        if let Some(sendgrid) = &settings.sendgrid {
            let options = email::sendgrid::Options::from_settings(sendgrid)?;
            let made_of = made_of("sendgrid", Setup::Sendgrid(Box::new(options.clone())));
            self.add(tools, Channel::Email, made_of, version, |_| {
                Ok(Provider::Sendgrid(email::sendgrid::Client::new(options, clock())?))
            })?;
        }
        if let Some(mandrill) = &settings.mandrill {
            let options = email::mandrill::Options::from_settings(mandrill)?;
            let made_of = made_of("mandrill", Setup::Mandrill(Box::new(options.clone())));
            self.add(tools, Channel::Email, made_of, version, |_| {
                Ok(Provider::Mandrill(email::mandrill::Client::new(options, clock())?))
            })?;
        }
        if let Some(twilio) = &settings.twilio {
            let options = sms::twilio::Options::from_settings(twilio)?;
            let made_of = made_of("twilio", Setup::Twilio(Box::new(options.clone())));
            self.add(tools, Channel::Sms, made_of, version, |_| {
                Ok(Provider::Twilio(sms::twilio::Client::new(options, clock())?))
            })?;
        }
        if let Some(vonage) = &settings.vonage {
            let options = sms::vonage::Options::from_settings(vonage)?;
            let made_of = made_of("vonage", Setup::Vonage(Box::new(options.clone())));
            self.add(tools, Channel::Sms, made_of, version, |_| {
                Ok(Provider::Vonage(sms::vonage::Client::new(options, clock())?))
            })?;
        }
        if let Some(http) = &settings.sms_http {
            let options = sms::http::Options::from_settings(http)?;
            let made_of = made_of("sms_http", Setup::SmsHttp(Box::new(options.clone())));
            self.add(tools, Channel::Sms, made_of, version, |_| {
                Ok(Provider::SmsHttp(sms::http::Client::new(options, clock())?))
            })?;
        }
        if let Some(bot) = &settings.telegram {
            let options = telegram::Options::from_settings(bot)?;
            let made_of = made_of("telegram", Setup::Telegram(Box::new(options.clone())));
            self.add(tools, Channel::Telegram, made_of, version, |_| {
                Ok(Provider::Telegram(telegram::Client::new(options, tools.turns.clone(), clock())?))
            })?;
        }
        if let Some(aligo) = &settings.aligo {
            let options = alimtalk::Options::from_settings(aligo)?;
            let made_of = made_of("aligo", Setup::Aligo(Box::new(options.clone())));
            self.add(tools, Channel::Alimtalk, made_of, version, |_| {
                Ok(Provider::Aligo(alimtalk::Client::new(options, clock())?))
            })?;
        }
        Ok(())
    }

    /// Gives a channel one more account, to be tried after those that it has: that of before, where it is made of the same, or
    /// what `make` makes, which may look at the channel's other accounts.
    fn add(
        &mut self,
        tools: &Tools<'_>,
        channel: Channel,
        made_of: MadeOf,
        version: Option<&AccountVersion>,
        make: impl FnOnce(&mut dyn Iterator<Item = &Account>) -> Result<Provider, ConfigError>,
    ) -> Result<(), ConfigError> {
        let before = tools.before.of(channel);
        let account = match before.iter().find(|account| account.is(&made_of, version)) {
            Some(account) => Arc::clone(account),
            None => {
                let others = self.of(channel).iter().chain(before);
                let provider = make(&mut others.map(Arc::as_ref))?;
                Arc::new(Account::new(provider, made_of, version.cloned(), &tools.turns))
            }
        };
        self.by_channel[channel as usize].add(account);
        Ok(())
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
