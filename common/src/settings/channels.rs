//! The settings of the channels and their providers.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use serde::Deserialize;

use super::{Secret, SettingsError, secret};
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

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct WebhookSettings {
    pub enabled: bool,
    pub secret: Option<Secret>,
    pub secret_file: Option<PathBuf>,
    pub timeout_seconds: u64,
    pub allowed_networks: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct InboxSettings {
    pub enabled: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct EmailSettings {
    pub smtp: Option<Box<SmtpSettings>>,
    pub sendgrid: Option<Box<SendgridSettings>>,
    pub mandrill: Option<Box<MandrillSettings>>,
}

impl EmailSettings {
    /// Whether there is a provider.
    #[must_use]
    pub const fn is_set(&self) -> bool {
        self.smtp.is_some() || self.sendgrid.is_some() || self.mandrill.is_some()
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct ApnsSettings {
    pub key: Option<Secret>,
    pub key_file: Option<PathBuf>,
    #[serde(default)]
    pub key_id: String,
    #[serde(default)]
    pub team_id: String,
    pub topic: Option<String>,
    #[serde(default = "default_apns_url")]
    pub base_url: String,
    pub tls_ca_file: Option<PathBuf>,
    #[serde(default = "default_apns_timeout")]
    pub timeout_seconds: u64,
}

fn default_apns_url() -> String {
    "https://api.push.apple.com".to_owned()
}

const fn default_apns_timeout() -> u64 {
    15
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct FcmSettings {
    pub service_account: Option<Secret>,
    pub service_account_file: Option<PathBuf>,
    pub project_id: Option<String>,
    #[serde(default = "default_fcm_url")]
    pub base_url: String,
    pub token_url: Option<String>,
    pub tls_ca_file: Option<PathBuf>,
    #[serde(default)]
    pub validate_only: bool,
    #[serde(default = "default_fcm_timeout")]
    pub timeout_seconds: u64,
    #[serde(default = "default_fcm_rate")]
    pub rate_per_second: u32,
}

/// A project's quota is 600,000 messages a minute (Firebase, "Throttling and quotas").
const fn default_fcm_rate() -> u32 {
    10_000
}

fn default_fcm_url() -> String {
    "https://fcm.googleapis.com".to_owned()
}

const fn default_fcm_timeout() -> u64 {
    15
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct WebpushSettings {
    pub private_key: Option<Secret>,
    pub private_key_file: Option<PathBuf>,
    pub subject: String,
    #[serde(default = "default_webpush_timeout")]
    pub timeout_seconds: u64,
    #[serde(default)]
    pub allowed_networks: Vec<String>,
}

impl WebpushSettings {
    /// The private key, from its file where that is named.
    ///
    /// # Errors
    /// [`SettingsError`] when the file can't be read.
    pub fn private_key(&self) -> Result<Option<Secret>, SettingsError> {
        secret(
            "channels.webpush.private_key_file",
            self.private_key.as_ref(),
            self.private_key_file.as_deref(),
        )
    }
}

const fn default_webpush_timeout() -> u64 {
    15
}

/// How the connection to a mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SmtpTls {
    /// Not at all: only for a relay on the same machine.
    None,
    /// STARTTLS (RFC 3207), required.
    #[default]
    Starttls,
    /// TLS from the first byte (RFC 8314).
    Implicit,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct SmtpSettings {
    pub host: String,
    #[serde(default = "default_smtp_port")]
    pub port: u16,
    #[serde(default)]
    pub tls: SmtpTls,
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub password_file: Option<PathBuf>,
    pub from: String,
    pub hello_name: Option<String>,
    pub tls_ca_file: Option<PathBuf>,
    #[serde(default = "default_smtp_timeout")]
    pub timeout_seconds: u64,
    #[serde(default = "default_smtp_connections")]
    pub max_connections: usize,
    pub rate_per_second: Option<u32>,
}

/// The submission port (RFC 6409).
const fn default_smtp_port() -> u16 {
    587
}

const fn default_smtp_timeout() -> u64 {
    20
}

const fn default_smtp_connections() -> usize {
    10
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct SmsSettings {
    pub twilio: Option<Box<TwilioSettings>>,
    pub vonage: Option<Box<VonageSettings>>,
    pub http: Option<Box<SmsHttpSettings>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct TwilioSettings {
    #[serde(default)]
    pub account_sid: String,
    pub auth_token: Option<Secret>,
    pub auth_token_file: Option<PathBuf>,
    pub api_key: Option<String>,
    pub api_key_secret: Option<Secret>,
    pub api_key_secret_file: Option<PathBuf>,
    pub from: Option<String>,
    pub messaging_service_sid: Option<String>,
    pub receipts_url: Option<String>,
    #[serde(default = "default_twilio_url")]
    pub base_url: String,
    pub tls_ca_file: Option<PathBuf>,
    #[serde(default = "default_sms_timeout")]
    pub timeout_seconds: u64,
    pub rate_per_second: Option<u32>,
}

fn default_twilio_url() -> String {
    "https://api.twilio.com".to_owned()
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct VonageSettings {
    #[serde(default)]
    pub api_key: String,
    pub api_secret: Option<Secret>,
    pub api_secret_file: Option<PathBuf>,
    #[serde(default)]
    pub from: String,
    pub receipts_url: Option<String>,
    #[serde(default = "default_vonage_url")]
    pub base_url: String,
    pub tls_ca_file: Option<PathBuf>,
    #[serde(default = "default_sms_timeout")]
    pub timeout_seconds: u64,
    pub rate_per_second: Option<u32>,
}

fn default_vonage_url() -> String {
    "https://rest.nexmo.com".to_owned()
}

/// How a gateway's HTTP API is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum SmsHttpMethod {
    /// With everything in the URL.
    Get,
    /// With a body.
    #[default]
    Post,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct SmsHttpSettings {
    pub url: Option<Secret>,
    pub url_file: Option<PathBuf>,
    #[serde(default)]
    pub method: SmsHttpMethod,
    #[serde(default)]
    pub headers: HashMap<String, Secret>,
    #[serde(default)]
    pub header_files: HashMap<String, PathBuf>,
    #[serde(default = "default_sms_content_type")]
    pub content_type: String,
    pub body: Option<Secret>,
    pub body_file: Option<PathBuf>,
    #[serde(default)]
    pub from: String,
    #[serde(default)]
    pub success: SmsHttpSuccess,
    #[serde(default)]
    pub provider_id: SmsHttpProviderId,
    #[serde(default)]
    pub retry: SmsHttpRetry,
    pub tls_ca_file: Option<PathBuf>,
    #[serde(default = "default_sms_timeout")]
    pub timeout_seconds: u64,
    pub rate_per_second: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct SmsHttpSuccess {
    pub status: Vec<String>,
    pub json_pointer: Option<String>,
    pub equals: Option<String>,
    pub body_contains: Option<String>,
}

impl Default for SmsHttpSuccess {
    fn default() -> Self {
        SmsHttpSuccess {
            status: vec!["200-299".to_owned()],
            json_pointer: None,
            equals: None,
            body_contains: None,
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct SmsHttpProviderId {
    pub json_pointer: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct SmsHttpRetry {
    pub statuses: Vec<u16>,
    pub server_errors: bool,
}

impl Default for SmsHttpRetry {
    fn default() -> Self {
        SmsHttpRetry { statuses: vec![429, 503], server_errors: false }
    }
}

fn default_sms_content_type() -> String {
    "application/json".to_owned()
}

const fn default_sms_timeout() -> u64 {
    15
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct SendgridSettings {
    pub key: Option<Secret>,
    pub key_file: Option<PathBuf>,
    #[serde(default)]
    pub from: String,
    #[serde(default = "default_sendgrid_url")]
    pub base_url: String,
    #[serde(default)]
    pub sandbox_mode: bool,
    pub tls_ca_file: Option<PathBuf>,
    #[serde(default = "default_mail_api_timeout")]
    pub timeout_seconds: u64,
    pub rate_per_second: Option<u32>,
}

fn default_sendgrid_url() -> String {
    "https://api.sendgrid.com".to_owned()
}

const fn default_mail_api_timeout() -> u64 {
    15
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct MandrillSettings {
    pub key: Option<Secret>,
    pub key_file: Option<PathBuf>,
    #[serde(default)]
    pub from: String,
    #[serde(default = "default_mandrill_url")]
    pub base_url: String,
    pub subaccount: Option<String>,
    #[serde(default)]
    pub track_opens: bool,
    #[serde(default)]
    pub track_clicks: bool,
    pub tls_ca_file: Option<PathBuf>,
    #[serde(default = "default_mail_api_timeout")]
    pub timeout_seconds: u64,
    pub rate_per_second: Option<u32>,
}

fn default_mandrill_url() -> String {
    "https://mandrillapp.com".to_owned()
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct TelegramSettings {
    pub token: Option<Secret>,
    pub token_file: Option<PathBuf>,
    #[serde(default = "default_telegram_url")]
    pub base_url: String,
}

fn default_telegram_url() -> String {
    "https://api.telegram.org".to_owned()
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct AlimtalkSettings {
    pub aligo: Option<Box<AligoSettings>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct AligoSettings {
    pub api_key: Option<Secret>,
    pub api_key_file: Option<PathBuf>,
    #[serde(default)]
    pub user_id: String,
    pub sender_key: Option<Secret>,
    #[serde(default)]
    pub sender: String,
    #[serde(default)]
    pub failover: bool,
    #[serde(default)]
    pub test_mode: bool,
    #[serde(default = "default_aligo_url")]
    pub base_url: String,
    pub tls_ca_file: Option<PathBuf>,
    #[serde(default = "default_aligo_timeout")]
    pub timeout_seconds: u64,
}

fn default_aligo_url() -> String {
    "https://kakaoapi.aligo.in".to_owned()
}

const fn default_aligo_timeout() -> u64 {
    10
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct SandboxSettings {
    pub enabled: bool,
}
