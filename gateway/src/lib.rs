//! The gateway: the one process that faces the network.
//!
//! It takes notifications and answers `202` once JetStream has them, keeps recipients, categories, templates and keys,
//! answers queries from a local read model, and serves the console. It links no provider code and holds no provider's
//! credentials; what happens after acceptance is the dispatcher's part.
//!
//! A gateway of the hub answers queries over all regions and changes nothing; see [`http::hub`].
//!
//! A request's way: [`http`] (id, time limit, authentication, scope, body) → [`api`] (one file per resource) →
//! `peal-nats` (state, streams) → answer.

pub mod accept;
pub mod api;
pub mod app;
pub mod callbacks;
pub mod console;
pub mod door;
mod erasures;
pub mod health;
pub mod http;
pub mod metrics;
pub mod queues;
pub mod readmodel;
pub mod regions;
mod standing;

use std::fs::File;
use std::future::IntoFuture as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use axum::serve::ListenerExt as _;
use peal_common::clock::{Clock, HybridClock};
use peal_common::settings::Settings;
use peal_nats::catalog::Catalog;
use peal_nats::connect::{self, Options};
use peal_nats::group::GroupPublisher;
use peal_nats::handed_on::HandedOn;
use peal_nats::keys::Keys;
use peal_nats::mirror::{Keeps, Mirror};
use peal_nats::state::StateWriter;
use peal_nats::{Region, Subjects};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::accept::{Acceptor, Elsewhere, Known, Networks, Rules};
use crate::app::{App, Parts};
use crate::callbacks::{Callbacks, CurrentCallbacks};
use crate::health::Health;
use crate::http::auth::{Keyring, Nonces};
use crate::queues::Queues;
use crate::readmodel::{ReadModel, Retention};
use crate::regions::Regions;

/// How long requests in flight may take after the gateway was told to stop, and then how long its tasks may.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// How many streams of inboxes may be open at once.
const MAX_STREAMS: usize = 10_000;
/// How often the recorder of metrics tidies up.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Runs a gateway on the address of its settings until `stop`.
///
/// It comes up without NATS and says so at `/readyz`; requests that need it are then answered `503`.
///
/// # Errors
/// When settings can't be used, the address or the data folder is taken, or one of its tasks ends by itself.
pub async fn run(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    run_reloading(settings, mpsc::channel(1).1, stop).await
}

/// The same, with other keys of callbacks each time that `reloads` brings settings.
///
/// # Errors
/// As [`run`].
pub async fn run_reloading(
    settings: Settings,
    reloads: mpsc::Receiver<Settings>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let address = settings.gateway.listen;
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    run_on(listener, settings, Clock::System, reloads, stop).await
}

/// Runs a gateway on a socket that is open already, by a given clock.
///
/// # Errors
/// As [`run`].
pub async fn run_on(
    listener: TcpListener,
    settings: Settings,
    clock: Clock,
    reloads: mpsc::Receiver<Settings>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let _lock = lock(&settings.gateway.data_dir)?;
    let tasks_stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let app = start(settings, clock, &stop, &tasks_stop, &mut tasks).await?;

    let address = listener.local_addr()?;
    let listener = listener.tap_io(|stream| {
        // An answer is written at once; waiting for more to send would only delay it.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection stays with delayed sending");
        }
    });
    let router = http::router(app.clone());
    tasks.spawn({
        let (app, router, stop) = (app.clone(), router.clone(), tasks_stop.clone());
        async move {
            door::serve(app, router, stop).await;
            "the door over NATS"
        }
    });
    tasks.spawn({
        let (app, stop) = (app.clone(), tasks_stop.clone());
        async move {
            reload(&app, reloads, stop).await;
            "the taking over of settings"
        }
    });
    let drained = stop.clone();
    if !app.connection.is_hub {
        tasks.spawn({
            let (app, stop) = (app.clone(), tasks_stop.clone());
            async move {
                erasures::run(app, stop).await;
                "the carrying out of erasures"
            }
        });
    }
    let server =
        axum::serve(listener, router).with_graceful_shutdown(async move { drained.cancelled().await });
    let mut server = Box::pin(server.into_future());
    tracing::info!(%address, region = %app.settings.region.name, "the gateway listens");

    let ended = tokio::select! {
        served = &mut server => Some(served.context("the HTTP server failed")),
        Some(ended) = tasks.join_next() => Some(Err(too_early(ended))),
        () = stop.cancelled() => None,
    };
    app.health.stopping();
    stop.cancel();
    let result = match ended {
        Some(result) => result,
        None => {
            tracing::info!("the gateway stops: requests in flight are finished");
            if tokio::time::timeout(DRAIN_LIMIT, server).await.is_err() {
                tracing::warn!("some requests were still in flight at the limit and are broken off");
            }
            Ok(())
        }
    };
    tasks_stop.cancel();
    let drain = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_LIMIT, drain).await.is_err() {
        tracing::warn!("some tasks did not end in time");
    }
    result
}

/// Takes over the keys of callbacks that `reloads` brings, until `stop`.
async fn reload(app: &App, mut reloads: mpsc::Receiver<Settings>, stop: CancellationToken) {
    while let Some(Some(settings)) = stop.run_until_cancelled(reloads.recv()).await {
        match Callbacks::from_settings(&settings) {
            Ok(callbacks) => {
                app.callbacks.replace(callbacks);
                tracing::info!("the keys of callbacks are in force");
            }
            Err(error) => tracing::error!(%error, "the settings are not taken over"),
        }
    }
    // Nobody brings any, or no more.
    stop.cancelled().await;
}

/// Builds the parts and starts what runs beside requests.
async fn start(
    settings: Settings,
    clock: Clock,
    stop: &CancellationToken,
    tasks_stop: &CancellationToken,
    tasks: &mut JoinSet<&'static str>,
) -> anyhow::Result<App> {
    let sealer = Arc::new(settings.sealer()?);
    let callbacks = CurrentCallbacks::new(Callbacks::from_settings(&settings)?);
    let region: Region = settings.region.name.as_str().parse()?;
    let mut options = Options::from_settings(&settings, "peal-gateway")?;
    options.background = true;
    let connection = connect::connect(&options).await?;
    let hybrid = Arc::new(HybridClock::new(clock.clone(), settings.region.name.clone()));
    let path = settings.gateway.data_dir.join("state.redb");
    let (mirror, mirror_task) =
        Mirror::new(connection.clone(), path, Keeps::Everything, clock.clone(), Arc::clone(&hybrid));
    let writer = StateWriter::new(connection.clone(), mirror.clone(), hybrid);
    let path = settings.gateway.data_dir.join("model.redb");
    let retention = Retention::days(settings.topology.events_max_age_days);
    let (model, model_task) = ReadModel::new(connection.clone(), path, clock.clone(), retention);
    let path = settings.gateway.data_dir.join("elsewhere.redb");
    let (elsewhere, elsewhere_task) = Elsewhere::new(connection.clone(), path, clock.clone());
    let health =
        Health::new(clock.clone(), connection.clone(), mirror.clone(), model.clone(), elsewhere.clone());
    let health = Arc::new(health);
    let metrics = metrics::recorder()?;

    tasks.spawn({
        let stop = tasks_stop.clone();
        async move {
            mirror_task.run(stop).await;
            "the mirror"
        }
    });
    let limit = Duration::from_millis(settings.nats.request_timeout_ms);
    let (publisher, gathering) =
        GroupPublisher::new(connection.clone(), settings.gateway.group_commit, limit, tasks_stop.clone());
    tasks.spawn(async move {
        gathering.await;
        "the publisher"
    });
    tasks.spawn({
        let regions = settings.topology.regions.clone();
        let model_task = model_task.giving_way_to(publisher.clone()).gathering(regions);
        let stop = tasks_stop.clone();
        async move {
            model_task.run(stop).await;
            "the read model"
        }
    });
    tasks.spawn({
        let (health, stop) = (Arc::clone(&health), tasks_stop.clone());
        async move {
            health.watch(stop).await;
            "the watch over NATS"
        }
    });
    tasks.spawn({
        let (metrics, stop) = (metrics.clone(), tasks_stop.clone());
        async move {
            let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
            while stop.run_until_cancelled(interval.tick()).await.is_some() {
                metrics.run_upkeep();
            }
            "the upkeep of metrics"
        }
    });

    let catalog = Catalog::new(mirror.clone(), Arc::clone(&sealer));
    let networks = Networks::parse(&settings.channels.webhook.allowed_networks).map_err(|text| {
        anyhow!("channels.webhook.allowed_networks: {text} is no network; write one such as 10.1.0.0/16")
    })?;
    let (nonces, nonces_task) = Nonces::new();
    tasks.spawn({
        let (connection, clock, stop) = (connection.clone(), clock.clone(), tasks_stop.clone());
        async move {
            let subject = Subjects::new(&connection.region).nonces();
            nonces_task.run(&connection, subject, clock, stop).await;
            "the exchange of nonces"
        }
    });
    tasks.spawn({
        let stop = tasks_stop.clone();
        async move {
            Box::pin(elsewhere_task.run(stop)).await;
            "the reading of other regions' ids"
        }
    });
    let longest_lag = Duration::from_secs(settings.topology.duplicate_window_seconds) / 2;
    let acceptor = Acceptor::new(
        connection.clone(),
        publisher,
        catalog.clone(),
        writer.clone(),
        Known { here: model.clone(), elsewhere },
        clock.clone(),
        Rules { networks, longest_lag, pinned: settings.region.pinned },
    );

    let hub = settings.topology.hub.clone();
    if let Some(hub) = hub.as_ref().filter(|_| !connection.is_hub) {
        let handed_on = HandedOn::new(&connection, hub, clock.clone());
        let stop = tasks_stop.clone();
        tasks.spawn(async move {
            Box::pin(handed_on.run(stop)).await;
            "the watch over state that is handed on"
        });
    }
    let queues = Arc::new(Queues::new(connection.clone(), hub));
    let mut names = settings.topology.regions.clone();
    if names.is_empty() {
        names.push(region.clone());
    }
    let regions =
        Regions::new(connection.clone(), names, Arc::clone(&queues), Arc::clone(&health), clock.clone());
    Ok(App::new(Parts {
        queues,
        regions: Arc::new(regions),
        acceptor,
        callbacks,
        keyring: Keyring::new(mirror.clone(), Arc::clone(&sealer), settings.gateway.rate_limit_per_second),
        nonces,
        keys: Keys::new(writer.clone(), Arc::clone(&sealer)),
        catalog,
        subjects: Subjects::new(&region),
        streams: Arc::new(Semaphore::new(MAX_STREAMS)),
        stop: stop.clone(),
        settings,
        clock,
        connection,
        mirror,
        writer,
        model,
        sealer,
        health,
        metrics,
    }))
}

fn too_early(ended: Result<&'static str, tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok(task) => anyhow!("{task} ended by itself"),
        Err(error) => anyhow!(error).context("a task of the gateway failed"),
    }
}

/// Keeps a second gateway out of the data folder: the local index has one owner.
fn lock(folder: &Path) -> anyhow::Result<File> {
    let shown = folder.display();
    std::fs::create_dir_all(folder)
        .with_context(|| format!("gateway.data_dir: cannot make the folder {shown}"))?;
    let file = File::create(folder.join("gateway.lock"))
        .with_context(|| format!("gateway.data_dir: cannot write to {shown}"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            bail!("gateway.data_dir: another gateway uses {shown}; give each its own folder")
        }
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("gateway.data_dir: cannot lock {shown}"))
        }
    }
}
