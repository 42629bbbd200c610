//! What providers report of what they were sent: it arrived, came back, was opened, was called spam.
//!
//! Whoever posts shows by a signature that they are the provider; nothing else protects this door. A file for each provider
//! says how its signature is checked and what its words mean; [`take`] makes events and suppressions of them. Reports come
//! late, twice and in any order: what is known already changes nothing, so an old one that somebody posts again is harmless.

mod again;
mod keys;
pub mod take;

mod mandrill;
mod sendgrid;
mod signature;
mod telegram;
mod twilio;
mod vonage;

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use http::uri::PathAndQuery;
use http::{HeaderMap, Uri};
use jiff::Timestamp;
use peal_common::channel::Channel;
use peal_common::event::EventType;
use peal_common::id::AppId;
use peal_common::receipt::Reference;
use peal_common::settings::{Settings, SettingsError};

pub use keys::Keys;

/// A provider that reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// Text messages.
    Twilio,
    /// Text messages.
    Vonage,
    /// E-mail.
    Sendgrid,
    /// E-mail.
    Mandrill,
    /// Who blocks the bot.
    Telegram,
}

impl Provider {
    /// Its name in paths, events and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Provider::Twilio => "twilio",
            Provider::Vonage => "vonage",
            Provider::Sendgrid => "sendgrid",
            Provider::Mandrill => "mandrill",
            Provider::Telegram => "telegram",
        }
    }

    /// What it carries.
    #[must_use]
    pub const fn channel(self) -> Channel {
        match self {
            Provider::Twilio | Provider::Vonage => Channel::Sms,
            Provider::Sendgrid | Provider::Mandrill => Channel::Email,
            Provider::Telegram => Channel::Telegram,
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Provider {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        use Provider::{Mandrill, Sendgrid, Telegram, Twilio, Vonage};
        let known = [Twilio, Vonage, Sendgrid, Mandrill, Telegram];
        known.into_iter().find(|provider| provider.as_str() == name).ok_or("no provider of this name reports")
    }
}

/// One thing that a provider reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// What became of a delivery.
    Delivery {
        /// Which one.
        reference: Reference,
        /// What happened, if a step of the delivery did.
        step: Option<EventType>,
        /// When, as far as the provider says it.
        at: Option<Timestamp>,
        /// Why: a stable word.
        reason: Option<String>,
        /// The provider's name for the message.
        provider_id: Option<String>,
        /// An address that is not to be written to any more, and why.
        dead: Option<(String, String)>,
        /// Whether it did not arrive for a reason that passes, so that it may be sent again.
        passes: bool,
    },
    /// Somebody blocked the bot, or lets it write again.
    Chat {
        /// The chat's id.
        chat: String,
        /// Whether it is blocked.
        blocked: bool,
        /// Since when.
        at: Option<Timestamp>,
    },
}

/// A report that is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There is no key for this provider.
    NotSetUp,
    /// No key has made the signature.
    Signature,
    /// It is signed, and not written as this provider does.
    Malformed,
}

/// The keys of all providers that the settings name.
#[derive(Debug, Default)]
pub struct Callbacks {
    /// The address under which providers reach the gateway, without a slash at its end.
    base: String,
    keys: Keys,
    /// Those that the bot writes for.
    pub bot_apps: Vec<AppId>,
}

impl Callbacks {
    /// Reads the keys.
    ///
    /// # Errors
    /// [`SettingsError`] with what to write.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        let callbacks = &settings.callbacks;
        let base = settings.gateway.public_base().unwrap_or_default().to_owned();
        let keys = Keys::from_settings(callbacks)?;
        if base.is_empty() && keys.sign_addresses() {
            let advice =
                "gateway.public_url: write it, callbacks.twilio and callbacks.mandrill sign the address";
            return Err(SettingsError::Invalid(advice.to_owned()));
        }
        let telegram = callbacks.telegram.as_ref();
        if telegram.is_some_and(|bot| bot.apps.is_empty()) {
            let advice = "callbacks.telegram.apps: write the apps that the bot writes for";
            return Err(SettingsError::Invalid(advice.to_owned()));
        }
        Ok(Callbacks { base, keys, bot_apps: telegram.map(|bot| bot.apps.clone()).unwrap_or_default() })
    }

    /// Checks the signature of what was posted, and reads it. `own` are the keys of an app's accounts, which count in the place
    /// of those of the settings.
    ///
    /// # Errors
    /// [`Refused`]
    pub fn read(
        &self,
        provider: Provider,
        own: Option<&Keys>,
        uri: &Uri,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Vec<Report>, Refused> {
        // Over HTTP/2 an address is whole, and its host that of a proxy perhaps.
        let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let posted = Posted { url: format!("{}{path}", self.base), query: uri.query(), headers, body };
        own.unwrap_or(&self.keys).read(provider, &posted)
    }
}

/// The keys of this moment: they may be replaced while the gateway runs.
#[derive(Debug)]
pub struct CurrentCallbacks(RwLock<Arc<Callbacks>>);

impl CurrentCallbacks {
    /// Begins with these.
    #[must_use]
    pub fn new(callbacks: Callbacks) -> Self {
        CurrentCallbacks(RwLock::new(Arc::new(callbacks)))
    }

    /// Those of this moment.
    #[must_use]
    pub fn get(&self) -> Arc<Callbacks> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts others in their place.
    pub fn replace(&self, callbacks: Callbacks) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(callbacks);
    }
}

/// What a provider posted.
struct Posted<'a> {
    /// The address as the provider knows it, with its query.
    url: String,
    query: Option<&'a str>,
    headers: &'a HeaderMap,
    body: &'a [u8],
}

impl Posted<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The fields of a form.
    fn form(&self) -> Vec<(String, String)> {
        form_urlencoded::parse(self.body).into_owned().collect()
    }
}

/// The value of a field.
fn field<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// A time in seconds since the Unix epoch.
fn seconds(value: &serde_json::Value) -> Option<Timestamp> {
    Timestamp::from_second(value.as_i64()?).ok()
}

/// A report as the tables of the tests write it: the step, why, what becomes of the address, and whether it is sent again.
/// Nothing for a report that changes nothing.
#[cfg(test)]
fn in_words(report: impl Into<Option<Report>>) -> String {
    let words = match report.into() {
        None => Vec::new(),
        Some(Report::Chat { chat, blocked, .. }) => {
            vec![chat, if blocked { "suppressed" } else { "lifted" }.to_owned()]
        }
        Some(Report::Delivery { step, reason, dead, passes, .. }) => {
            let step = step.map(|step| step.as_str().to_owned());
            let suppressed = dead.map(|(_, why)| {
                assert_eq!(Some(&why), reason.as_ref(), "suppressed for what it came back for");
                "suppressed".to_owned()
            });
            step.into_iter()
                .chain(reason)
                .chain(suppressed)
                .chain(passes.then(|| "again".to_owned()))
                .collect()
        }
    };
    words.join(" ")
}
