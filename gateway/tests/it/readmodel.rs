//! The read model: rebuilt with the same answers, resumed, and never guessing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use peal_common::channel::{Channel, Priority};
use peal_common::clock::Clock;
use peal_common::envelope::{
    Accepted, ContactRef, DeadLetter, ENVELOPE_VERSION, Envelope as _, InboxChange, InboxEntry, InboxMark,
    Intake, ResolvedTarget, Text,
};
use peal_common::event::{Event, EventType, PlannedDelivery, Status};
use peal_common::id::{AppId, DeliveryId, NotificationId, RecipientId};
use peal_common::settings::GroupCommit;
use peal_gateway::readmodel::{EventFilter, Filter, InboxItem, Positions, ReadModel, Retention};
use peal_nats::connect::{self, Connection, Options};
use peal_nats::group::GroupPublisher;
use peal_nats::publish::Outgoing;
use peal_nats::server::{Server, ServerConfig};
use peal_nats::topology::{DEAD_LETTERS, EVENTS, INBOX, INTAKE};
use peal_nats::{Subjects, subjects};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::{LIMIT, apply_topology, eventually, region};

const START: i64 = 1_800_000_000_000;

/// A server with streams.
struct Streams {
    connection: Connection,
    subjects: Subjects,
    folder: TempDir,
    _server: Server,
}

/// A read model that runs.
struct Running {
    model: ReadModel,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Streams {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(ServerConfig::new(region(), folder.path().join("nats"))).await.unwrap();
        let connection = connect::connect(&Options::new([server.url()], region(), "test")).await.unwrap();
        apply_topology(&connection).await;
        Streams { connection, subjects: Subjects::new(&region()), folder, _server: server }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("model.redb")
    }

    /// Starts a read model in [`Streams::file`] without waiting for it.
    fn open(&self, clock: Clock) -> Running {
        let (model, task) = ReadModel::new(self.connection.clone(), self.file(), clock, Retention::days(30));
        let stop = CancellationToken::new();
        let task = tokio::spawn(task.run(stop.clone()));
        Running { model, stop, task }
    }

    /// Starts a read model that lets a publisher go first, and the publisher.
    async fn behind_publisher(&self) -> (Running, GroupPublisher) {
        let stop = CancellationToken::new();
        let never = GroupCommit::Never;
        let (publisher, gathering) = GroupPublisher::new(self.connection.clone(), never, LIMIT, stop.clone());
        let retention = Retention::days(30);
        let clock = Clock::manual(at(0));
        let (model, task) = ReadModel::new(self.connection.clone(), self.file(), clock, retention);
        let task = task.giving_way_to(publisher.clone());
        let task = tokio::spawn({
            let stop = stop.clone();
            async move {
                tokio::join!(task.run(stop), gathering);
            }
        });
        let running = Running { model, stop, task };
        self.caught_up(&running.model).await;
        (running, publisher)
    }

    /// Starts a read model and waits until it has folded everything.
    async fn model(&self) -> Running {
        let running = self.open(Clock::manual(at(0)));
        self.caught_up(&running.model).await;
        running
    }

    async fn caught_up(&self, model: &ReadModel) {
        let ends = self.ends().await;
        let reached = |now: &Positions| {
            now.intake >= ends.intake && now.events >= ends.events && now.inbox >= ends.inbox
        };
        model.wait_for(LIMIT, reached).await.unwrap();
    }

    async fn ends(&self) -> Positions {
        let end = async |stream| self.connection.stream_state(stream).await.unwrap().last;
        Positions { intake: end(INTAKE).await, events: end(EVENTS).await, inbox: end(INBOX).await }
    }

    async fn publish(&self, messages: Vec<(String, Vec<u8>)>) {
        let mut pending = Vec::with_capacity(messages.len());
        for (subject, payload) in messages {
            pending.push(self.connection.send(Outgoing::new(subject, payload)).await.unwrap());
        }
        for pending in pending {
            pending.acknowledged().await.unwrap();
        }
    }

    fn accepted(&self, intake: &Intake) -> (String, Vec<u8>) {
        let notification = &intake.notification;
        (self.subjects.intake(notification.priority, notification.app.as_str()), intake.encode().unwrap())
    }

    fn event(&self, event: &Event) -> (String, Vec<u8>) {
        let subject = self.subjects.event(event.kind.as_str(), event.channel, event.app.as_str());
        (subject, event.encode().unwrap())
    }

    fn inbox(&self, entry: &InboxEntry) -> (String, Vec<u8>) {
        let what = match entry.what {
            InboxChange::Item { .. } => subjects::InboxEntry::Item,
            InboxChange::Mark(_) => subjects::InboxEntry::Mark,
        };
        (self.subjects.inbox(entry.app.as_str(), entry.recipient.as_str(), what), entry.encode().unwrap())
    }
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(LIMIT, self.task).await.expect("the read model did not stop").unwrap();
    }
}

fn at(after_ms: i64) -> Timestamp {
    Timestamp::from_millisecond(START + after_ms).unwrap()
}

fn app(name: &str) -> AppId {
    name.parse().unwrap()
}

fn id(number: usize) -> NotificationId {
    format!("n-{number}").parse().unwrap()
}

fn recipient(number: usize) -> RecipientId {
    format!("u-{number}").parse().unwrap()
}

fn intake(app_name: &str, number: usize) -> Intake {
    let only = ContactRef { channel: Channel::Email, index: format!("inline-{}", number % 5) };
    let inline = format!("addr:email:{}", only.index).parse().unwrap();
    let mut targets = vec![ResolvedTarget { recipient: recipient(number % 20), only: None }];
    if number.is_multiple_of(3) {
        targets.push(ResolvedTarget { recipient: inline, only: Some(only) });
    }
    Intake {
        v: ENVELOPE_VERSION,
        region: region().as_str().parse().unwrap(),
        state_seq: 1,
        fingerprint: format!("{number:064x}"),
        send_at: number.is_multiple_of(7).then(|| at(50_000)),
        targets,
        notification: Accepted {
            app: app(app_name),
            id: id(number),
            category: if number.is_multiple_of(2) { "orders" } else { "news" }.parse().unwrap(),
            priority: Priority::ALL[number % 4],
            accepted_at: at(number as i64 * 10),
            expires_at: at(number as i64 * 10 + 60_000),
            text: Text::Template {
                id: "t".parse().unwrap(),
                version: 1,
                data: serde_json::from_value(json!({ "order": "1042" })).unwrap(),
            },
            channels: None,
            collapse_key: None,
            metadata: serde_json::Map::new(),
        },
        takeover: None,
    }
}

fn delivery(app_name: &str, number: usize, channel: Channel) -> DeliveryId {
    DeliveryId::derive(&app(app_name), &id(number), &recipient(number % 20), channel, "", 0)
}

fn event(kind: EventType, app_name: &str, number: usize, after_ms: i64) -> Event {
    Event::new(kind, at(number as i64 * 10 + after_ms), app(app_name), id(number))
}

fn planned(app_name: &str, number: usize, channels: &[Channel]) -> Event {
    let deliveries = channels.iter().map(|channel| PlannedDelivery {
        delivery: delivery(app_name, number, *channel),
        recipient: recipient(number % 20),
        channel: *channel,
        contact: format!("contact-{}", number % 20),
    });
    Event { deliveries: deliveries.collect(), ..event(EventType::Planned, app_name, number, 1) }
}

fn about(kind: EventType, app_name: &str, number: usize, channel: Channel, after_ms: i64) -> Event {
    Event {
        delivery: Some(delivery(app_name, number, channel)),
        recipient: Some(recipient(number % 20)),
        channel: Some(channel),
        provider: Some("smtp".to_owned()),
        attempts: Some(1),
        ..event(kind, app_name, number, after_ms)
    }
}

fn item(recipient_number: usize, number: usize) -> InboxEntry {
    InboxEntry {
        v: ENVELOPE_VERSION,
        at: at(number as i64),
        app: app("shop"),
        recipient: recipient(recipient_number),
        item: delivery("shop", number, Channel::Inbox),
        notification: id(number),
        what: InboxChange::Item {
            category: "orders".parse().unwrap(),
            expires_at: at(if number.is_multiple_of(10) { -1 } else { 1_000_000 }),
            sealed: format!("sealed-{number}"),
        },
    }
}

fn mark(of: &InboxEntry, mark: InboxMark, after_ms: i64) -> InboxEntry {
    InboxEntry { at: at(after_ms), what: InboxChange::Mark(mark), ..of.clone() }
}

/// Some thousand messages of every kind; part of the events before the notifications that they belong to.
async fn fill(streams: &Streams, count: usize) {
    let mut early = Vec::new();
    let mut messages = Vec::new();
    for number in 0..count {
        let name = if number.is_multiple_of(4) { "bank" } else { "shop" };
        let channels = [Channel::ALL[number % 9], Channel::Inbox];
        let mut events = vec![planned(name, number, &channels[..1 + number % 2])];
        match number % 6 {
            0 => events.push(about(EventType::Sent, name, number, channels[0], 5)),
            1 => {
                events.push(about(EventType::Sent, name, number, channels[0], 5));
                events.push(about(EventType::Delivered, name, number, channels[0], 6));
                events.push(about(EventType::Opened, name, number, channels[0], 7));
            }
            2 => events.push(Event {
                reason: Some("bad_address".to_owned()),
                ..about(EventType::Failed, name, number, channels[0], 5)
            }),
            3 => events.push(event(EventType::Cancelled, name, number, 4)),
            4 => events.push(about(EventType::Retried, name, number, channels[0], 5)),
            _ => events = vec![event(EventType::Suppressed, name, number, 2)],
        }
        let events = events.iter().map(|event| streams.event(event));
        let intake = streams.accepted(&intake(name, number));
        if number.is_multiple_of(5) {
            early.extend(events);
            early.push(intake);
        } else {
            messages.push(intake);
            messages.extend(events.clone());
            // What a redelivery publishes once more, too late for the duplicate window.
            messages.extend(events.filter(|_| number.is_multiple_of(11)));
        }
        if number.is_multiple_of(3) {
            let item = item(number % 20, number);
            messages.push(streams.inbox(&item));
            if number.is_multiple_of(2) {
                messages.push(streams.inbox(&mark(&item, InboxMark::Read, 5)));
                messages.push(streams.inbox(&mark(&item, InboxMark::Archived, 6)));
            }
        }
    }
    streams.publish(early).await;
    streams.publish(messages).await;
}

/// Everything that can be asked.
fn answers(model: &ReadModel, count: usize) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for name in ["shop", "bank", "nobody"] {
        let app = app(name);
        for number in 0..count {
            let accepted = model.find_accepted(&app, &id(number)).unwrap();
            all.insert(format!("{name} accepted {number}"), json!(format!("{accepted:?}")));
            all.insert(format!("{name} {number}"), json!(model.notification(&app, &id(number)).unwrap()));
        }
        let filters = [
            Filter::default(),
            Filter { recipient: Some(recipient(7)), ..Filter::default() },
            Filter { contact: Some(contact("inline-3")), ..Filter::default() },
            Filter { category: Some("news".parse().unwrap()), ..Filter::default() },
            Filter { status: Some(Status::Delivered), channel: Some(Channel::Sms), ..Filter::default() },
            Filter { from: Some(at(200)), to: Some(at(900)), ..Filter::default() },
        ];
        for (place, filter) in filters.iter().enumerate() {
            all.insert(format!("{name} search {place}"), json!(searched(model, &app, filter)));
        }
        let filters = [
            EventFilter::default(),
            EventFilter { kind: Some(EventType::Failed), ..EventFilter::default() },
            EventFilter { recipient: Some(recipient(3)), from: Some(at(100)), ..EventFilter::default() },
            EventFilter { notification: Some(id(13)), ..EventFilter::default() },
        ];
        for (place, filter) in filters.iter().enumerate() {
            all.insert(format!("{name} events {place}"), json!(found_events(model, &app, filter)));
        }
        for number in 0..20 {
            let items = model.inbox(&app, &recipient(number), None, 1_000, None).unwrap();
            let counts = model.inbox_counts(&app, &recipient(number)).unwrap();
            all.insert(format!("{name} inbox {number}"), json!(format!("{items:?} {counts:?}")));
        }
    }
    all.insert("counts".to_owned(), json!(model.counts().unwrap()));
    all.insert("latest".to_owned(), json!(model.latest(100).unwrap()));
    all
}

fn contact(index: &str) -> ContactRef {
    ContactRef { channel: Channel::Email, index: index.to_owned() }
}

/// All pages of a search, each of them small.
fn searched(model: &ReadModel, app: &AppId, filter: &Filter) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = model.search(app, filter, after, 7).unwrap();
        assert!(page.data.len() <= 7);
        all.extend(page.data.iter().map(|found| json!(found)));
        let Some(next) = page.next else { return all };
        after = Some(next.to_string().parse().unwrap());
    }
}

fn found_events(model: &ReadModel, app: &AppId, filter: &EventFilter) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = model.events(app, filter, after, 2).unwrap();
        all.extend(page.data.iter().map(|found| json!(found)));
        let Some(next) = page.next else { return all };
        after = Some(next);
    }
}

fn items(found: &[InboxItem]) -> Vec<&str> {
    found.iter().map(|item| item.sealed.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_deleted_or_damaged_is_rebuilt_with_the_same_answers() {
    let count = 900;
    let streams = Streams::start().await;
    fill(&streams, count).await;
    let running = streams.model().await;
    let first = answers(&running.model, count);
    running.stop().await;

    // The answers are worth comparing.
    let view = &first["shop 1"];
    assert_eq!(view["status"], "queued", "{view:#}");
    assert_eq!(view["deliveries"].as_array().unwrap().len(), 2);
    let kinds: Vec<_> = view["events"].as_array().unwrap().iter().map(|event| &event["type"]).collect();
    assert_eq!(kinds, ["accepted", "planned", "sent", "delivered", "opened"]);
    assert_eq!(first["shop 10"]["category"], "orders", "its events came before it");
    assert_eq!(first["shop search 0"].as_array().unwrap().len(), count - count / 4);
    assert_eq!(first["nobody search 0"], json!([]));
    assert_eq!(first["bank 1"], Value::Null, "another app's notification");
    let by_recipient = first["shop search 1"].as_array().unwrap();
    assert_eq!(by_recipient.len(), (0..count).filter(|n| n % 20 == 7 && n % 4 != 0).count());
    let inline = first["shop search 2"].as_array().unwrap();
    assert_eq!(inline.len(), (0..count).filter(|n| n % 3 == 0 && n % 5 == 3 && n % 4 != 0).count());
    let total: u64 =
        first["counts"]["notifications"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(total, count as u64);

    std::fs::remove_file(streams.file()).unwrap();
    let running = streams.model().await;
    assert!(answers(&running.model, count) == first, "rebuilt from the streams");
    running.stop().await;

    let sound = std::fs::read(streams.file()).unwrap();
    let mut flipped = sound.clone();
    // All of them: some stand in pages that are free by now, where nobody looks.
    let places: Vec<_> = (0..flipped.len() - 6).filter(|&at| flipped[at..].starts_with(b"orders")).collect();
    assert!(!places.is_empty());
    places.into_iter().for_each(|at| flipped[at] ^= 0x20);
    for (what, damaged) in [
        ("flipped bytes", flipped.as_slice()),
        ("cut in half", &sound[..sound.len() / 2]),
        ("garbage", &[0x5a; 8192][..]),
        ("empty", &[]),
    ] {
        std::fs::write(streams.file(), damaged).unwrap();
        let running = streams.model().await;
        assert!(answers(&running.model, count) == first, "{what}");
        assert!(running.model.folded() > count as u64, "{what}: read from the streams");
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_resumes_where_it_stopped() {
    let streams = Streams::start().await;
    fill(&streams, 300).await;
    let running = streams.model().await;
    assert!(running.model.folded() > 900);
    running.stop().await;

    streams.publish(vec![streams.accepted(&intake("shop", 1_000))]).await;
    let running = streams.model().await;
    assert!(running.model.notification(&app("shop"), &id(1_000)).unwrap().is_some());
    assert!(running.model.notification(&app("shop"), &id(1)).unwrap().is_some());
    assert_eq!(running.model.folded(), 1, "only what is new is read");
    assert_eq!(running.model.lag(), 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_made_again_takes_what_it_held_with_it() {
    let streams = Streams::start().await;
    fill(&streams, 60).await;
    let running = streams.model().await;
    let status =
        || running.model.notification(&app("shop"), &id(2)).map(|found| found.unwrap().summary.status);
    assert_eq!(status(), Ok(Status::Failed));

    streams.connection.jetstream.delete_stream(EVENTS).await.unwrap();
    apply_topology(&streams.connection).await;
    eventually("only the acceptance is left", || async { status() == Ok(Status::Accepted) }).await;

    let sent = about(EventType::Sent, "shop", 2, Channel::Webpush, 5);
    streams.publish(vec![streams.event(&sent)]).await;
    eventually("new events are folded", || async { status() == Ok(Status::Sent) }).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_just_accepted_is_found_and_tells_a_repetition() {
    let streams = Streams::start().await;
    let running = streams.model().await;
    let (model, shop) = (&running.model, app("shop"));
    assert_eq!(model.find_accepted(&shop, &id(1)), Ok(None));
    let limit = Duration::from_secs(5);
    for number in 0..20 {
        streams.publish(vec![streams.accepted(&intake("shop", number))]).await;
        let found = model.notification_or_wait(&shop, &id(number), limit).await.unwrap().unwrap();
        assert_eq!(found.summary.status, Status::Accepted);
    }
    let before = model.find_accepted(&shop, &id(3)).unwrap().unwrap();
    assert_eq!((before.sequence, before.accepted_at), (4, at(30)));
    assert_eq!(before.fingerprint, format!("{:064x}", 3));
    assert_eq!(model.find_accepted(&app("bank"), &id(3)), Ok(None));
    // An id that was taken again counts from then on.
    let mut again = intake("shop", 3);
    again.fingerprint = "f".repeat(64);
    streams.publish(vec![streams.accepted(&again)]).await;
    model.wait_for_intake(21, limit).await.unwrap();
    let now = model.find_accepted(&shop, &id(3)).unwrap().unwrap();
    assert_eq!((now.sequence, now.fingerprint), (21, again.fingerprint));
    assert!(model.wait_for_intake(22, Duration::from_millis(50)).await.is_err());
    assert_eq!(model.notification_or_wait(&shop, &id(99), limit).await, Ok(None));
    running.stop().await;
    assert!(!Path::new(&format!("{}.damaged", streams.file().display())).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn acceptance_goes_first_while_it_is_busy_but_not_for_ever() {
    let streams = Streams::start().await;
    let (running, publisher) = streams.behind_publisher().await;
    let mut positions = running.model.positions();
    // A message whose answer nobody has taken yet counts as waiting.
    let burst = async |numbers: std::ops::Range<usize>| {
        let mut waiting = Vec::new();
        for number in numbers {
            let (subject, payload) = streams.accepted(&intake("shop", number));
            waiting.push(publisher.send(Outgoing::new(subject, payload)).await.unwrap());
        }
        waiting
    };
    // Whoever waited for the read model to start was in a hurry, and the first message still profits by it.
    drop(burst(0..1).await);
    positions.wait_for(|now| now.intake == 1).await.unwrap();

    let first = burst(1..40).await;
    assert!(publisher.is_loaded());
    let unasked =
        tokio::time::timeout(Duration::from_secs(2), positions.wait_for(|now| now.intake > 1)).await.is_ok();
    assert!(!unasked, "it was folded although acceptance was busy");
    let asked = running.model.wait_for_intake(40, Duration::from_secs(2)).await;
    assert_eq!(asked, Ok(()), "somebody asks and has to wait for acceptance");

    let second = burst(40..80).await;
    let folded = tokio::time::timeout(LIMIT, positions.wait_for(|now| now.intake == 80)).await.is_ok();
    assert!(folded, "a load that lasts stops the read model");
    assert!(publisher.is_loaded());
    drop((first, second));
    assert!(!publisher.is_loaded());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_messages_are_put_aside_once_and_the_others_flow() {
    let streams = Streams::start().await;
    let newer = intake("shop", 1).encode().unwrap();
    let newer = String::from_utf8(newer).unwrap().replacen("\"v\":1", "\"v\":9", 1);
    streams
        .publish(vec![
            (streams.subjects.intake(Priority::High, "shop"), newer.clone().into_bytes()),
            (streams.subjects.event("sent", None, "shop"), b"hello".to_vec()),
            (streams.subjects.inbox("shop", "u-1", subjects::InboxEntry::Item), b"{}".to_vec()),
            streams.accepted(&intake("shop", 2)),
        ])
        .await;
    let running = streams.model().await;
    assert!(running.model.notification(&app("shop"), &id(2)).unwrap().is_some());
    running.stop().await;
    std::fs::remove_file(streams.file()).unwrap();
    streams.model().await.stop().await;

    let dead = || async { streams.connection.stream_state(DEAD_LETTERS).await.unwrap() };
    eventually("three letters", || async { dead().await.messages == 3 }).await;
    let mut reasons = Vec::new();
    for sequence in 1..=3 {
        let letter = streams.connection.message_at(DEAD_LETTERS, sequence).await.unwrap().unwrap();
        reasons.push(DeadLetter::decode(&letter.payload).unwrap().reason);
    }
    reasons.sort();
    assert_eq!(reasons, ["not_a_notification", "not_an_event", "not_an_inbox_entry"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_is_removed() {
    let streams = Streams::start().await;
    fill(&streams, 100).await;
    let clock = Clock::manual(at(0));
    let running = streams.open(clock.clone());
    streams.caught_up(&running.model).await;
    let (model, shop) = (&running.model, app("shop"));
    assert_eq!(searched(model, &shop, &Filter::default()).len(), 75);

    // Half of them are older than 30 days then.
    clock.advance(Duration::from_millis(30 * 24 * 3_600_000 + 500));
    eventually("the older half is gone", || async { searched(model, &shop, &Filter::default()).len() == 38 })
        .await;
    assert_eq!(model.find_accepted(&shop, &id(49)), Ok(None));
    assert!(model.find_accepted(&shop, &id(51)).unwrap().is_some());
    for number in 0..20 {
        let by_recipient = Filter { recipient: Some(recipient(number)), ..Filter::default() };
        assert!(searched(model, &shop, &by_recipient).iter().all(|found| found["accepted_at"].is_string()));
        assert_eq!(model.inbox(&shop, &recipient(number), None, 10, None).unwrap().0, []);
    }
    let counts = model.counts().unwrap();
    assert_eq!(counts.notifications.values().sum::<u64>(), 50);
    assert!(found_events(model, &shop, &EventFilter::default()).len() < 200);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_is_listed_marked_watched_resumed_and_forgotten() {
    let streams = Streams::start().await;
    let entries: Vec<_> = (1..=5).map(|number| item(1, number)).collect();
    streams.publish(entries.iter().map(|entry| streams.inbox(entry)).collect()).await;
    let running = streams.model().await;
    let (model, shop, owner) = (&running.model, app("shop"), recipient(1));

    let (newest, next) = model.inbox(&shop, &owner, None, 2, Some(false)).unwrap();
    assert_eq!(items(&newest), ["sealed-5", "sealed-4"]);
    let (rest, end) = model.inbox(&shop, &owner, next, 10, Some(false)).unwrap();
    assert_eq!((items(&rest), end), (vec!["sealed-3", "sealed-2", "sealed-1"], None));
    assert_eq!(model.inbox_counts(&shop, &owner).unwrap().unread, 5);
    assert_eq!(model.inbox(&shop, &recipient(2), None, 10, None).unwrap().0, []);
    assert_eq!(model.inbox(&app("bank"), &owner, None, 10, None).unwrap().0, []);

    let mut watch = model.watch_inboxes();
    let change = mark(&entries[3], InboxMark::Archived, 9);
    let read = mark(&entries[1], InboxMark::Read, 8);
    // A mark that comes again changes nothing, nor does one on somebody else's item.
    let stolen = InboxEntry { recipient: recipient(2), ..mark(&entries[0], InboxMark::Read, 8) };
    let marks = [&read, &read, &stolen, &change].map(|entry| streams.inbox(entry));
    streams.publish(marks.to_vec()).await;
    streams.publish(vec![streams.inbox(&entries[4]), streams.inbox(&item(1, 6))]).await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let change = tokio::time::timeout(LIMIT, watch.recv()).await.unwrap().unwrap();
        assert_eq!((&change.app, &change.recipient), (&shop, &owner));
        seen.push((change.item.clone(), change.mark));
    }
    let last = entries[4].item.clone();
    assert_ne!(seen[2].0, last);
    assert_eq!(seen[..2], [(read.item, Some(InboxMark::Read)), (change.item, Some(InboxMark::Archived))]);
    assert_eq!(seen[2].1, None);

    let counts = model.inbox_counts(&shop, &owner).unwrap();
    assert_eq!((counts.total, counts.unread), (5, 4));
    assert_eq!(items(&model.inbox(&shop, &owner, None, 10, Some(true)).unwrap().0), ["sealed-4"]);
    let one = model.inbox_item(&shop, &owner, &entries[1].item).unwrap().unwrap();
    assert_eq!((one.read_at, one.seen_at), (Some(at(8)), None));
    assert_eq!(model.inbox_item(&shop, &recipient(2), &entries[1].item), Ok(None));
    let since = model.inbox_since(&shop, &owner, 5).unwrap();
    assert_eq!(items(&since), ["sealed-2", "sealed-4", "sealed-6"], "in the order of changes");

    model.forget(&shop, &owner, i64::MAX).await.unwrap();
    assert_eq!(model.inbox(&shop, &owner, None, 10, None).unwrap().0, []);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_keeps_the_newest_items() {
    let streams = Streams::start().await;
    let entries = (1..=520).filter(|number| number % 10 != 0).chain(521..=600);
    let entries: Vec<_> = entries.map(|number| streams.inbox(&item(1, number))).collect();
    assert!(entries.len() > 500);
    streams.publish(entries).await;
    let running = streams.model().await;
    let (all, _) = running.model.inbox(&app("shop"), &recipient(1), None, 1_000, None).unwrap();
    let kept =
        (1..=520).filter(|n| n % 10 != 0).chain(521..=600).rev().take(500).filter(|n| n % 10 != 0).count();
    assert_eq!(all.len(), kept);
    assert_eq!(all[0].sealed, "sealed-599");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_told_to_those_who_watch() {
    let streams = Streams::start().await;
    let running = streams.model().await;
    let mut watch = running.model.watch_events();
    streams.publish(vec![streams.accepted(&intake("shop", 1))]).await;
    let accepted = tokio::time::timeout(LIMIT, watch.recv()).await.unwrap().unwrap();
    assert_eq!(
        (accepted.event.kind, accepted.event.notification.as_ref()),
        (EventType::Accepted, Some(&id(1)))
    );
    streams.publish(vec![streams.event(&about(EventType::Sent, "shop", 1, Channel::Email, 5))]).await;
    let sent = tokio::time::timeout(LIMIT, watch.recv()).await.unwrap().unwrap();
    assert_eq!((sent.event.kind, sent.event.channel), (EventType::Sent, Some(Channel::Email)));
    let latest = running.model.latest(1).unwrap();
    assert_eq!(latest, [(*sent).clone()]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_another_process_uses_is_left_alone() {
    let streams = Streams::start().await;
    fill(&streams, 10).await;
    let first = streams.model().await;
    let second = streams.open(Clock::manual(at(0)));
    assert!(second.model.wait_for_intake(0, Duration::from_millis(700)).await.is_err());
    assert!(second.model.notification(&app("shop"), &id(1)).is_err());
    assert!(first.model.notification(&app("shop"), &id(1)).unwrap().is_some());
    first.stop().await;
    streams.caught_up(&second.model).await;
    assert!(second.model.notification(&app("shop"), &id(1)).unwrap().is_some());
    assert_eq!(second.model.folded(), 0, "the file of the first was good");
    second.stop().await;
}
