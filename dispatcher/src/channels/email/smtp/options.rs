//! What can be set of the SMTP channel.

use std::fmt;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, TlsParameters};
use lettre::transport::smtp::extension::ClientId;

use peal_common::settings::{SmtpSettings, SmtpTls, secret};

use crate::channels::ConfigError;
use crate::channels::email::compose;

/// How long one command may take, unless the whole e-mail has less time. RFC 5321 §4.5.3.2 would wait for minutes; a
/// delivery has to be given back to the queue before.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// How the connection is protected.
#[derive(Clone, PartialEq)]
pub enum Protection {
    /// Not at all.
    None,
    /// STARTTLS; a server that does not offer it gets no e-mail.
    Starttls(Tls),
    /// TLS from the first byte.
    Implicit(Tls),
}

/// How the server proves who it is.
#[derive(Clone)]
pub struct Tls {
    pub(super) parameters: TlsParameters,
    /// What the parameters were made of beside the server's name: an authority that is trusted too, as PEM.
    authority: Option<Vec<u8>>,
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        self.authority == other.authority
    }
}

/// How e-mail is sent.
#[derive(Clone, PartialEq)]
pub struct Options {
    /// The server's name or address.
    pub host: String,
    /// The server's port.
    pub port: u16,
    /// How the connection is protected.
    pub protection: Protection,
    /// How to sign in, if at all.
    pub credentials: Option<Credentials>,
    /// The sender.
    pub from: Mailbox,
    /// The name given with EHLO.
    pub hello: ClientId,
    /// How long one command may take.
    pub command_timeout: Duration,
    /// How long one e-mail may take, from waiting for a connection to the last answer. At most 20 s, see
    /// [`crate::channels::CALL_LIMIT`].
    pub timeout: Duration,
    /// Connections open at the same time.
    pub max_connections: usize,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

impl Options {
    /// Takes the settings.
    ///
    /// # Errors
    /// [`ConfigError`] when the sender is no address, a file can't be read, or half of the credentials are missing.
    pub fn from_settings(settings: &SmtpSettings) -> Result<Self, ConfigError> {
        let from = compose::sender("channels.email.smtp.from", &settings.from)?;
        let hello = match settings.hello_name.as_deref() {
            Some(name) => hello(name)?,
            None => ClientId::Domain(from.email.domain().to_owned()),
        };
        let password = secret(
            "channels.email.smtp.password_file",
            settings.password.as_ref(),
            settings.password_file.as_deref(),
        )?;
        let credentials = match (&settings.user, password) {
            (Some(user), Some(password)) => {
                Some(Credentials::new(user.clone(), password.expose().to_owned()))
            }
            (None, None) => None,
            _ => {
                return Err(ConfigError::invalid(
                    "channels.email.smtp",
                    "write both user and password (or password_file), or neither",
                ));
            }
        };
        let timeout = Duration::from_secs(settings.timeout_seconds);
        Ok(Options {
            host: settings.host.clone(),
            port: settings.port,
            protection: protection(settings)?,
            credentials,
            from,
            hello,
            command_timeout: COMMAND_LIMIT.min(timeout),
            timeout,
            max_connections: settings.max_connections.max(1),
        })
    }
}

fn hello(name: &str) -> Result<ClientId, ConfigError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:[]".contains(&byte);
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(ConfigError::invalid(
            "channels.email.smtp.hello_name",
            "write the name of this machine such as mail.example.com",
        ));
    }
    Ok(ClientId::Domain(name.to_owned()))
}

fn protection(settings: &SmtpSettings) -> Result<Protection, ConfigError> {
    if settings.tls == SmtpTls::None {
        return Ok(Protection::None);
    }
    let key = "channels.email.smtp.tls_ca_file";
    let unusable = || ConfigError::invalid(key, "name a readable file with certificates in PEM form");
    let mut builder = TlsParameters::builder(settings.host.clone());
    let authority = settings.tls_ca_file.as_ref().map(std::fs::read).transpose().map_err(|_| unusable())?;
    if let Some(pem) = &authority {
        builder = builder.add_root_certificate(Certificate::from_pem(pem).map_err(|_| unusable())?);
    }
    let tls = Tls { parameters: builder.build_rustls().map_err(|_| unusable())?, authority };
    Ok(match settings.tls {
        SmtpTls::Implicit => Protection::Implicit(tls),
        _ => Protection::Starttls(tls),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(change: impl FnOnce(&mut SmtpSettings)) -> SmtpSettings {
        let mut settings = SmtpSettings {
            host: "127.0.0.1".to_owned(),
            port: 25,
            tls: SmtpTls::None,
            user: None,
            password: None,
            password_file: None,
            from: "Shop <no-reply@example.com>".to_owned(),
            hello_name: None,
            tls_ca_file: None,
            timeout_seconds: 20,
            rate_per_second: None,
            max_connections: 10,
        };
        change(&mut settings);
        settings
    }

    #[test]
    fn the_sender_is_an_address_with_or_without_a_name() {
        let from = |text: &str| Options::from_settings(&settings(|s| s.from = text.to_owned()));
        assert_eq!(from("Shop <no-reply@example.com>").unwrap().from.name.as_deref(), Some("Shop"));
        assert_eq!(from("no-reply@example.com").unwrap().hello, ClientId::Domain("example.com".to_owned()));
        for bad in
            ["", "Shop", "a@b\r\nBcc: c@d", "Shop\r\nX: y <a@example.com>", "a@exämple.com", "a@x\0.de"]
        {
            assert!(from(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let refused = |change: fn(&mut SmtpSettings)| {
            Options::from_settings(&settings(change)).unwrap_err().to_string()
        };
        assert!(refused(|s| s.user = Some("u".to_owned())).contains("both user and password"));
        assert!(refused(|s| s.hello_name = Some("a\r\nMAIL".to_owned())).contains("hello_name"));
        let no_file = refused(|s| {
            s.tls = SmtpTls::Implicit;
            s.tls_ca_file = Some("/nonexistent".into());
        });
        assert!(no_file.contains("tls_ca_file"));
    }
}
