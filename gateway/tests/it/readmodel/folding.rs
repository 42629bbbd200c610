//! What is folded in and when: what was just accepted is found, acceptance goes first, what is too old is removed.

use std::path::Path;
use std::time::Duration;

use peal_common::channel::Channel;
use peal_common::clock::Clock;
use peal_common::event::{EventType, Status};
use peal_gateway::readmodel::{EventFilter, Filter};
use peal_nats::publish::Outgoing;

use super::{Streams, about, app, at, fill, found_events, id, intake, recipient, searched};
use crate::harness::{LIMIT, eventually};

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
