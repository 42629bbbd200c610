//! `peal tail`.

use peal_common::clock::Clock;
use peal_common::envelope::{Envelope as _, Intake};
use peal_common::event::{Event, EventType};
use peal_nats::connect::{Connection, Options, connect};
use peal_nats::publish::Outgoing;
use peal_nats::subjects::Subjects;

use crate::support::Region;

async fn connection(region: &Region) -> Connection {
    connect(&Options::new([region.server.url()], "local".parse().unwrap(), "test")).await.unwrap()
}

async fn publish(connection: &Connection, kind: EventType, notification: &str) {
    let app = "shop".parse().unwrap();
    let mut event = Event::new(kind, Clock::System.now(), app, notification.parse().unwrap());
    event.recipient = Some("u-42".parse().unwrap());
    event.reason = Some("because".to_owned());
    let subject = Subjects::new(&connection.region).event(kind.as_str(), None, "shop");
    connection.publish(Outgoing::new(subject, event.encode().unwrap())).await.unwrap();
}

#[tokio::test]
async fn events_and_acceptances_of_the_last_minutes_are_shown_and_filtered() {
    let region = Region::with_streams().await;
    let connection = connection(&region).await;
    let golden = include_str!("../../../common/golden/intake-v1.json");
    let intake = Intake::decode(golden.as_bytes()).unwrap();
    let priority = intake.notification.priority;
    let subject = Subjects::new(&connection.region).intake(priority, intake.notification.app.as_str());
    connection.publish(Outgoing::new(subject, intake.encode().unwrap())).await.unwrap();
    publish(&connection, EventType::Sent, "n-1").await;
    publish(&connection, EventType::Failed, "n-2").await;

    let all = region.run(["tail", "--since", "10m", "--count", "3"]).await.exits(0);
    for said in [intake.notification.id.as_str(), "accepted", "shop/n-1  to u-42  because because", "failed"]
    {
        assert!(all.stdout.contains(said), "{said} is not in\n{}", all.stdout);
    }
    let one = region.run(["--json", "tail", "--since", "10m", "--notification", "n-2", "--count", "1"]).await;
    let one = one.exits(0).json();
    assert_eq!((one["type"].as_str(), one["notification"].as_str()), (Some("failed"), Some("n-2")));
    let typed =
        region.run(["tail", "--since", "10m", "--type", "sent,opened", "--count", "1"]).await.exits(0);
    assert!(typed.stdout.contains("n-1"), "{}", typed.stdout);
}

#[tokio::test]
async fn a_region_without_streams_is_told_and_not_waited_for() {
    let region = Region::start().await;
    let ran = region.run(["tail"]).await.exits(1);
    assert!(ran.stderr.contains("INTAKE"), "{}", ran.stderr);
}
