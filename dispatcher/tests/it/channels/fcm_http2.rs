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
use super::http2_peer::{NO_ERROR, Peer};

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
    let send = |number: u32| {
        let client = Arc::clone(&client);
        async move { client.send(&device(number).message()).await }
    };
    let name = json!({ "name": "projects/shop-1042/messages/1" }).to_string();
    let sent = Outcome::Sent { provider_id: Some("projects/shop-1042/messages/1".to_owned()) };
    let first = tokio::spawn(send(0));
    let server = async {
        let mut old = accept().await;
        let [stream] = old.requests(1).await.try_into().unwrap();
        old.answer_with(stream, &name).await;
        assert_eq!(first.await.unwrap(), sent);
        let pushes: JoinSet<_> = (1..4).map(send).collect();
        let mut streams = old.requests(3).await;
        streams.sort_unstable();
        old.go_away(streams[1], NO_ERROR).await;
        let mut new = accept().await;
        let [stream] = new.requests(1).await.try_into().unwrap();
        new.answer_with(stream, &name).await;
        // Of the two that were looked at one is answered, and the other one may have been taken.
        old.answer_with(streams[0], &name).await;
        (old, new, pushes)
    };
    let (old, new, mut pushes) = timeout(SOON, server).await.expect("a second connection");
    for _ in 0..2 {
        assert_eq!(timeout(SOON, pushes.join_next()).await.expect("an outcome").unwrap().unwrap(), sent);
    }
    drop(old);
    let lost = timeout(SOON, pushes.join_all()).await.expect("the last outcome");
    assert_eq!(lost, [retry("connection_lost")]);
    drop(client);
    timeout(SOON, new.closed()).await.expect("nothing else was sent");
}
