//! Regions linked by a hub: what each writes reaches the others, a cut link stops nothing, and nothing is missing after.

mod missed;
mod state;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::{Context, Message};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use peal_common::channel::{Channel, Priority};
use peal_common::clock::{Clock, HybridClock, Stamp};
use peal_common::id::AppId;
use peal_common::state::{Kind, Record, RecordKey};
use peal_common::suppression::{self, Suppression};
use peal_nats::connect::{self, Connection};
use peal_nats::handed_on::HandedOn;
use peal_nats::mirror::{Keeps, Mirror};
use peal_nats::publish::Outgoing;
use peal_nats::server::{Leaf, Link, Login, Server, ServerConfig, free_port};
use peal_nats::service::{Description, Request, Service};
use peal_nats::state::{StateWriter, WriteError, Written};
use peal_nats::topology::{
    ALL_STATE, Current, EVENTS, Links, OTHERS_STATE, Options, Topology, apply, check, deliver_consumer, plan,
    work_stream,
};
use peal_nats::{Region, Subjects};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::eventually;

const LIMIT: Duration = Duration::from_secs(30);
const REGIONS: [&str; 2] = ["eu", "us"];

fn named(name: &str) -> Region {
    name.parse().unwrap()
}

fn login(region: &str) -> Login {
    Login { user: region.to_owned(), password: format!("link of {region}") }
}

async fn started(region: &str, folder: &TempDir, leaf: Leaf) -> Server {
    let mut config = ServerConfig::new(named(region), folder.path().join(region));
    config.max_file_store = Some(64 << 30);
    config.leaf = Some(leaf);
    Server::start(config).await.unwrap()
}

async fn applied(jetstream: &Context, topology: &Topology) {
    let current = Current::read(jetstream, topology).await.unwrap();
    apply(jetstream, &plan(&current, topology), false).await.unwrap();
}

/// One region: its server, its link to the hub, and what a process of it holds.
struct Place {
    server: Server,
    link: Link,
    connection: Connection,
    topology: Topology,
    mirror: Mirror,
    writer: StateWriter,
    stop: CancellationToken,
}

impl Place {
    async fn start(name: &str, folder: &TempDir, hub_port: u16) -> Self {
        let link = Link::to(hub_port).await.unwrap();
        let leaf = Leaf::Connects { ports: vec![link.port()], login: login(name) };
        let server = started(name, folder, leaf).await;
        let others: Vec<_> = REGIONS.into_iter().filter(|other| *other != name).map(named).collect();
        let options = connect::Options {
            others: others.clone(),
            ..connect::Options::new([server.url()], named(name), "test")
        };
        let connection = connect::connect(&options).await.unwrap();
        let links = Some(Links { hub: named("hub"), others });
        let topology = Topology::for_region(&named(name), &Options { links, ..Options::laptop() });
        applied(&connection.jetstream, &topology).await;

        let hybrid = Arc::new(HybridClock::new(Clock::System, named(name)));
        let file: PathBuf = folder.path().join(format!("{name}.redb"));
        let (mirror, task) =
            Mirror::new(connection.clone(), file, Keeps::Everything, Clock::System, Arc::clone(&hybrid));
        let stop = CancellationToken::new();
        tokio::spawn(task.run(stop.clone()));
        let writer = StateWriter::new(connection.clone(), mirror.clone(), hybrid);
        Place { server, link, connection, topology, mirror, writer, stop }
    }

    async fn set(&self, name: &str, value: Option<bool>) -> Written {
        self.change(&recipient(), |record, stamp| record.set_guarded(name, value, stamp)).await
    }

    async fn write(&self, key: &RecordKey, number: u64) {
        self.change(key, |record, stamp| record.set("number", json!(number), stamp)).await;
    }

    async fn change(&self, key: &RecordKey, change: impl Fn(&mut Record, &Stamp)) -> Written {
        let change = |record: &mut Record, stamp: &Stamp| {
            change(record, stamp);
            Ok::<_, WriteError>(())
        };
        self.writer.update(key, change).await.unwrap()
    }

    async fn take_over_erasure(&self) {
        let erased = self.mirror.get(&recipient()).unwrap().unwrap();
        self.writer.take_over_erasure(&recipient(), erased).await.unwrap();
    }

    /// As gateways do.
    fn look_after_state(&self) {
        let handed_on = HandedOn::new(&self.connection, &named("hub"), Clock::System);
        tokio::spawn(handed_on.run(self.stop.clone()));
    }

    /// The door of a gateway.
    fn open_door(&self) -> JoinHandle<()> {
        let (connection, stop) = (self.connection.clone(), self.stop.clone());
        tokio::spawn(async move {
            let description = Description {
                name: "test",
                version: "1.0.0",
                description: "A gateway's door",
                metadata: HashMap::new(),
            };
            let service = Service::register(&connection, &description).await.unwrap();
            let subject = Subjects::new(&connection.region).api(peal_nats::missed::DOOR);
            let answer = |request: Request| {
                let connection = connection.clone();
                async move {
                    request
                        .answer(
                            peal_nats::missed::asked(&connection, &Clock::System, request.payload()).await,
                        )
                        .await
                }
            };
            service.serve(peal_nats::missed::DOOR, &subject, 1, &stop, answer).await.unwrap();
            service.stop().await;
        })
    }

    /// How many records this region has written so far.
    async fn written(&self) -> u64 {
        let stream = Subjects::new(&self.connection.region).state_stream();
        self.connection.stream_state(&stream).await.unwrap().last
    }

    fn record(&self, key: &RecordKey) -> Option<Record> {
        self.mirror.get(key).ok().flatten()
    }

    fn allowed(&self, name: &str) -> Option<bool> {
        self.record(&recipient())?.allowed(name)
    }

    async fn event(&self, number: usize) {
        let subject = Subjects::new(&self.connection.region).event("sent", None, "shop");
        self.connection.publish(Outgoing::new(subject, number.to_string())).await.unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Two regions and their hub.
struct World {
    hub: Server,
    hub_connection: Connection,
    eu: Place,
    us: Place,
    _folder: TempDir,
}

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port().unwrap();
        let hub = started("hub", &folder, Leaf::Listens { port, regions: REGIONS.map(login).to_vec() }).await;
        let eu = Place::start("eu", &folder, port).await;
        let us = Place::start("us", &folder, port).await;
        let options = connect::Options::new([hub.url()], named("hub"), "test");
        let hub_connection = connect::connect(&options).await.unwrap();
        applied(&hub_connection.jetstream, &hub_topology()).await;
        World { hub, hub_connection, eu, us, _folder: folder }
    }

    async fn events_at_hub(&self) -> u64 {
        self.hub_connection.stream_state(EVENTS).await.map_or(0, |state| state.messages)
    }
}

fn hub_topology() -> Topology {
    Topology::for_hub(&named("hub"), &REGIONS.map(named), &Options::laptop())
}

fn recipient() -> RecordKey {
    let app: AppId = "shop".parse().unwrap();
    RecordKey::new(Kind::Recipient, &app, "u-1")
}

/// Somebody else, who is written again and again.
fn busy() -> RecordKey {
    let app: AppId = "shop".parse().unwrap();
    RecordKey::new(Kind::Recipient, &app, "u-busy")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_region_writes_reaches_the_hub_and_the_others() {
    let world = World::start().await;
    for place in [&world.eu, &world.us] {
        place.event(1).await;
        let report = check(&place.connection.jetstream, &place.topology).await.unwrap();
        assert!(report.is_ok(), "{report}");
    }
    let report = check(&world.hub_connection.jetstream, &hub_topology()).await.unwrap();
    assert!(report.is_ok(), "{report}");
    eventually("the hub has both events", || async { world.events_at_hub().await == 2 }).await;

    world.eu.set("marketing", Some(true)).await;
    eventually("us knows what eu wrote", || async { world.us.allowed("marketing") == Some(true) }).await;
    world.us.set("email", Some(false)).await;
    eventually("eu knows what us wrote", || async { world.eu.allowed("email") == Some(false) }).await;
    // A region hears of what others wrote, not of its own.
    let others = world.eu.connection.stream_state(OTHERS_STATE).await.unwrap();
    assert_eq!(others.messages, 1);
    assert_eq!(world.hub_connection.stream_state(ALL_STATE).await.unwrap().messages, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_to_which_nothing_could_be_brought_is_updated_in_place() {
    let world = World::start().await;
    world.us.set("marketing", Some(false)).await;
    eventually("eu knows what us wrote", || async { world.eu.allowed("marketing") == Some(false) }).await;
    // As builds made it that brought nothing.
    let jetstream = &world.hub_connection.jetstream;
    let mut before = hub_topology().stream(ALL_STATE).unwrap().config.clone();
    (before.subjects, before.subject_transform) = (Vec::new(), None);
    jetstream.update_stream(&before).await.unwrap();
    applied(jetstream, &hub_topology()).await;
    let report = check(jetstream, &hub_topology()).await.unwrap();
    assert!(report.is_ok(), "{report}");
    assert_eq!(world.hub_connection.stream_state(ALL_STATE).await.unwrap().messages, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_region_acknowledges_stays_in_the_queue_of_the_other() {
    let world = World::start().await;
    let mut in_hand = Vec::new();
    for place in [&world.eu, &world.us] {
        let subjects = Subjects::new(&place.connection.region);
        let work = subjects.work(Channel::Webhook, Priority::Normal, "shop");
        place.connection.publish(Outgoing::new(work, "{}")).await.unwrap();
        let queue =
            place.connection.jetstream.get_stream_no_info(work_stream(Channel::Webhook)).await.unwrap();
        let lane = queue.get_consumer::<pull::Config>(&deliver_consumer(Priority::Normal)).await.unwrap();
        let mut messages = lane.fetch().max_messages(1).messages().await.unwrap();
        in_hand.push(messages.next().await.unwrap().unwrap());
    }
    let [of_eu, of_us] = &in_hand[..] else { unreachable!() };
    let sequence = |message: &Message| message.info().unwrap().stream_sequence;
    assert_eq!(sequence(of_eu), sequence(of_us), "else there is nothing to confuse");
    of_us.double_ack().await.unwrap();
    // Whatever crosses the links because of that comes before this.
    let (from, to) = (&world.us.connection.client, &world.eu.connection.client);
    let mut heard = to.subscribe("fence").await.unwrap();
    let said = async {
        let mut again = tokio::time::interval(Duration::from_millis(50));
        loop {
            again.tick().await;
            from.publish("fence", "".into()).await.unwrap();
        }
    };
    tokio::select! {
        () = said => {}
        found = tokio::time::timeout(LIMIT, heard.next()) => assert!(found.unwrap().is_some()),
    }
    let waiting = async || {
        let state = world.eu.connection.stream_state(&work_stream(Channel::Webhook)).await;
        state.unwrap().messages
    };
    assert_eq!(waiting().await, 1);
    of_eu.double_ack().await.unwrap();
    assert_eq!(waiting().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_cut_off_goes_on_and_its_opt_out_wins() {
    let world = World::start().await;
    world.eu.set("marketing", Some(true)).await;
    eventually("us knows what eu wrote", || async { world.us.allowed("marketing") == Some(true) }).await;

    world.us.link.cut();
    let written = world.us.set("marketing", Some(false)).await;
    world.us.mirror.wait_for(written.sequence, LIMIT).await.unwrap();
    assert_eq!(world.us.allowed("marketing"), Some(false));
    for number in 0..1_000 {
        world.us.event(number).await;
    }
    // Written later, by somebody who can't know of the opt-out.
    world.eu.set("marketing", Some(true)).await;
    world.us.link.heal();

    eventually("the opt-out is in force in eu", || async { world.eu.allowed("marketing") == Some(false) })
        .await;
    eventually("us has heard of eu's write", || async {
        world.us.mirror.get(&recipient()).unwrap().unwrap().latest()
            == world.eu.mirror.get(&recipient()).unwrap().unwrap().latest()
    })
    .await;
    assert_eq!(world.us.allowed("marketing"), Some(false));
    eventually("the hub has every event", || async { world.events_at_hub().await == 1_000 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_erased_or_suppressed_while_cut_off_wins_over_what_others_wrote() {
    let world = World::start().await;
    let (eu, us) = (&world.eu, &world.us);
    let app: AppId = "shop".parse().unwrap();
    let address = suppression::key(&app, Channel::Email, "A-1", false);
    let suppressed = |reason: &str, second| Suppression {
        reason: reason.to_owned(),
        since: Timestamp::from_second(second).unwrap(),
    };
    eu.write(&recipient(), 1).await;
    eu.change(&address, |record, stamp| suppressed("bounced", 1).write(record, stamp)).await;
    let knows = |place: &Place, key: &RecordKey| place.record(key).is_some_and(|found| found.exists());
    eventually("us knows both", async || knows(us, &recipient()) && knows(us, &address)).await;

    us.link.cut();
    us.change(&recipient(), Record::erase).await;
    let written = us.change(&address, |record, stamp| suppressed("bounced again", 2).write(record, stamp));
    us.mirror.wait_for(written.await.sequence, LIMIT).await.unwrap();
    assert!(!knows(us, &recipient()), "it is in force at once");
    // Later, by somebody who can't know of either.
    eu.write(&recipient(), 2).await;
    let lifted = eu.change(&address, Suppression::lift).await;
    eu.mirror.wait_for(lifted.sequence, LIMIT).await.unwrap();
    let stands = |place: &Place| Suppression::read(&place.record(&address)?);
    assert_eq!(stands(eu), None);
    us.link.heal();

    eventually("both regions say the same", async || {
        [recipient(), address.clone()].iter().all(|key| eu.record(key) == us.record(key))
            && !knows(eu, &recipient())
            && stands(eu).is_some()
    })
    .await;
    // Who lifted the first suppression took its cause away; the second one stands.
    assert!(stands(us).is_some() && !knows(us, &recipient()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_region_erases_leaves_the_streams_of_all() {
    let world = World::start().await;
    let profile = |record: &mut Record, stamp: &Stamp| record.set("profile", json!("sealed in eu"), stamp);
    world.eu.change(&recipient(), profile).await;
    eventually("us knows the recipient", || async {
        world.us.mirror.get(&recipient()).is_ok_and(|found| found.is_some())
    })
    .await;
    world.us.change(&recipient(), Record::erase).await;
    world.eu.mirror.erased().await;
    let listed = world.eu.mirror.erasures(10).unwrap();
    assert_eq!(listed[0].0, recipient());
    assert!(!world.eu.mirror.get(&recipient()).unwrap().unwrap().exists());

    world.eu.take_over_erasure().await;
    world.eu.mirror.erasure_done(&recipient(), &listed[0].1).await.unwrap();
    assert!(world.eu.mirror.erasures(10).unwrap().is_empty());
    let subject = Subjects::new(&named("eu")).state(recipient().as_str());
    for (connection, stream) in [
        (&world.eu.connection, Subjects::new(&named("eu")).state_stream()),
        (&world.hub_connection, ALL_STATE.to_owned()),
        (&world.us.connection, OTHERS_STATE.to_owned()),
    ] {
        eventually("nothing of it is left", || async {
            let last = connection.last_of(&stream, &subject).await.unwrap().unwrap();
            !String::from_utf8_lossy(&last.payload).contains("sealed")
        })
        .await;
    }
    // A second time there is nothing to do.
    let before = world.eu.connection.stream_state(&Subjects::new(&named("eu")).state_stream()).await.unwrap();
    world.eu.take_over_erasure().await;
    let after = world.eu.connection.stream_state(&Subjects::new(&named("eu")).state_stream()).await.unwrap();
    assert_eq!(before, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_was_killed_gets_what_it_missed() {
    let mut world = World::start().await;
    world.eu.event(0).await;
    eventually("the hub has the event", || async { world.events_at_hub().await == 1 }).await;
    world.hub.kill().await.unwrap();
    for number in 0..500 {
        world.eu.event(number).await;
    }
    world.us.set("marketing", Some(false)).await;
    world.hub.restart().await.unwrap();
    eventually("the hub has every event", || async { world.events_at_hub().await == 501 }).await;
    eventually("the opt-out is in force in eu", || async { world.eu.allowed("marketing") == Some(false) })
        .await;
    // A region whose server is killed comes back as it was.
    world.us.server.kill().await.unwrap();
    world.eu.set("email", Some(false)).await;
    world.us.server.restart().await.unwrap();
    eventually("us has heard of what eu wrote", || async { world.us.allowed("email") == Some(false) }).await;
}
