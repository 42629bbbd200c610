//! The accounts at providers that messages go out through, and what is checked of them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    AligoSettings, AlimtalkSettings, ApnsSettings, EmailSettings, FcmSettings, InboxSettings,
    MandrillSettings, SandboxSettings, SendgridSettings, SettingsError, SmsHttpSettings, SmsSettings,
    SmtpSettings, TelegramSettings, TwilioSettings, VonageSettings, WebhookSettings, WebpushSettings,
};
use crate::category::Class;
use crate::id::AppId;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct ChannelSettings {
    pub webhook: WebhookSettings,
    pub inbox: InboxSettings,
    pub apns: Option<Box<ApnsSettings>>,
    pub fcm: Option<Box<FcmSettings>>,
    pub webpush: Option<Box<WebpushSettings>>,
    #[serde(default)]
    pub email: EmailSettings,
    #[serde(default)]
    pub sms: SmsSettings,
    pub telegram: Option<Box<TelegramSettings>>,
    #[serde(default)]
    pub alimtalk: AlimtalkSettings,
    pub sandbox: SandboxSettings,
    #[serde(default)]
    pub accounts: BTreeMap<String, AccountSettings>,
}

/// One more account, or several that are used for the same messages.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct AccountSettings {
    #[serde(default, rename = "for")]
    pub route: RouteSettings,
    pub apns: Option<Box<ApnsSettings>>,
    pub fcm: Option<Box<FcmSettings>>,
    pub smtp: Option<Box<SmtpSettings>>,
    pub sendgrid: Option<Box<SendgridSettings>>,
    pub mandrill: Option<Box<MandrillSettings>>,
    pub twilio: Option<Box<TwilioSettings>>,
    pub vonage: Option<Box<VonageSettings>>,
    pub sms_http: Option<Box<SmsHttpSettings>>,
    pub telegram: Option<Box<TelegramSettings>>,
    pub aligo: Option<Box<AligoSettings>>,
}

/// Which messages an account takes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct RouteSettings {
    #[serde(default)]
    pub apps: Vec<AppId>,
    #[serde(default)]
    pub classes: Vec<Class>,
    #[serde(default)]
    pub countries: Vec<String>,
}

impl ChannelSettings {
    /// The accounts that have no name, as one that takes everything.
    #[must_use]
    pub fn unnamed(&self) -> AccountSettings {
        AccountSettings {
            route: RouteSettings::default(),
            apns: self.apns.clone(),
            fcm: self.fcm.clone(),
            smtp: self.email.smtp.clone(),
            sendgrid: self.email.sendgrid.clone(),
            mandrill: self.email.mandrill.clone(),
            twilio: self.sms.twilio.clone(),
            vonage: self.sms.vonage.clone(),
            sms_http: self.sms.http.clone(),
            telegram: self.telegram.clone(),
            aligo: self.alimtalk.aligo.clone(),
        }
    }

    pub(super) fn check(&self) -> Result<(), SettingsError> {
        check_timeout("channels.webhook", Some(self.webhook.timeout_seconds))?;
        check_timeout("channels.webpush", self.webpush.as_ref().map(|it| it.timeout_seconds))?;
        self.unnamed().check(|provider| match provider {
            "smtp" | "sendgrid" | "mandrill" => format!("channels.email.{provider}"),
            "twilio" | "vonage" => format!("channels.sms.{provider}"),
            "sms_http" => "channels.sms.http".to_owned(),
            "aligo" => "channels.alimtalk.aligo".to_owned(),
            _ => format!("channels.{provider}"),
        })?;
        for (name, account) in &self.accounts {
            let path = format!("channels.accounts.{name}");
            if !is_account_name(name) {
                let advice = "name accounts with 1 to 32 characters of a-z 0-9 -".to_owned();
                return Err(SettingsError::Invalid(format!("channels.accounts: {advice}")));
            }
            account.check(|provider| format!("{path}.{provider}"))?;
            account.route.check(&format!("{path}."))?;
        }
        Ok(())
    }
}

/// The highest rate that can be set, in messages a second.
const MAX_RATE: u32 = 100_000;
/// A message may have to wait for a call before its own.
const MAX_ALIGO_TIMEOUT: u64 = 12;

/// The longest name of an account.
const MAX_NAME_BYTES: usize = 32;

/// Whether an account may be called so: 1 to 32 characters of `a-z 0-9 -`.
#[must_use]
pub fn is_account_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_plain)
}

impl AccountSettings {
    /// Checks an account that an app brings along, but for the files that it may name.
    ///
    /// # Errors
    /// What to write.
    pub fn check_own(&self) -> Result<(), SettingsError> {
        if self.providers().next().is_none() {
            let known = AccountSettings::PROVIDERS.join(", ");
            return Err(SettingsError::Invalid(format!("name a provider, one of {known}")));
        }
        self.check(str::to_owned)?;
        self.route.check("")
    }

    /// The providers that an account may be at, in the order in which they are tried.
    pub const PROVIDERS: [&str; 10] =
        ["apns", "fcm", "smtp", "sendgrid", "mandrill", "twilio", "vonage", "sms_http", "telegram", "aligo"];

    /// Those that it is at.
    pub fn providers(&self) -> impl Iterator<Item = &'static str> {
        let is_set = [
            self.apns.is_some(),
            self.fcm.is_some(),
            self.smtp.is_some(),
            self.sendgrid.is_some(),
            self.mandrill.is_some(),
            self.twilio.is_some(),
            self.vonage.is_some(),
            self.sms_http.is_some(),
            self.telegram.is_some(),
            self.aligo.is_some(),
        ];
        AccountSettings::PROVIDERS.into_iter().zip(is_set).filter_map(|(name, is_set)| is_set.then_some(name))
    }

    /// The most messages that the account at a provider may be sent in a second, all dispatchers together.
    #[must_use]
    pub fn rate_per_second(&self, provider: &str) -> Option<u32> {
        match provider {
            "fcm" => self.fcm.as_ref().map(|it| it.rate_per_second),
            "smtp" => self.smtp.as_ref()?.rate_per_second,
            "sendgrid" => self.sendgrid.as_ref()?.rate_per_second,
            "mandrill" => self.mandrill.as_ref()?.rate_per_second,
            "twilio" => self.twilio.as_ref()?.rate_per_second,
            "vonage" => self.vonage.as_ref()?.rate_per_second,
            "sms_http" => self.sms_http.as_ref()?.rate_per_second,
            _ => None,
        }
    }

    /// `section` says where a provider's keys stand.
    fn check(&self, section: impl Fn(&str) -> String) -> Result<(), SettingsError> {
        let timeouts = [
            ("apns", self.apns.as_ref().map(|it| it.timeout_seconds)),
            ("fcm", self.fcm.as_ref().map(|it| it.timeout_seconds)),
            ("smtp", self.smtp.as_ref().map(|it| it.timeout_seconds)),
            ("sendgrid", self.sendgrid.as_ref().map(|it| it.timeout_seconds)),
            ("mandrill", self.mandrill.as_ref().map(|it| it.timeout_seconds)),
            ("twilio", self.twilio.as_ref().map(|it| it.timeout_seconds)),
            ("vonage", self.vonage.as_ref().map(|it| it.timeout_seconds)),
            ("sms_http", self.sms_http.as_ref().map(|it| it.timeout_seconds)),
        ];
        for (provider, seconds) in timeouts {
            check_timeout(&section(provider), seconds)?;
        }
        if self.aligo.as_ref().is_some_and(|it| !(1..=MAX_ALIGO_TIMEOUT).contains(&it.timeout_seconds)) {
            let advice = format!("{}.timeout_seconds: write 1 to {MAX_ALIGO_TIMEOUT}", section("aligo"));
            return Err(SettingsError::Invalid(advice));
        }
        if self.smtp.as_ref().is_some_and(|it| !(1..=200).contains(&it.max_connections)) {
            let advice = format!("{}.max_connections: write 1 to 200", section("smtp"));
            return Err(SettingsError::Invalid(advice));
        }
        for provider in self.providers() {
            if self.rate_per_second(provider).is_some_and(|rate| !(1..=MAX_RATE).contains(&rate)) {
                let advice = format!("rate_per_second: write 1 to {MAX_RATE}, or leave it out");
                return Err(SettingsError::Invalid(format!("{}.{advice}", section(provider))));
            }
        }
        Ok(())
    }
}

impl RouteSettings {
    fn check(&self, path: &str) -> Result<(), SettingsError> {
        // The longest calling codes have three digits (ITU-T E.164), and more tell areas within a country apart.
        let is_code = |code: &String| {
            code.strip_prefix('+').is_some_and(|digits| {
                (1..=7).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
            })
        };
        match self.countries.iter().all(is_code) {
            true => Ok(()),
            false => Err(SettingsError::Invalid(format!(
                "{path}for.countries: write calling codes with their +, such as \"+82\""
            ))),
        }
    }
}

/// The acknowledgement wait of a delivery is 30 s: a call must end before it.
fn check_timeout(section: &str, seconds: Option<u64>) -> Result<(), SettingsError> {
    match seconds {
        Some(seconds) if !(1..=20).contains(&seconds) => {
            Err(SettingsError::Invalid(format!("{section}.timeout_seconds: write 1 to 20")))
        }
        _ => Ok(()),
    }
}
