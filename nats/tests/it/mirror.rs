//! The mirror of state: complete or "not ready", whatever happens to its file or to the stream.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use peal_common::clock::{Clock, HybridClock};
use peal_common::id::AppId;
use peal_common::state::{Kind, Record, RecordKey};
use peal_nats::mirror::{Keeps, Mirror};
use peal_nats::publish::Outgoing;
use peal_nats::state::{StateWriter, WriteError};
use peal_nats::topology::{Current, DEAD_LETTERS, Options, Topology, apply, plan};
use peal_nats::{Connection, Subjects};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{self, eventually};

const LIMIT: Duration = Duration::from_secs(30);

/// A server with the region's streams.
struct Home {
    running: support::Running,
    connection: Connection,
}

impl Home {
    async fn start() -> Self {
        let (running, connection) = support::connected().await;
        let home = Home { running, connection };
        home.apply_topology().await;
        home
    }

    async fn apply_topology(&self) {
        let topology = Topology::for_region(&self.connection.region, &Options::laptop());
        let current = Current::read(&self.connection.jetstream, &topology).await.unwrap();
        apply(&self.connection.jetstream, &plan(&current, &topology), false).await.unwrap();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.running.folder.path().join(name)
    }
}

/// A mirror that runs, and its end.
struct Running {
    mirror: Mirror,
    hybrid: Arc<HybridClock>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(connection: &Connection, file: &Path) -> Self {
        let hybrid = Arc::new(HybridClock::new(Clock::System, connection.region.clone()));
        let (mirror, task) = Mirror::new(
            connection.clone(),
            file.to_owned(),
            Keeps::Everything,
            Clock::System,
            Arc::clone(&hybrid),
        );
        let stop = CancellationToken::new();
        let task = tokio::spawn(task.run(stop.clone()));
        Running { mirror, hybrid, stop, task }
    }

    async fn end(self) {
        self.stop.cancel();
        drop(self.mirror);
        tokio::time::timeout(LIMIT, self.task).await.unwrap().unwrap();
    }
}

fn key(number: usize) -> RecordKey {
    RecordKey::new(Kind::Category, &app(), &format!("c{number}"))
}

fn app() -> AppId {
    "shop".parse().unwrap()
}

fn record(hybrid: &HybridClock, value: impl Into<Value>) -> Record {
    let mut record = Record::default();
    record.set("category", value.into(), &hybrid.stamp());
    record
}

/// Publishes records without reading any: many at once. Returns the last sequence.
async fn fill(connection: &Connection, numbers: std::ops::Range<usize>) -> u64 {
    let subjects = Subjects::new(&connection.region);
    let hybrid = HybridClock::new(Clock::System, connection.region.clone());
    let prefix = subjects.state_all();
    let prefix = prefix.trim_end_matches('>');
    let mut last = 0;
    for chunk in numbers.collect::<Vec<_>>().chunks(2_000) {
        let mut pending = Vec::new();
        for number in chunk {
            let payload = serde_json::to_vec(&record(&hybrid, *number)).unwrap();
            pending.push(
                connection.send(Outgoing::new(format!("{prefix}{}", key(*number)), payload)).await.unwrap(),
            );
        }
        for pending in pending {
            last = pending.acknowledged().await.unwrap().sequence;
        }
    }
    last
}

fn value_of(mirror: &Mirror, number: usize) -> Option<Value> {
    mirror.get(&key(number)).unwrap().and_then(|record| record.get("category").cloned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_reads_only_what_is_new() {
    let region = Home::start().await;
    let file = region.file("mirror.redb");
    let last = fill(&region.connection, 0..100_000).await;
    let first = Running::start(&region.connection, &file);
    first.mirror.wait_for(last, LIMIT).await.unwrap();
    assert_eq!(value_of(&first.mirror, 99_999), Some(Value::from(99_999)));
    first.end().await;

    let newest = fill(&region.connection, 99_990..100_010).await;
    let second = Running::start(&region.connection, &file);
    second.mirror.wait_for(newest, LIMIT).await.unwrap();
    assert_eq!(value_of(&second.mirror, 100_009), Some(Value::from(100_009)));
    assert_eq!(value_of(&second.mirror, 5), Some(Value::from(5)));
    assert_eq!(second.mirror.applied(), 20, "only what is new is read");
    second.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_built_anew_and_never_believed() {
    let region = Home::start().await;
    let last = fill(&region.connection, 0..3_000).await;
    type Damage = (&'static str, fn(&Path));
    let damages: [Damage; 6] = [
        ("missing", |file| fs::remove_file(file).unwrap()),
        ("empty", |file| fs::write(file, b"").unwrap()),
        ("garbage", |file| fs::write(file, vec![0xa5; 200_000]).unwrap()),
        ("a folder's worth of text", |file| fs::write(file, "not a database\n".repeat(1_000)).unwrap()),
        ("truncated", |file| {
            let bytes = fs::read(file).unwrap();
            fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("a flipped byte", |file| {
            let mut bytes = fs::read(file).unwrap();
            let at = find(&bytes, b"category.shop.c1500").unwrap();
            bytes[at + 14] ^= 0x01;
            fs::write(file, bytes).unwrap();
        }),
    ];
    for (name, damage) in damages {
        let file = region.file(&format!("{}.redb", name.replace(" ", "-")));
        let healthy = Running::start(&region.connection, &file);
        healthy.mirror.wait_for(last, LIMIT).await.unwrap();
        healthy.end().await;
        damage(&file);
        let again = Running::start(&region.connection, &file);
        assert!(!again.mirror.is_ready(), "{name}: nothing is known before the file was looked at");
        assert!(again.mirror.get(&key(1)).is_err());
        again.mirror.wait_for(last, LIMIT).await.unwrap();
        for number in [0, 1_500, 2_999] {
            assert_eq!(value_of(&again.mirror, number), Some(Value::from(number)), "{name}");
        }
        again.end().await;
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_made_again_is_another_one() {
    let region = Home::start().await;
    let file: PathBuf = region.file("mirror.redb");
    let last = fill(&region.connection, 0..50).await;
    let running = Running::start(&region.connection, &file);
    running.mirror.wait_for(last, LIMIT).await.unwrap();

    let subjects = Subjects::new(&region.connection.region);
    region.connection.jetstream.delete_stream(subjects.state_stream()).await.unwrap();
    region.apply_topology().await;
    // More messages than before, so that the sequence alone does not tell.
    fill(&region.connection, 100..200).await;
    let mirror = running.mirror.clone();
    eventually("the new stream is mirrored", || {
        let mirror = mirror.clone();
        async move { mirror.get(&key(199)).is_ok_and(|found| found.is_some()) }
    })
    .await;
    assert_eq!(value_of(&running.mirror, 7), None, "what the old stream said is forgotten");
    drop(mirror);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_message_goes_to_the_dead_letters_once_and_the_others_flow() {
    let region = Home::start().await;
    let subjects = Subjects::new(&region.connection.region);
    let prefix = subjects.state_all();
    let prefix = prefix.trim_end_matches('>');
    fill(&region.connection, 0..3).await;
    for (subject, payload) in
        [("category.shop.x", "{\"v\":"), ("unheard.of", "{}"), ("category.shop.y", "\u{0}")]
    {
        region.connection.publish(Outgoing::new(format!("{prefix}{subject}"), payload)).await.unwrap();
    }
    let last = fill(&region.connection, 3..5).await;
    let one = Running::start(&region.connection, &region.file("one.redb"));
    let two = Running::start(&region.connection, &region.file("two.redb"));
    for running in [&one, &two] {
        running.mirror.wait_for(last, LIMIT).await.unwrap();
        assert_eq!(value_of(&running.mirror, 4), Some(Value::from(4)));
    }
    let dead = region.connection.stream_state(DEAD_LETTERS).await.unwrap();
    assert_eq!(dead.messages, 3, "two mirrors met three foreign messages");
    one.end().await;
    two.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_that_meet_lose_nothing() {
    let region = Home::start().await;
    let running = Running::start(&region.connection, &region.file("mirror.redb"));
    running.mirror.wait_for(0, LIMIT).await.unwrap();
    let key = RecordKey::new(Kind::Recipient, &app(), "u.1@x");
    let writers = (0..8).map(|number| {
        let writer =
            StateWriter::new(region.connection.clone(), running.mirror.clone(), Arc::clone(&running.hybrid));
        let key = key.clone();
        tokio::spawn(async move {
            let name = format!("facet-{number}");
            let written = writer.update::<WriteError>(&key, |record, stamp| {
                record.set(&name, Value::from(number), stamp);
                Ok(())
            });
            written.await.unwrap().sequence
        })
    });
    let mut last = 0;
    for writer in writers.collect::<Vec<_>>() {
        last = last.max(writer.await.unwrap());
    }
    running.mirror.wait_for(last, LIMIT).await.unwrap();
    let record = running.mirror.get(&key).unwrap().unwrap();
    assert_eq!(record.facets.len(), 8);
    running.end().await;
}
