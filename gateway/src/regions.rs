//! How each region stands: what runs there, what waits there, and how much of it the hub has not got yet.
//!
//! Every gateway knows its own region and tells the others of it over NATS (`peal.<r>.api.region`). A region that is
//! cut off does not answer, and is shown so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use jiff::Timestamp;
use peal_common::clock::Clock;
use peal_nats::service::Instance;
use peal_nats::{Connection, Region, Subjects};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::health::Health;
use crate::queues::Queues;

/// For how long an answer is good.
const ASK_INTERVAL: Duration = Duration::from_secs(2);
/// How long another region may take to answer: longer than its gateway waits for its JetStream.
const ASK_LIMIT: Duration = Duration::from_secs(4);
/// How long gateways and dispatchers are waited for: longer than the way around the earth and back.
const INSTANCES_LIMIT: Duration = Duration::from_millis(500);

/// The door of a region's status.
pub const DOOR: &str = "region";

/// How a region stands.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RegionView {
    /// Its name.
    #[schema(value_type = String, example = "eu")]
    pub name: Region,
    /// Whether it answers. What else stands here is unknown otherwise.
    pub reachable: bool,
    /// Whether the gateway that answered is ready to take notifications.
    pub ready: bool,
    /// How it stands, in a word.
    // A gateway of an earlier version does not tell; whoever asked judges anyway.
    #[serde(default)]
    pub state: RegionState,
    /// What is not as it should be, for people. None when it is `ready`.
    #[serde(default)]
    pub reasons: Vec<String>,
    /// Notifications and deliveries that nobody works on yet; `null` when unknown.
    pub waiting: Option<u64>,
    /// Notifications and deliveries that somebody works on.
    pub in_hand: Option<u64>,
    /// Messages that wait for their time.
    pub scheduled: Option<u64>,
    /// Deliveries that were given up and may be replayed.
    pub dead_letters: Option<u64>,
    /// What the hub has not got yet; `null` for a region without a hub.
    pub lag: Option<LagView>,
    /// The gateways that run there.
    pub gateways: Vec<InstanceView>,
    /// The dispatchers that run there.
    pub dispatchers: Vec<InstanceView>,
    /// When this was looked at.
    #[schema(value_type = String, format = DateTime)]
    pub checked_at: Timestamp,
}

/// How a region stands, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RegionState {
    /// It takes notifications, and dispatchers deliver them.
    Ready,
    /// It takes notifications, and something else is not as it should be.
    Degraded,
    /// Its gateway answers and does not take notifications.
    NotReady,
    /// No gateway of it answers.
    #[default]
    Unreachable,
}

/// Messages of a region that the hub has not confirmed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct LagView {
    /// Notifications that were accepted. What is pinned to the region does not count.
    #[serde(default)]
    pub notifications: u64,
    /// Events.
    pub events: u64,
    /// Changes of state: recipients, preferences, templates, keys.
    pub state: u64,
}

/// A running gateway or dispatcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstanceView {
    /// What `nats micro` calls it.
    pub id: String,
    /// Its version.
    pub version: String,
}

impl RegionView {
    fn unreachable(name: Region, now: Timestamp) -> Self {
        RegionView {
            name,
            reachable: false,
            ready: false,
            state: RegionState::Unreachable,
            reasons: vec!["no gateway of it answers".to_owned()],
            waiting: None,
            in_hand: None,
            scheduled: None,
            dead_letters: None,
            lag: None,
            gateways: Vec::new(),
            dispatchers: Vec::new(),
            checked_at: now,
        }
    }

    /// Takes in what was found running, and judges by that, too.
    fn with_running(&mut self, running: &[Instance]) {
        self.gateways = named(running, "peal-gateway");
        self.dispatchers = named(running, "peal-dispatcher");
        self.state = match self {
            RegionView { reachable: false, .. } => RegionState::Unreachable,
            RegionView { ready: false, .. } => RegionState::NotReady,
            _ => RegionState::Ready,
        };
        if self.reachable && self.dispatchers.is_empty() {
            self.reasons.push("no dispatcher answers: what is accepted waits".to_owned());
            if self.state == RegionState::Ready {
                self.state = RegionState::Degraded;
            }
        }
    }
}

/// Knows how regions stand; asks, not too often.
pub struct Regions {
    connection: Connection,
    queues: Arc<Queues>,
    health: Arc<Health>,
    clock: Clock,
    /// All regions, by name.
    names: Vec<Region>,
    answer: Mutex<Option<(Instant, Arc<[RegionView]>)>>,
}

impl Regions {
    /// The regions of these names.
    #[must_use]
    pub fn new(
        connection: Connection,
        mut names: Vec<Region>,
        queues: Arc<Queues>,
        health: Arc<Health>,
        clock: Clock,
    ) -> Self {
        names.sort();
        Regions { connection, queues, health, clock, names, answer: Mutex::default() }
    }

    /// How this region stands, as this gateway sees it, without what runs there.
    pub async fn own(&self) -> RegionView {
        let depths = self.queues.depths().await;
        let depths = depths.as_deref();
        let readiness = self.health.readiness();
        RegionView {
            reachable: true,
            ready: readiness.ready,
            state: if readiness.ready { RegionState::Ready } else { RegionState::NotReady },
            reasons: readiness.reasons(),
            waiting: depths.map(|depths| depths.waiting()),
            in_hand: depths.map(|depths| depths.total() - depths.waiting()),
            scheduled: depths.map(|depths| depths.scheduled),
            dead_letters: depths.map(|depths| depths.dead_letters),
            lag: depths.and_then(|depths| depths.lag),
            ..RegionView::unreachable(self.connection.region.clone(), self.clock.now())
        }
    }

    /// How all regions stood at most [`ASK_INTERVAL`] ago, by name.
    pub async fn all(&self) -> Arc<[RegionView]> {
        let mut answer = self.answer.lock().await;
        if let Some((asked, regions)) = &*answer
            && asked.elapsed() < ASK_INTERVAL
        {
            return Arc::clone(regions);
        }
        let (mut regions, instances) = tokio::join!(
            join_all(self.names.iter().map(|name| self.one(name))),
            self.connection.instances(INSTANCES_LIMIT)
        );
        let mut by_region = BTreeMap::<String, Vec<Instance>>::new();
        // Who can't ask is not connected: its own region is not ready then, and the others do not answer.
        for instance in instances.unwrap_or_default() {
            if let Some(region) = instance.metadata.get("region") {
                by_region.entry(region.clone()).or_default().push(instance);
            }
        }
        for region in &mut regions {
            region.with_running(&by_region.remove(region.name.as_str()).unwrap_or_default());
        }
        let regions: Arc<[RegionView]> = regions.into();
        *answer = Some((Instant::now(), Arc::clone(&regions)));
        regions
    }

    async fn one(&self, name: &Region) -> RegionView {
        if *name == self.connection.region {
            return self.own().await;
        }
        let answered = self.connection.ask(Subjects::new(name).api(DOOR), Bytes::new(), ASK_LIMIT).await;
        let told = answered.ok().and_then(|body| serde_json::from_slice::<RegionView>(&body).ok());
        told.filter(|told| told.name == *name)
            .unwrap_or_else(|| RegionView::unreachable(name.clone(), self.clock.now()))
    }

    /// What this gateway tells the others.
    pub async fn told(&self) -> Bytes {
        serde_json::to_vec(&self.own().await).unwrap_or_default().into()
    }
}

fn named(instances: &[Instance], name: &str) -> Vec<InstanceView> {
    let mut found: Vec<_> = instances
        .iter()
        .filter(|instance| instance.name == name)
        .map(|instance| InstanceView { id: instance.id.clone(), version: instance.version.clone() })
        .collect();
    found.sort_by(|a, b| a.id.cmp(&b.id));
    found
}
