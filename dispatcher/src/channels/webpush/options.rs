//! What can be set of the Web Push channel.

use std::fmt;
use std::time::Duration;

use ipnet::IpNet;

use peal_common::settings::{Secret, WebpushSettings};
use peal_common::vapid::VapidKey;

use crate::channels::ConfigError;
use crate::channels::target::{self, Hosts};

/// How messages are sent.
#[derive(Clone, PartialEq)]
pub struct Options {
    /// The application server's key.
    pub(super) key: VapidKey,
    /// How push services reach whoever runs this: `mailto:` or `https:`.
    pub(super) subject: String,
    /// How long a call may take, from looking up the name to the answer's status. At most 20 s, see
    /// [`crate::channels::CALL_LIMIT`].
    pub timeout: Duration,
    /// Networks that may be called although they are not public.
    pub allowed_networks: Vec<IpNet>,
    /// Names that are known without asking the system's resolver. They are checked like all others.
    pub hosts: Hosts,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("subject", &self.subject).finish_non_exhaustive()
    }
}

impl Options {
    /// Takes the settings.
    ///
    /// # Errors
    /// [`ConfigError`] when the key is none or can't be read, when there is no subject, or a network is none.
    pub fn from_settings(settings: &WebpushSettings) -> Result<Self, ConfigError> {
        let key = settings.private_key()?;
        let key = VapidKey::parse(key.as_ref().map_or("", Secret::expose))
            .map_err(|error| ConfigError::invalid("channels.webpush.private_key", error.to_string()))?;
        // RFC 8292 §2.1.
        if !["mailto:", "https://"].iter().any(|scheme| settings.subject.starts_with(scheme)) {
            return Err(ConfigError::invalid(
                "channels.webpush.subject",
                "write how push services reach you, such as mailto:ops@example.com",
            ));
        }
        Ok(Options {
            key,
            subject: settings.subject.clone(),
            timeout: Duration::from_secs(settings.timeout_seconds),
            allowed_networks: target::networks(
                "channels.webpush.allowed_networks",
                &settings.allowed_networks,
            )?,
            hosts: Hosts::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw";

    fn options(key: Option<&str>, subject: &str, network: &str) -> Result<Options, ConfigError> {
        Options::from_settings(&WebpushSettings {
            private_key: key.map(|key| key.to_owned().into()),
            private_key_file: None,
            subject: subject.to_owned(),
            timeout_seconds: 15,
            allowed_networks: vec![network.to_owned()],
        })
    }

    #[test]
    fn bad_settings_are_refused_and_the_key_is_not_shown() {
        let (subject, network) = ("mailto:ops@example.com", "127.0.0.0/8");
        let shown = format!("{:?}", options(Some(KEY), subject, network).unwrap());
        assert!(!shown.contains("yfWP") && !shown.contains("201"), "{shown}");
        assert!(options(Some(&format!("{KEY}=\n")), subject, network).is_ok(), "as files have it");
        for key in [None, Some(""), Some("AAAA"), Some("c2hvcnQ"), Some(&"A".repeat(43))] {
            let error = options(key, subject, network).unwrap_err().to_string();
            assert!(error.contains("channels.webpush.private_key: "), "{error}");
        }
        for (subject, network) in [("ops@example.com", network), ("", network), (subject, "here")] {
            assert!(options(Some(KEY), subject, network).is_err(), "{subject} {network}");
        }
    }
}
