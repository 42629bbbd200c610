//! Regions linked by a hub: what each writes reaches the others, a cut link stops nothing, and nothing is missing after.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::{Context, Message};
use futures_util::StreamExt as _;
use peal_common::channel::{Channel, Priority};
use peal_common::clock::{Clock, HybridClock};
use peal_common::id::AppId;
use peal_common::state::{Kind, Record, RecordKey};
use peal_nats::connect::{self, Connection};
use peal_nats::follow::Reader;
use peal_nats::handed_on::{self, HandedOn};
use peal_nats::mirror::{Keeps, Mirror};
use peal_nats::missed::{self, Misses};
use peal_nats::publish::Outgoing;
use peal_nats::server::{Leaf, Link, Login, Server, ServerConfig, free_port};
use peal_nats::service::{Description, Request, Service};
use peal_nats::state::{StateWriter, WriteError, Written};
use peal_nats::topology::{
    ALL_STATE, Current, EVENTS, INTAKE, Links, OTHERS_STATE, Options, Topology, apply, check,
    deliver_consumer, plan, state_to, work_stream,
};
use peal_nats::{Region, Subjects, unfinished};
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
        let change = |record: &mut Record, stamp: &_| {
            record.set_guarded(name, value, stamp);
            Ok::<_, WriteError>(())
        };
        self.writer.update(&recipient(), change).await.unwrap()
    }

    async fn write(&self, key: &RecordKey, number: u64) {
        let change = |record: &mut Record, stamp: &_| {
            record.set("number", json!(number), stamp);
            Ok::<_, WriteError>(())
        };
        self.writer.update(key, change).await.unwrap();
    }

    async fn take_over_erasure(&self) {
        let erased = self.mirror.get(&recipient()).unwrap().unwrap();
        self.writer.take_over_erasure(&recipient(), erased).await.unwrap();
    }

    /// As gateways do.
    fn look_after_state(&self) {
        let handed_on = HandedOn::new(&self.connection, &named("hub"), self.writer.clone(), Clock::System);
        tokio::spawn(handed_on.run(self.stop.clone()));
    }

    /// The door of a gateway.
    fn open_door(&self) -> JoinHandle<()> {
        let (connection, writer, stop) = (self.connection.clone(), self.writer.clone(), self.stop.clone());
        tokio::spawn(async move {
            let description = Description {
                name: "test",
                version: "1.0.0",
                description: "A gateway's door",
                metadata: HashMap::new(),
            };
            let service = Service::register(&connection, &description).await.unwrap();
            let subject = Subjects::new(&connection.region).api(handed_on::DOOR);
            let answer = |request: Request| {
                let writer = writer.clone();
                async move {
                    request.answer(handed_on::asked_again(&writer, request.payload()).await).await;
                }
            };
            let of_missed = Subjects::new(&connection.region).api(missed::DOOR);
            let answer_missed = |request: Request| {
                let connection = connection.clone();
                async move { request.answer(missed::asked(&connection, request.payload()).await).await }
            };
            let (again, missed) = tokio::join!(
                service.serve(handed_on::DOOR, &subject, 1, &stop, answer),
                service.serve(missed::DOOR, &of_missed, 1, &stop, answer_missed),
            );
            again.and(missed).unwrap();
            service.stop().await;
        })
    }

    /// How many records this region has written so far.
    async fn written(&self) -> u64 {
        let stream = Subjects::new(&self.connection.region).state_stream();
        self.connection.stream_state(&stream).await.unwrap().last
    }

    fn allowed(&self, name: &str) -> Option<bool> {
        self.mirror.get(&recipient()).ok().flatten()?.allowed(name)
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

/// What is missing among the notifications that the hub has.
async fn missed_at(hub: &Connection) -> Misses {
    let (misses, mut reader) = (Misses::default(), Reader::open(hub, INTAKE).await.unwrap());
    while reader.peek().await.unwrap().is_some() {
        misses.note(INTAKE, &reader.take());
    }
    misses
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
async fn what_the_hub_missed_is_written_again_once() {
    let world = World::start().await;
    let (eu, hub) = (&world.eu.connection, &world.hub_connection);
    for number in 1..=5 {
        // The second may not leave its region.
        let subject = Subjects::new(&eu.region).intake(Priority::High, "shop");
        let outgoing = Outgoing::new(Subjects::pin(subject, number == 2), number.to_string());
        eu.publish(outgoing.id(&format!("shop:{number}")).header("Peal-Told", "yes")).await.unwrap();
    }
    let count = async |of: &Connection| of.stream_state(INTAKE).await.map_or(0, |state| state.messages);
    eventually("the hub has what may leave", || async { count(hub).await == 4 }).await;
    // As if it had never come.
    let stream = hub.jetstream.get_stream_no_info(INTAKE).await.unwrap();
    for sequence in [1, 2] {
        let found = hub.message_at(INTAKE, sequence).await.unwrap().unwrap();
        assert_eq!(found.payload, [b"1", b"3"][sequence as usize - 1][..]);
        if sequence == 2 {
            stream.delete_message(sequence).await.unwrap();
        }
    }

    let _door = world.eu.open_door();
    for _ in 0..2 {
        let misses = missed_at(hub).await;
        assert_eq!(misses.gaps(), 1, "from the second to the third");
        let filling = tokio::spawn(misses.clone().fill(hub.clone(), vec![eu.region.clone()]));
        eventually("the gap is filled", || async { misses.gaps() == 0 }).await;
        filling.abort();
        eventually("the hub has it again", || async { count(hub).await == 4 }).await;
    }
    let again = hub.message_at(INTAKE, 5).await.unwrap().unwrap();
    assert_eq!((again.subject.as_str(), &again.payload[..]), ("peal.eu.intake.again.3", &b"3"[..]));
    assert_eq!(again.header("Peal-Told"), Some("yes"));
    assert_eq!(unfinished::name(&again).unwrap().1.as_str(), "3");
    assert_eq!(count(eu).await, 6, "asked twice, it is written again once");

    // Nothing comes after this one.
    stream.delete_message(5).await.unwrap();
    let filling = tokio::spawn(missed_at(hub).await.fill(hub.clone(), vec![eu.region.clone()]));
    eventually("it is marked", || async { hub.message_at(INTAKE, 6).await.unwrap().is_some() }).await;
    filling.abort();
    let mark = hub.message_at(INTAKE, 6).await.unwrap().unwrap();
    assert_eq!((mark.subject.as_str(), mark.payload.len()), ("peal.eu.intake.again.after-6", 0));
    assert_eq!(missed_at(hub).await.gaps(), 2, "before the fourth, and before the mark");
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
async fn what_is_on_its_way_when_a_link_is_cut_outlives_what_is_written_again_and_again() {
    let world = World::start().await;
    world.us.set("marketing", Some(true)).await;
    eventually("eu knows what us wrote", || async { world.eu.allowed("marketing") == Some(true) }).await;

    // Sent before the servers notice that nobody hears it. In a bucket, whatever replaces a message that is on its way
    // counts as its acknowledgement, and as that of all before it.
    world.us.link.silence();
    world.us.set("marketing", Some(false)).await;
    for number in 0..200 {
        world.us.write(&busy(), number).await;
    }
    world.us.link.cut();
    for number in 200..400 {
        world.us.write(&busy(), number).await;
    }
    world.us.link.heal();
    eventually("the opt-out is in force in eu", || async { world.eu.allowed("marketing") == Some(false) })
        .await;
    eventually("eu has the last of the others", || async {
        world.eu.mirror.get(&busy()).unwrap().is_some_and(|found| found.get("number") == Some(&json!(399)))
    })
    .await;
    // What has arrived waits no longer.
    for (connection, to) in [(&world.us.connection, "hub"), (&world.hub_connection, "eu")] {
        eventually("nothing is on its way", || async {
            connection.stream_state(&state_to(&named(to))).await.is_ok_and(|state| state.messages == 0)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_on_its_way_to_the_hub_is_written_again() {
    let world = World::start().await;
    world.us.look_after_state();
    world.us.set("marketing", Some(true)).await;
    eventually("eu knows what us wrote", || async { world.eu.allowed("marketing") == Some(true) }).await;
    world.us.link.cut();
    world.us.set("marketing", Some(false)).await;
    lose_on_its_way(&world.us.connection, "hub").await;
    world.us.link.heal();
    eventually("the opt-out is in force in eu", || async { world.eu.allowed("marketing") == Some(false) })
        .await;
    assert_eq!(world.us.written().await, 3, "twice by hand, and once again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_on_its_way_from_the_hub_is_written_again_by_its_region() {
    let world = World::start().await;
    world.eu.look_after_state();
    let door = world.us.open_door();
    world.us.set("marketing", Some(true)).await;
    eventually("eu knows what us wrote", || async { world.eu.allowed("marketing") == Some(true) }).await;
    world.eu.link.cut();
    world.us.set("marketing", Some(false)).await;
    lose_on_its_way(&world.hub_connection, "eu").await;
    world.eu.link.heal();
    eventually("the opt-out is in force in eu", || async { world.eu.allowed("marketing") == Some(false) })
        .await;
    assert_eq!(world.us.written().await, 3, "twice by hand, and once again");
    world.us.stop.cancel();
    door.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_late_is_not_written_again() {
    const COUNT: u64 = 200;
    let world = World::start().await;
    world.us.look_after_state();
    world.eu.look_after_state();
    let key = |number: u64| RecordKey::new(Kind::Recipient, &"shop".parse().unwrap(), &format!("u-{number}"));
    for number in 0..COUNT {
        if number == COUNT / 2 {
            world.us.link.cut();
        }
        world.us.write(&key(number), number).await;
    }
    world.us.link.heal();
    for number in 0..COUNT {
        eventually("eu knows it", || async { world.eu.mirror.get(&key(number)).unwrap().is_some() }).await;
    }
    world.us.set("marketing", Some(true)).await;
    eventually("eu knows the last", || async { world.eu.allowed("marketing") == Some(true) }).await;
    assert_eq!(world.us.written().await, COUNT + 1);
}

/// Takes away what waits for a link, as if it had been sent to nobody.
async fn lose_on_its_way(connection: &Connection, to: &str) {
    let queue = state_to(&named(to));
    eventually("it waits for the link", || async {
        connection.stream_state(&queue).await.is_ok_and(|state| state.messages > 0)
    })
    .await;
    connection.purge(&queue, ">").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_knows_whether_the_hub_has_told_it_everything() {
    let world = World::start().await;
    let us = &world.us.connection;
    let missing = async || us.state_missing(&named("hub")).await;
    eventually("there is nothing to tell", async || matches!(missing().await, Ok(Some(0)))).await;
    // Each its own key, so that none leaves the streams by being replaced.
    let write = async |number: u64| {
        let app: AppId = "shop".parse().unwrap();
        world.eu.write(&RecordKey::new(Kind::Recipient, &app, &format!("u-{number}")), number).await;
    };
    write(0).await;
    eventually("us has the first", async || us.stream_state(OTHERS_STATE).await.unwrap().messages == 1).await;
    world.us.link.cut();
    assert!(missing().await.is_err(), "nobody knows while the hub is out of reach");
    for number in 1..300 {
        write(number).await;
    }
    eventually("the hub has all", async || {
        world.hub_connection.stream_state(ALL_STATE).await.unwrap().messages == 300
    })
    .await;
    world.us.link.heal();
    eventually("it is told", async || matches!(missing().await, Ok(Some(0)))).await;
    assert_eq!(us.stream_state(OTHERS_STATE).await.unwrap().messages, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_region_erases_leaves_the_streams_of_all() {
    let world = World::start().await;
    let profile = |record: &mut Record, stamp: &_| {
        record.set("profile", json!("sealed in eu"), stamp);
        Ok::<_, WriteError>(())
    };
    world.eu.writer.update(&recipient(), profile).await.unwrap();
    eventually("us knows the recipient", || async {
        world.us.mirror.get(&recipient()).is_ok_and(|found| found.is_some())
    })
    .await;
    let erase = |record: &mut Record, stamp: &_| {
        record.erase(stamp);
        Ok::<_, WriteError>(())
    };
    world.us.writer.update(&recipient(), erase).await.unwrap();
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
async fn a_copy_that_was_lost_is_filled_again_with_what_came_long_ago() {
    let world = World::start().await;
    world.eu.set("marketing", Some(false)).await;
    eventually("us knows of the opt-out", || async { world.us.allowed("marketing") == Some(false) }).await;
    for (connection, topology, stream) in [
        (&world.us.connection, &world.us.topology, OTHERS_STATE),
        (&world.hub_connection, &hub_topology(), ALL_STATE),
    ] {
        connection.jetstream.delete_stream(stream).await.unwrap();
        applied(&connection.jetstream, topology).await;
        eventually("it is filled again", || async {
            connection.stream_state(stream).await.is_ok_and(|state| state.messages == 1)
        })
        .await;
    }
    eventually("the opt-out counts again", || async { world.us.allowed("marketing") == Some(false) }).await;
    // What comes now goes on from there.
    world.eu.set("email", Some(false)).await;
    eventually("us knows the next one", || async { world.us.allowed("email") == Some(false) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_made_again_hands_on_everything_once_more() {
    let world = World::start().await;
    let app: AppId = "shop".parse().unwrap();
    let write = async |number: u64| {
        let key = RecordKey::new(Kind::Recipient, &app, &format!("u-{number}"));
        world.eu.write(&key, number).await;
    };
    let us_has = async |messages: u64| {
        let others = world.us.connection.stream_state(OTHERS_STATE).await;
        others.is_ok_and(|others| others.messages == messages)
    };
    for number in 10..60 {
        write(number).await;
    }
    eventually("us has them", async || us_has(50).await).await;
    let hub = &world.hub_connection;
    world.eu.connection.jetstream.delete_stream(state_to(&named("hub"))).await.unwrap();
    hub.jetstream.delete_stream(state_to(&named("us"))).await.unwrap();
    for number in 10..20 {
        write(number).await;
    }
    world.eu.set("marketing", Some(false)).await;
    // As the guide says.
    for (connection, stream) in [(hub, ALL_STATE), (&world.us.connection, OTHERS_STATE)] {
        eventually("the other side has noticed", async || {
            let sources = connection.sources(stream).await.unwrap();
            let silent = sources.iter().filter_map(|source| source.silent_for).max();
            silent.is_some_and(|silent| silent > Duration::from_secs(20))
        })
        .await;
    }
    applied(&world.eu.connection.jetstream, &world.eu.topology).await;
    applied(&hub.jetstream, &hub_topology()).await;
    eventually("the opt-out is in force in us", async || world.us.allowed("marketing") == Some(false)).await;
    write(60).await;
    eventually("us has what came last", async || us_has(52).await).await;
    let missing = async || world.us.connection.state_missing(&named("hub")).await;
    eventually("nothing is missing", async || matches!(missing().await, Ok(Some(0)))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_state_than_has_room_on_its_way_waits_in_the_bucket() {
    let world = World::start().await;
    world.eu.link.cut();
    let large = "x".repeat(800 << 10);
    let app: AppId = "shop".parse().unwrap();
    for number in 1..100 {
        let key = RecordKey::new(Kind::Recipient, &app, &format!("u-large-{number}"));
        let change = |record: &mut Record, stamp: &_| {
            record.set("large", json!(large), stamp);
            Ok::<_, WriteError>(())
        };
        world.eu.writer.update(&key, change).await.unwrap();
    }
    world.eu.set("marketing", Some(false)).await;
    let on_its_way = async || {
        let queue = world.eu.connection.stream_state(&state_to(&named("hub"))).await.unwrap();
        queue.messages
    };
    eventually("the queue is full", async || on_its_way().await >= 80).await;
    assert!(on_its_way().await < 100, "not everything fits");
    world.eu.link.heal();
    eventually("the opt-out is in force in us", async || world.us.allowed("marketing") == Some(false)).await;
    eventually("us has all of it", async || {
        world.us.connection.stream_state(OTHERS_STATE).await.unwrap().messages == 100
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_not_made_while_what_it_missed_cannot_be_sent_again() {
    let world = World::start().await;
    world.eu.set("marketing", Some(false)).await;
    eventually("us knows of the opt-out", async || world.us.allowed("marketing") == Some(false)).await;
    let us = &world.us;
    us.connection.jetstream.delete_stream(OTHERS_STATE).await.unwrap();
    us.link.cut();
    let current = Current::read(&us.connection.jetstream, &us.topology).await.unwrap();
    let refused = apply(&us.connection.jetstream, &plan(&current, &us.topology), false).await.unwrap_err();
    assert!(refused.to_string().starts_with("hub does not answer"), "{refused}");
    us.link.heal();
    applied(&us.connection.jetstream, &us.topology).await;
    eventually("the opt-out is there again", async || {
        us.connection.stream_state(OTHERS_STATE).await.is_ok_and(|state| state.messages == 1)
    })
    .await;
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
