//! The disk of `peal up` fills and is freed: everything resumes without anybody's help.

use std::time::Duration;

use tokio::time::timeout;

use crate::disk::SmallDisk;
use crate::up::Place;

const NATS: &str = "nats-server";
/// The slowest machine, with other tests beside.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test]
async fn everything_resumes_by_itself_when_there_is_room_again() {
    let place = Place::new();
    let Some(disk) = SmallDisk::mount(place.path().join(".peal")).unwrap() else { return };
    let mut up = place.up(&["--json"]);
    up.ready().await;
    let before = place.pids();
    assert!(disk.folder().join("nats-server/jetstream").is_dir(), "the streams are not on the small disk");

    let balloon = disk.fill().unwrap();
    // What still fits into blocks that are allotted is taken; then it is refused.
    sent(&place, "full", false).await;
    up.says("nats-server is unwell").await;
    assert_eq!(place.pids().get(NATS), before.get(NATS), "it is started again only when there is room");

    balloon.burst().unwrap();
    up.says("there is room on the disk: restarting nats-server").await;
    up.says("nats-server runs again").await;
    sent(&place, "again", true).await;
    assert_ne!(place.pids().get(NATS), before.get(NATS));
    up.stopped_by("INT").await;
}

/// Sends until sending succeeds, or until it fails.
async fn sent(place: &Place, id: &str, wanted: bool) {
    let sending = async {
        let mut n = 0;
        while (place.send(&format!("{id}-{n}")).await.code == Some(0)) != wanted {
            n += 1;
        }
    };
    timeout(LIMIT, sending).await.unwrap_or_else(|_| panic!("in time: sending succeeds: {wanted}"));
}
