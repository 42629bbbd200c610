//! Providers behind Toxiproxy, which spoils connections as it is told: whatever becomes of a request, one attempt sends it
//! once.

use std::net::SocketAddr;

use futures_util::future::join_all;
use peal_common::outcome::Outcome;
use peal_dispatcher::recording::{self, Answer, Request, Webhooks};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::fixture::{SOON, ambiguous, retry};
use super::peers::Peer;
use super::senders::{Provider, Sender};
use super::smtp::{sent, settings_at, smtp, to};

/// A time limit of clients that nobody should reach, and one that is meant to be reached.
const PATIENT: u64 = 15;
const HASTY: u64 = 2;
/// Longer than any client waits, in milliseconds.
const FOR_EVER: u64 = 60_000;
const UP: &str = "upstream";
const DOWN: &str = "downstream";

/// Toxiproxy with its API.
struct Toxiproxy(Peer);

impl Toxiproxy {
    async fn start() -> Option<Self> {
        Peer::toxiproxy().await.map(Toxiproxy)
    }

    /// A proxy to a server; its port.
    async fn before(&self, server: SocketAddr) -> u16 {
        let name = server.port().to_string();
        let wanted = json!({"name": name, "listen": "127.0.0.1:0", "upstream": server.to_string()});
        let proxy = self.0.post("/proxies", &wanted).await;
        proxy["listen"].as_str().unwrap().parse::<SocketAddr>().unwrap().port()
    }

    /// Spoils what goes to a server (`UP`) or comes from it (`DOWN`), on open connections too.
    async fn spoil(&self, server: SocketAddr, stream: &str, toxic: &str, attributes: Value) {
        let path = format!("/proxies/{}/toxics", server.port());
        let toxic = json!({"type": toxic, "stream": stream, "toxicity": 1.0, "attributes": attributes});
        self.0.post(&path, &toxic).await;
    }

    /// No longer spoils it so.
    async fn mend(&self, server: SocketAddr, stream: &str, toxic: &str) {
        self.0.delete(&format!("/proxies/{}/toxics/{toxic}_{stream}", server.port())).await;
    }

    async fn end(self) {
        // What it tells is its own log.
        self.0.end().await;
    }
}

/// A provider that records and takes everything, and a client of it on the far side of the proxy.
struct Line {
    provider: Provider,
    server: Webhooks,
    sender: Sender,
}

impl Line {
    async fn new(proxy: &Toxiproxy, provider: Provider, timeout_seconds: u64) -> Self {
        let server = Webhooks::start().await.unwrap();
        let success = provider.success();
        let headers = success.headers.as_object().unwrap().iter();
        let answer = headers
            .fold(Answer::status(success.status).body(success.body), |answer, (name, value)| {
                answer.header(name, value.as_str().unwrap())
            });
        server.answer(answer);
        let base_url = format!("http://127.0.0.1:{}", proxy.before(server.address()).await);
        let sender = Sender::new(provider, &base_url, timeout_seconds).await;
        Line { provider, server, sender }
    }

    async fn sends(&self) {
        assert_eq!(self.sender.send().await, self.provider.success().outcome, "{:?}", self.provider);
    }

    fn requests(&self) -> Vec<Request> {
        self.server.received()
    }
}

/// All providers with clients of their own, at the same time.
async fn each<F: Future<Output = ()>>(proxy: &Toxiproxy, timeout_seconds: u64, test: impl Fn(Line) -> F) {
    let test = &test;
    let all =
        Provider::ALL.map(async |provider| test(Line::new(proxy, provider, timeout_seconds).await).await);
    timeout(SOON * 3, join_all(all)).await.expect("nobody hangs");
}

#[tokio::test]
async fn an_answer_beyond_the_limit_is_none() {
    let Some(proxy) = Toxiproxy::start().await else { return };
    each(&proxy, HASTY, async |line| {
        proxy.spoil(line.server.address(), DOWN, "latency", json!({"latency": FOR_EVER})).await;
        let started = Instant::now();
        assert_eq!(line.sender.send().await, line.provider.unanswered("timeout"), "{:?}", line.provider);
        assert!(started.elapsed() < SOON);
        assert_eq!(line.server.wait_for(1, SOON).await.unwrap().len(), 1, "{:?}", line.provider);
    })
    .await;
    proxy.end().await;
}

#[tokio::test]
async fn a_slow_answer_within_the_limit_is_waited_for() {
    let Some(proxy) = Toxiproxy::start().await else { return };
    each(&proxy, PATIENT, async |line| {
        for stream in [UP, DOWN] {
            proxy.spoil(line.server.address(), stream, "latency", json!({"latency": 200})).await;
        }
        line.sends().await;
        assert_eq!(line.requests().len(), 1, "{:?}", line.provider);
    })
    .await;
    proxy.end().await;
}

#[tokio::test]
async fn a_connection_that_swallows_everything_costs_no_more_than_the_time_limit() {
    let Some(proxy) = Toxiproxy::start().await else { return };
    for (stream, seen) in [(UP, 0), (DOWN, 1)] {
        each(&proxy, HASTY, async |line| {
            // Zero: it stays open, and nothing gets through.
            proxy.spoil(line.server.address(), stream, "timeout", json!({"timeout": 0})).await;
            let outcome = line.sender.send().await;
            assert_eq!(outcome, line.provider.unanswered("timeout"), "{:?} {stream}", line.provider);
            assert_eq!(line.server.wait_for(seen, SOON).await.unwrap().len(), seen, "{:?}", line.provider);
        })
        .await;
    }
    proxy.end().await;
}

#[tokio::test]
async fn what_comes_in_slices_is_put_together_again() {
    let Some(proxy) = Toxiproxy::start().await else { return };
    each(&proxy, PATIENT, async |line| {
        line.sends().await;
        for stream in [UP, DOWN] {
            let slices = json!({"average_size": 8, "size_variation": 4, "delay": 10});
            proxy.spoil(line.server.address(), stream, "slicer", slices).await;
        }
        line.sends().await;
        let [whole, sliced] = line.requests().try_into().unwrap();
        assert_eq!((whole.path, whole.body), (sliced.path, sliced.body), "{:?}", line.provider);
    })
    .await;
    proxy.end().await;
}

#[tokio::test]
async fn a_reset_connection_is_no_reason_to_send_twice() {
    let Some(proxy) = Toxiproxy::start().await else { return };
    each(&proxy, PATIENT, async |line| {
        // A connection that was good, so that the client trusts it.
        line.sends().await;
        proxy.spoil(line.server.address(), DOWN, "reset_peer", json!({"timeout": 0})).await;
        let outcome = line.sender.send().await;
        assert_eq!(outcome, line.provider.unanswered("connection_lost"), "{:?}", line.provider);
        proxy.mend(line.server.address(), DOWN, "reset_peer").await;
        line.sends().await;
        let count = line.requests().len();
        assert!((2..=3).contains(&count), "{:?}: {count}", line.provider);
    })
    .await;
    proxy.end().await;
}

#[tokio::test]
async fn what_is_cut_off_is_sent_once() {
    let Some(proxy) = Toxiproxy::start().await else { return };
    // Fewer bytes than any request or answer has, even one of HTTP/2 that leaves out what was said before.
    for (stream, bytes, seen) in [(UP, 20, 1), (DOWN, 5, 2)] {
        each(&proxy, PATIENT, async |line| {
            // Servers of HTTP/2 speak first: that has to be over before bytes are counted.
            line.sends().await;
            proxy.spoil(line.server.address(), stream, "limit_data", json!({"bytes": bytes})).await;
            let outcome = line.sender.send().await;
            let expected = line.provider.unanswered("connection_lost");
            assert_eq!(outcome, expected, "{:?} {stream}", line.provider);
            assert_eq!(line.server.wait_for(seen, SOON).await.unwrap().len(), seen, "{:?}", line.provider);
        })
        .await;
    }
    proxy.end().await;
}

#[tokio::test]
async fn an_email_is_sent_once_whatever_becomes_of_its_connection() {
    let Some(proxy) = Toxiproxy::start().await else { return };
    let slices = json!({"average_size": 8, "size_variation": 4, "delay": 10});
    let cases: [(&str, &str, Value, Result<(), Outcome>); 6] = [
        (DOWN, "latency", json!({"latency": FOR_EVER}), Err(retry("timeout"))),
        (DOWN, "timeout", json!({"timeout": 0}), Err(retry("timeout"))),
        (DOWN, "reset_peer", json!({"timeout": 0}), Err(retry("connection_lost"))),
        // Within the hello, and within the text, whose end nobody has seen for all that the client knows.
        (UP, "limit_data", json!({"bytes": 10}), Err(retry("connection_lost"))),
        (UP, "limit_data", json!({"bytes": 200}), Err(ambiguous("no_answer_after_data"))),
        (UP, "slicer", slices, Ok(())),
    ];
    for (stream, toxic, attributes, expected) in cases {
        let server = recording::Smtp::start().await.unwrap();
        let mut settings = settings_at(proxy.before(server.address()).await);
        settings.timeout_seconds = if expected == Err(retry("timeout")) { HASTY } else { PATIENT };
        let smtp = smtp(&settings);
        proxy.spoil(server.address(), stream, toxic, attributes).await;
        let fixture = to("kim@example.org");
        let outcome = timeout(SOON, smtp.send(&fixture.message())).await.expect("an outcome in time");
        let taken = usize::from(expected.is_ok());
        assert_eq!(outcome, expected.err().unwrap_or_else(|| sent(&fixture)), "{toxic} {stream}");
        assert_eq!((server.connections(), server.mails().len()), (1, taken), "{toxic} {stream}");

        proxy.mend(server.address(), stream, toxic).await;
        assert_eq!(smtp.send(&fixture.message()).await, sent(&fixture), "after {toxic} {stream}");
        assert_eq!(server.mails().len(), taken + 1, "{toxic} {stream}");
    }
    proxy.end().await;
}
