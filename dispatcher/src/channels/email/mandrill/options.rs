//! What can be set of Mailchimp Transactional.

use std::fmt;
use std::time::Duration;

use lettre::message::Mailbox;

use peal_common::settings::{MandrillSettings, Secret, secret};

use crate::channels::email::api::{self, Endpoint};
use crate::channels::email::compose;
use crate::channels::{ConfigError, http as shared};

/// How e-mail is sent.
#[derive(Clone, PartialEq)]
pub struct Options {
    /// Where `messages/send` is called.
    pub(super) endpoint: Endpoint,
    /// Who calls: a part of each request's body.
    pub(super) key: Secret,
    /// The sender.
    pub from: Mailbox,
    /// The part of the account that the e-mails are counted for.
    pub subaccount: Option<String>,
    /// Whether a picture tells when an e-mail is opened.
    pub track_opens: bool,
    /// Whether links lead through Mailchimp.
    pub track_clicks: bool,
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
    pub fn from_settings(settings: &MandrillSettings) -> Result<Self, ConfigError> {
        let key =
            secret("channels.email.mandrill.key_file", settings.key.as_ref(), settings.key_file.as_deref())?;
        let mut url = shared::base_url("channels.email.mandrill.base_url", &settings.base_url)?;
        shared::add_path(&mut url, ["api", "1.0", "messages", "send.json"]);
        let authorities =
            shared::authorities("channels.email.mandrill.tls_ca_file", settings.tls_ca_file.as_deref())?;
        Ok(Options {
            endpoint: Endpoint { url, authorities, timeout: Duration::from_secs(settings.timeout_seconds) },
            key: api::key("channels.email.mandrill.key", key)?,
            from: compose::sender("channels.email.mandrill.from", &settings.from)?,
            subaccount: settings.subaccount.clone(),
            track_opens: settings.track_opens,
            track_clicks: settings.track_clicks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut MandrillSettings);

    fn settings(change: impl FnOnce(&mut MandrillSettings)) -> MandrillSettings {
        let mut settings = MandrillSettings {
            key: Some("md-SECRET".to_owned().into()),
            key_file: None,
            from: "Shop <no-reply@example.com>".to_owned(),
            base_url: "https://mandrillapp.com".to_owned(),
            subaccount: None,
            track_opens: false,
            track_clicks: false,
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
        let path = "/api/1.0/messages/send.json";
        assert_eq!(of("https://mandrillapp.com").as_str(), format!("https://mandrillapp.com{path}"));
        assert_eq!(of("http://127.0.0.1:9/md/").as_str(), format!("http://127.0.0.1:9/md{path}"));
    }

    #[test]
    fn bad_settings_are_refused_by_name_and_the_key_is_not_shown() {
        let cases: [(&str, Change); 6] = [
            ("mandrill.key: write", |it| it.key = None),
            ("mandrill.key: write", |it| it.key = Some("md-SECRET and more".to_owned().into())),
            ("mandrill.key_file", |it| (it.key, it.key_file) = (None, Some("/nowhere/key".into()))),
            ("mandrill.from: write", |it| it.from = "Shop\r\nX: y <a@example.com>".to_owned()),
            ("mandrill.base_url: write", |it| it.base_url = "data:x".to_owned()),
            ("mandrill.tls_ca_file: /nowhere/ca.pem", |it| it.tls_ca_file = Some("/nowhere/ca.pem".into())),
        ];
        for (expected, change) in cases {
            let error = Options::from_settings(&settings(change)).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(expected), "{shown}");
            assert!(!shown.contains("SECRET"), "{shown}");
        }
        let options = Options::from_settings(&settings(|_| {})).unwrap();
        let shown = format!("{:?} {options:?} {:?}", settings(|_| {}), options.key);
        assert!(!shown.contains("SECRET"), "{shown}");
    }
}
