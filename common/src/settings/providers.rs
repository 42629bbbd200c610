//! What can be set of each provider of a channel. The keys are explained in `default.toml`.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::{Secret, SettingsError, secret};

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
    /// With a body, as are those below.
    #[default]
    Post,
    /// For gateways that have a message made under a name of the caller's.
    Put,
    /// For gateways that have something changed.
    Patch,
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
