//! APNs as a user of HTTP/2: limits of streams, connections that the server gives up, and TLS.

use std::collections::HashSet;
use std::sync::Arc;

use peal_common::outcome::Outcome;
use peal_common::settings::ApnsSettings;
use peal_dispatcher::channels::apns::Client;
use rcgen::{CertifiedKey, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::apns::{DEVICE, client, settings, to};
use super::fixture::{SOON, retry};
use super::http2_peer::{Did, ENHANCE_YOUR_CALM, NO_ERROR, Peer};

async fn listen() -> (TcpListener, Arc<Client>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(&settings(&format!("http://{}", listener.local_addr().unwrap())));
    (listener, Arc::new(client))
}

async fn accept(listener: &TcpListener, streams: Option<u32>) -> Peer<TcpStream> {
    Peer::accept(listener.accept().await.unwrap().0, streams).await.unwrap()
}

/// Sends so many pushes at once.
fn send(client: &Arc<Client>, count: u32) -> JoinSet<Outcome> {
    let mut pushes = JoinSet::new();
    for n in 0..count {
        let client = client.clone();
        pushes.spawn(async move { client.send(&to(DEVICE, n).message()).await });
    }
    pushes
}

async fn outcomes(pushes: JoinSet<Outcome>) -> Vec<Outcome> {
    timeout(SOON, pushes.join_all()).await.expect("outcomes in time")
}

fn sent() -> Outcome {
    Outcome::Sent { provider_id: Some("yes".to_owned()) }
}

#[tokio::test]
async fn one_connection_carries_many_pushes_at_once() {
    let (listener, client) = listen().await;
    let pushes = send(&client, 90);
    let server = async {
        let mut peer = accept(&listener, Some(1000)).await;
        let streams = peer.requests(90).await;
        for stream in streams.into_iter().rev() {
            peer.answer(stream).await;
        }
        peer
    };
    let peer = timeout(SOON, server).await.expect("all are under way at once");
    assert_eq!(outcomes(pushes).await, vec![sent(); 90]);
    drop((peer, client));
}

#[tokio::test]
async fn further_connections_are_opened_for_more() {
    let (listener, client) = listen().await;
    let pushes = send(&client, 150);
    let server = async {
        let mut first = accept(&listener, Some(1000)).await;
        let mut second = accept(&listener, Some(1000)).await;
        let streams = [first.requests(100).await, second.requests(50).await];
        for (peer, streams) in [&mut first, &mut second].into_iter().zip(streams) {
            for stream in streams {
                peer.answer(stream).await;
            }
        }
        (first, second)
    };
    let peers = timeout(SOON, server).await.expect("two connections");
    assert_eq!(outcomes(pushes).await, vec![sent(); 150]);
    drop((peers, client));
}

/// Apple allows one stream until it has seen a valid provider token.
#[tokio::test]
async fn a_limit_of_one_stream_is_obeyed_as_soon_as_it_is_known() {
    const PUSHES: u32 = 20;
    let (listener, client) = listen().await;
    let pushes = send(&client, PUSHES);
    let server = async {
        let mut peer = accept(&listener, Some(1)).await;
        let mut first = None;
        // What was begun before the client knew.
        loop {
            match peer.next().await.expect("the client is there") {
                Did::Opened(stream) if first.is_none() => first = Some(stream),
                Did::Opened(stream) => peer.refuse(stream).await,
                Did::Settled => break,
                Did::Asked(_) | Did::Ponged => {}
            }
        }
        let mut held = match first {
            Some(stream) => stream,
            None => opened(&mut peer).await,
        };
        for last in [false; PUSHES as usize - 1].into_iter().chain([true]) {
            // Nothing is opened beside the one that is held.
            peer.ping().await;
            loop {
                match peer.next().await.expect("the client is there") {
                    Did::Ponged => break,
                    Did::Opened(stream) => panic!("{stream} was opened beside {held}"),
                    Did::Asked(_) | Did::Settled => {}
                }
            }
            peer.answer(held).await;
            if !last {
                held = opened(&mut peer).await;
            }
        }
        peer
    };
    let peer = timeout(SOON, server).await.expect("one after the other");
    assert_eq!(outcomes(pushes).await, vec![sent(); PUSHES as usize]);
    drop((peer, client));
}

async fn opened(peer: &mut Peer<TcpStream>) -> u32 {
    loop {
        if let Did::Opened(stream) = peer.next().await.expect("the client is there") {
            return stream;
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_refused_now_and_then_is_sent_again() {
    let (listener, client) = listen().await;
    let pushes = send(&client, 20);
    let server = async {
        let mut peer = accept(&listener, Some(100)).await;
        let mut refused = HashSet::new();
        for stream in peer.requests(20).await {
            peer.refuse(stream).await;
            refused.insert(stream);
        }
        for stream in peer.requests(20).await {
            assert!(!refused.contains(&stream));
            peer.answer(stream).await;
        }
        peer
    };
    let peer = timeout(SOON, server).await.expect("each comes twice");
    assert_eq!(outcomes(pushes).await, vec![sent(); 20]);
    drop((peer, client));
}

/// The first connection, on which `count` pushes are under way.
async fn under_way(
    listener: &TcpListener,
    client: &Arc<Client>,
    count: u32,
) -> (Peer<TcpStream>, Vec<u32>, JoinSet<Outcome>) {
    let warm = send(client, 1);
    let mut peer = accept(listener, Some(100)).await;
    let [stream] = peer.requests(1).await.try_into().unwrap();
    peer.answer(stream).await;
    assert_eq!(outcomes(warm).await, [sent()]);
    let pushes = send(client, count);
    let mut streams = peer.requests(count as usize).await;
    streams.sort_unstable();
    (peer, streams, pushes)
}

#[tokio::test]
async fn what_a_goaway_leaves_out_goes_over_the_next_connection() {
    let (listener, client) = listen().await;
    let server = async {
        let (mut old, streams, pushes) = under_way(&listener, &client, 10).await;
        old.go_away(streams[3], NO_ERROR).await;
        let mut new = accept(&listener, Some(100)).await;
        for stream in new.requests(6).await {
            new.answer(stream).await;
        }
        // Those that were processed are answered where they were sent.
        for stream in &streams[..4] {
            old.answer(*stream).await;
        }
        (old, new, pushes)
    };
    let (old, new, pushes) = timeout(SOON, server).await.expect("a second connection");
    assert_eq!(outcomes(pushes).await, vec![sent(); 10]);
    timeout(SOON, old.closed()).await.expect("the old one is closed");
    drop(client);
    timeout(SOON, new.closed()).await.expect("nothing else was sent");
}

#[tokio::test]
async fn what_may_have_been_processed_is_left_to_the_delivery() {
    let (listener, client) = listen().await;
    let server = async {
        let (mut old, streams, pushes) = under_way(&listener, &client, 4).await;
        old.go_away(streams[1], NO_ERROR).await;
        let mut new = accept(&listener, Some(100)).await;
        for stream in new.requests(2).await {
            new.answer(stream).await;
        }
        drop(old);
        (new, pushes)
    };
    let (new, pushes) = timeout(SOON, server).await.expect("a second connection");
    let (good, lost): (Vec<_>, Vec<_>) =
        outcomes(pushes).await.into_iter().partition(|outcome| *outcome == sent());
    assert_eq!((good.len(), lost), (2, vec![retry("connection_lost"); 2]));
    drop((new, client));
}

#[tokio::test]
async fn after_a_goaway_in_anger_a_new_connection_serves() {
    let (listener, client) = listen().await;
    let server = async {
        let (mut old, _, pushes) = under_way(&listener, &client, 3).await;
        old.go_away(1, ENHANCE_YOUR_CALM).await;
        assert_eq!(outcomes(pushes).await, vec![retry("connection_lost"); 3]);
        let again = send(&client, 3);
        let mut new = accept(&listener, Some(100)).await;
        for stream in new.requests(3).await {
            new.answer(stream).await;
        }
        assert_eq!(outcomes(again).await, vec![sent(); 3]);
    };
    timeout(SOON, server).await.expect("a second connection");
}

/// TLS as a server with `name` has it, and its certificate as PEM.
pub fn tls(name: &str, protocols: &[&[u8]]) -> (TlsAcceptor, String) {
    let CertifiedKey { cert, signing_key } = issued(name);
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der()).into();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    (Arc::new(config).into(), cert.pem())
}

fn issued(name: &str) -> CertifiedKey<KeyPair> {
    rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap()
}

#[tokio::test]
async fn tls_wants_a_trusted_name_and_http_2() {
    let both: &[&[u8]] = &[b"http/1.1", b"h2"];
    let cases: [(&str, &[&[u8]], bool, Outcome); 4] = [
        ("127.0.0.1", both, true, sent()),
        ("127.0.0.1", both, false, retry("connect_failed")),
        ("push.example.com", both, true, retry("connect_failed")),
        ("127.0.0.1", &[b"http/1.1"], true, retry("connect_failed")),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (n, (name, protocols, trusted, expected)) in cases.into_iter().enumerate() {
        let (acceptor, certificate) = tls(name, protocols);
        let file = folder.path().join(format!("{n}.pem"));
        std::fs::write(&file, certificate).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = ApnsSettings {
            tls_ca_file: trusted.then_some(file),
            ..settings(&format!("https://{}", listener.local_addr().unwrap()))
        };
        let client = Arc::new(client(&settings));
        let pushes = send(&client, 1);
        let stream = listener.accept().await.unwrap().0;
        let server = async {
            // A client that does not like what it sees hangs up.
            let Ok(stream) = acceptor.accept(stream).await else { return };
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            let Ok(mut peer) = Peer::accept(stream, Some(1)).await else { return };
            let [stream] = peer.requests(1).await.try_into().unwrap();
            peer.answer(stream).await;
            peer.closed().await;
        };
        let (outcome, ()) = tokio::join!(
            async {
                let outcome = outcomes(pushes).await;
                drop(client);
                outcome
            },
            async { timeout(SOON, server).await.expect("the client comes to an end") }
        );
        assert_eq!(outcome, [expected], "{name} {trusted}");
    }
}
