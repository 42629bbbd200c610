//! The read model: rebuilt with the same answers, resumed, and never guessing.
//!
//! Here is what its tests share: a server with streams, and messages of every kind.

mod folding;
mod inbox;
mod rebuild;

use std::path::PathBuf;

use jiff::Timestamp;
use peal_common::attachment::Attachments;
use peal_common::channel::{Channel, Priority};
use peal_common::clock::Clock;
use peal_common::envelope::{
    Accepted, ContactRef, ENVELOPE_VERSION, Envelope as _, InboxChange, InboxEntry, InboxMark, Intake,
    ResolvedTarget, Text,
};
use peal_common::event::{Event, EventType, PlannedDelivery};
use peal_common::id::{AppId, DeliveryId, NotificationId, RecipientId};
use peal_common::settings::GroupCommit;
use peal_gateway::readmodel::{EventFilter, Filter, Positions, ReadModel, Retention};
use peal_nats::connect::{self, Connection, Options};
use peal_nats::group::GroupPublisher;
use peal_nats::publish::Outgoing;
use peal_nats::server::{Server, ServerConfig};
use peal_nats::topology::{EVENTS, INBOX, INTAKE};
use peal_nats::{Subjects, subjects};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::{LIMIT, apply_topology, region};

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
            pinned: false,
            fallback: None,
            attachments: Attachments::default(),
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
