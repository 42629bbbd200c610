//! What can be set of Vonage.

use std::fmt;

use url::Url;

use peal_common::settings::{Secret, VonageSettings, secret};

use super::super::account::{Calls, receipts_url};
use crate::channels::{ConfigError, http as shared};

/// The longest `callback` (SMS API reference).
const MAX_CALLBACK_CHARS: usize = 100;

/// How messages are sent.
#[derive(Clone, PartialEq)]
pub struct Options {
    /// `/sms/json`.
    pub(super) endpoint: Url,
    pub(super) key: String,
    pub(super) secret: Secret,
    /// A name, or a number without its +.
    pub(super) from: String,
    /// Where Vonage reports what became of a message.
    pub(super) receipts_url: Option<Url>,
    pub(super) calls: Calls,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("from", &self.from).finish_non_exhaustive()
    }
}

impl Options {
    /// Takes the settings.
    ///
    /// # Errors
    /// [`ConfigError`] when the credentials or the sender are missing, a file can't be read, or a URL is none or too long.
    pub fn from_settings(settings: &VonageSettings) -> Result<Self, ConfigError> {
        if settings.api_key.trim().is_empty() {
            return Err(ConfigError::invalid(
                "channels.sms.vonage.api_key",
                "write the key from Vonage's dashboard",
            ));
        }
        let secret = secret(
            "channels.sms.vonage.api_secret_file",
            settings.api_secret.as_ref(),
            settings.api_secret_file.as_deref(),
        )?;
        let secret = secret.filter(|secret| !secret.expose().is_empty()).ok_or_else(|| {
            ConfigError::invalid(
                "channels.sms.vonage.api_secret",
                "write the secret, or api_secret_file with its file",
            )
        })?;
        let from = settings.from.trim().trim_start_matches('+');
        if from.is_empty() || from.contains(char::is_control) {
            return Err(ConfigError::invalid(
                "channels.sms.vonage.from",
                "write a sender: a number of yours, or a name such as Shop",
            ));
        }
        let mut endpoint = shared::base_url("channels.sms.vonage.base_url", &settings.base_url)?;
        shared::add_path(&mut endpoint, ["sms", "json"]);
        let key = "channels.sms.vonage.receipts_url";
        let receipts_url = receipts_url(key, settings.receipts_url.as_deref())?;
        if receipts_url.as_ref().is_some_and(|url| url.as_str().len() > MAX_CALLBACK_CHARS) {
            let advice = format!("write a URL of at most {MAX_CALLBACK_CHARS} characters");
            return Err(ConfigError::invalid(key, advice));
        }
        Ok(Options {
            endpoint,
            key: settings.api_key.trim().to_owned(),
            secret,
            from: from.to_owned(),
            receipts_url,
            calls: Calls::new(
                "channels.sms.vonage.tls_ca_file",
                settings.tls_ca_file.as_deref(),
                settings.timeout_seconds,
            )?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut VonageSettings);

    fn settings() -> VonageSettings {
        VonageSettings {
            api_key: "abcd1234".to_owned(),
            api_secret: Some("s3cret".to_owned().into()),
            api_secret_file: None,
            from: "+14155550100".to_owned(),
            receipts_url: None,
            base_url: "https://rest.nexmo.com".to_owned(),
            tls_ca_file: None,
            timeout_seconds: 15,
            rate_per_second: None,
        }
    }

    #[test]
    fn the_endpoint_is_below_the_base_and_a_number_has_no_plus() {
        let options = Options::from_settings(&settings()).unwrap();
        assert_eq!(options.endpoint.as_str(), "https://rest.nexmo.com/sms/json");
        assert_eq!(options.from, "14155550100");
    }

    #[test]
    fn bad_settings_are_refused_and_no_secret_is_shown() {
        let refused: [(Change, &str); 7] = [
            (|it| it.api_key = " ".to_owned(), "api_key"),
            (|it| it.api_secret = None, "api_secret"),
            (|it| it.api_secret = Some(String::new().into()), "api_secret"),
            (|it| it.from = "+".to_owned(), "from"),
            (|it| it.base_url = "rest.nexmo.com".to_owned(), "base_url"),
            (|it| it.receipts_url = Some("mailto:a@example.com".to_owned()), "receipts_url"),
            (|it| it.receipts_url = Some(format!("https://example.com/{}", "x".repeat(81))), "receipts_url"),
        ];
        for (change, key) in refused {
            let mut settings = settings();
            change(&mut settings);
            let error = Options::from_settings(&settings).unwrap_err().to_string();
            assert!(error.contains(&format!("channels.sms.vonage.{key}")), "{error}");
            assert!(!error.contains("s3cret"));
        }
        let shown = format!("{:?} {:?}", Options::from_settings(&settings()).unwrap(), settings());
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
