//! What every request handler has at hand.

use std::ops::Deref;
use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use peal_common::clock::Clock;
use peal_common::seal::Sealer;
use peal_common::settings::Settings;
use peal_common::state::RecordKey;
use peal_nats::catalog::Catalog;
use peal_nats::keys::Keys;
use peal_nats::mirror::Mirror;
use peal_nats::state::{StateWriter, Written};
use peal_nats::{Connection, Subjects};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::accept::Acceptor;
use crate::callbacks::CurrentCallbacks;
use crate::health::Health;
use crate::http::auth::{Keyring, Nonces};
use crate::queues::Queues;
use crate::readmodel::ReadModel;
use crate::regions::Regions;

/// How long a write waits until this gateway itself sees it.
const OWN_WRITE_LIMIT: std::time::Duration = std::time::Duration::from_secs(2);

/// The gateway's parts. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// See [`App`].
pub struct Parts {
    /// What was set.
    pub settings: Settings,
    /// Where the time comes from.
    pub clock: Clock,
    /// The connection to the region's servers; it may be down.
    pub connection: Connection,
    /// The region's subjects.
    pub subjects: Subjects,
    /// The local copy of the state.
    pub mirror: Mirror,
    /// Typed look-ups in it.
    pub catalog: Catalog,
    /// Changes of the state.
    pub writer: StateWriter,
    /// Changes of keys.
    pub keys: Keys,
    /// What became of notifications, events, inboxes.
    pub model: ReadModel,
    /// Takes notifications.
    pub acceptor: Acceptor,
    /// Whose reports count.
    pub callbacks: CurrentCallbacks,
    /// Seals and opens.
    pub sealer: Arc<Sealer>,
    /// Who may call.
    pub keyring: Keyring,
    /// Signatures that were used.
    pub nonces: Nonces,
    /// How much waits in this region.
    pub queues: Arc<Queues>,
    /// How all regions stand.
    pub regions: Arc<Regions>,
    /// Whether the gateway can do its work.
    pub health: Arc<Health>,
    /// What is measured.
    pub metrics: PrometheusHandle,
    /// One permit for each stream of an inbox that is open.
    pub streams: Arc<Semaphore>,
    /// Cancelled when the gateway is about to end: what has no end of its own then ends.
    pub stop: CancellationToken,
}

impl App {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        App(Arc::new(parts))
    }

    /// Waits until this gateway sees a write of its own, so that the next request does too. When that takes too long the
    /// write stands all the same.
    pub async fn settle(&self, key: &RecordKey, written: &Written) {
        if self.mirror.wait_for(written.sequence, OWN_WRITE_LIMIT).await.is_err() {
            tracing::warn!(record.kind = ?key.kind(), "a write is not in the mirror yet");
        }
    }
}

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}
