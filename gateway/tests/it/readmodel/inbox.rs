//! Inboxes: listed, marked, watched, resumed and forgotten; the newest items are kept.

use peal_common::envelope::{InboxEntry, InboxMark};
use peal_gateway::readmodel::InboxItem;

use super::{Streams, app, at, item, mark, recipient};
use crate::harness::LIMIT;

fn items(found: &[InboxItem]) -> Vec<&str> {
    found.iter().map(|item| item.sealed.as_str()).collect()
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
