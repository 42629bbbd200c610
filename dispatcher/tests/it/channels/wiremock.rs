//! Providers that WireMock plays: what its HTTP server does that ours would not.

use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::future::join_all;
use peal_common::outcome::Outcome;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::fixture::{SOON, ambiguous, retry, retry_after};
use super::peers::Peer;
use super::senders::{Provider, Sender};

/// A time limit of clients that nobody should reach, and one that is meant to be reached.
const PATIENT: u64 = 15;
const HASTY: u64 = 3;
/// More than FCM's least wait, so that every provider's own wait counts.
const WAIT: u64 = 90;

/// WireMock with what it has been told to answer.
struct Wiremock {
    peer: Peer,
    used: AtomicU32,
}

impl Wiremock {
    async fn start() -> Option<Self> {
        let peer = Peer::wiremock().await?;
        Some(Wiremock { peer, used: AtomicU32::new(0) })
    }

    /// A part of it for one provider: a path that nothing else calls.
    async fn stage(&self, provider: Provider, timeout_seconds: u64) -> Stage<'_> {
        let name = format!("part-{}", self.used.fetch_add(1, Ordering::Relaxed));
        let base_url = format!("http://127.0.0.1:{}/{name}", self.peer.port);
        let sender = Sender::new(provider, &base_url, timeout_seconds).await;
        Stage { peer: &self.peer, provider, name, sender }
    }

    /// All providers at the same time, each with a part of its own.
    async fn each<'a, F: Future<Output = ()>>(&'a self, timeout_seconds: u64, test: impl Fn(Stage<'a>) -> F) {
        let test = &test;
        let all = Provider::ALL.map(async |it| test(self.stage(it, timeout_seconds).await).await);
        timeout(SOON * 3, join_all(all)).await.expect("nobody hangs");
    }

    /// Ends it; nobody may have called anything else.
    async fn end(self) {
        let unmatched =
            self.peer.post("/__admin/requests/count", &json!({"urlPattern": "/(?!part-|__admin).*"})).await;
        assert_eq!(unmatched["count"], 0);
        // What it prints is its own greeting.
        self.peer.end().await;
    }
}

struct Stage<'a> {
    peer: &'a Peer,
    provider: Provider,
    name: String,
    sender: Sender,
}

impl Stage<'_> {
    fn pattern(&self) -> Value {
        json!(format!("/{}(/.*)?", self.name))
    }

    /// Answers so from now on; `scenario` says in which state, and which one follows.
    async fn answers(&self, response: Value, scenario: Option<(&str, &str)>) {
        let mut stub = json!({
            "request": {"method": "POST", "urlPattern": self.pattern()},
            "response": response,
        });
        if let Some((state, next)) = scenario {
            stub["scenarioName"] = json!(self.name);
            stub["requiredScenarioState"] = json!(state);
            stub["newScenarioState"] = json!(next);
        }
        self.peer.post("/__admin/mappings", &stub).await;
    }

    fn success(&self) -> (Value, Outcome) {
        let success = self.provider.success();
        let response = json!({"status": success.status, "headers": success.headers, "body": success.body});
        (response, success.outcome)
    }

    async fn requests(&self) -> u64 {
        let all = json!({"method": "POST", "urlPattern": self.pattern()});
        self.peer.post("/__admin/requests/count", &all).await["count"].as_u64().unwrap()
    }

    /// Makes an attempt that is one request, and expects an outcome of it.
    async fn ends_in(&self, expected: Outcome, why: &str) {
        let before = self.requests().await;
        assert_eq!(self.sender.send().await, expected, "{:?}: {why}", self.provider);
        assert_eq!(self.requests().await, before + 1, "{:?}: {why}", self.provider);
    }
}

/// What follows from a success that can't have been the provider's.
fn unreadable(provider: Provider) -> Outcome {
    match provider {
        // An endpoint may say what it likes.
        Provider::Webhook => Outcome::Delivered { provider_id: None },
        Provider::Apns | Provider::Fcm => retry("unreadable_answer"),
        Provider::Sendgrid | Provider::Twilio => ambiguous("unreadable_answer"),
    }
}

#[tokio::test]
async fn the_wait_that_is_asked_for_is_taken_and_then_it_works() {
    let Some(wiremock) = Wiremock::start().await else { return };
    wiremock
        .each(PATIENT, async |stage| {
            let (success, taken) = stage.success();
            let seconds = json!({"status": 429, "headers": {"Retry-After": WAIT.to_string()}});
            // A minute and a half after the fixture's time.
            let date = json!({"status": 503, "headers": {"Retry-After": "Sun, 22 Nov 2026 12:01:30 GMT"}});
            stage.answers(seconds, Some(("Started", "date"))).await;
            stage.answers(date, Some(("date", "good"))).await;
            stage.answers(success, Some(("good", "good"))).await;
            stage.ends_in(retry_after("http_429", WAIT), "429").await;
            stage.ends_in(retry_after("http_503", WAIT), "503").await;
            stage.ends_in(taken.clone(), "success").await;
            stage.ends_in(taken, "success on a connection that is used again").await;
        })
        .await;
    wiremock.end().await;
}

#[tokio::test]
async fn a_broken_connection_is_no_answer_and_no_reason_to_send_twice() {
    let Some(wiremock) = Wiremock::start().await else { return };
    for fault in ["CONNECTION_RESET_BY_PEER", "EMPTY_RESPONSE", "RANDOM_DATA_THEN_CLOSE"] {
        wiremock
            .each(PATIENT, async |stage| {
                let (success, taken) = stage.success();
                stage.answers(success, Some(("Started", "good"))).await;
                stage.answers(json!({"fault": fault}), Some(("good", "mended"))).await;
                stage.answers(stage.success().0, Some(("mended", "mended"))).await;
                stage.ends_in(taken.clone(), "before").await;
                // On a connection that was good, and that the client therefore trusts.
                stage.ends_in(stage.provider.unanswered("connection_lost"), fault).await;
                stage.ends_in(taken, "after").await;
            })
            .await;
    }
    wiremock.end().await;
}

#[tokio::test]
async fn a_success_that_can_not_be_read_is_not_taken_for_one() {
    let Some(wiremock) = Wiremock::start().await else { return };
    let html = json!({"Content-Type": "text/html"});
    let answers = [
        json!({"status": 200, "headers": html, "body": "<html><body>Welcome to the hotel's network</body></html>"}),
        json!({"status": 200, "body": "{\"name\": \"projects/shop-1042/messages/1\", \"sid\": \"SM1"}),
        json!({"status": 200, "base64Body": "//79AAECAwQ="}),
        json!({"status": 200, "fault": "MALFORMED_RESPONSE_CHUNK"}),
    ];
    for answer in answers {
        wiremock
            .each(PATIENT, async |stage| {
                stage.answers(answer.clone(), None).await;
                stage.ends_in(unreadable(stage.provider), &answer.to_string()).await;
            })
            .await;
    }
    wiremock.end().await;
}

#[tokio::test]
async fn a_dribbled_answer_counts_if_it_ends_in_time() {
    let Some(wiremock) = Wiremock::start().await else { return };
    let dribbled = |mut answer: Value, milliseconds: u64| {
        // Long enough for many chunks, of which the first brings the head. JSON may end in spaces.
        let body = answer["body"].as_str().unwrap();
        if !body.is_empty() {
            answer["body"] = json!(format!("{body:<4000}"));
        }
        answer["chunkedDribbleDelay"] = json!({"numberOfChunks": 1000, "totalDuration": milliseconds});
        answer
    };
    wiremock
        .each(PATIENT, async |stage| {
            let (success, taken) = stage.success();
            stage.answers(dribbled(success, 1_000), None).await;
            stage.ends_in(taken, "in time").await;
        })
        .await;
    wiremock
        .each(HASTY, async |stage| {
            let (success, taken) = stage.success();
            stage.answers(dribbled(success, 60_000), None).await;
            // Where the head says it all, nobody waits for the rest.
            let expected = match stage.provider {
                Provider::Fcm | Provider::Twilio => unreadable(stage.provider),
                Provider::Webhook | Provider::Apns | Provider::Sendgrid => taken,
            };
            stage.ends_in(expected, "too late").await;
        })
        .await;
    wiremock.end().await;
}
