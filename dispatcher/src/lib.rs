//! The dispatcher: decides who gets a notification, on which channel and when, and delivers it.
//!
//! A notification's way through this crate: [`fanout`] takes it from INTAKE and puts its deliveries into WORK, or
//! has a sole one made at once; [`delivery`] decides once more for each of them, calls one of the [`channels`] and settles
//! what follows; [`due`] brings back what had to wait, and [`sweep`] removes what a crashed server left behind. The process keeps nothing that
//! it could not rebuild: any dispatcher can be killed and any number can run beside one another. It faces no clients;
//! the gateway does.

pub mod channels;
pub mod context;
pub mod delivery;
pub mod due;
pub mod fanout;
pub mod health;
pub mod homecoming;
mod lanes;
pub mod metrics;
pub mod outcomes;
pub mod recording;
pub mod reload;
pub mod sweep;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use peal_common::backoff::Backoff;
use peal_common::channel::{Channel, Priority};
use peal_common::clock::{Clock, HybridClock};
use peal_common::settings::{DispatcherSettings, Settings};
use peal_nats::catalog::Catalog;
use peal_nats::connect::Options;
use peal_nats::mirror::{Keeps, Mirror};
use peal_nats::service::{Description, Service};
use peal_nats::state::StateWriter;
use peal_nats::{Region, Subjects};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use channels::{CurrentProviders, Providers};
use context::{Context, Policy, Shared};
use delivery::{AtOnce, InHand};
use fanout::Inherited;
use homecoming::Doubt;
use outcomes::RecentOutcomes;

/// How long what is in flight may take to end after a stop.
const DRAIN_LIMIT: Duration = Duration::from_secs(25);

/// Runs a dispatcher until `stop`, then finishes what is in flight.
///
/// # Errors
/// When it can't be set up, or one of its tasks ends by itself.
pub async fn run(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    run_reloading(settings, mpsc::channel(1).1, stop).await
}

/// The same, with other settings of the providers each time that `reloads` brings some.
///
/// # Errors
/// As [`run`].
pub async fn run_reloading(
    settings: Settings,
    reloads: mpsc::Receiver<Settings>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    if settings.is_hub() {
        bail!("region.name: {} is the hub; dispatchers run in regions", settings.region.name);
    }
    let exporter = metrics::install()?;
    let options = Options { background: true, ..Options::from_settings(&settings, "peal-dispatcher")? };
    let connection = peal_nats::connect(&options).await.context("cannot connect to NATS")?;
    let clock = Clock::System;
    let sealer = Arc::new(settings.sealer()?);
    let hybrid = Arc::new(HybridClock::new(clock.clone(), settings.region.name.clone()));
    let (mirror, mirror_task) = Mirror::new(
        connection.clone(),
        settings.dispatcher.data_dir.join("state.redb"),
        Keeps::Records,
        clock.clone(),
        Arc::clone(&hybrid),
    );
    let providers = Providers::from_settings(
        &settings.channels,
        &[],
        &Providers::default(),
        &connection,
        &sealer,
        &clock,
    )?;
    let channels = served(&settings.dispatcher, &providers)?;
    if settings.channels.email.is_set() && settings.gateway.public_url.is_none() {
        tracing::warn!("e-mails of marketing categories have no link to unsubscribe: set gateway.public_url");
    }
    let context = Arc::new(Context {
        subjects: Subjects::new(&connection.region),
        catalog: Catalog::new(mirror.clone(), sealer),
        writer: StateWriter::new(connection.clone(), mirror.clone(), hybrid),
        inherited: Inherited::new(connection.clone()),
        outcomes: RecentOutcomes::new(connection.clone()),
        doubt: Doubt::default(),
        in_hand: InHand::default(),
        at_once: AtOnce::new(settings.dispatcher.concurrency),
        policy: policy(&settings),
        public_base: settings.gateway.public_base().map(str::to_owned),
        providers: CurrentProviders::new(settings.channels.clone(), providers),
        hub: settings.topology.hub.clone(),
        mirror,
        clock,
        connection,
    });

    let mut tasks = JoinSet::new();
    let listener = tokio::net::TcpListener::bind(settings.dispatcher.listen)
        .await
        .with_context(|| format!("cannot listen on {} (dispatcher.listen)", settings.dispatcher.listen))?;
    tasks.spawn(health::serve(listener, Arc::clone(&context), exporter, stop.clone()));
    tasks.spawn(register(Arc::clone(&context), channels.clone(), stop.clone()));
    if let Some(hub) = context.hub.as_ref().filter(|_| !context.connection.others.is_empty()) {
        let patience = homecoming::Patience {
            silence: Duration::from_secs(settings.topology.silence_seconds),
            limit: Duration::from_secs(settings.topology.homecoming_seconds),
        };
        let (connection, clock) = (&context.connection, &context.clock);
        let known = homecoming::wait(connection, hub, clock, patience, &context.doubt);
        stop.run_until_cancelled(known).await;
        tasks.spawn(settle_doubt(Arc::clone(&context), hub.clone(), stop.clone()));
    }
    let mirror_stop = CancellationToken::new();
    tasks.spawn(mirror_task.run(mirror_stop.clone()));

    let in_flight = TaskTracker::new();
    for priority in Priority::ALL {
        let run = fanout::run(Arc::clone(&context), priority, in_flight.clone(), stop.clone());
        tasks.spawn(once_ready(Arc::clone(&context), stop.clone(), run));
    }
    let only = settings.dispatcher.channels.clone();
    let run = lanes::run(Arc::clone(&context), only, in_flight.clone(), stop.clone());
    tasks.spawn(once_ready(Arc::clone(&context), stop.clone(), run));
    let run = due::run(Arc::clone(&context), in_flight.clone(), stop.clone());
    tasks.spawn(once_ready(Arc::clone(&context), stop.clone(), run));
    tasks.spawn(sweep::run(Arc::clone(&context), stop.clone()));
    tasks.spawn(reload::run(Arc::clone(&context), channels, reloads, stop.clone()));
    tracing::info!(region = %context.connection.region, "the dispatcher runs");

    // Every task runs until it is told to stop: one that ends before has failed.
    tokio::select! {
        () = stop.cancelled() => {}
        ended = tasks.join_next() => {
            if !stop.is_cancelled() {
                stop.cancel();
                match ended {
                    Some(Err(error)) => anyhow::bail!("a task of the dispatcher failed: {error}"),
                    _ => anyhow::bail!("a task of the dispatcher ended by itself"),
                }
            }
        }
    }
    tracing::info!("the dispatcher stops: it finishes what is in flight");
    in_flight.close();
    if tokio::time::timeout(DRAIN_LIMIT, in_flight.wait()).await.is_err() {
        tracing::warn!(left = in_flight.len(), "deliveries in flight are left to be handed out again");
    }
    let _ = context.connection.client.flush().await;
    mirror_stop.cancel();
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// Runs what takes messages once the mirror can tell what is to be done with them: one that is given back has been handed out,
/// which counts as an attempt.
async fn once_ready(context: Shared, stop: CancellationToken, run: impl Future<Output = ()>) {
    if stop.run_until_cancelled(context.mirror.until_ready()).await.is_some() {
        run.await;
    }
}

async fn settle_doubt(context: Shared, hub: Region, stop: CancellationToken) {
    let gone = context.doubt.until_gone(&context.connection, &hub, &context.mirror);
    stop.run_until_cancelled(gone).await;
    stop.cancelled().await;
}

/// A channel that is to be served has no provider.
#[derive(Debug, thiserror::Error)]
#[error("dispatcher.channels: {0} has no provider; set one up, or leave the channel out")]
pub struct NoProvider(Channel);

/// The channels that a dispatcher delivers on.
fn served(settings: &DispatcherSettings, providers: &Providers) -> Result<Vec<Channel>, NoProvider> {
    if settings.channels.is_empty() {
        return Ok(providers.channels().collect());
    }
    let without = settings.channels.iter().find(|channel| !providers.has(**channel));
    without.map_or_else(|| Ok(settings.channels.clone()), |channel| Err(NoProvider(*channel)))
}

fn policy(settings: &Settings) -> Policy {
    let dispatcher = &settings.dispatcher;
    Policy {
        max_attempts: dispatcher.max_attempts,
        backoff: Backoff {
            base: Duration::from_millis(dispatcher.retry_base_ms),
            cap: Duration::from_secs(dispatcher.retry_cap_seconds),
        },
        concurrency: dispatcher.concurrency,
        upgrade: Duration::from_secs(dispatcher.upgrade_seconds),
    }
}

/// Makes the dispatcher visible to `nats micro`.
async fn register(context: Shared, channels: Vec<Channel>, stop: CancellationToken) {
    let description = Description {
        name: "peal-dispatcher",
        version: env!("CARGO_PKG_VERSION"),
        description: "Decides who gets a notification, on which channel and when, and delivers it",
        metadata: std::collections::HashMap::from([
            ("region".to_owned(), context.connection.region.to_string()),
            (
                "channels".to_owned(),
                channels.iter().map(|channel| channel.as_str()).collect::<Vec<_>>().join(","),
            ),
        ]),
    };
    match Service::register(&context.connection, &description).await {
        Ok(service) => {
            stop.cancelled().await;
            service.stop().await;
        }
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the dispatcher is not listed by `nats micro`"
            );
            stop.cancelled().await;
        }
    }
}
