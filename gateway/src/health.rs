//! Whether this gateway can do its work, and why not.
//!
//! Readiness is looked at from four sides: the connection and JetStream behind it (asked every second, so that a server
//! that stands still is noticed although the connection is open), the mirror, the read model, and storage: the last
//! answer that JetStream gave to an acceptance.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use peal_common::clock::Clock;
use peal_nats::Connection;
use peal_nats::mirror::Mirror;
use peal_nats::topology::INTAKE;
use serde::Serialize;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::accept::Elsewhere;
use crate::metrics::Metric;
use crate::readmodel::ReadModel;

/// How often JetStream is asked whether it is there.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// How long it may take to say so.
const PROBE_LIMIT: Duration = Duration::from_secs(1);
/// For how long a refusal by the storage counts. Without requests nobody would notice that there is room again, and
/// without readiness there are no requests: after this time the next one tries.
const REFUSAL_COUNTS_MS: i64 = 15_000;

/// One side of readiness.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Check {
    /// Whether it is as it must be.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Check {
    fn of(result: Result<(), impl Into<String>>) -> Self {
        match result {
            Ok(()) => Check { ok: true, reason: None },
            Err(reason) => Check { ok: false, reason: Some(reason.into()) },
        }
    }
}

/// Whether the gateway is ready, side by side.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Readiness {
    /// Whether all checks are passed.
    pub ready: bool,
    /// The connection to NATS, and JetStream behind it.
    pub nats: Check,
    /// The mirror of the region's state.
    pub mirror: Check,
    /// What the queries are answered from, and what tells ids that were accepted before.
    pub model: Check,
    /// Whether JetStream stored the last notification that it was given.
    pub storage: Check,
    /// Whether the gateway goes on.
    pub running: Check,
}

impl Readiness {
    /// Why it is not ready, a sentence for each check that is not passed.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let Readiness { ready: _, nats, mirror, model, storage, running } = self;
        let named = [
            ("NATS", nats),
            ("mirror", mirror),
            ("read model", model),
            ("storage", storage),
            ("gateway", running),
        ];
        named
            .into_iter()
            .filter_map(|(name, check)| Some(format!("{name}: {}", check.reason.as_ref()?)))
            .collect()
    }
}

/// What is known about the health of this gateway.
pub struct Health {
    clock: Clock,
    connection: Connection,
    mirror: Mirror,
    model: ReadModel,
    elsewhere: Elsewhere,
    /// What the last probe found.
    probe: RwLock<Result<(), &'static str>>,
    /// When the storage refused last, in milliseconds since the Unix epoch; 0 when it has taken something since.
    refused_ms: AtomicI64,
    stopping: AtomicBool,
}

impl Health {
    /// Health as it is before anything is known.
    #[must_use]
    pub fn new(
        clock: Clock,
        connection: Connection,
        mirror: Mirror,
        model: ReadModel,
        elsewhere: Elsewhere,
    ) -> Self {
        Health {
            clock,
            connection,
            mirror,
            model,
            elsewhere,
            probe: RwLock::new(Err("JetStream has not answered yet")),
            refused_ms: AtomicI64::new(0),
            stopping: AtomicBool::new(false),
        }
    }

    /// JetStream could not store a notification: no room, no leader, no answer.
    pub fn storage_refused(&self) {
        self.refused_ms.store(self.clock.now_ms().max(1), Ordering::Relaxed);
    }

    /// JetStream has stored a notification.
    pub fn storage_took(&self) {
        // Nearly always it is 0 already, and reading it costs other threads nothing.
        if self.refused_ms.load(Ordering::Relaxed) != 0 {
            self.refused_ms.store(0, Ordering::Relaxed);
        }
    }

    /// The gateway is about to end.
    pub fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// How it stands now.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let nats = if self.connection.is_connected() {
            *self.probe.read().unwrap_or_else(PoisonError::into_inner)
        } else {
            Err("not connected to a NATS server")
        };
        let mirror = if self.mirror.is_ready() { Ok(()) } else { Err("it is being filled from JetStream") };
        let model = if self.model.is_ready() { Ok(()) } else { Err("it is being filled from JetStream") };
        let model = model.and_then(|()| {
            self.elsewhere.check().map_err(|_| "what other regions accepted is being read from JetStream")
        });
        let refused = self.refused_ms.load(Ordering::Relaxed);
        let refuses = refused != 0 && self.clock.now_ms() - refused < REFUSAL_COUNTS_MS;
        let storage = if refuses { Err("JetStream did not store the last notification") } else { Ok(()) };
        let stopping = self.stopping.load(Ordering::Relaxed);
        let running = if stopping { Err("the gateway is about to end") } else { Ok(()) };
        let ready = [nats, mirror, model, storage, running].iter().all(Result::is_ok);
        Readiness {
            ready,
            nats: Check::of(nats),
            mirror: Check::of(mirror),
            model: Check::of(model),
            storage: Check::of(storage),
            running: Check::of(running),
        }
    }

    /// Asks JetStream again and again, until `stop`.
    pub async fn watch(&self, stop: CancellationToken) {
        let mut interval = tokio::time::interval(PROBE_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = interval.tick() => {}
            }
            let found = self.probe().await;
            let before =
                std::mem::replace(&mut *self.probe.write().unwrap_or_else(PoisonError::into_inner), found);
            match (before, found) {
                (Ok(()), Err(reason)) => tracing::warn!(reason, "JetStream is not available"),
                (Err(_), Ok(())) => tracing::info!("JetStream is available"),
                _ => {}
            }
            metrics::gauge!(Metric::Ready.name()).set(if self.readiness().ready { 1.0 } else { 0.0 });
        }
    }

    async fn probe(&self) -> Result<(), &'static str> {
        if !self.connection.is_connected() {
            return Err("not connected to a NATS server");
        }
        match tokio::time::timeout(PROBE_LIMIT, self.connection.stream_state(INTAKE)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "the probe of JetStream failed");
                Err(
                    "JetStream does not know the stream INTAKE; is it up, and has `peal topology apply` been run?",
                )
            }
            Err(_) => Err("JetStream does not answer"),
        }
    }
}
