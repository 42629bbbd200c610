//! The disk of nats-server fills and is freed under `peal up`: everything resumes without anybody's help.

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
    let Some(disk) = SmallDisk::mount(place.path().join(".peal/nats-server")).unwrap() else { return };
    let mut up = place.up(&["--json"]);
    up.ready().await;
    let before = place.pids();
    assert!(disk.folder().join("jetstream").is_dir(), "the streams are not on the small disk");

    let balloon = disk.fill().unwrap();
    // What still fits into blocks that are allotted is taken, and a server complains of writes that it was asked for.
    tokio::select! {
        () = up.says("nats-server is unwell") => {}
        () = send_on(&place) => {}
    }
    assert_eq!(place.pids().get(NATS), before.get(NATS), "it is started again only when there is room");

    balloon.burst().unwrap();
    up.says("there is room on the disk: restarting nats-server").await;
    up.says("nats-server runs again").await;
    let sending = async {
        let mut n = 0;
        while place.send(&format!("again-{n}")).await.code != Some(0) {
            n += 1;
        }
    };
    timeout(LIMIT, sending).await.expect("sending does not succeed again");
    assert_ne!(place.pids().get(NATS), before.get(NATS));
    up.stopped_by("INT").await;
}

/// Sends, whatever becomes of it.
async fn send_on(place: &Place) {
    for n in 0.. {
        place.send(&format!("full-{n}")).await;
    }
}
