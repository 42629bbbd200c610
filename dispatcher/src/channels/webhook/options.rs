//! What can be set of the webhook channel.

use std::time::Duration;

use ipnet::IpNet;

use peal_common::settings::WebhookSettings;

use crate::channels::ConfigError;
use crate::channels::target::{self, Hosts};

/// How webhooks are called.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// How long a call may take, from looking up the name to the answer's status. At most 20 s, see
    /// [`crate::channels::CALL_LIMIT`].
    pub timeout: Duration,
    /// Networks that may be called although they are not public.
    pub allowed_networks: Vec<IpNet>,
    /// Names that are known without asking the system's resolver. They are checked like all others.
    pub hosts: Hosts,
}

impl Options {
    /// Takes the settings.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] when a network is none.
    pub fn from_settings(settings: &WebhookSettings) -> Result<Self, ConfigError> {
        Ok(Options {
            timeout: Duration::from_secs(settings.timeout_seconds),
            allowed_networks: target::networks(
                "channels.webhook.allowed_networks",
                &settings.allowed_networks,
            )?,
            hosts: Hosts::default(),
        })
    }
}
