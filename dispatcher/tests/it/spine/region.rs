//! A region for one test: a real server with its streams, a dispatcher that runs in the test's process, and what
//! services would have written.

use std::future::Future;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use p256::SecretKey;
use peal_common::attachment::Attachments;
use peal_common::category::{CATEGORY_FACET, Category};
use peal_common::channel::{Channel, Priority};
use peal_common::clock::{Clock, HybridClock};
use peal_common::envelope::{
    Accepted, DeadLetter, ENVELOPE_VERSION, Envelope, Intake, ResolvedTarget, Text, Work,
};
use peal_common::event::{Event, EventType};
use peal_common::id::{AppId, DeliveryId, NotificationId, RecipientId};
use peal_common::preferences::Preferences;
use peal_common::recipient::{Contact, RecipientBody, Subscription, SubscriptionKeys, write_body};
use peal_common::seal::Sealer;
use peal_common::settings::Settings;
use peal_common::state::{Kind, Record, RecordKey};
use peal_common::suppression::{self, Suppression};
use peal_common::template::Content;
use peal_nats::catalog::{ACCOUNT_FACET, CANCELLED_FACET, TAKEN_OVER_FACET};
use peal_nats::connect::{Options as ConnectOptions, connect};
use peal_nats::follow::{Followed, Follower};
use peal_nats::publish::Outgoing;
use peal_nats::server::{Leaf, Link, Login, Server, ServerConfig};
use peal_nats::topology::{
    Current, DEAD_LETTERS, EVENTS, INTAKE, Links, Options, SCHEDULE, Topology, apply, plan, work_stream,
};
use peal_nats::{Connection, Subjects};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(30);

pub struct Region {
    pub server: Server,
    pub connection: Connection,
    pub subjects: Subjects,
    pub sealer: Sealer,
    topology: Topology,
    folder: TempDir,
    key: String,
    hybrid: HybridClock,
}

/// A dispatcher that runs.
pub struct Dispatcher {
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Dispatcher {
    /// Stops it softly; it must end well.
    pub async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(LIMIT, self.task).await.unwrap().unwrap().unwrap();
    }

    /// It does not run; why.
    pub async fn refused(self) -> String {
        tokio::time::timeout(LIMIT, self.task).await.unwrap().unwrap().unwrap_err().to_string()
    }
}

/// Streams beside the region `us`.
fn linked() -> Options {
    let links = Links { hub: "hub".parse().unwrap(), others: vec!["us".parse().unwrap()] };
    Options { links: Some(links), ..Options::laptop() }
}

/// As whom a region connects to the hub.
pub fn login(region: &str) -> Login {
    Login { user: region.to_owned(), password: format!("link of {region}") }
}

pub fn app() -> AppId {
    "shop".parse().unwrap()
}

impl Region {
    pub async fn start() -> Self {
        Region::start_with(Options::laptop()).await
    }

    /// With streams of other sizes or ages.
    pub async fn start_with(options: Options) -> Self {
        Region::start_adapted(options, |_| {}).await
    }

    /// With another time after which what is in hand is handed out again.
    pub async fn start_with_ack_wait(ack_wait: Duration) -> Self {
        Region::start_adapted(Options::laptop(), |topology| {
            let consumers = topology.streams.iter_mut().flat_map(|stream| &mut stream.consumers);
            consumers.for_each(|consumer| consumer.ack_wait = ack_wait);
        })
        .await
    }

    /// Beside the region `us`, with a hub that is away: nothing comes over the link.
    pub async fn start_cut_off() -> Self {
        Region::start_adapted(linked(), |topology| {
            for stream in &mut topology.streams {
                let sources = stream.config.sources.iter_mut();
                sources.for_each(|all| all.retain(|source| source.external.is_none()));
            }
        })
        .await
    }

    /// Beside the region `us`, with a hub behind this link.
    pub async fn start_linked(link: &Link) -> Self {
        let leaf = Leaf::Connects { ports: vec![link.port()], login: login("test-1") };
        Region::start_as(linked(), Some(leaf), |_| {}).await
    }

    async fn start_adapted(options: Options, adapt: impl FnOnce(&mut Topology)) -> Self {
        Region::start_as(options, None, adapt).await
    }

    async fn start_as(options: Options, leaf: Option<Leaf>, adapt: impl FnOnce(&mut Topology)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let region: peal_nats::Region = "test-1".parse().unwrap();
        let mut config = ServerConfig::new(region.clone(), folder.path().join("nats"));
        // What the streams may grow to, not what the test's disk has free right now.
        config.max_file_store = Some(8 << 30);
        config.leaf = leaf;
        let server = Server::start(config).await.unwrap();
        let connection = connect(&ConnectOptions::new([server.url()], region.clone(), "test")).await.unwrap();
        let key = Sealer::generate_key(&mut rand::rng());
        let mut topology = Topology::for_region(&connection.region, &options);
        adapt(&mut topology);
        let made = Region {
            subjects: Subjects::new(&region),
            sealer: Sealer::from_base64(&key).unwrap(),
            hybrid: HybridClock::new(Clock::System, region),
            topology,
            server,
            connection,
            folder,
            key,
        };
        made.apply_topology().await;
        made
    }

    /// Makes what is missing.
    pub async fn apply_topology(&self) {
        let jetstream = &self.connection.jetstream;
        let current = Current::read(jetstream, &self.topology).await.unwrap();
        apply(jetstream, &plan(&current, &self.topology), false).await.unwrap();
    }

    /// Settings for a dispatcher of this region, with `more` on top.
    pub fn settings(&self, more: &str) -> Settings {
        let mut file: toml::Table = toml::from_str(&format!(
            r#"
            [region]
            name = "test-1"
            key = "{}"
            [nats]
            urls = ["{}"]
            [dispatcher]
            listen = "127.0.0.1:0"
            data_dir = "{}"
            retry_base_ms = 20
            max_attempts = 3
            [channels.webhook]
            allowed_networks = ["127.0.0.0/8"]
            timeout_seconds = 2
            "#,
            self.key,
            self.server.url(),
            self.folder.path().join(format!("dispatcher-{}", rand::random::<u32>())).display(),
        ))
        .unwrap();
        merge(&mut file, toml::from_str(more).unwrap());
        Settings::parse(Some(&toml::to_string(&file).unwrap()), std::collections::HashMap::new()).unwrap()
    }

    /// Starts a dispatcher.
    pub fn dispatcher(&self, more: &str) -> Dispatcher {
        let stop = CancellationToken::new();
        let task = tokio::spawn(peal_dispatcher::run(self.settings(more), stop.clone()));
        Dispatcher { stop, task }
    }

    /// Starts a dispatcher that takes other settings over.
    pub fn reloading_dispatcher(&self, more: &str) -> (Dispatcher, mpsc::Sender<Settings>) {
        let (stop, (reload, reloads)) = (CancellationToken::new(), mpsc::channel(1));
        let task = tokio::spawn(peal_dispatcher::run_reloading(self.settings(more), reloads, stop.clone()));
        (Dispatcher { stop, task }, reload)
    }

    /// Starts a dispatcher with threads of its own: shut down in the background, they end with all that they have in
    /// hand, as in a crash.
    pub fn doomed_dispatcher(&self, more: &str) -> Runtime {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(peal_dispatcher::run(self.settings(more), CancellationToken::new()));
        runtime
    }

    async fn put(&self, key: &RecordKey, record: &Record) -> u64 {
        let subject = self.subjects.state(key.as_str());
        let payload = serde_json::to_vec(record).unwrap();
        self.connection.publish(Outgoing::new(subject, payload)).await.unwrap().sequence
    }

    /// Writes a category.
    pub async fn category(&self, id: &str, category: Value) -> u64 {
        self.category_of(&app(), id, category).await
    }

    /// Writes a category of an app.
    pub async fn category_of(&self, app: &AppId, id: &str, category: Value) -> u64 {
        let _: Category = serde_json::from_value(category.clone()).unwrap();
        let mut record = Record::default();
        record.set(CATEGORY_FACET, category, &self.hybrid.stamp());
        self.put(&RecordKey::new(Kind::Category, app, id), &record).await
    }

    /// Writes a recipient.
    pub async fn recipient(&self, id: &str, contacts: &[(Channel, &str)], wants: Value) -> u64 {
        self.recipient_of(&app(), id, contacts, wants).await
    }

    /// Writes a recipient of an app.
    pub async fn recipient_of(
        &self,
        app: &AppId,
        id: &str,
        contacts: &[(Channel, &str)],
        wants: Value,
    ) -> u64 {
        let key = RecordKey::new(Kind::Recipient, app, id);
        let body = RecipientBody {
            time_zone: Some("Asia/Seoul".into()),
            contacts: contacts.iter().map(|(channel, address)| contact(*channel, address)).collect(),
            ..RecipientBody::default()
        }
        .normalize()
        .unwrap();
        let preferences: Preferences = serde_json::from_value(wants).unwrap();
        let mut record = Record::default();
        let stamp = self.hybrid.stamp();
        write_body(&mut record, &key, app, &body, &stamp, &self.sealer, &mut rand::rng()).unwrap();
        preferences.write(&mut record, &stamp);
        self.put(&key, &record).await
    }

    /// Writes an account that the app brought along; `None` deletes it.
    pub async fn account(&self, name: &str, settings: Option<Value>) -> u64 {
        let key = RecordKey::new(Kind::Account, &app(), name);
        let mut record = Record::default();
        match settings {
            Some(settings) => {
                let text = settings.to_string();
                let sealed = self.sealer.seal_secret(&text, key.as_str(), &mut rand::rng()).unwrap();
                record.set(ACCOUNT_FACET, sealed.into(), &self.hybrid.stamp());
            }
            None => record.erase(&self.hybrid.stamp()),
        }
        self.put(&key, &record).await
    }

    /// Says that a mailbox was full at these times.
    pub async fn full_mailbox(&self, address: &str, times: &[Timestamp]) -> u64 {
        self.full_mailbox_of(&app(), address, times).await
    }

    /// Says that a mailbox was full at these times when an app wrote to it.
    pub async fn full_mailbox_of(&self, app: &AppId, address: &str, times: &[Timestamp]) -> u64 {
        let index = self.sealer.blind_index(app, Channel::Email, address);
        let mut record = Record::default();
        for at in times {
            Suppression::note_full(&mut record, *at, &self.hybrid.stamp());
        }
        self.put(&suppression::key(app, Channel::Email, &index, false), &record).await
    }

    /// Erases a recipient.
    pub async fn erase(&self, id: &str) -> u64 {
        let mut record = Record::default();
        record.erase(&self.hybrid.stamp());
        self.put(&RecordKey::new(Kind::Recipient, &app(), id), &record).await
    }

    /// Cancels a notification.
    pub async fn cancel(&self, id: &str) -> u64 {
        self.stop(id, CANCELLED_FACET, Value::Bool(true)).await
    }

    /// Says that a region took a notification over.
    pub async fn taken_over(&self, id: &str, by: &str) -> u64 {
        self.stop(id, TAKEN_OVER_FACET, by.into()).await
    }

    async fn stop(&self, id: &str, facet: &str, value: Value) -> u64 {
        let mut record = Record::default();
        record.set(facet, value, &self.hybrid.stamp());
        self.put(&RecordKey::new(Kind::Cancellation, &app(), id), &record).await
    }

    /// Publishes a message to INTAKE.
    pub async fn accept(&self, intake: &Intake) {
        let app = intake.notification.app.as_str();
        let subject = self.subjects.intake(intake.notification.priority, app);
        let id = format!("{app}:{}", intake.notification.id);
        self.connection.publish(Outgoing::new(subject, intake.encode().unwrap()).id(&id)).await.unwrap();
    }

    /// Publishes an event.
    pub async fn say(&self, event: &Event) {
        let subject = self.subjects.of_event(event);
        self.connection.publish(Outgoing::new(subject, event.encode().unwrap())).await.unwrap();
    }

    /// Publishes a message to WORK.
    pub async fn queue(&self, work: &Work) {
        let subject = self.subjects.work(work.channel, work.notification.priority, "shop");
        self.connection.publish(Outgoing::new(subject, work.encode().unwrap())).await.unwrap();
    }

    /// All events so far.
    pub async fn events(&self) -> Vec<Event> {
        self.all::<Event>(EVENTS).await.into_iter().flat_map(Event::steps).collect()
    }

    /// All dead letters so far.
    pub async fn dead_letters(&self) -> Vec<DeadLetter> {
        self.all(DEAD_LETTERS).await
    }

    async fn all<T: Envelope>(&self, stream: &str) -> Vec<T> {
        let last = self.connection.stream_state(stream).await.unwrap().last;
        let mut follower = Follower::new(self.connection.clone(), stream, "", None, 0);
        let mut position = 0;
        let mut found = Vec::new();
        while position < last {
            match follower.next().await {
                Followed::Messages(messages) => {
                    for message in messages {
                        position = message.sequence;
                        found.push(T::decode(&message.payload).unwrap());
                    }
                }
                _ => break,
            }
        }
        found
    }

    /// Waits until a notification has an event of this type and returns it.
    pub async fn event(&self, notification: &str, kind: EventType) -> Event {
        let found = tokio::sync::Mutex::new(None);
        eventually(&format!("{kind:?} of {notification}"), async || {
            let events = self.events().await;
            let event =
                events.into_iter().find(|e| e.kind == kind && e.notification.as_str() == notification);
            let there = event.is_some();
            *found.lock().await = event;
            there
        })
        .await;
        found.into_inner().unwrap()
    }

    /// Waits until nothing is left in any queue: neither waiting nor in hand.
    pub async fn drained(&self) {
        eventually("the queues are drained", async || {
            for channel in Channel::ALL {
                if self.connection.stream_state(&work_stream(channel)).await.unwrap().messages > 0 {
                    return false;
                }
            }
            if self.connection.stream_state(SCHEDULE).await.unwrap().messages > 0 {
                return false;
            }
            for priority in Priority::ALL {
                let stream = self.connection.jetstream.get_stream(INTAKE).await.unwrap();
                let info =
                    stream.consumer_info(peal_nats::topology::fanout_consumer(priority)).await.unwrap();
                if info.num_pending > 0 || info.num_ack_pending > 0 {
                    return false;
                }
            }
            true
        })
        .await;
    }
}

/// Somebody's contact: an address, a device's token, or where a browser is reached.
fn contact(channel: Channel, address: &str) -> Contact {
    let none = Contact { address: None, ..Contact::at(channel, String::new()) };
    match channel {
        Channel::Apns | Channel::Fcm => Contact { token: Some(address.into()), ..none },
        Channel::Webpush => {
            let key = SecretKey::from_slice(&[5; 32]).unwrap().public_key().to_sec1_bytes();
            let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
            let keys = SubscriptionKeys { p256dh: encode(&key), auth: encode(&[3; 16]) };
            Contact { subscription: Some(Subscription { endpoint: address.into(), keys }), ..none }
        }
        _ => Contact::at(channel, address.into()),
    }
}

fn merge(into: &mut toml::Table, more: toml::Table) {
    for (key, value) in more {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(own)), toml::Value::Table(other)) => merge(own, other),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let poll = async {
        let mut interval = tokio::time::interval(Duration::from_millis(20));
        loop {
            interval.tick().await;
            if condition().await {
                break;
            }
        }
    };
    within(what, poll).await;
}

async fn within(what: &str, future: impl Future<Output = ()>) {
    assert!(tokio::time::timeout(LIMIT, future).await.is_ok(), "not within {LIMIT:?}: {what}");
}

/// A notification as the gateway would have accepted it.
pub fn intake(id: &str, recipients: &[&str], state_seq: u64) -> Intake {
    Intake {
        v: ENVELOPE_VERSION,
        region: "test-1".parse().unwrap(),
        state_seq,
        fingerprint: "f".repeat(64),
        send_at: None,
        targets: recipients
            .iter()
            .map(|recipient| ResolvedTarget { recipient: recipient.parse().unwrap(), only: None })
            .collect(),
        notification: accepted(id),
        takeover: None,
    }
}

pub fn accepted(id: &str) -> Accepted {
    let now = Clock::System.now();
    let content: Content =
        serde_json::from_value(json!({"title": "Shipped", "body": "Order 1042 <is> on its way"})).unwrap();
    Accepted {
        app: app(),
        id: id.parse().unwrap(),
        category: "orders".parse().unwrap(),
        priority: Priority::Normal,
        accepted_at: now,
        expires_at: now + SignedDuration::from_hours(1),
        text: Text::Content(content),
        channels: None,
        collapse_key: None,
        metadata: serde_json::Map::new(),
        pinned: false,
        fallback: None,
        attachments: Attachments::default(),
    }
}

/// A delivery as fan-out would have planned it.
pub fn work(
    sealer: &Sealer,
    id: &str,
    recipient: &str,
    channel: Channel,
    address: &str,
    state_seq: u64,
) -> Work {
    let notification: NotificationId = id.parse().unwrap();
    let recipient: RecipientId = recipient.parse().unwrap();
    let contact = match channel {
        Channel::Inbox => String::new(),
        _ => sealer.blind_index(&app(), channel, address),
    };
    Work {
        v: ENVELOPE_VERSION,
        delivery: DeliveryId::derive(&app(), &notification, &recipient, channel, &contact, 0),
        recipient,
        channel,
        contact,
        state_seq,
        attempts: 0,
        not_before: None,
        hops: 0,
        repeat: false,
        repeat_since: None,
        replays: 0,
        notification: accepted(id),
    }
}

/// Now, moved.
pub fn from_now(seconds: i64) -> Timestamp {
    Clock::System.now() + SignedDuration::from_secs(seconds)
}

/// The types of a notification's events, in the order of the stream.
pub fn kinds(events: &[Event], notification: &str) -> Vec<EventType> {
    events
        .iter()
        .filter(|event| event.notification.as_str() == notification)
        .map(|event| event.kind)
        .collect()
}
