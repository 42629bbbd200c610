//! The settings of what providers report to gateways.

use std::path::PathBuf;

use serde::Deserialize;

use super::{Secret, SettingsError, secret};
use crate::id::AppId;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct CallbackSettings {
    pub twilio: Option<SignedSettings>,
    pub vonage: Option<SignedSettings>,
    pub sendgrid: Option<SignedSettings>,
    pub mandrill: Option<SignedSettings>,
    pub telegram: Option<BotSettings>,
}

/// What a provider signs with. Each of several keys is good: accounts have their own, and keys change.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct SignedSettings {
    #[serde(default)]
    pub keys: Vec<Secret>,
    #[serde(default)]
    pub key_files: Vec<PathBuf>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "see default.toml")]
pub struct BotSettings {
    #[serde(default)]
    pub keys: Vec<Secret>,
    #[serde(default)]
    pub key_files: Vec<PathBuf>,
    #[serde(default)]
    pub apps: Vec<AppId>,
}

impl SignedSettings {
    /// The keys, those from files too. `section` is where they stand.
    ///
    /// # Errors
    /// [`SettingsError`] when there are none, or a file can't be read.
    pub fn read(&self, section: &'static str) -> Result<Vec<Secret>, SettingsError> {
        read_keys(section, &self.keys, &self.key_files)
    }
}

impl BotSettings {
    /// As [`SignedSettings::read`].
    ///
    /// # Errors
    /// As there.
    pub fn read(&self, section: &'static str) -> Result<Vec<Secret>, SettingsError> {
        read_keys(section, &self.keys, &self.key_files)
    }
}

fn read_keys(
    section: &'static str,
    keys: &[Secret],
    files: &[PathBuf],
) -> Result<Vec<Secret>, SettingsError> {
    let mut keys = keys.to_vec();
    for file in files {
        keys.extend(secret(section, None, Some(file))?);
    }
    if keys.is_empty() || keys.iter().any(|key| key.expose().is_empty()) {
        let advice = "write at least one key, and none that is empty";
        return Err(SettingsError::Invalid(format!("{section}.keys: {advice}")));
    }
    Ok(keys)
}
