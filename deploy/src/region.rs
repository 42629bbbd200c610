//! A region as an operator reaches it: the settings, the connection to its servers, and its topology.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use peal_common::clock::{Clock, HybridClock};
use peal_common::settings::{Settings, SettingsError};
use peal_nats::connect::{self, Connection, Options};
use peal_nats::mirror::{Keeps, Mirror};
use peal_nats::state::StateWriter;
use peal_nats::topology::{self, Links, MaxBytes, Topology};

/// The folder of `peal up`, unless it is told another.
pub const DEFAULT_DIR: &str = ".peal";
/// The settings file in that folder.
pub const SETTINGS_FILE: &str = "peal.toml";

/// The name that the servers show for connections of this command.
const CONNECTION_NAME: &str = "peal";
/// A person waits: a server that is not there is reported after a few seconds.
const ATTEMPTS: u32 = 3;
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// Where the settings are.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// The settings file [default: .peal/peal.toml when it is there, else the built-in defaults]
    #[arg(long, value_name = "FILE", env = "PEAL_CONFIG")]
    pub config: Option<PathBuf>,
}

impl ConfigArgs {
    /// The file that counts, if there is one.
    #[must_use]
    pub fn file(&self) -> Option<PathBuf> {
        let local = Path::new(DEFAULT_DIR).join(SETTINGS_FILE);
        self.config.clone().or_else(|| local.is_file().then_some(local))
    }

    /// Reads the settings.
    ///
    /// # Errors
    /// [`SettingsError`] with what to write, also when `peal up --regions` has run here and none of them is named.
    pub fn load(&self) -> Result<Settings, SettingsError> {
        let file = self.file();
        if file.is_none() {
            none_of_several(Path::new(DEFAULT_DIR))?;
        }
        Settings::load(file.as_deref())
    }

    /// Reads the settings and connects.
    ///
    /// # Errors
    /// When the settings don't fit or no server answers.
    pub async fn connect(&self) -> anyhow::Result<(Settings, Connection)> {
        let settings = self.load()?;
        let connection = connect(&settings).await?;
        Ok((settings, connection))
    }
}

/// Fails when a folder holds settings of regions: the built-in defaults are those of none of them.
fn none_of_several(folder: &Path) -> Result<(), SettingsError> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> =
        entries.map(|entry| entry.path().join(SETTINGS_FILE)).filter(|file| file.is_file()).collect();
    files.sort();
    match files.is_empty() {
        true => Ok(()),
        false => {
            let files: Vec<_> = files.iter().map(|file| format!("--config {}", file.display())).collect();
            Err(SettingsError::Invalid(format!(
                "several regions are here: write one of {}",
                files.join(", ")
            )))
        }
    }
}

/// Connects to the servers that the settings name.
///
/// # Errors
/// When a secret can't be read or no server answers.
pub async fn connect(settings: &Settings) -> anyhow::Result<Connection> {
    let options = Options::from_settings(settings, CONNECTION_NAME)?;
    let options = Options { attempts: ATTEMPTS, connect_limit: CONNECT_LIMIT, ..options };
    Ok(connect::connect(&options).await?)
}

/// The streams and consumers that the settings ask for. One server with a sandbox is somebody's laptop: its streams are
/// small.
#[must_use]
pub fn topology(settings: &Settings) -> Topology {
    const DAY_SECONDS: u64 = 24 * 60 * 60;
    let wanted = &settings.topology;
    let sandbox = settings.channels.sandbox.enabled;
    let laptop = sandbox && wanted.replicas == 1;
    let options = topology::Options {
        replicas: wanted.replicas,
        sandbox,
        max_bytes: if laptop { MaxBytes::laptop() } else { MaxBytes::default() },
        duplicate_window: Duration::from_secs(wanted.duplicate_window_seconds),
        events_max_age: Duration::from_secs(wanted.events_max_age_days.saturating_mul(DAY_SECONDS)),
        links: wanted.hub.clone().map(|hub| Links { hub, others: settings.other_regions() }),
        ..topology::Options::default()
    };
    match settings.is_hub() {
        true => Topology::for_hub(&settings.region.name, &settings.topology.regions, &options),
        false => Topology::for_region(&settings.region.name, &options),
    }
}

/// Writes single records of state. The mirror behind it is never filled: every write then asks JetStream for the current
/// version, which is right for a command that writes one record and ends.
#[must_use]
pub fn state_writer(connection: &Connection) -> StateWriter {
    let hybrid = Arc::new(HybridClock::new(Clock::System, connection.region.clone()));
    let (unfilled, _) =
        Mirror::new(connection.clone(), PathBuf::new(), Keeps::Records, Clock::System, Arc::clone(&hybrid));
    StateWriter::new(connection.clone(), unfilled, hybrid)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn settings(text: &str) -> Settings {
        Settings::parse(Some(text), HashMap::new()).unwrap()
    }

    #[test]
    fn only_a_single_server_with_a_sandbox_gets_small_streams() {
        let size = |text: &str| topology(&settings(text)).stream("INTAKE").unwrap().config.max_bytes;
        let default = size("");
        assert!(size("[channels.sandbox]\nenabled = true") < default);
        assert_eq!(size("[topology]\nreplicas = 3\n[channels.sandbox]\nenabled = true"), default);
    }

    #[test]
    fn windows_and_ages_come_from_the_settings() {
        let topology =
            topology(&settings("[topology]\nduplicate_window_seconds = 60\nevents_max_age_days = 2"));
        assert_eq!(topology.stream("INTAKE").unwrap().config.duplicate_window, Duration::from_secs(60));
        assert_eq!(topology.stream("EVENTS").unwrap().config.max_age, Duration::from_secs(2 * 86_400));
        assert!(topology.stream("SANDBOX").is_none());
    }
}
