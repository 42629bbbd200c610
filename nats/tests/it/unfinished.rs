//! What has not ended is told from the streams, in whatever order they got what they hold.

use jiff::ToSpan as _;
use peal_common::channel::Channel;
use peal_common::envelope::{Envelope as _, Intake};
use peal_common::event::{Event, EventType, PlannedDelivery};
use peal_common::id::DeliveryId;
use peal_nats::publish::Outgoing;
use peal_nats::topology::{Current, EVENTS, INTAKE, Options, Topology, apply, plan};
use peal_nats::unfinished::unfinished;
use peal_nats::{Connection, Subjects};

use crate::support;

/// Its notification was accepted before this test began.
fn intake() -> Intake {
    Intake::decode(include_bytes!("../../../common/golden/intake-v1.json")).unwrap()
}

async fn publish_event(connection: &Connection, event: &Event) {
    let app = event.app.as_str();
    let subject = Subjects::new(&connection.region).event(event.kind.as_str(), event.channel, app);
    connection.publish(Outgoing::new(subject, event.encode().unwrap())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_counts_though_its_events_came_before_it() {
    let (_running, connection) = support::connected().await;
    let topology = Topology::for_region(&connection.region, &Options::laptop());
    let current = Current::read(&connection.jetstream, &topology).await.unwrap();
    apply(&connection.jetstream, &plan(&current, &topology), false).await.unwrap();

    let intake = intake();
    let notification = &intake.notification;
    let (app, id, recipient) = (&notification.app, &notification.id, &intake.targets[0].recipient);
    let planned = PlannedDelivery {
        delivery: DeliveryId::derive(app, id, recipient, Channel::Inbox, "", 0),
        recipient: recipient.clone(),
        channel: Channel::Inbox,
        contact: String::new(),
    };
    let at = notification.accepted_at.checked_add(1.second()).unwrap();
    let plan = Event {
        deliveries: vec![planned.clone()],
        ..Event::new(EventType::Planned, at, app.clone(), id.clone())
    };
    let delivered = Event {
        delivery: Some(planned.delivery),
        recipient: Some(planned.recipient),
        channel: Some(planned.channel),
        ..Event::new(EventType::Delivered, at, app.clone(), id.clone())
    };
    // As at the hub, where another link may bring the events first.
    publish_event(&connection, &plan).await;
    let accepted = Outgoing::new(
        Subjects::new(&connection.region).intake(notification.priority, app.as_str()),
        intake.encode().unwrap(),
    );
    let publish_accepted = async || {
        connection.publish(accepted.clone().id(&format!("{app}:{id}"))).await.unwrap();
        unfinished(&connection, &connection.region, |_, _| {}).await.unwrap()
    };
    let told = publish_accepted().await;
    assert_eq!((told.accepted, told.unfinished.len()), (1, 1));
    publish_event(&connection, &delivered).await;
    let told = publish_accepted().await;
    assert_eq!((told.accepted, told.unfinished.len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_counts_though_it_was_accepted_before_the_first_that_the_hub_got() {
    let (_running, hub) = support::connected().await;
    let regions = ["eu", "us"].map(|name| name.parse().unwrap());
    let eu = Subjects::new(&regions[0]);
    let mut topology = Topology::for_hub(&hub.region, &regions, &Options::laptop());
    topology.streams.retain(|stream| [INTAKE, EVENTS].contains(&stream.config.name.as_str()));
    for stream in &mut topology.streams {
        // As if the regions had handed it on.
        let all = if stream.config.name == INTAKE { eu.intake_all() } else { eu.event_all() };
        (stream.config.sources, stream.config.subjects) = (None, vec![all]);
    }
    let current = Current::read(&hub.jetstream, &topology).await.unwrap();
    apply(&hub.jetstream, &plan(&current, &topology), false).await.unwrap();

    let early = intake();
    let (app, id) = (early.notification.app.clone(), early.notification.id.clone());
    let mut late = intake();
    late.notification.id = "later".parse().unwrap();
    late.notification.accepted_at = early.notification.accepted_at.checked_add(1.hour()).unwrap();
    let publish = async |subject: String, intake: &Intake| {
        let id = format!("{app}:{}", intake.notification.id);
        hub.publish(Outgoing::new(subject, intake.encode().unwrap()).id(&id)).await.unwrap();
    };
    publish(eu.intake(late.notification.priority, app.as_str()), &late).await;
    let at = early.notification.accepted_at.checked_add(1.second()).unwrap();
    let failed = Event::new(EventType::Failed, at, app.clone(), id.clone());
    hub.publish(Outgoing::new(eu.of_event(&failed), failed.encode().unwrap())).await.unwrap();
    // It was missed, and is written again.
    publish(eu.again(INTAKE, 1), &early).await;
    // What ended before all that is known is not kept in mind.
    let at = early.notification.accepted_at.checked_sub(1.hour()).unwrap();
    let old = Event::new(EventType::Failed, at, app.clone(), "old".parse().unwrap());
    hub.publish(Outgoing::new(eu.of_event(&old), old.encode().unwrap())).await.unwrap();

    let told = unfinished(&hub, &regions[0], |_, _| {}).await.unwrap();
    assert_eq!(told.unfinished.len(), 2);
    let rest = told.unfinished.finish().rest;
    assert_eq!((told.accepted, rest.len(), rest[0].place), (2, 1, 1), "the first has ended");
}
