//! What can be set of an account at Aligo.

use std::fmt;
use std::time::Duration;

use url::Url;

use peal_common::address;
use peal_common::channel::Channel;
use peal_common::settings::{AligoSettings, Secret, secret};

use crate::channels::ConfigError;
use crate::channels::http::{self as shared, Authorities};

const KEY: &str = "channels.alimtalk.aligo.api_key";

/// How messages are sent.
#[derive(Clone, PartialEq)]
pub struct Options {
    /// Below it are the calls.
    pub(super) base: Url,
    /// Who calls: a part of each request's body.
    pub(super) key: Secret,
    /// The user that the key belongs to.
    pub(super) user: String,
    /// Names the Kakao channel that the messages come from.
    pub(super) sender_key: Secret,
    /// The number that text messages come from, as it is dialled in Korea.
    pub(super) sender: String,
    /// Whether Aligo sends a text message where Alimtalk reaches nobody.
    pub failover: bool,
    /// Whether Aligo only checks messages and sends none.
    pub test_mode: bool,
    /// Trusted beside the usual authorities.
    pub(super) authorities: Authorities,
    /// How long a call may take. At most 12 s: a message waits for a call before its own, and all of it has to end within
    /// [`crate::channels::CALL_LIMIT`].
    pub timeout: Duration,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

impl Options {
    /// Takes the settings.
    ///
    /// # Errors
    /// [`ConfigError`] when something is missing or does not fit, or a file can't be read.
    pub fn from_settings(settings: &AligoSettings) -> Result<Self, ConfigError> {
        let missing = |key, what: &str| ConfigError::invalid(key, format!("write {what}"));
        let key = secret(
            "channels.alimtalk.aligo.api_key_file",
            settings.api_key.as_ref(),
            settings.api_key_file.as_deref(),
        )?;
        let key = key.filter(|key| !key.expose().trim().is_empty());
        let sender_key = settings.sender_key.clone().filter(|key| !key.expose().trim().is_empty());
        if settings.user_id.trim().is_empty() {
            return Err(missing("channels.alimtalk.aligo.user_id", "the user's name at Aligo"));
        }
        let sender = address::normalize(Channel::Sms, &settings.sender)
            .ok()
            .or_else(|| address::normalize(Channel::Sms, &international(&settings.sender)?).ok())
            .and_then(|number| domestic(&number));
        let sender = sender.ok_or_else(|| {
            missing(
                "channels.alimtalk.aligo.sender",
                "the number that is registered with Aligo, such as 02-1234-5678",
            )
        })?;
        Ok(Options {
            base: shared::base_url("channels.alimtalk.aligo.base_url", &settings.base_url)?,
            key: key.ok_or_else(|| missing(KEY, "the key of Aligo's API, or api_key_file with its file"))?,
            user: settings.user_id.trim().to_owned(),
            sender_key: sender_key.ok_or_else(|| {
                missing("channels.alimtalk.aligo.sender_key", "the sender key of the Kakao channel")
            })?,
            sender,
            failover: settings.failover,
            test_mode: settings.test_mode,
            authorities: shared::authorities(
                "channels.alimtalk.aligo.tls_ca_file",
                settings.tls_ca_file.as_deref(),
            )?,
            timeout: Duration::from_secs(settings.timeout_seconds),
        })
    }
}

/// A number as it is written in Korea, with the country code.
fn international(number: &str) -> Option<String> {
    Some(format!("+82{}", number.trim().strip_prefix('0')?))
}

/// A Korean number (E.164) as it is dialled there; Aligo knows no other. `None` for those of other countries.
pub(super) fn domestic(number: &str) -> Option<String> {
    number.strip_prefix("+82").map(|rest| format!("0{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(toml: &str) -> AligoSettings {
        toml::from_str(toml).unwrap()
    }

    const GOOD: &str =
        "api_key = \"s3cret\"\nuser_id = \"shop\"\nsender_key = \"s3nder\"\nsender = \"02-1234-5678\"";

    #[test]
    fn the_sender_may_be_written_either_way() {
        for sender in ["02-1234-5678", "+82 2 1234 5678", "0212345678"] {
            let options = Options::from_settings(&settings(&GOOD.replace("02-1234-5678", sender))).unwrap();
            assert_eq!((options.sender.as_str(), options.failover), ("0212345678", false), "{sender}");
        }
        assert_eq!(domestic("+821012345678").as_deref(), Some("01012345678"));
        assert_eq!(domestic("+14155550100"), None);
    }

    #[test]
    fn what_is_missing_is_named_and_no_secret_is_shown() {
        for (gone, key) in [
            ("api_key = \"s3cret\"\n", "aligo.api_key"),
            ("user_id = \"shop\"\n", "aligo.user_id"),
            ("sender_key = \"s3nder\"\n", "aligo.sender_key"),
            ("sender = \"02-1234-5678\"", "aligo.sender"),
        ] {
            let error = Options::from_settings(&settings(&GOOD.replace(gone, ""))).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        for bad in
            ["base_url = \"aligo\"", "tls_ca_file = \"/nonexistent\"", "api_key_file = \"/nonexistent\""]
        {
            let text = format!(
                "{}\n{bad}",
                GOOD.replace(
                    "api_key = \"s3cret\"\n",
                    if bad.starts_with("api") { "" } else { "api_key = \"s3cret\"\n" }
                )
            );
            assert!(Options::from_settings(&settings(&text)).is_err(), "{bad}");
        }
        let shown = format!("{:?} {:?}", Options::from_settings(&settings(GOOD)).unwrap(), settings(GOOD));
        assert!(!shown.contains("s3cret") && !shown.contains("s3nder"), "{shown}");
    }
}
