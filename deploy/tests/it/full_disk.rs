//! A disk fills and is freed under `peal up`: everything resumes without anybody's help.

use std::time::Duration;

use tokio::time::timeout;

use crate::disk::SmallDisk;
use crate::up::Place;

const NATS: &str = "nats-server";
/// The slowest machine, with other tests beside.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test]
async fn everything_resumes_by_itself_when_nats_server_has_room_again() {
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
    is_sent_again(&place).await;
    assert_ne!(place.pids().get(NATS), before.get(NATS));
    up.stopped_by("INT").await;
}

/// Gateway and dispatcher, whose copies are on the same disk, may be the first to find no room. Whoever it is, nothing is
/// taken any more until there is.
#[tokio::test]
async fn everything_resumes_by_itself_when_all_of_it_has_room_again() {
    let place = Place::new();
    let Some(disk) = SmallDisk::mount(place.path().join(".peal")).unwrap() else { return };
    let mut up = place.up(&["--json"]);
    up.ready().await;
    assert!(disk.folder().join("nats-server/jetstream").is_dir(), "the streams are not on the small disk");

    let balloon = disk.fill().unwrap();
    let refused = async {
        let mut n = 0;
        while place.send(&format!("full-{n}")).await.code == Some(0) {
            n += 1;
        }
    };
    timeout(LIMIT, refused).await.expect("a full disk does not show");

    balloon.burst().unwrap();
    is_sent_again(&place).await;
    up.stopped_by("INT").await;
}

async fn is_sent_again(place: &Place) {
    let sending = async {
        let mut n = 0;
        while place.send(&format!("again-{n}")).await.code != Some(0) {
            n += 1;
        }
    };
    timeout(LIMIT, sending).await.expect("sending does not succeed again");
}

/// Sends, whatever becomes of it.
async fn send_on(place: &Place) {
    for n in 0.. {
        place.send(&format!("full-{n}")).await;
    }
}
