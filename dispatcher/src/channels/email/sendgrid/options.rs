//! What can be set of SendGrid.

use std::fmt;
use std::time::Duration;

use http::header::HeaderValue;
use lettre::message::Mailbox;

use peal_common::settings::{SendgridSettings, secret};

use crate::channels::email::api::{self, Endpoint};
use crate::channels::email::compose;
use crate::channels::{ConfigError, http as shared};

const KEY: &str = "channels.email.sendgrid.key";

/// How e-mail is sent.
#[derive(Clone, PartialEq)]
pub struct Options {
    /// Where `mail/send` is called.
    pub(super) endpoint: Endpoint,
    /// Who calls.
    pub(super) authorization: HeaderValue,
    /// The sender.
    pub from: Mailbox,
    /// Whether SendGrid only checks e-mails and sends none.
    pub sandbox_mode: bool,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("endpoint", &self.endpoint.url.as_str()).finish_non_exhaustive()
    }
}

impl Options {
    /// Takes the settings.
    ///
    /// # Errors
    /// [`ConfigError`] when there is no key or it can't be one, the sender is no address, the base URL is none, or a
    /// file can't be read.
    pub fn from_settings(settings: &SendgridSettings) -> Result<Self, ConfigError> {
        let key =
            secret("channels.email.sendgrid.key_file", settings.key.as_ref(), settings.key_file.as_deref())?;
        let key = api::key(KEY, key)?;
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
            .map_err(|_| ConfigError::invalid(KEY, "write the API key as SendGrid gave it"))?;
        authorization.set_sensitive(true);
        let mut url = shared::base_url("channels.email.sendgrid.base_url", &settings.base_url)?;
        shared::add_path(&mut url, ["v3", "mail", "send"]);
        let authorities =
            shared::authorities("channels.email.sendgrid.tls_ca_file", settings.tls_ca_file.as_deref())?;
        Ok(Options {
            endpoint: Endpoint { url, authorities, timeout: Duration::from_secs(settings.timeout_seconds) },
            authorization,
            from: compose::sender("channels.email.sendgrid.from", &settings.from)?,
            sandbox_mode: settings.sandbox_mode,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut SendgridSettings);

    fn settings(change: impl FnOnce(&mut SendgridSettings)) -> SendgridSettings {
        let mut settings = SendgridSettings {
            key: Some("SG.SECRET".to_owned().into()),
            key_file: None,
            from: "Shop <no-reply@example.com>".to_owned(),
            base_url: "https://api.sendgrid.com".to_owned(),
            sandbox_mode: false,
            tls_ca_file: None,
            timeout_seconds: 15,
            rate_per_second: None,
        };
        change(&mut settings);
        settings
    }

    #[test]
    fn the_endpoint_is_below_the_base() {
        let of = |base: &str| {
            Options::from_settings(&settings(|it| it.base_url = base.to_owned())).unwrap().endpoint.url
        };
        assert_eq!(of("https://api.eu.sendgrid.com").as_str(), "https://api.eu.sendgrid.com/v3/mail/send");
        assert_eq!(of("http://127.0.0.1:9/sg/").as_str(), "http://127.0.0.1:9/sg/v3/mail/send");
    }

    #[test]
    fn bad_settings_are_refused_by_name_and_the_key_is_not_shown() {
        let cases: [(&str, Change); 8] = [
            ("sendgrid.key: write", |it| it.key = None),
            ("sendgrid.key: write", |it| it.key = Some(String::new().into())),
            ("sendgrid.key: write", |it| it.key = Some("SG.SECRET\r\nX: y".to_owned().into())),
            ("sendgrid.key: write", |it| it.key = Some("SG.SECRET and more".to_owned().into())),
            ("sendgrid.from: write", |it| it.from = "Shop".to_owned()),
            ("sendgrid.from: write", |it| it.from = "a@b\r\nBcc: c@d".to_owned()),
            ("sendgrid.base_url: write", |it| it.base_url = "sendgrid".to_owned()),
            ("sendgrid.tls_ca_file: /nowhere/ca.pem", |it| it.tls_ca_file = Some("/nowhere/ca.pem".into())),
        ];
        for (expected, change) in cases {
            let error = Options::from_settings(&settings(change)).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(expected), "{shown}");
            assert!(!shown.contains("SECRET"), "{shown}");
        }
        let gone = settings(|it| (it.key, it.key_file) = (None, Some("/nowhere/key".into())));
        assert!(Options::from_settings(&gone).unwrap_err().to_string().contains("sendgrid.key_file"));
        let options = Options::from_settings(&settings(|_| {})).unwrap();
        let shown = format!("{:?} {options:?} {:?}", settings(|_| {}), options.authorization);
        assert!(!shown.contains("SECRET"), "{shown}");
    }
}
