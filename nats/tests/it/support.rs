//! A server and a connection for a test.

use std::future::Future;
use std::time::Duration;

use peal_nats::connect::{self, Connection};
use peal_nats::server::{Server, ServerConfig};
use peal_nats::subjects::Region;
use tempfile::TempDir;

/// The region of the tests.
pub fn region() -> Region {
    "test-1".parse().unwrap()
}

/// A server in a folder of its own; both go away with it.
pub struct Running {
    pub server: Server,
    pub folder: TempDir,
}

/// Starts a server as `adapt` wants it.
pub async fn start(adapt: impl FnOnce(&mut ServerConfig)) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let mut config = ServerConfig::new(region(), folder.path());
    // What the streams may grow to, not what the test's disk has free right now.
    config.max_file_store = Some(64 << 30);
    adapt(&mut config);
    Running { server: Server::start(config).await.unwrap(), folder }
}

/// Starts a server and connects to it.
pub async fn connected() -> (Running, Connection) {
    let running = start(|_| {}).await;
    let connection = connection(&running.server).await;
    (running, connection)
}

/// Connects without credentials.
pub async fn connection(server: &Server) -> Connection {
    connect::connect(&connect::Options::new([server.url()], region(), "test")).await.unwrap()
}

/// Waits until `condition` holds, at most as long as the slowest machine may take: a cluster alone needs 8 s to call a
/// silent server lost.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    const LIMIT: Duration = Duration::from_secs(30);
    let poll = async {
        let mut interval = tokio::time::interval(Duration::from_millis(20));
        loop {
            interval.tick().await;
            if condition().await {
                break;
            }
        }
    };
    assert!(tokio::time::timeout(LIMIT, poll).await.is_ok(), "not within {LIMIT:?}: {what}");
}
