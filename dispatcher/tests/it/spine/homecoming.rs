//! A region whose dispatchers come back after a silence, while its hub is away.

use std::time::Duration;

use jiff::Timestamp;
use peal_common::channel::Channel;
use peal_common::clock::{Clock, HybridClock};
use peal_common::event::EventType;
use peal_common::state::{Kind, Record, RecordKey};
use peal_common::takeover::TAKEN_OVER;
use peal_dispatcher::recording::{Answer, Twilio, Webhooks};
use peal_nats::catalog::TAKEN_OVER_FACET;
use peal_nats::connect::{Options as ConnectOptions, connect};
use peal_nats::publish::Outgoing;
use peal_nats::server::{Leaf, Link, Server, ServerConfig, free_port};
use peal_nats::topology::{Current, LIMITS, Links, Options, Topology, apply, plan};
use peal_nats::{Connection, Subjects};
use serde_json::json;
use tempfile::TempDir;

use super::LIMIT;
use super::region::{Region, app, eventually, intake, login};

/// After so long without a word the region may have been taken over.
const SILENCE: Duration = Duration::from_secs(1);

async fn twilio() -> Twilio {
    let twilio = Twilio::start().await.unwrap();
    twilio.answer(Answer::status(201).body(r#"{"sid":"SM1","status":"queued"}"#));
    twilio
}

/// Settings of a dispatcher of a linked region that has text messages.
fn settings(twilio: &Twilio) -> String {
    format!(
        "[topology]\nhub = \"hub\"\nregions = [\"test-1\", \"us\"]\nsilence_seconds = {}\nhomecoming_seconds = 1\n\
         [channels.sms.twilio]\naccount_sid = \"AC{:032}\"\nauth_token = \"t\"\nfrom = \"+14155550100\"\n\
         base_url = \"{}\"\n",
        SILENCE.as_secs(),
        1,
        twilio.base_url()
    )
}

async fn silence_since(last: Timestamp) {
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    while Clock::System.now().duration_since(last) <= SILENCE.try_into().unwrap() {
        tick.tick().await;
    }
}

/// Another place beside the region: its hub, or the region `us`.
struct Place {
    _server: Server,
    connection: Connection,
    _folder: TempDir,
}

impl Place {
    async fn start(name: peal_nats::Region, leaf: Leaf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = ServerConfig::new(name.clone(), folder.path());
        config.max_file_store = Some(8 << 30);
        config.leaf = Some(leaf);
        let server = Server::start(config).await.unwrap();
        let connection = connect(&ConnectOptions::new([server.url()], name, "test")).await.unwrap();
        Place { _server: server, connection, _folder: folder }
    }

    async fn apply(&self, topology: &Topology) {
        let jetstream = &self.connection.jetstream;
        let current = Current::read(jetstream, topology).await.unwrap();
        apply(jetstream, &plan(&current, topology), false).await.unwrap();
    }

    async fn takes_over(&self, id: &str) {
        let region = &self.connection.region;
        let mut record = Record::default();
        let stamp = HybridClock::new(Clock::System, region.clone()).stamp();
        record.set(TAKEN_OVER_FACET, region.as_str().into(), &stamp);
        let key = RecordKey::new(Kind::Cancellation, &app(), id);
        let subject = Subjects::new(region).state(key.as_str());
        let payload = serde_json::to_vec(&record).unwrap();
        self.connection.publish(Outgoing::new(subject, payload)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_be_sent_twice_waits_for_the_hub() {
    let region = Region::start_cut_off().await;
    let (webhooks, twilio) = (Webhooks::start().await.unwrap(), twilio().await);
    region.category("orders", json!({"class": "transactional"})).await;
    region.recipient("hook", &[(Channel::Webhook, &webhooks.url("/"))], json!({})).await;
    let state = region.recipient("phone", &[(Channel::Sms, "+821012345678")], json!({})).await;
    let settings = settings(&twilio);
    let before = region.dispatcher(&settings);
    region.accept(&intake("n-1", &["hook"], state)).await;
    let last = region.event("n-1", EventType::Delivered).await;
    region.drained().await;
    before.end().await;

    region.accept(&intake("n-2", &["hook", "phone"], state)).await;
    silence_since(last.at).await;
    let back = region.dispatcher(&settings);
    webhooks.wait_for(2, LIMIT).await.unwrap();
    let held = region.event("n-2", EventType::Retried).await;
    assert_eq!((held.channel, held.reason.as_deref()), (Some(Channel::Sms), Some("taken_over_unknown")));
    assert_eq!((held.attempts, twilio.count()), (None, 0));
    // What is accepted from now on is nobody else's.
    region.accept(&intake("n-3", &["phone"], state)).await;
    region.event("n-3", EventType::Sent).await;
    assert_eq!((twilio.count(), webhooks.count()), (1, 2));
    back.end().await;

    // Nor does one know better that starts while others have spoken again.
    let next = region.dispatcher(&settings);
    let mut old = intake("n-4", &["phone"], state);
    old.notification.accepted_at = last.at;
    region.accept(&old).await;
    let held = region.event("n-4", EventType::Retried).await;
    assert_eq!((held.reason.as_deref(), twilio.count()), (Some("taken_over_unknown"), 1));
    next.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_hub_has_told_what_is_left_is_sent() {
    let [here, us, hub] = ["test-1", "us", "hub"].map(|name| name.parse::<peal_nats::Region>().unwrap());
    let port = free_port().unwrap();
    let listens = Leaf::Listens { port, regions: ["test-1", "us"].map(login).to_vec() };
    let at_hub = Place::start(hub.clone(), listens).await;
    let place = Place::start(us.clone(), Leaf::Connects { ports: vec![port], login: login("us") }).await;
    let links = Some(Links { hub: hub.clone(), others: vec![here.clone()] });
    place.apply(&Topology::for_region(&us, &Options { links, ..Options::laptop() })).await;
    let link = Link::to(port).await.unwrap();
    let region = Region::start_linked(&link).await;
    at_hub.apply(&Topology::for_hub(&hub, &[here, us], &Options::laptop())).await;
    link.cut();
    let (webhooks, twilio) = (Webhooks::start().await.unwrap(), twilio().await);
    region.category("orders", json!({"class": "transactional"})).await;
    region.recipient("hook", &[(Channel::Webhook, &webhooks.url("/"))], json!({})).await;
    let state = region.recipient("phone", &[(Channel::Sms, "+821012345678")], json!({})).await;
    let settings = settings(&twilio);
    let before = region.dispatcher(&settings);
    region.accept(&intake("n-1", &["hook"], state)).await;
    let last = region.event("n-1", EventType::Delivered).await;
    region.drained().await;
    before.end().await;

    let old = |id: &str| {
        let mut old = intake(id, &["phone"], state);
        old.notification.accepted_at = last.at;
        old
    };
    place.takes_over("n-3").await;
    silence_since(last.at).await;
    let back = region.dispatcher(&settings);
    region.accept(&old("n-2")).await;
    let held = region.event("n-2", EventType::Retried).await;
    assert_eq!((held.reason.as_deref(), twilio.count()), (Some("taken_over_unknown"), 0));

    link.heal();
    let doubt = region.subjects.limit("doubt");
    eventually("there is no doubt any more", async || {
        let stands = region.connection.last_of(LIMITS, &doubt).await.unwrap();
        stands.is_some_and(|stands| &stands.payload[..] == b"0")
    })
    .await;
    region.accept(&old("n-3")).await;
    let left = region.event("n-3", EventType::Cancelled).await;
    assert_eq!(left.reason.as_deref(), Some(TAKEN_OVER));
    region.accept(&old("n-4")).await;
    region.event("n-4", EventType::Sent).await;
    assert_eq!(twilio.count(), 1);
    back.end().await;
}
