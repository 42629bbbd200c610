//! Servers that recipients bring along: those of webhooks, and the push services of browsers.
//!
//! Nobody here has an account with them, and any of them may be a private machine, hang, or not be there. So each call is
//! checked and bounded, and one that is in trouble is left alone: it must not keep the deliveries to all others waiting
//! behind its own. What is meant for it counts as tried, since its trouble is the recipient's, and has its usual waits; but
//! nobody waits for an answer that does not come, save one delivery now and then. A push service that refuses our key is
//! another matter: that trouble is ours, and burns no attempts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use ipnet::IpNet;
use jiff::Timestamp;
use peal_common::clock::Clock;
use peal_common::outcome::Outcome;
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use super::breaker::{self, Breaker, Opened};
use super::outcomes::{permanent, retry};
use super::target::{self, Hosts, Resolver, Targets};
use super::{CIRCUIT_OPEN, ConfigError, http as shared};

/// How long looking up a name, connecting and the TLS handshake may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How much of an answer's body is read (and dropped) to save its connection.
const MAX_BODY_BYTES: u64 = 64 * 1024;
/// How long that may take. The status has decided by then, so nobody should wait for a dawdling body.
const DRAIN_LIMIT: Duration = Duration::from_millis(500);
/// The most servers in trouble that are remembered, some 200 bytes each.
const CAPACITY: usize = 10_000;
/// How many of them are forgotten at once when there are more, so that not each new one has all of them looked through.
const FORGOTTEN: usize = CAPACITY / 10;

/// Calls servers of recipients. One client serves all of them and keeps their connections.
#[derive(Debug)]
pub(crate) struct Endpoints {
    http: reqwest::Client,
    targets: Targets,
    circuits: Circuits,
    clock: Clock,
    timeout: Duration,
}

impl Endpoints {
    /// A call takes at most `timeout`, from looking up the name to the answer's status. `allowed` are networks that may be
    /// called although they are not public, `hosts` names that are known without asking for them.
    ///
    /// # Errors
    /// [`ConfigError`] when TLS can't be set up.
    pub(crate) fn new(
        timeout: Duration,
        allowed: Vec<IpNet>,
        hosts: Hosts,
        clock: Clock,
    ) -> Result<Self, ConfigError> {
        let targets = Targets::new(allowed);
        let http = shared::client_builder()?
            .connect_timeout(timeout.min(CONNECT_LIMIT))
            .dns_resolver(Resolver::new(targets.clone(), hosts))
            .build()
            .map_err(ConfigError::Http)?;
        Ok(Endpoints { http, targets, circuits: Circuits::default(), clock, timeout })
    }

    /// Refuses a URL whose host is a private address. What a name leads to is looked at when it is called.
    ///
    /// # Errors
    /// The outcome of a call.
    pub(crate) fn check(&self, url: &Url) -> Result<(), Outcome> {
        self.targets.check_literal(url).map_err(|_| permanent("private_target"))
    }

    /// Why a server that refuses whoever calls is left alone, if there is one.
    pub(crate) fn refused(&self) -> Option<Opened> {
        self.circuits.refused()
    }

    /// Makes a call, unless the server is left alone. Whether it got a request that it did not answer does not matter: the
    /// same one may be made again.
    pub(crate) async fn call(
        &self,
        request: reqwest::Request,
        of_answer: impl FnOnce(StatusCode, &HeaderMap, Timestamp) -> Outcome,
    ) -> Outcome {
        let url = request.url().clone();
        // Handed on as a pointer, or each step of the way would have room for it.
        let call = std::pin::pin!(self.answer(request, of_answer));
        self.circuits.call(&url, &self.clock, call).await
    }

    async fn answer(
        &self,
        request: reqwest::Request,
        of_answer: impl FnOnce(StatusCode, &HeaderMap, Timestamp) -> Outcome,
    ) -> Outcome {
        let deadline = Instant::now() + self.timeout;
        let response = match timeout_at(deadline, self.http.execute(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                return target::refusal(&error).unwrap_or_else(|| shared::NoAnswer::of(&error).repeatable());
            }
            Err(_) => return retry("timeout", None),
        };
        let outcome = of_answer(response.status(), response.headers(), self.clock.now());
        // A body that does not end in time costs its connection and nothing else.
        let _ = timeout(DRAIN_LIMIT, shared::discard_capped(response, MAX_BODY_BYTES)).await;
        outcome
    }
}

/// The circuits of servers that are in trouble. One that works is not remembered.
#[derive(Debug, Default)]
struct Circuits(Mutex<HashMap<String, Circuit>>);

#[derive(Debug)]
struct Circuit {
    breaker: Arc<Breaker>,
    /// When a message was meant for it last.
    asked: Instant,
}

impl Circuits {
    /// Makes a call to the server of `url`, unless that is left alone.
    async fn call(&self, url: &Url, clock: &Clock, call: impl Future<Output = Outcome>) -> Outcome {
        let server = url.origin().ascii_serialization();
        let Some(breaker) = self.known(&server) else {
            let outcome = call.await;
            if breaker::is_trouble(&outcome)
                && let Ok(admission) = self.remember(server).admit(Duration::ZERO).await
            {
                admission.settle(&outcome, clock.now());
            }
            return outcome;
        };
        let outcome = match breaker.admit(Duration::ZERO).await {
            Ok(admission) => {
                let outcome = call.await;
                match admission.settle(&outcome, clock.now()) {
                    Some(opened) if is_refusal(&opened) => return opened.held_back(),
                    _ => outcome,
                }
            }
            Err(opened) if is_refusal(&opened) => return opened.held_back(),
            Err(opened) => return retry(format!("{CIRCUIT_OPEN}: {}", opened.cause), Some(opened.left)),
        };
        if breaker.is_spotless() {
            self.lock().remove(&server);
        }
        outcome
    }

    fn refused(&self) -> Option<Opened> {
        let servers = self.lock();
        let opened = servers.values().filter_map(|circuit| circuit.breaker.opened());
        // One that nobody asks any more says nothing about now.
        opened.filter(|opened| !opened.left.is_zero()).find(is_refusal)
    }

    fn known(&self, server: &str) -> Option<Arc<Breaker>> {
        let mut servers = self.lock();
        let circuit = servers.get_mut(server)?;
        circuit.asked = Instant::now();
        Some(Arc::clone(&circuit.breaker))
    }

    fn remember(&self, server: String) -> Arc<Breaker> {
        let mut servers = self.lock();
        if servers.len() >= CAPACITY && !servers.contains_key(&server) {
            make_room(&mut servers);
        }
        let asked = Instant::now();
        let circuit = servers.entry(server).or_insert_with(|| Circuit { breaker: Arc::default(), asked });
        Arc::clone(&circuit.breaker)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Circuit>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets those that are missed least: such as failed a few times before those that are left alone, and of each what nobody has
/// asked for the longest. One that is still in trouble when it is called again is remembered again.
fn make_room(servers: &mut HashMap<String, Circuit>) {
    let rank = |circuit: &Circuit| (circuit.breaker.opened().is_some(), circuit.asked);
    let mut ranks: Vec<_> = servers.values().map(rank).collect();
    let place = FORGOTTEN.min(ranks.len().saturating_sub(1));
    let (_, limit, _) = ranks.select_nth_unstable(place);
    let (limit, mut left) = (*limit, FORGOTTEN);
    // Several may have the same rank: no more of them than needed.
    servers.retain(|_, circuit| {
        let goes = left > 0 && rank(circuit) <= limit;
        left -= usize::from(goes);
        !goes
    });
}

/// Whether a server that answers did not want to be called by us, as its status says.
fn is_refusal(opened: &Opened) -> bool {
    matches!(opened.cause.as_str(), "http_401" | "http_403")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::time::sleep;

    use super::*;

    #[derive(Default)]
    struct Calls {
        circuits: Circuits,
        made: AtomicU32,
    }

    impl Calls {
        async fn call(&self, url: &str, outcome: &Outcome) -> Outcome {
            let call = async {
                self.made.fetch_add(1, Ordering::Relaxed);
                outcome.clone()
            };
            self.circuits.call(&url.parse().unwrap(), &Clock::System, call).await
        }

        fn made(&self) -> u32 {
            self.made.swap(0, Ordering::Relaxed)
        }
    }

    fn arrived() -> Outcome {
        Outcome::Delivered { provider_id: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_is_left_alone_and_the_others_are_not() {
        let calls = Calls::default();
        let silent = retry("timeout", None);
        for _ in 0..10 {
            assert_eq!(calls.call("https://a.example/x", &silent).await, silent);
        }
        assert_eq!(calls.made(), 10);
        let Outcome::Retry { reason, after } = calls.call("https://a.example/y", &arrived()).await else {
            panic!("it is called");
        };
        assert_eq!((reason.as_str(), calls.made()), ("circuit_open: timeout", 0));
        let left = after.unwrap();
        assert!(left > Duration::from_secs(4) && left < Duration::from_secs(6), "{left:?}");
        for other in ["https://a.example:8443/x", "http://a.example/x", "https://b.example/x"] {
            assert_eq!(calls.call(other, &arrived()).await, arrived());
        }
        assert_eq!(calls.made(), 3);

        sleep(left).await;
        assert_eq!(calls.call("https://a.example/y", &arrived()).await, arrived());
        assert_eq!(calls.made(), 1);
        assert!(calls.circuits.lock().is_empty(), "what works is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_push_service_that_takes_our_key_from_nobody_is_left_alone() {
        let calls = Calls::default();
        let refused = retry("http_403", None);
        for _ in 0..10 {
            assert_eq!(calls.call("https://push.example/x", &refused).await, refused);
        }
        // From here on nobody burns an attempt, not even whoever asks whether it has changed its mind.
        let held_back = |outcome| match outcome {
            Outcome::HeldBack { reason, after } if reason == "circuit_open: http_403" => after.unwrap(),
            other => panic!("{other:?}"),
        };
        let left = held_back(calls.call("https://push.example/x", &refused).await);
        assert_eq!(calls.circuits.refused().unwrap().cause, "http_403");
        sleep(left).await;
        held_back(calls.call("https://push.example/x", &refused).await);
        assert_eq!(calls.made(), 11);
        sleep(Duration::from_secs(60)).await;
        assert_eq!(calls.call("https://push.example/x", &arrived()).await, arrived());
        assert_eq!(calls.circuits.refused(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn one_answer_in_between_shows_that_it_works() {
        let calls = Calls::default();
        for _ in 0..3 {
            for _ in 0..9 {
                calls.call("https://a.example/x", &retry("connect_failed", None)).await;
            }
            calls.call("https://a.example/x", &arrived()).await;
            assert_eq!(calls.made(), 10);
        }
        assert!(calls.circuits.lock().is_empty());
    }

    #[tokio::test]
    async fn no_more_than_so_many_servers_are_remembered() {
        let calls = Calls::default();
        for n in 0..CAPACITY + 5 {
            calls.call(&format!("https://{n}.example/"), &retry("dns_failed", None)).await;
        }
        let remembered = CAPACITY - FORGOTTEN + 5;
        assert_eq!(calls.circuits.lock().len(), remembered, "they make room for others");
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_made_by_those_that_are_missed_least() {
        let calls = Calls::default();
        let silent = retry("timeout", None);
        let fail = async |name: String, times: usize| {
            for _ in 0..times {
                calls.call(&format!("https://{name}.example/"), &silent).await;
            }
        };
        fail("open".to_owned(), 10).await;
        for n in 0..CAPACITY - 1 {
            fail(n.to_string(), 1).await;
        }
        sleep(Duration::from_secs(1)).await;
        fail("0".to_owned(), 1).await;
        calls.made();
        // One more than there is room for is left alone like any other.
        fail("late".to_owned(), 11).await;
        assert_eq!(calls.made(), 10, "its circuit is open");
        let servers = calls.circuits.lock();
        assert_eq!(servers.len(), CAPACITY - FORGOTTEN + 1);
        for kept in ["open", "0", "late"] {
            assert!(servers.contains_key(&format!("https://{kept}.example")), "{kept}");
        }
    }
}
