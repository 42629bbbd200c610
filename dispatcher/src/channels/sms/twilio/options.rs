//! What can be set of Twilio.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use url::Url;

use peal_common::settings::{Secret, TwilioSettings, secret};

use super::super::account::{Calls, receipts_url};
use crate::channels::{ConfigError, http as shared};

/// Who a message comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sender {
    /// A number, a short code or a name.
    From(String),
    /// A messaging service, which chooses one.
    Service(String),
}

/// How messages are sent.
#[derive(Clone, PartialEq)]
pub struct Options {
    /// `Messages.json` of the account.
    pub(super) endpoint: Url,
    /// Who calls; marked as sensitive.
    pub(super) authorization: HeaderValue,
    pub(super) sender: Sender,
    /// Where Twilio reports what became of a message.
    pub(super) receipts_url: Option<Url>,
    pub(super) calls: Calls,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("sender", &self.sender).finish_non_exhaustive()
    }
}

impl Options {
    /// Takes the settings.
    ///
    /// # Errors
    /// [`ConfigError`] when the account, its credentials or the sender are missing or can't be such, a file can't be read,
    /// or a URL is none.
    pub fn from_settings(settings: &TwilioSettings) -> Result<Self, ConfigError> {
        let account = sid("channels.sms.twilio.account_sid", &settings.account_sid, "AC")?;
        let mut endpoint = shared::base_url("channels.sms.twilio.base_url", &settings.base_url)?;
        shared::add_path(&mut endpoint, ["2010-04-01", "Accounts", account, "Messages.json"]);
        Ok(Options {
            endpoint,
            authorization: authorization(settings, account)?,
            sender: sender(settings)?,
            receipts_url: receipts_url("channels.sms.twilio.receipts_url", settings.receipts_url.as_deref())?,
            calls: Calls::new(
                "channels.sms.twilio.tls_ca_file",
                settings.tls_ca_file.as_deref(),
                settings.timeout_seconds,
            )?,
        })
    }
}

/// Twilio's names are two letters and 32 hexadecimal digits; of servers that stand in for it only the letters are asked.
fn sid<'a>(key: &'static str, text: &'a str, letters: &str) -> Result<&'a str, ConfigError> {
    if text.starts_with(letters) && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(text);
    }
    Err(ConfigError::invalid(
        key,
        format!("write the identifier from Twilio's console, which begins with {letters}"),
    ))
}

fn authorization(settings: &TwilioSettings, account: &str) -> Result<HeaderValue, ConfigError> {
    let token = secret(
        "channels.sms.twilio.auth_token_file",
        settings.auth_token.as_ref(),
        settings.auth_token_file.as_deref(),
    )?;
    let key_secret = secret(
        "channels.sms.twilio.api_key_secret_file",
        settings.api_key_secret.as_ref(),
        settings.api_key_secret_file.as_deref(),
    )?;
    let (user, password) = match (&settings.api_key, token, key_secret) {
        (None, Some(token), None) => (account, token),
        (Some(key), None, Some(secret)) => (sid("channels.sms.twilio.api_key", key, "SK")?, secret),
        _ => {
            let advice = "write the account's token, or api_key and api_key_secret instead of it";
            return Err(ConfigError::invalid("channels.sms.twilio.auth_token", advice));
        }
    };
    basic(user, &password)
        .ok_or_else(|| ConfigError::invalid("channels.sms.twilio.auth_token", "it is empty"))
}

/// RFC 7617.
fn basic(user: &str, password: &Secret) -> Option<HeaderValue> {
    let password = password.expose();
    let encoded = STANDARD.encode(format!("{user}:{password}"));
    let mut value = HeaderValue::try_from(format!("Basic {encoded}")).ok()?;
    value.set_sensitive(true);
    (!password.is_empty()).then_some(value)
}

fn sender(settings: &TwilioSettings) -> Result<Sender, ConfigError> {
    match (settings.from.as_deref().map(str::trim), &settings.messaging_service_sid) {
        (Some(from), None) if !from.is_empty() && !from.contains(char::is_control) => {
            Ok(Sender::From(from.to_owned()))
        }
        (None, Some(service)) => {
            let service = sid("channels.sms.twilio.messaging_service_sid", service, "MG")?;
            Ok(Sender::Service(service.to_owned()))
        }
        _ => Err(ConfigError::invalid(
            "channels.sms.twilio.from",
            "write a sender such as +14155550100, or messaging_service_sid instead of it",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut TwilioSettings);

    fn settings() -> TwilioSettings {
        TwilioSettings {
            account_sid: "AC0123".to_owned(),
            auth_token: Some("t0ken".to_owned().into()),
            auth_token_file: None,
            api_key: None,
            api_key_secret: None,
            api_key_secret_file: None,
            from: Some("+14155550100".to_owned()),
            messaging_service_sid: None,
            receipts_url: None,
            base_url: "https://api.twilio.com".to_owned(),
            tls_ca_file: None,
            timeout_seconds: 15,
            rate_per_second: None,
        }
    }

    fn with(change: impl FnOnce(&mut TwilioSettings)) -> Result<Options, ConfigError> {
        let mut settings = settings();
        change(&mut settings);
        Options::from_settings(&settings)
    }

    #[test]
    fn the_account_or_a_key_calls() {
        let account = Options::from_settings(&settings()).unwrap();
        assert_eq!(account.authorization, "Basic QUMwMTIzOnQwa2Vu");
        assert_eq!(
            account.endpoint.as_str(),
            "https://api.twilio.com/2010-04-01/Accounts/AC0123/Messages.json"
        );
        assert_eq!(account.sender, Sender::From("+14155550100".to_owned()));
        let key = with(|it| {
            it.auth_token = None;
            it.api_key = Some("SK9".to_owned());
            it.api_key_secret = Some("s3cret".to_owned().into());
            it.from = None;
            it.messaging_service_sid = Some("MG7".to_owned());
            it.base_url = "http://127.0.0.1:9/t/".to_owned();
        })
        .unwrap();
        assert_eq!(key.authorization, "Basic U0s5OnMzY3JldA==");
        assert_eq!(key.endpoint.as_str(), "http://127.0.0.1:9/t/2010-04-01/Accounts/AC0123/Messages.json");
        assert_eq!(key.sender, Sender::Service("MG7".to_owned()));
    }

    #[test]
    fn bad_settings_are_refused_and_no_secret_is_shown() {
        let refused: [(Change, &str); 11] = [
            (|it| it.account_sid.clear(), "account_sid"),
            (|it| it.account_sid = "AC/../x".to_owned(), "account_sid"),
            (|it| it.auth_token = None, "auth_token"),
            (|it| it.auth_token = Some(String::new().into()), "auth_token"),
            (|it| it.api_key = Some("SK9".to_owned()), "auth_token"),
            (|it| it.from = None, "from"),
            (|it| it.from = Some(" ".to_owned()), "from"),
            (|it| it.messaging_service_sid = Some("MG7".to_owned()), "from"),
            (|it| it.base_url = "api.twilio.com".to_owned(), "base_url"),
            (|it| it.receipts_url = Some("/v1/callbacks/twilio".to_owned()), "receipts_url"),
            (|it| it.tls_ca_file = Some("/nonexistent".into()), "tls_ca_file"),
        ];
        for (change, key) in refused {
            let error = with(change).unwrap_err().to_string();
            assert!(error.contains(&format!("channels.sms.twilio.{key}")), "{error}");
            assert!(!error.contains("t0ken"));
        }
        let unreadable = with(|it| {
            it.auth_token = None;
            it.auth_token_file = Some("/nonexistent".into());
        });
        assert!(unreadable.unwrap_err().to_string().contains("channels.sms.twilio.auth_token_file"));
        let options = Options::from_settings(&settings()).unwrap();
        let shown = format!("{options:?} {:?} {:?}", options.authorization, settings());
        assert!(!shown.contains("t0ken") && !shown.contains("QUMw"), "{shown}");
    }
}
