//! FCM as a user of HTTP/2, whose connections its server gives up. What all channels over HTTP/2 have in common is tested
//! with APNs.

use std::sync::Arc;

use peal_common::outcome::Outcome;
use peal_common::settings::FcmSettings;
use peal_dispatcher::recording::Fcm;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::apns_http2::tls;
use super::fcm::{client_with, device, settings};
use super::fixture::{SOON, clock, retry};
use super::http2_peer::{ENHANCE_YOUR_CALM, NO_ERROR, Peer};

const PUSHES: u32 = 10;
/// Of those the server has looked at so many when it gives the connection up.
const SEEN: usize = 4;

#[tokio::test]
async fn what_a_goaway_leaves_out_goes_over_the_next_connection() {
    let (acceptor, certificate) = tls("127.0.0.1", &[b"h2"]);
    let authority = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(authority.path(), certificate).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tokens = Fcm::start().await.unwrap();
    let settings = FcmSettings {
        base_url: format!("https://{}", listener.local_addr().unwrap()),
        tls_ca_file: Some(authority.path().to_owned()),
        ..settings(&tokens)
    };
    let client = Arc::new(client_with(&settings, clock()));
    let accept = || async {
        let stream = listener.accept().await.unwrap().0;
        Peer::accept(acceptor.accept(stream).await.unwrap(), Some(100)).await.unwrap()
    };
    let mut pushes = JoinSet::new();
    for number in 0..PUSHES {
        let client = Arc::clone(&client);
        pushes.spawn(async move { client.send(&device(number).message()).await });
    }
    let name = json!({ "name": "projects/shop-1042/messages/1" }).to_string();
    let server = async {
        let mut old = accept().await;
        let mut streams = old.requests(PUSHES as usize).await;
        streams.sort_unstable();
        old.go_away(streams[SEEN - 1], NO_ERROR).await;
        let mut new = accept().await;
        for stream in new.requests(PUSHES as usize - SEEN).await {
            new.answer_with(stream, &name).await;
        }
        // Of those that were looked at one is answered, and the others may have been taken.
        old.answer_with(streams[0], &name).await;
        old.go_away(streams[0], ENHANCE_YOUR_CALM).await;
        drop(old);
        new
    };
    let new = timeout(SOON, server).await.expect("a second connection");
    let outcomes = timeout(SOON, pushes.join_all()).await.expect("outcomes in time");
    let (sent, lost): (Vec<_>, Vec<_>) =
        outcomes.into_iter().partition(|outcome| matches!(outcome, Outcome::Sent { .. }));
    assert_eq!((sent.len(), lost), (PUSHES as usize - SEEN + 1, vec![retry("connection_lost"); SEEN - 1]));
    drop(client);
    timeout(SOON, new.closed()).await.expect("nothing else was sent");
}
