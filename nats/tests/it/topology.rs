//! The topology against a real server: applied, altered, repaired, checked.

use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::stream::{DiscardPolicy, PersistenceMode, StorageType};
use async_nats::jetstream::{Context, consumer, stream};
use futures_util::StreamExt as _;
use peal_nats::subjects::Subjects;
use peal_nats::topology::{
    ApplyError, Current, DUE_CONSUMER, EVENTS, Finding, INTAKE, Kind, MaxBytes, Options, Plan, SCHEDULE,
    Topology, apply, check, metadata, plan,
};

use crate::support::{connected, region};

fn laptop() -> Topology {
    Topology::for_region(&region(), &Options::laptop())
}

async fn planned(jetstream: &Context, topology: &Topology) -> Plan {
    plan(&Current::read(jetstream, topology).await.unwrap(), topology)
}

async fn applied(jetstream: &Context, topology: &Topology) {
    apply(jetstream, &planned(jetstream, topology).await, false).await.unwrap();
}

async fn config_of(jetstream: &Context, stream: &str) -> stream::Config {
    jetstream.get_stream(stream).await.unwrap().cached_info().config.clone()
}

#[tokio::test]
async fn applying_twice_changes_nothing_the_second_time() {
    let (_running, connection) = connected().await;
    let (jetstream, topology) = (&connection.jetstream, laptop());
    let first = planned(jetstream, &topology).await;
    assert!(first.changes.iter().all(|change| change.kind == Kind::Create));
    apply(jetstream, &first, false).await.unwrap();
    let second = planned(jetstream, &topology).await;
    assert!(second.is_empty(), "{second}");
    // The first plan again: everything exists as desired.
    apply(jetstream, &first, false).await.unwrap();
    let report = check(jetstream, &topology).await.unwrap();
    assert!(report.is_ok(), "{report}");
}

#[tokio::test]
async fn the_bucket_is_one_for_every_client() {
    let (_running, connection) = connected().await;
    applied(&connection.jetstream, &laptop()).await;
    let bucket = connection.jetstream.get_key_value("state_test-1").await.unwrap();
    bucket.put("recipient.shop.u-1", "value".into()).await.unwrap();
    let value = bucket.get("recipient.shop.u-1").await.unwrap().unwrap();
    assert_eq!(value, "value");
}

#[tokio::test]
async fn what_waits_in_the_schedule_becomes_due() {
    let (_running, connection) = connected().await;
    let jetstream = &connection.jetstream;
    applied(jetstream, &laptop()).await;
    let subjects = Subjects::new(&region());
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Schedule", "@at 2020-01-01T00:00:00Z");
    headers.insert("Nats-Schedule-Target", subjects.due(&["retry", "d-1"]));
    let waiting = subjects.schedule(&["retry", "d-1"]);
    jetstream.publish_with_headers(waiting, headers, "body".into()).await.unwrap().await.unwrap();

    let consumer: PullConsumer = jetstream.get_consumer_from_stream(DUE_CONSUMER, SCHEDULE).await.unwrap();
    let mut messages =
        consumer.fetch().max_messages(1).expires(Duration::from_secs(5)).messages().await.unwrap();
    let message = messages.next().await.unwrap().unwrap();
    assert_eq!(message.subject.as_str(), "peal.test-1.due.retry.d-1");
    assert_eq!(message.payload, "body");
    message.double_ack().await.unwrap();
    let mut stream = jetstream.get_stream(SCHEDULE).await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 0);
}

#[tokio::test]
async fn an_altered_stream_is_shown_and_repaired() {
    let (_running, connection) = connected().await;
    let (jetstream, topology) = (&connection.jetstream, laptop());
    applied(jetstream, &topology).await;
    let mut altered = config_of(jetstream, INTAKE).await;
    altered.discard = DiscardPolicy::Old;
    altered.metadata.insert("team".to_owned(), "blue".to_owned());
    altered.metadata.insert(format!("{}enabled", metadata::MONITOR_PREFIX), "false".to_owned());
    jetstream.update_stream(altered).await.unwrap();
    jetstream.delete_consumer_from_stream("fanout_bulk", INTAKE).await.unwrap();
    let narrow = consumer::Config { max_ack_pending: 1, ..lane(&topology, "fanout_high") };
    jetstream.create_consumer_on_stream(narrow, INTAKE).await.unwrap();

    let plan = planned(jetstream, &topology).await;
    let shown = "~ update stream INTAKE\n    discard: \"old\" -> \"new\"\n    \
                 metadata.io.nats.monitor.enabled: \"false\" -> \"true\"\n\
                 ~ update consumer INTAKE/fanout_high\n    max_ack_pending: 1 -> 20000\n\
                 + create consumer INTAKE/fanout_bulk";
    assert_eq!(plan.to_string(), shown);
    assert_eq!(check(jetstream, &topology).await.unwrap().findings.len(), plan.changes.len());

    apply(jetstream, &plan, false).await.unwrap();
    let report = check(jetstream, &topology).await.unwrap();
    assert!(report.is_ok(), "{report}");
    assert_eq!(config_of(jetstream, INTAKE).await.metadata["team"], "blue");
}

fn lane(topology: &Topology, name: &str) -> consumer::Config {
    let lanes = &topology.stream(INTAKE).unwrap().consumers;
    lanes.iter().find(|lane| lane.durable_name.as_deref() == Some(name)).unwrap().clone()
}

#[tokio::test]
async fn what_destroys_is_refused_until_it_is_allowed() {
    let (_running, connection) = connected().await;
    let (jetstream, topology) = (&connection.jetstream, laptop());
    let mut in_memory = topology.stream(EVENTS).unwrap().config.clone();
    in_memory.storage = StorageType::Memory;
    jetstream.create_stream(in_memory).await.unwrap();

    let plan = planned(jetstream, &topology).await;
    let error = apply(jetstream, &plan, false).await.unwrap_err();
    assert!(matches!(error, ApplyError::Destructive(_)), "{error}");
    assert!(error.to_string().contains("storage: \"memory\" -> \"file\""), "{error}");
    assert!(jetstream.get_stream(INTAKE).await.is_err(), "something was changed all the same");

    apply(jetstream, &plan, true).await.unwrap();
    assert_eq!(config_of(jetstream, EVENTS).await.storage, StorageType::File);
    assert!(planned(jetstream, &topology).await.is_empty());
}

#[tokio::test]
async fn every_setting_that_counts_as_changeable_is_changed_by_the_server() {
    let (_running, connection) = connected().await;
    let jetstream = &connection.jetstream;
    applied(jetstream, &laptop()).await;
    // All options at once, in the direction that loses nothing.
    let before = Options::laptop();
    let options = Options {
        max_bytes: MaxBytes {
            intake: before.max_bytes.intake + 1,
            work: before.max_bytes.work + 1,
            events: before.max_bytes.events + 1,
            dead_letters: before.max_bytes.dead_letters + 1,
            attempts: before.max_bytes.attempts + 1,
            inbox: before.max_bytes.inbox + 1,
            state: before.max_bytes.state + 1,
        },
        duplicate_window: before.duplicate_window * 2,
        intake_max_age: before.intake_max_age * 2,
        events_max_age: before.events_max_age * 2,
        dead_letters_max_age: before.dead_letters_max_age * 2,
        inbox_max_age: before.inbox_max_age * 2,
        delete_marker_ttl: before.delete_marker_ttl * 2,
        ..before
    };
    let topology = Topology::for_region(&region(), &options);
    let plan = planned(jetstream, &topology).await;
    assert!(plan.changes.iter().all(|change| change.kind == Kind::Update), "{plan}");
    apply(jetstream, &plan, false).await.unwrap();
    assert!(planned(jetstream, &topology).await.is_empty());
    // And back, which may drop messages.
    let back = planned(jetstream, &laptop()).await;
    assert!(matches!(apply(jetstream, &back, false).await, Err(ApplyError::Destructive(_))));
    apply(jetstream, &back, true).await.unwrap();
    assert!(planned(jetstream, &laptop()).await.is_empty());
    // Without the sandbox its stream goes.
    let without = Topology::for_region(&region(), &Options { sandbox: false, ..Options::laptop() });
    let plan = planned(jetstream, &without).await;
    assert_eq!(plan.changes.len(), 1, "{plan}");
    apply(jetstream, &plan, true).await.unwrap();
    apply(jetstream, &plan, true).await.unwrap();
    assert!(check(jetstream, &without).await.unwrap().is_ok());
}

#[tokio::test]
async fn a_stream_that_acknowledges_before_storing_is_refused() {
    let (_running, connection) = connected().await;
    let (jetstream, topology) = (&connection.jetstream, laptop());
    let mut hasty = topology.stream(EVENTS).unwrap().config.clone();
    hasty.persist_mode = Some(PersistenceMode::Async);
    hasty.allow_atomic_publish = false;
    jetstream.create_stream(hasty).await.unwrap();
    let report = check(jetstream, &topology).await.unwrap();
    let refused = report
        .findings
        .iter()
        .any(|finding| matches!(finding, Finding::AcknowledgesBeforeStoring { stream } if stream == EVENTS));
    assert!(refused, "{report}");
    apply(jetstream, &planned(jetstream, &topology).await, true).await.unwrap();
    assert!(check(jetstream, &topology).await.unwrap().is_ok());
}

#[tokio::test]
async fn a_server_of_another_region_is_noticed() {
    let (_running, connection) = connected().await;
    let elsewhere = Topology::for_region(&"elsewhere".parse().unwrap(), &Options::laptop());
    let report = check(&connection.jetstream, &elsewhere).await.unwrap();
    let noticed = report.findings.iter().any(|finding| matches!(finding, Finding::WrongDomain { .. }));
    assert!(noticed, "{report}");
}
