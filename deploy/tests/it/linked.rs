//! Regions linked by a hub: a server and a settings file each, without gateways and dispatchers.

use std::time::Duration;

use peal_common::settings::Settings;
use peal_nats::connect::{self, Connection, Options};
use peal_nats::server::{Leaf, Login, Server, ServerConfig, free_port};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::support::{Ran, finished, peal};

/// A stream may wait for another one that fills it.
const LIMIT: Duration = Duration::from_secs(60);
const HUB: &str = "hub";

/// What runs.
pub struct Linked {
    folder: TempDir,
    _hub: Server,
    regions: Vec<(String, Server)>,
}

impl Linked {
    /// Starts the servers. Nothing is set up in them.
    pub async fn start(names: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port().unwrap();
        let login = |name: &str| Login { user: name.to_owned(), password: format!("link of {name}") };
        let leaf = Leaf::Listens { port, regions: names.iter().map(|name| login(name)).collect() };
        let hub = started(&folder, HUB, names, leaf).await;
        let mut regions = Vec::new();
        for name in names {
            let leaf = Leaf::Connects { ports: vec![port], login: login(name) };
            regions.push(((*name).to_owned(), started(&folder, name, names, leaf).await));
        }
        Linked { folder, _hub: hub, regions }
    }

    /// Runs the binary with the settings of a region or of the hub.
    pub async fn run<'a>(&self, at: &str, arguments: impl IntoIterator<Item = &'a str>) -> Ran {
        let config = self.folder.path().join(at).with_extension("toml");
        finished(peal(self.folder.path()).args(arguments).arg("--config").arg(config)).await
    }

    /// Connects to a region or to the hub.
    pub async fn connection(&self, at: &str) -> Connection {
        let text = std::fs::read_to_string(self.folder.path().join(at).with_extension("toml")).unwrap();
        let settings = Settings::parse(Some(&text), std::collections::HashMap::new()).unwrap();
        connect::connect(&Options::from_settings(&settings, "test").unwrap()).await.unwrap()
    }

    /// The server of a region.
    pub fn server(&mut self, name: &str) -> &mut Server {
        &mut self.regions.iter_mut().find(|(known, _)| known == name).unwrap().1
    }
}

async fn started(folder: &TempDir, name: &str, regions: &[&str], leaf: Leaf) -> Server {
    let config = ServerConfig::new(name.parse().unwrap(), folder.path().join(name));
    let max_file_store = Some(64 << 30);
    let server = Server::start(ServerConfig { max_file_store, leaf: Some(leaf), ..config }).await.unwrap();
    // 32 bytes in base64; a test needs no secret one.
    let key = format!("{}=", "A".repeat(43));
    let text = format!(
        "[region]\nname = \"{name}\"\nkey = \"{key}\"\n[nats]\nurls = [\"{}\"]\n[topology]\nhub = \"{HUB}\"\n\
         regions = {regions:?}\nsilence_seconds = 1\n[channels.sandbox]\nenabled = true\n",
        server.url()
    );
    std::fs::write(folder.path().join(name).with_extension("toml"), text).unwrap();
    server
}

/// Waits until something holds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        let mut look = tokio::time::interval(Duration::from_millis(20));
        while !holds().await {
            look.tick().await;
        }
    };
    timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"));
}
