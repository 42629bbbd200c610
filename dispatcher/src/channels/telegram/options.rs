//! What can be set of the Telegram channel.

use std::fmt;
use std::time::Duration;

use url::Url;

use peal_common::settings::{Secret, TelegramSettings, secret};

use crate::channels::{ConfigError, http};

/// How long a call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a message may wait for its turn under the rate limits.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// How messages are sent.
#[derive(Clone, PartialEq)]
pub struct Options {
    /// Where `sendMessage` is called; contains the token.
    pub(super) endpoint: Url,
    /// What the bot's limits are named by.
    pub(super) token: Secret,
    /// How long a call may take. At most 15 s, see [`crate::channels::CALL_LIMIT`].
    pub timeout: Duration,
    /// How long a message may wait for its turn under the rate limits, before the call. At most 5 s.
    pub max_wait: Duration,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Options {
    /// Takes the settings.
    ///
    /// # Errors
    /// [`ConfigError`] when there is no token, it can't be one, its file can't be read, or the base URL is none.
    pub fn from_settings(settings: &TelegramSettings) -> Result<Self, ConfigError> {
        let token =
            secret("channels.telegram.token_file", settings.token.as_ref(), settings.token_file.as_deref())?;
        let token = token.ok_or_else(|| {
            ConfigError::invalid(
                "channels.telegram.token",
                "write the bot's token, or token_file with its file",
            )
        })?;
        Ok(Options {
            endpoint: endpoint(&settings.base_url, &token)?,
            token,
            timeout: CALL_TIMEOUT,
            max_wait: MAX_WAIT,
        })
    }
}

/// `<base>/bot<token>/sendMessage` (Bot API, "Making requests").
fn endpoint(base: &str, token: &Secret) -> Result<Url, ConfigError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":_-".contains(&byte);
    if token.expose().is_empty() || !token.expose().bytes().all(plain) {
        let advice = "write the token as BotFather gave it, such as 123456:ABC…";
        return Err(ConfigError::invalid("channels.telegram.token", advice));
    }
    let mut url = http::base_url("channels.telegram.base_url", base)?;
    http::add_path(&mut url, [&format!("bot{}", token.expose()), "sendMessage"]);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(base: &str, token: Option<&str>) -> Result<Options, ConfigError> {
        Options::from_settings(&TelegramSettings {
            token: token.map(|token| token.to_owned().into()),
            token_file: None,
            base_url: base.to_owned(),
        })
    }

    #[test]
    fn the_endpoint_is_below_the_base() {
        let of = |base| options(base, Some("1:A_b-c")).unwrap().endpoint.to_string();
        assert_eq!(of("https://api.telegram.org"), "https://api.telegram.org/bot1:A_b-c/sendMessage");
        assert_eq!(of("http://127.0.0.1:9/tg/"), "http://127.0.0.1:9/tg/bot1:A_b-c/sendMessage");
    }

    #[test]
    fn bad_settings_are_refused_and_the_token_is_not_shown() {
        assert!(options("https://api.telegram.org", None).is_err());
        for (base, token) in [("https://x", "a/b"), ("https://x", ""), ("data:x", "1:A"), ("x", "1:A")] {
            assert!(options(base, Some(token)).is_err(), "{base} {token}");
        }
        let shown = format!("{:?}", options("https://x", Some("1:SECRET")).unwrap());
        assert!(!shown.contains("SECRET"));
        let error = options("https://x", Some("1:SECRET/")).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("SECRET"));
    }
}
