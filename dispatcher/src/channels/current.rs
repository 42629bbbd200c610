//! The providers of this moment.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use peal_common::settings::ChannelSettings;
use tokio::sync::Notify;

use super::Providers;

/// The providers as they are set up at present. When settings are read again, or an app changes an account of its own, others
/// take their place; what is under way ends with those it began with.
#[derive(Debug)]
pub struct CurrentProviders {
    settings: Mutex<ChannelSettings>,
    /// The providers, and how often apps had changed their accounts by then.
    built: RwLock<(u64, Arc<Providers>)>,
    replaced: Notify,
}

impl CurrentProviders {
    /// Begins with these, of `settings` alone.
    #[must_use]
    pub fn new(settings: ChannelSettings, providers: Providers) -> Self {
        CurrentProviders {
            settings: Mutex::new(settings),
            built: RwLock::new((0, Arc::new(providers))),
            replaced: Notify::new(),
        }
    }

    /// Those of this moment.
    #[must_use]
    pub fn get(&self) -> Arc<Providers> {
        Arc::clone(&self.built.read().unwrap_or_else(PoisonError::into_inner).1)
    }

    /// How often apps had changed their accounts when those of this moment were set up.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.built.read().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Puts others in their place. `build` makes them from the settings, which `change` changes first.
    ///
    /// # Errors
    /// What `build` says; then everything stays as it was.
    pub fn replace<E>(
        &self,
        generation: u64,
        change: Option<ChannelSettings>,
        build: impl FnOnce(&ChannelSettings) -> Result<Providers, E>,
    ) -> Result<(), E> {
        // One at a time: the later one must not be overtaken by the one before.
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let providers = build(change.as_ref().unwrap_or(&settings))?;
        if let Some(change) = change {
            *settings = change;
        }
        *self.built.write().unwrap_or_else(PoisonError::into_inner) = (generation, Arc::new(providers));
        self.replaced.notify_waiters();
        Ok(())
    }

    /// Waits until others take their place.
    pub async fn replaced(&self) {
        self.replaced.notified().await;
    }
}
