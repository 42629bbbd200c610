//! The keys that providers sign their reports with: those of the settings, and those that apps brought along with accounts of
//! their own.

use p256::ecdsa::VerifyingKey;
use peal_common::settings::{CallbackSettings, Secret, SettingsError, SignedSettings};

use super::{Posted, Provider, Refused, Report, mandrill, sendgrid, telegram, twilio, vonage};

/// The keys of each provider; none for one that is not set up.
#[derive(Debug, Default)]
pub struct Keys {
    twilio: Vec<Secret>,
    vonage: Vec<Secret>,
    sendgrid: Vec<VerifyingKey>,
    mandrill: Vec<Secret>,
    telegram: Vec<Secret>,
}

impl Keys {
    /// Reads them.
    ///
    /// # Errors
    /// [`SettingsError`] with what to write.
    pub fn from_settings(settings: &CallbackSettings) -> Result<Self, SettingsError> {
        let read = |given: &Option<SignedSettings>, section| {
            given.as_ref().map_or_else(|| Ok(Vec::new()), |given| given.read(section))
        };
        let sendgrid = read(&settings.sendgrid, "callbacks.sendgrid")?;
        let telegram = settings.telegram.as_ref().map(|bot| bot.read("callbacks.telegram"));
        Ok(Keys {
            twilio: read(&settings.twilio, "callbacks.twilio")?,
            vonage: read(&settings.vonage, "callbacks.vonage")?,
            sendgrid: sendgrid.iter().map(sendgrid::verifying_key).collect::<Result<_, _>>()?,
            mandrill: read(&settings.mandrill, "callbacks.mandrill")?,
            telegram: telegram.transpose()?.unwrap_or_default(),
        })
    }

    /// Whether a provider is set up that signs the address that it posts to.
    #[must_use]
    pub fn sign_addresses(&self) -> bool {
        !self.twilio.is_empty() || !self.mandrill.is_empty()
    }

    /// These and those of another account.
    pub fn extend(&mut self, other: Keys) {
        self.twilio.extend(other.twilio);
        self.vonage.extend(other.vonage);
        self.sendgrid.extend(other.sendgrid);
        self.mandrill.extend(other.mandrill);
        self.telegram.extend(other.telegram);
    }

    /// Checks the signature of what was posted, and reads it.
    ///
    /// # Errors
    /// [`Refused`]
    pub(super) fn read(&self, provider: Provider, posted: &Posted<'_>) -> Result<Vec<Report>, Refused> {
        match provider {
            Provider::Twilio => twilio::read(given(&self.twilio)?, posted),
            Provider::Vonage => vonage::read(given(&self.vonage)?, posted),
            Provider::Sendgrid => sendgrid::read(given(&self.sendgrid)?, posted),
            Provider::Mandrill => mandrill::read(given(&self.mandrill)?, posted),
            Provider::Telegram => telegram::read(given(&self.telegram)?, posted),
        }
    }
}

fn given<T>(keys: &[T]) -> Result<&[T], Refused> {
    if keys.is_empty() { Err(Refused::NotSetUp) } else { Ok(keys) }
}
