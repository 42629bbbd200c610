//! A region as operators meet it: every stream with messages of the real types, lanes in the middle of their work,
//! services that answer, and a hub that the region is linked to.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::PullConsumer;
use futures_util::StreamExt as _;
use peal_common::category::{CATEGORY_FACET, Category, Class};
use peal_common::channel::{Channel, ChannelChoice, Priority};
use peal_common::clock::{Clock, HybridClock};
use peal_common::envelope::{
    DeadLetter, ENVELOPE_VERSION, Envelope as _, InboxChange, InboxEntry, SandboxMessage,
};
use peal_common::event::{Event, EventType, PlannedDelivery};
use peal_common::id::AppKey;
use peal_common::key::{ApiKey, Grant, Scope, SealedSecret};
use peal_common::recipient::{Contact, RecipientBody, write_body};
use peal_common::seal::Sealer;
use peal_common::state::{Kind, Record, RecordKey};
use peal_nats::connect::{self, Auth, Connection};
use peal_nats::publish::Outgoing;
use peal_nats::server::{Login, Server, ServerConfig, free_port};
use peal_nats::service::{Description, Request, Service};
use peal_nats::subjects::{self, Subjects};
use peal_nats::topology::{
    self, Current, INTAKE, Options, Topology, deliver_consumer, fanout_consumer, work_stream,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::messages::{
    APP, RECIPIENT, app, contact, content, delivery, intake, later, local, now, recipient, work,
};
use crate::support::eventually;

/// The user of the region and of the hub, as in `nats/config/region-node.conf`.
const USER: &str = "peal";
/// The user's password, awkward on purpose.
pub const PASSWORD: &str = "correct $horse";
/// The password of the system account's user.
pub const SYS_PASSWORD: &str = "battery staple";

/// The region, its hub and what runs in it.
pub struct Filled {
    /// The region's server.
    pub region: Server,
    /// The server that it is linked to.
    pub hub: Server,
    /// The folder of both, with room for what the commands leave behind.
    pub folder: TempDir,
    connection: Connection,
    _dispatcher: Service,
}

impl Filled {
    /// Starts and fills everything.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let link = free_port().unwrap();

        let mut config = ServerConfig::new("hub".parse().unwrap(), folder.path().join("hub"));
        config.extra = format!("leafnodes {{ listen: \"127.0.0.1:{link}\" }}");
        config.login = Some(Login { user: USER.to_owned(), password: PASSWORD.to_owned() });
        let hub = Server::start(config).await.unwrap();

        let mut config = ServerConfig::new(local(), folder.path().join("region"));
        config.extra = accounts(link);
        let region = Server::start(config).await.unwrap();

        let mut options = connect::Options::new([region.url()], local(), "peal-dispatcher");
        options.auth = Auth::Password { user: USER.to_owned(), password: PASSWORD.to_owned() };
        let connection = connect::connect(&options).await.unwrap();
        let plan = topology::plan(&Current::default(), &layout());
        topology::apply(&connection.jetstream, &plan, false).await.unwrap();

        let fill = Fill { connection: &connection, subjects: Subjects::new(&local()) };
        fill.notifications().await;
        fill.events().await;
        fill.dead_letters().await;
        fill.rest().await;
        fill.state().await;
        fill.work_in_progress().await;
        let dispatcher = "Decides who gets a notification, on which channel and when, and delivers it";
        let dispatcher = service(&connection, "peal-dispatcher", dispatcher).await;
        let gateway =
            service(&connection, "peal-gateway", "Takes notifications and keeps what they need").await;
        tokio::spawn(answer(gateway, fill.subjects.api("notifications")));
        through_the_hub(&hub).await;
        Filled { region, hub, folder, connection, _dispatcher: dispatcher }
    }

    /// Goes on working, for commands that show what happens now: deliveries are sent and given up until it is dropped.
    pub async fn go_on(&self) {
        let fill = Fill { connection: &self.connection, subjects: Subjects::new(&local()) };
        let mut interval = tokio::time::interval(Duration::from_millis(100));
        loop {
            interval.tick().await;
            fill.event("order-1049-shipped", EventType::Sent, Channel::Email, None).await;
            fill.event("order-1050-shipped", EventType::Failed, Channel::Webhook, Some("status_410")).await;
            fill.give_up().await;
        }
    }

    /// Loses a stream, as a disk might.
    pub async fn lose(&self, stream: &str) {
        self.connection.jetstream.delete_stream(stream).await.unwrap();
    }

    /// Whether all streams and consumers are as Peal needs them.
    pub async fn check(&self) -> topology::Report {
        topology::check(&self.connection.jetstream, &layout()).await.unwrap()
    }
}

fn layout() -> Topology {
    Topology::for_region(&local(), &Options::laptop())
}

/// Waits until the region answers over its link to the hub.
async fn through_the_hub(hub: &Server) {
    let mut options = connect::Options::new([hub.url()], local(), "guide");
    options.auth = Auth::Password { user: USER.to_owned(), password: PASSWORD.to_owned() };
    let connection = connect::connect(&options).await.unwrap();
    eventually("the region answers through the hub", || async {
        connection.jetstream.query_account().await.is_ok()
    })
    .await;
}

/// The accounts of `nats/config/region-node.conf`, and the link to a hub.
fn accounts(link: u16) -> String {
    let remote =
        format!("nats-leaf://{USER}:{}@127.0.0.1:{link}", PASSWORD.replace(' ', "%20").replace('$', "%24"));
    format!(
        r#"
accounts {{
  PEAL {{
    jetstream: enabled
    users: [ {{ user: "{USER}", password: "{PASSWORD}" }} ]
  }}
  SYS {{
    users: [ {{ user: "sys", password: "{SYS_PASSWORD}" }} ]
  }}
}}
system_account: SYS
# Only for whoever waits until the server is ready: the guide signs in.
no_auth_user: {USER}
leafnodes {{ remotes: [ {{ url: "{remote}", account: PEAL }} ] }}
"#
    )
}

async fn service(connection: &Connection, name: &'static str, description: &'static str) -> Service {
    let metadata = HashMap::from([("region".to_owned(), local().to_string())]);
    let description = Description { name, version: env!("CARGO_PKG_VERSION"), description, metadata };
    Service::register(connection, &description).await.unwrap()
}

/// The gateway's door over NATS, as far as `nats micro` sees it; ends with the test.
async fn answer(gateway: Service, subject: String) {
    let agree = |request: Request| async move { request.answer(Ok("{}".into())).await };
    gateway.serve("notifications", &subject, 1, &CancellationToken::new(), agree).await.unwrap();
}

struct Fill<'a> {
    connection: &'a Connection,
    subjects: Subjects,
}

impl Fill<'_> {
    async fn publish(&self, subject: String, payload: Vec<u8>) {
        self.connection.publish(Outgoing::new(subject, payload)).await.unwrap();
    }

    async fn notifications(&self) {
        let waiting = [
            ("order-1042-shipped", Priority::Normal),
            ("order-1043-shipped", Priority::Normal),
            ("login-code-7", Priority::Critical),
            ("spring-sale", Priority::Bulk),
        ];
        for (id, priority) in waiting {
            let intake = intake(id, priority);
            let outgoing = Outgoing::new(self.subjects.intake(priority, APP), intake.encode().unwrap());
            self.connection.publish(outgoing.id(&format!("{APP}:{id}"))).await.unwrap();
        }
        let mut later = intake("new-year", Priority::Normal);
        let at = now().checked_add(jiff::Span::new().hours(24)).unwrap();
        later.send_at = Some(at);
        let target = self.subjects.due(&["intake", "normal", APP]);
        let waiting = self.subjects.schedule(&["intake", APP, "new-year"]);
        let outgoing = Outgoing::new(waiting, later.encode().unwrap()).at(at, &target);
        self.connection.publish(outgoing).await.unwrap();

        for channel in [Channel::Email, Channel::Email, Channel::Sms, Channel::Telegram] {
            for priority in [Priority::Normal, Priority::Bulk] {
                let work = work("order-1043-shipped", channel, priority);
                self.publish(self.subjects.work(channel, priority, APP), work.encode().unwrap()).await;
            }
        }
    }

    async fn event(&self, id: &str, kind: EventType, channel: Channel, reason: Option<&str>) {
        let mut event = Event::new(kind, now(), app(), id.parse().unwrap());
        let channel = (kind != EventType::Planned).then_some(channel);
        event.channel = channel;
        event.reason = reason.map(str::to_owned);
        if let Some(channel) = channel {
            event.delivery = Some(delivery(id, channel));
            event.recipient = Some(recipient());
            event.provider = Some("smtp".to_owned());
        } else {
            event.deliveries = vec![PlannedDelivery {
                delivery: delivery(id, Channel::Email),
                recipient: recipient(),
                channel: Channel::Email,
                contact: contact(),
            }];
        }
        self.publish(self.subjects.event(kind.as_str(), channel, APP), event.encode().unwrap()).await;
    }

    async fn events(&self) {
        use EventType::{DeadLettered, Delivered, Planned, Retried, Sent, Suppressed};
        let steps = [
            ("order-1042-shipped", Planned, Channel::Email, None),
            ("order-1042-shipped", Retried, Channel::Email, Some("status_421")),
            ("order-1042-shipped", Sent, Channel::Email, None),
            ("order-1042-shipped", Delivered, Channel::Email, None),
            ("spring-sale", Planned, Channel::Email, None),
            ("spring-sale", Suppressed, Channel::Sms, Some("marketing_off")),
            ("order-1040-shipped", DeadLettered, Channel::Email, Some("attempts_exhausted: status_451")),
        ];
        for (id, kind, channel, reason) in steps {
            self.event(id, kind, channel, reason).await;
        }
    }

    async fn dead_letters(&self) {
        let given_up = [
            ("order-1040-shipped", Channel::Email, "attempts_exhausted: status_451"),
            ("order-1041-shipped", Channel::Telegram, "chat_not_found"),
        ];
        for (id, channel, reason) in given_up {
            let letter = DeadLetter {
                v: ENVELOPE_VERSION,
                at: now(),
                reason: reason.to_owned(),
                stream: work_stream(channel),
                subject: self.subjects.work(channel, Priority::Normal, APP),
                attempts: 10,
                work: Some(Box::new(work(id, channel, Priority::Normal))),
                raw: None,
            };
            self.publish(self.subjects.dead(Some(channel), APP), letter.encode().unwrap()).await;
        }
    }

    /// What the guide asks only for a look at: an inbox, an intent and what the sandbox recorded.
    async fn rest(&self) {
        let entry = InboxEntry {
            v: ENVELOPE_VERSION,
            at: now(),
            app: app(),
            recipient: recipient(),
            item: delivery("order-1042-shipped", Channel::Inbox),
            notification: "order-1042-shipped".parse().unwrap(),
            what: InboxChange::Item {
                category: "orders".parse().unwrap(),
                expires_at: later(),
                sealed: "b3BhcXVl".to_owned(),
            },
        };
        let item = self.subjects.inbox(APP, RECIPIENT, subjects::InboxEntry::Item);
        self.publish(item, entry.encode().unwrap()).await;
        self.publish(self.subjects.attempt(Channel::Sms, "node-1"), b"{}".to_vec()).await;
        let recorded = SandboxMessage {
            v: ENVELOPE_VERSION,
            at: now(),
            app: app(),
            notification: "order-1042-shipped".parse().unwrap(),
            delivery: delivery("order-1042-shipped", Channel::Sms),
            recipient: recipient(),
            channel: Channel::Sms,
            address: "+821012345678".to_owned(),
            rendered: content().render(Channel::Sms).unwrap(),
            attachments: Vec::new(),
        };
        self.publish(self.subjects.sandbox(Channel::Sms), recorded.encode().unwrap()).await;
    }

    async fn state(&self) {
        let clock = HybridClock::new(Clock::System, local());
        let sealer = Sealer::from_base64(&Sealer::generate_key(&mut rand::rng())).unwrap();

        let key = RecordKey::new(Kind::Category, &app(), "orders");
        let category = Category {
            fallback: None,
            class: Class::Transactional,
            mandatory: false,
            channels: vec![ChannelChoice::Email],
            priority: None,
        };
        let mut record = Record::default();
        record.set(CATEGORY_FACET, serde_json::to_value(&category).unwrap(), &clock.stamp());
        self.record(&key, &record).await;

        let key = RecordKey::new(Kind::Recipient, &app(), RECIPIENT);
        let body = RecipientBody {
            contacts: vec![Contact::at(Channel::Email, "someone@example.com".to_owned())],
            ..RecipientBody::default()
        };
        let mut record = Record::default();
        write_body(&mut record, &key, &app(), &body, &clock.stamp(), &sealer, &mut rand::rng()).unwrap();
        self.record(&key, &record).await;

        let name: AppKey = "pk_3f9c2a".parse().unwrap();
        let key = RecordKey::api_key(&name);
        let api_key = ApiKey {
            key: name,
            grant: Grant {
                app: app(),
                name: "warehouse".to_owned(),
                scopes: vec![Scope::Send],
                created_at: now(),
                expires_at: None,
                rate_limit_per_second: None,
            },
            secrets: vec![SealedSecret {
                sealed: sealer.seal_secret("sk_0", key.as_str(), &mut rand::rng()).unwrap(),
                created_at: now(),
            }],
            revoked: false,
        };
        let mut record = Record::default();
        api_key.write(&mut record, &clock.stamp());
        self.record(&key, &record).await;
    }

    async fn record(&self, key: &RecordKey, record: &Record) {
        self.publish(self.subjects.state(key.as_str()), serde_json::to_vec(record).unwrap()).await;
    }

    /// One notification is fanned out and done, one delivery is in work, one comes a second time.
    async fn work_in_progress(&self) {
        let intake = self.take(INTAKE, &fanout_consumer(Priority::Critical), 1).await;
        intake[0].double_ack().await.unwrap();
        let email = self.take(&work_stream(Channel::Email), &deliver_consumer(Priority::Normal), 1).await;
        email[0].ack_with(AckKind::Nak(None)).await.unwrap();
        let again = self.take(&work_stream(Channel::Email), &deliver_consumer(Priority::Normal), 2).await;
        assert_eq!(again.len(), 2);
    }

    /// A delivery that ends with a reason, as the dispatcher says it to the server.
    async fn give_up(&self) {
        let (channel, priority) = (Channel::Webhook, Priority::High);
        let work = work("order-1049-shipped", channel, priority);
        self.publish(self.subjects.work(channel, priority, APP), work.encode().unwrap()).await;
        let taken = self.take(&work_stream(channel), &deliver_consumer(priority), 1).await;
        let reply = taken[0].reply.clone().unwrap();
        self.connection.client.publish(reply, "+TERM status_410".into()).await.unwrap();
    }

    async fn take(&self, stream: &str, consumer: &str, count: usize) -> Vec<async_nats::jetstream::Message> {
        let lane: PullConsumer =
            self.connection.jetstream.get_consumer_from_stream(consumer, stream).await.unwrap();
        let messages =
            lane.batch().max_messages(count).expires(Duration::from_secs(10)).messages().await.unwrap();
        messages.take(count).map(Result::unwrap).collect().await
    }
}
