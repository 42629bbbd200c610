//! The settings of all processes: one TOML file, overridden by environment variables.
//!
//! `default.toml` beside this file is compiled in: it is both the documentation and the defaults.

mod callbacks;
mod channels;
mod providers;

pub use callbacks::*;
pub use channels::*;
pub use providers::*;

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use config::{Config, File, FileFormat};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::channel::Channel;
use crate::id::Region;
use crate::seal::{SealError, Sealer};

/// The commented defaults.
pub const DEFAULTS: &str = include_str!("default.toml");

/// Settings that can't be used. The message says what to write, and never repeats a secret.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file or a variable does not fit.
    #[error("settings: {0}")]
    Invalid(String),
    /// A file that the settings name can't be read.
    #[error("settings: {key} names {path}, which cannot be read: {source}")]
    Unreadable {
        /// The key that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The region's key is missing or no key.
    #[error("settings: region.key or region.key_file: {0}")]
    RegionKey(#[from] SealError),
    /// Nothing gives the region's key.
    #[error(
        "settings: set region.key_file (or PEAL__REGION__KEY_FILE) to a file with 32 random bytes in base64"
    )]
    NoRegionKey,
}

/// A secret: never shown, wiped when dropped.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct Secret(Zeroizing<String>);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Secret(Zeroizing::new(text))
    }
}

impl Secret {
    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Everything that can be set. See `default.toml` for what each key means.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each key is documented where people look for it, in default.toml")]
pub struct Settings {
    pub region: RegionSettings,
    pub nats: NatsSettings,
    pub topology: TopologySettings,
    pub gateway: GatewaySettings,
    pub dispatcher: DispatcherSettings,
    pub channels: ChannelSettings,
    #[serde(default)]
    pub callbacks: Box<CallbackSettings>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct RegionSettings {
    pub name: Region,
    pub key: Option<Secret>,
    pub key_file: Option<PathBuf>,
    pub pinned: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct NatsSettings {
    pub urls: Vec<String>,
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub password_file: Option<PathBuf>,
    pub credentials: Option<Secret>,
    pub credentials_file: Option<PathBuf>,
    pub tls_ca_file: Option<PathBuf>,
    pub request_timeout_ms: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct TopologySettings {
    pub hub: Option<Region>,
    pub regions: Vec<Region>,
    pub replicas: usize,
    pub duplicate_window_seconds: u64,
    pub events_max_age_days: u64,
    pub silence_seconds: u64,
    pub homecoming_seconds: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct GatewaySettings {
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    pub public_url: Option<String>,
    pub rate_limit_per_second: u32,
    pub idempotency_hours: u64,
    pub group_commit: GroupCommit,
    pub console_requires_key: bool,
}

impl GatewaySettings {
    /// The address under which people reach the gateway, without a slash at its end.
    #[must_use]
    pub fn public_base(&self) -> Option<&str> {
        self.public_url.as_deref().map(|url| url.trim_end_matches('/'))
    }

    /// Links with it stand in headers of e-mails: nothing in it may end one, and it may not make a line too long.
    fn check_public_url(&self) -> Result<(), SettingsError> {
        let Some(text) = &self.public_url else { return Ok(()) };
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\"".contains(&byte));
        let is_base = url::Url::parse(text).is_ok_and(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.query().is_none()
                && url.fragment().is_none()
        });
        if is_plain && is_base && text.len() <= MAX_PUBLIC_URL_BYTES {
            return Ok(());
        }
        Err(SettingsError::Invalid(format!(
            "gateway.public_url: write a URL such as https://peal.example.com, of at most {MAX_PUBLIC_URL_BYTES} bytes"
        )))
    }
}

/// Beside the longest token it leaves a line of a header within its 998 characters (RFC 5322 §2.1.1).
const MAX_PUBLIC_URL_BYTES: usize = 300;

/// Whether waiting notifications are written together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupCommit {
    /// Where it is measured to be faster.
    #[default]
    Auto,
    /// Never.
    Never,
    /// Whenever two wait.
    Always,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct DispatcherSettings {
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    pub max_attempts: u32,
    pub retry_base_ms: u64,
    pub retry_cap_seconds: u64,
    pub concurrency: usize,
    pub channels: Vec<Channel>,
    pub upgrade_seconds: u64,
}

/// Keys that hold lists: their environment variables are split at commas.
const LISTS: [&str; 18] = [
    "nats.urls",
    "topology.regions",
    "callbacks.mandrill.key_files",
    "callbacks.mandrill.keys",
    "callbacks.sendgrid.key_files",
    "callbacks.sendgrid.keys",
    "callbacks.telegram.apps",
    "callbacks.telegram.key_files",
    "callbacks.telegram.keys",
    "callbacks.twilio.key_files",
    "callbacks.twilio.keys",
    "callbacks.vonage.key_files",
    "callbacks.vonage.keys",
    "dispatcher.channels",
    "channels.sms.http.retry.statuses",
    "channels.sms.http.success.status",
    "channels.webhook.allowed_networks",
    "channels.webpush.allowed_networks",
];

impl Settings {
    /// Merges the defaults, the text of a settings file and environment variables, and checks the result.
    ///
    /// # Errors
    /// [`SettingsError::Invalid`] with what to write when something does not fit.
    pub fn parse(file: Option<&str>, environment: HashMap<String, String>) -> Result<Self, SettingsError> {
        let invalid = |error: config::ConfigError| SettingsError::Invalid(error.to_string());
        let mut builder = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        if let Some(file) = file {
            builder = builder.add_source(File::from_str(file, FileFormat::Toml));
        }
        for (name, value) in environment {
            // PEAL_CONFIG itself and other tools' variables are not keys: keys have two underscores.
            let Some(key) = name.strip_prefix("PEAL__") else { continue };
            let key = key.replace("__", ".").to_ascii_lowercase();
            // Numbers are read where a number is expected: a password may look like one, and keep its zeros.
            builder = match LISTS.contains(&key.as_str()) {
                true => builder.set_override(&key, entries(&value)),
                false => builder.set_override(&key, value),
            }
            .map_err(invalid)?;
        }
        let settings: Settings = builder.build().map_err(invalid)?.try_deserialize().map_err(invalid)?;
        settings.check()?;
        Ok(settings)
    }

    /// Reads the settings of a process: the named file, if any, and the process's environment.
    ///
    /// # Errors
    /// [`SettingsError`] with what to write.
    pub fn load(file: Option<&Path>) -> Result<Self, SettingsError> {
        let text = match file {
            Some(path) => Some(read("--config", path)?),
            None => None,
        };
        Settings::parse(text.as_deref(), std::env::vars().collect())
    }

    fn check(&self) -> Result<(), SettingsError> {
        let wrong = |text: &str| Err(SettingsError::Invalid(text.to_owned()));
        if self.nats.urls.is_empty() {
            return wrong("nats.urls: name at least one server");
        }
        self.check_links()?;
        if ![1, 3, 5].contains(&self.topology.replicas) {
            return wrong("topology.replicas: write 1, 3 or 5");
        }
        for (name, seconds) in [
            ("silence_seconds", self.topology.silence_seconds),
            ("homecoming_seconds", self.topology.homecoming_seconds),
        ] {
            if !(1..=86_400).contains(&seconds) {
                return wrong(&format!("topology.{name}: write 1 to 86400"));
            }
        }
        if !(30..=3600).contains(&self.topology.duplicate_window_seconds) {
            return wrong("topology.duplicate_window_seconds: write 30 to 3600");
        }
        if self.gateway.idempotency_hours > self.topology.events_max_age_days.saturating_mul(24) {
            return wrong(
                "gateway.idempotency_hours: an id is recognised while its events are kept; write at most 24 for each of \
                 topology.events_max_age_days, or raise that",
            );
        }
        if !(1..=100).contains(&self.dispatcher.max_attempts) {
            return wrong("dispatcher.max_attempts: write 1 to 100");
        }
        if !(8..=4096).contains(&self.dispatcher.concurrency) {
            return wrong("dispatcher.concurrency: write 8 to 4096");
        }
        self.gateway.check_public_url()?;
        self.channels.check()
    }

    fn check_links(&self) -> Result<(), SettingsError> {
        let TopologySettings { hub, regions, .. } = &self.topology;
        let wrong = |text: String| Err(SettingsError::Invalid(text));
        let own = &self.region.name;
        match hub {
            None if regions.is_empty() => Ok(()),
            None => wrong("topology.regions: name the hub that links them in topology.hub".to_owned()),
            Some(hub) if regions.contains(hub) => {
                wrong(format!("topology.hub: {hub} is a region; the hub needs a name of its own"))
            }
            Some(hub) if hub != own && !regions.contains(own) => {
                wrong(format!("topology.regions: list every region that the hub links, {own} among them"))
            }
            Some(_) => Ok(()),
        }
    }

    /// Whether these are the settings of the hub, not of a region.
    #[must_use]
    pub fn is_hub(&self) -> bool {
        self.topology.hub.as_ref() == Some(&self.region.name)
    }

    /// The regions that this one is linked with; none for the hub, which has no state of its own.
    #[must_use]
    pub fn other_regions(&self) -> Vec<Region> {
        if self.is_hub() {
            return Vec::new();
        }
        self.topology.regions.iter().filter(|region| **region != self.region.name).cloned().collect()
    }

    /// The sealer made from the region's key.
    ///
    /// # Errors
    /// When the key is missing, unreadable or no key.
    pub fn sealer(&self) -> Result<Sealer, SettingsError> {
        let key = secret("region.key_file", self.region.key.as_ref(), self.region.key_file.as_deref())?
            .ok_or(SettingsError::NoRegionKey)?;
        Ok(Sealer::from_base64(key.expose())?)
    }
}

/// A secret that was given as it is or as a file, whose surrounding white space is ignored.
///
/// # Errors
/// [`SettingsError::Unreadable`] when the file can't be read.
pub fn secret(
    key: &'static str,
    given: Option<&Secret>,
    file: Option<&Path>,
) -> Result<Option<Secret>, SettingsError> {
    match (given, file) {
        (Some(secret), _) => Ok(Some(secret.clone())),
        (None, Some(path)) => Ok(Some(Secret::from(read(key, path)?.trim().to_owned()))),
        (None, None) => Ok(None),
    }
}

/// The entries of a list in a variable.
fn entries(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(str::to_owned).collect()
}

fn read(key: &'static str, path: &Path) -> Result<String, SettingsError> {
    std::fs::read_to_string(path).map_err(|source| SettingsError::Unreadable {
        key,
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_defaults_are_complete() {
        let settings = Settings::parse(None, HashMap::new()).unwrap();
        assert_eq!(settings.gateway.listen.to_string(), "127.0.0.1:8080");
        assert!(!settings.channels.sandbox.enabled);
    }

    #[test]
    fn variables_beat_the_file_which_beats_the_defaults() {
        let file = "[region]\nname = \"eu\"\n[gateway]\nlisten = \"0.0.0.0:80\"\n";
        let variables = environment(&[
            ("PEAL__REGION__NAME", "us"),
            ("PEAL__NATS__URLS", "nats://a:1,nats://b:2"),
            ("PEAL__CHANNELS__TELEGRAM__BASE_URL", "http://127.0.0.1:9"),
            ("PEAL__CHANNELS__EMAIL__SMTP__HOST", "mail"),
            ("PEAL__CHANNELS__EMAIL__SMTP__FROM", "a@example.com"),
            ("PEAL__CHANNELS__EMAIL__SMTP__PASSWORD", "0012E5"),
            ("PEAL__DISPATCHER__MAX_ATTEMPTS", "7"),
            ("PEAL__CHANNELS__SANDBOX__ENABLED", "true"),
            ("PEAL__CHANNELS__SMS__HTTP__SUCCESS__STATUS", "200,202-204"),
            ("PEAL__CHANNELS__SMS__HTTP__RETRY__STATUSES", "429"),
            ("PEAL__CHANNELS__WEBHOOK__ALLOWED_NETWORKS", "127.0.0.0/8"),
            ("PEAL_CONFIG", "ignored"),
        ]);
        let settings = Settings::parse(Some(file), variables).unwrap();
        assert_eq!(settings.region.name.as_str(), "us");
        assert_eq!(settings.gateway.listen.port(), 80);
        assert_eq!(settings.nats.urls, ["nats://a:1", "nats://b:2"]);
        assert_eq!(settings.channels.telegram.unwrap().base_url, "http://127.0.0.1:9");
        let smtp = settings.channels.email.smtp.unwrap();
        assert_eq!((smtp.port, smtp.password.unwrap().expose()), (587, "0012E5"));
        assert_eq!((settings.dispatcher.max_attempts, settings.channels.sandbox.enabled), (7, true));
        assert_eq!(settings.channels.webhook.allowed_networks, ["127.0.0.0/8"]);
        let gateway = settings.channels.sms.http.unwrap();
        assert_eq!(
            (gateway.success.status, gateway.retry.statuses),
            (vec!["200".into(), "202-204".into()], vec![429])
        );
    }

    #[test]
    fn unknown_keys_and_impossible_values_are_refused_by_name() {
        let refused = |file: &str| Settings::parse(Some(file), HashMap::new()).unwrap_err().to_string();
        assert!(refused("[gateway]\nlistn = \"x\"").contains("listn"));
        assert!(refused("[region]\nname = \"E U\"").contains("1 to 32 characters"));
        assert!(refused("[topology]\nreplicas = 2").contains("1, 3 or 5"));
        assert!(refused("[topology]\nregions = [\"local\"]").contains("topology.hub"));
        assert!(refused("[topology]\nhub = \"hub\"\nregions = [\"eu\"]").contains("local among them"));
        assert!(refused("[topology]\nhub = \"local\"\nregions = [\"local\"]").contains("a name of its own"));
        assert!(
            refused("[topology]\nevents_max_age_days = 3\n[gateway]\nidempotency_hours = 73")
                .contains("raise")
        );
        for url in ["peal.example.com", "ftp://x", "https://x/?a", "https://x/<b>", "https://x\\r\\nBcc: y"] {
            let file = format!("[gateway]\npublic_url = \"{url}\"");
            assert!(refused(&file).contains("gateway.public_url"), "{url}");
        }
        let smtp = "[channels.email.smtp]\nhost = \"m\"\nfrom = \"a@example.com\"\n";
        assert!(refused(&format!("{smtp}timeout_seconds = 30")).contains("1 to 20"));
        assert!(refused(&format!("{smtp}max_connections = 0")).contains("1 to 200"));
        assert!(refused("[channels.apns]\ntimeout_seconds = 21").contains("channels.apns.timeout_seconds"));
        assert!(refused("[channels.apns]\nkeyid = \"ABC\"").contains("keyid"));
        for (name, value) in [
            ("PEAL__GATEWAY__LISTN", "x"),
            ("PEAL__DISPATCHER__MAX_ATTEMPTS", "many"),
            ("PEAL__", "x"),
            ("PEAL__GATEWAY", "x"),
            ("PEAL__NATS__URLS", ","),
        ] {
            assert!(Settings::parse(None, environment(&[(name, value)])).is_err(), "{name}");
        }
        assert!(refused("[channels.fcm]\ntimeout_seconds = 0").contains("channels.fcm.timeout_seconds"));
        assert!(refused("[channels.fcm]\nproject = \"x\"").contains("project"));
        for section in ["sms.twilio", "sms.vonage", "sms.http", "email.sendgrid", "email.mandrill", "fcm"] {
            let section = format!("channels.{section}");
            let timeout = refused(&format!("[{section}]\ntimeout_seconds = 21"));
            assert!(timeout.contains(&format!("{section}.timeout_seconds")), "{timeout}");
            let rate = refused(&format!("[{section}]\nrate_per_second = 0"));
            assert!(rate.contains(&format!("{section}.rate_per_second")), "{rate}");
        }
    }

    #[test]
    fn accounts_have_names_and_rules() {
        let file = "[channels.accounts.news.for]\nclasses = [\"marketing\"]\ncountries = [\"+82\"]\n\
                    [channels.accounts.news.smtp]\nhost = \"m\"\nfrom = \"a@example.com\"\n";
        let settings = Settings::parse(Some(file), HashMap::new()).unwrap();
        let account = &settings.channels.accounts["news"];
        assert_eq!(account.route.classes, [crate::category::Class::Marketing]);
        assert!(account.smtp.is_some() && settings.channels.unnamed().smtp.is_none());
        let refused = |from: &str, to: &str| {
            Settings::parse(Some(&file.replace(from, to)), HashMap::new()).unwrap_err().to_string()
        };
        assert!(refused("accounts.news", "accounts.\"a b\"").contains("a-z 0-9 -"));
        assert!(refused("\"marketing\"", "\"adverts\"").contains("adverts"));
        assert!(refused("+82", "KR").contains("channels.accounts.news.for.countries"));
        assert!(refused("host", "timeout_seconds = 99\nhost").contains("accounts.news.smtp.timeout_seconds"));
        assert!(refused("smtp]", "pigeon]").contains("pigeon"));
    }

    #[test]
    fn a_region_knows_the_others() {
        let file = "[region]\nname = \"us\"\n[topology]\nhub = \"hub\"\nregions = [\"eu\", \"us\", \"ap\"]";
        let settings = Settings::parse(Some(file), HashMap::new()).unwrap();
        let others: Vec<_> = settings.other_regions().iter().map(ToString::to_string).collect();
        assert_eq!(others, ["eu", "ap"]);
        assert!(!settings.is_hub());
        let hub = Settings::parse(Some(&file.replace("\"us\"\n", "\"hub\"\n")), HashMap::new()).unwrap();
        assert!(hub.is_hub() && hub.other_regions().is_empty());
        let variables =
            environment(&[("PEAL__TOPOLOGY__HUB", "hub"), ("PEAL__TOPOLOGY__REGIONS", "local,us")]);
        assert_eq!(Settings::parse(None, variables).unwrap().other_regions().len(), 1);
    }

    #[test]
    fn secrets_are_not_shown() {
        let file = "[region]\nkey = \"topsecret\"";
        let settings = Settings::parse(Some(file), HashMap::new()).unwrap();
        assert!(!format!("{settings:?}").contains("topsecret"));
        assert!(matches!(settings.sealer(), Err(SettingsError::RegionKey(_))));
    }
}
