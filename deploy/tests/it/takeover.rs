//! `peal region takeover`: what its arguments change, and what its exit code says.

use jiff::SignedDuration;
use peal_common::channel::Priority;
use peal_common::clock::Clock;
use peal_common::envelope::{Envelope as _, Intake, WhenAmbiguous};
use peal_nats::publish::Outgoing;
use peal_nats::topology::INTAKE;
use peal_nats::{Connection, Subjects};

use crate::linked::{Linked, eventually};
use crate::support::Ran;

/// A notification as `eu` accepts it.
async fn accepted(eu: &Connection, id: &str) {
    let golden = include_str!("../../../common/golden/intake-v1.json");
    let mut intake = Intake::decode(golden.as_bytes()).unwrap();
    let now = Clock::System.now();
    intake.region = "eu".parse().unwrap();
    intake.send_at = None;
    intake.notification.id = id.parse().unwrap();
    intake.notification.accepted_at = now;
    intake.notification.expires_at = now + SignedDuration::from_hours(24);
    publish(eu, id, intake.encode().unwrap()).await;
}

async fn publish(eu: &Connection, id: &str, payload: impl Into<bytes::Bytes>) {
    let subject = Subjects::new(&eu.region).intake(Priority::Normal, "shop");
    let outgoing = Outgoing::new(subject, payload.into()).id(&format!("shop:{id}"));
    eu.publish(outgoing).await.unwrap();
}

/// Waits until the hub has a notification of `eu`.
async fn has(hub: &Connection, id: &str) {
    let subject = Subjects::new(&"eu".parse().unwrap()).intake(Priority::Normal, "shop");
    eventually("the hub has it", async || {
        let last = hub.last_of(INTAKE, &subject).await.ok().flatten();
        last.is_some_and(|last| last.header("Nats-Msg-Id") == Some(&format!("shop:{id}")))
    })
    .await;
}

/// Takes `eu` over into `us` once the hub has not heard of it for long enough.
async fn taken_over(linked: &Linked, arguments: &[&str]) -> Ran {
    let command = ["--json", "region", "takeover", "eu"];
    loop {
        let ran = linked.run("us", command.iter().chain(arguments).copied()).await;
        if !ran.stderr.contains("the hub heard of it") {
            break ran;
        }
    }
}

#[tokio::test]
async fn what_may_have_been_made_is_treated_as_told_and_what_cannot_be_taken_over_fails() {
    let mut linked = Linked::start(&["eu", "us"]).await;
    for name in ["eu", "us", "hub"] {
        linked.run(name, ["topology", "apply"]).await.exits(0);
    }
    let (hub, us) = (linked.connection("hub").await, linked.connection("us").await);
    let choices = [
        (vec![], WhenAmbiguous::ByChannel),
        (vec!["--ambiguous", "send"], WhenAmbiguous::Send),
        (vec!["--ambiguous", "put-aside"], WhenAmbiguous::PutAside),
    ];
    for (number, (arguments, expected)) in (1..).zip(choices) {
        let eu = linked.connection("eu").await;
        accepted(&eu, &format!("n-{number}")).await;
        has(&hub, &format!("n-{number}")).await;
        linked.server("eu").kill().await.unwrap();
        let done = taken_over(&linked, &arguments).await.exits(0).json();
        assert_eq!((&done["accepted"], &done["taken_over"]), (&number.into(), &1.into()), "{done}");
        let taken =
            us.message_at(INTAKE, us.stream_state(INTAKE).await.unwrap().last).await.unwrap().unwrap();
        let taken = Intake::decode(&taken.payload).unwrap();
        assert_eq!(taken.notification.id.as_str(), format!("n-{number}"));
        let takeover = taken.takeover.unwrap();
        assert_eq!((takeover.from.as_str(), takeover.when_ambiguous), ("eu", expected));
        linked.server("eu").restart().await.unwrap();
    }

    // A later version wrote it: whoever takes over must not believe that nothing is left.
    let eu = linked.connection("eu").await;
    publish(&eu, "n-4", r#"{"v":99}"#).await;
    has(&hub, "n-4").await;
    linked.server("eu").kill().await.unwrap();
    let done = taken_over(&linked, &[]).await.exits(1).json();
    assert_eq!((&done["taken_over"], &done["unreadable"]), (&0.into(), &1.into()), "{done}");
    let told = linked.run("us", ["region", "takeover", "eu"]).await.exits(1);
    assert!(told.stdout.contains("not taken over: 1, written by a newer version"), "{}", told.stdout);
    assert_eq!(us.stream_state(INTAKE).await.unwrap().messages, 3);
    linked.run("us", ["region", "takeover", "eu", "--ambiguous", "perhaps"]).await.exits(2);
}
