//! Circuit breakers: an account at a provider that is out of order is left alone, and asked now and then whether it is back.
//!
//! While a circuit is open no delivery burns an attempt: deliveries wait in hand for a while, which keeps their lane from
//! taking more, and go back with the reason. Then one of them, the probe, finds out for all others.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rand::RngExt as _;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use peal_common::outcome::Outcome;

use super::CIRCUIT_OPEN;

/// So many failures in a row, without one answer in between that shows the provider at work, open a circuit.
const FAILURES: u32 = 10;
/// So many do when the first of them is as long ago as [`LONG`]. Where little is sent the same few deliveries fail again and
/// again, and would have no attempt left by the time that the others were counted.
const FEW_FAILURES: u32 = 3;
const LONG: Duration = Duration::from_secs(20);
/// The wait before the first probe. Each probe that fails doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// The longest wait between probes of our own accord.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// The longest wait that a provider may ask for.
const MAX_ASKED: Duration = Duration::from_secs(600);

/// The breaker of one account.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    circuit: Mutex<Circuit>,
    changed: Notify,
}

#[derive(Debug)]
enum Circuit {
    Closed(Failures),
    Open(Open),
}

impl Default for Circuit {
    fn default() -> Self {
        Circuit::Closed(Failures::default())
    }
}

/// Failures in a row.
#[derive(Debug, Default)]
struct Failures {
    count: u32,
    first: Option<Instant>,
}

impl Failures {
    /// Counts one more. Whether that is enough to open the circuit.
    fn add(&mut self) -> bool {
        let now = Instant::now();
        self.count += 1;
        let since = now.duration_since(*self.first.get_or_insert(now));
        self.count >= FAILURES || (self.count >= FEW_FAILURES && since >= LONG)
    }
}

#[derive(Debug)]
struct Open {
    cause: String,
    since: Timestamp,
    /// When the next probe may go.
    until: Instant,
    /// The wait of which that is the end.
    wait: Duration,
    is_probed: bool,
}

/// Why a circuit is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// What its provider said, as the outcome's reason has it.
    pub cause: String,
    /// Since when.
    pub since: Timestamp,
    /// How long until the next probe.
    pub left: Duration,
}

impl Opened {
    /// What comes of a delivery that finds it open.
    pub(crate) fn held_back(self) -> Outcome {
        Outcome::HeldBack { reason: format!("{CIRCUIT_OPEN}: {}", self.cause), after: Some(self.left) }
    }
}

/// What an outcome says about the account as a whole.
enum Verdict {
    Works,
    Nothing,
    Fails,
    OutOfOrder,
}

fn verdict(outcome: &Outcome) -> Verdict {
    match outcome {
        Outcome::Sent { .. }
        | Outcome::Delivered { .. }
        | Outcome::Permanent { .. }
        | Outcome::AddressDead { .. }
        | Outcome::AddressFull { .. } => Verdict::Works,
        Outcome::HeldBack { .. } => Verdict::Nothing,
        Outcome::Unavailable { .. } => Verdict::OutOfOrder,
        Outcome::Ambiguous { .. } => Verdict::Fails,
        Outcome::Retry { reason, .. } if is_general(reason) => Verdict::Fails,
        // It answers, and means this message, this recipient, or our pace.
        Outcome::Retry { .. } => Verdict::Works,
    }
}

/// The reasons to try again that are the provider's trouble rather than one message's. A push service that refuses our key
/// may mean one subscription, and everybody's if it goes on.
const GENERAL: [&str; 12] = [
    "connect_failed",
    "connection_lost",
    "dns_failed",
    "http_401",
    "http_403",
    "internal_server_error",
    "service_unavailable",
    "shutdown",
    "timeout",
    "tls_failed",
    "unexpected_answer",
    "unreadable_answer",
];
/// How others of them begin: the provider's 5xx, a mail server that hangs up, no access token for FCM, and what Aligo says of
/// a batch as a whole.
const GENERAL_PREFIXES: [&str; 4] = ["http_5", "smtp_421", "token_", "aligo_"];

fn is_general(reason: &str) -> bool {
    GENERAL.contains(&reason) || GENERAL_PREFIXES.iter().any(|prefix| reason.starts_with(prefix))
}

/// Whether an outcome speaks against whoever was called, rather than against one message.
pub(crate) fn is_trouble(outcome: &Outcome) -> bool {
    matches!(verdict(outcome), Verdict::Fails | Verdict::OutOfOrder)
}

impl Breaker {
    /// Lets a call pass, after waiting up to `patience` for a circuit to close.
    ///
    /// # Errors
    /// [`Opened`] when it is still open then.
    pub(crate) async fn admit(&self, patience: Duration) -> Result<Admission<'_>, Opened> {
        let deadline = Instant::now() + patience;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let next = match self.try_admit() {
                Ok(admission) => return Ok(admission),
                Err((opened, _)) if Instant::now() >= deadline => return Err(opened),
                Err((_, next)) => next.map_or(deadline, |next| next.min(deadline)),
            };
            tokio::select! {
                () = changed => {}
                () = sleep_until(next) => {}
            }
        }
    }

    /// When there may be another chance stands beside the reason: not while a probe is under way.
    fn try_admit(&self) -> Result<Admission<'_>, (Opened, Option<Instant>)> {
        let now = Instant::now();
        match &mut *self.lock() {
            Circuit::Closed(_) => Ok(Admission { breaker: Some(self), is_probe: false }),
            Circuit::Open(open) if !open.is_probed && open.until <= now => {
                open.is_probed = true;
                Ok(Admission { breaker: Some(self), is_probe: true })
            }
            Circuit::Open(open) => Err((open.opened(now), (!open.is_probed).then_some(open.until))),
        }
    }

    /// Whether nothing speaks against the account.
    pub(crate) fn is_spotless(&self) -> bool {
        matches!(&*self.lock(), Circuit::Closed(Failures { count: 0, .. }))
    }

    /// Why it is open, if it is.
    pub(crate) fn opened(&self) -> Option<Opened> {
        match &*self.lock() {
            Circuit::Closed(_) => None,
            Circuit::Open(open) => Some(open.opened(Instant::now())),
        }
    }

    /// Hears what became of a call long after it was made.
    pub(crate) fn hear(&self, outcome: &Outcome, at: Timestamp) {
        self.settle(false, outcome, at);
    }

    fn settle(&self, is_probe: bool, outcome: &Outcome, at: Timestamp) -> Option<Opened> {
        let verdict = verdict(outcome);
        let mut circuit = self.lock();
        let mut in_vain = None;
        match (&mut *circuit, verdict) {
            (Circuit::Closed(failures), Verdict::Works) => *failures = Failures::default(),
            (Circuit::Closed(_), Verdict::Nothing) => {}
            (Circuit::Closed(failures), Verdict::Fails) => {
                if failures.add() {
                    *circuit = Circuit::Open(Open::begin(outcome, at));
                }
            }
            (Circuit::Closed(_), Verdict::OutOfOrder) => *circuit = Circuit::Open(Open::begin(outcome, at)),
            // Calls that were under way when it opened say nothing new.
            (Circuit::Open(_), _) if !is_probe => return None,
            (Circuit::Open(_), Verdict::Works) => *circuit = Circuit::default(),
            (Circuit::Open(open), Verdict::Nothing) => open.is_probed = false,
            (Circuit::Open(open), Verdict::Fails | Verdict::OutOfOrder) => {
                open.go_on(outcome);
                in_vain = Some(open.opened(Instant::now()));
            }
        }
        drop(circuit);
        self.changed.notify_waiters();
        in_vain
    }

    fn probe_abandoned(&self) {
        if let Circuit::Open(open) = &mut *self.lock() {
            open.is_probed = false;
        }
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn begin(outcome: &Outcome, at: Timestamp) -> Self {
        let now = Instant::now();
        let mut open =
            Open { cause: String::new(), since: at, until: now, wait: FIRST_WAIT / 2, is_probed: false };
        open.go_on(outcome);
        open
    }

    /// A call failed: the next one after a longer wait, or after what the provider asked for.
    fn go_on(&mut self, outcome: &Outcome) {
        let (cause, asked) = match outcome {
            Outcome::Unavailable { reason, after } | Outcome::Retry { reason, after } => {
                (reason.as_str(), *after)
            }
            Outcome::Ambiguous { reason } => (reason.as_str(), None),
            _ => ("", None),
        };
        cause.clone_into(&mut self.cause);
        self.wait = (self.wait * 2).min(MAX_WAIT);
        let wait = self.wait.max(asked.unwrap_or_default().min(MAX_ASKED));
        // Dispatchers that saw the same failure at the same time need not ask at the same time.
        self.until = Instant::now() + wait.mul_f64(rand::rng().random_range(1.0..1.1));
        self.is_probed = false;
    }

    fn opened(&self, now: Instant) -> Opened {
        let left = self.until.saturating_duration_since(now);
        Opened { cause: self.cause.clone(), since: self.since, left }
    }
}

/// A call that may be made. One that is not settled says nothing.
#[derive(Debug)]
pub(crate) struct Admission<'a> {
    breaker: Option<&'a Breaker>,
    is_probe: bool,
}

impl Admission<'_> {
    /// For accounts without a breaker.
    pub(crate) const fn free() -> Self {
        Admission { breaker: None, is_probe: false }
    }

    /// What the call ended in, at that time. Where it was a probe and the circuit stays open, why and until when.
    pub(crate) fn settle(mut self, outcome: &Outcome, at: Timestamp) -> Option<Opened> {
        self.breaker.take()?.settle(self.is_probe, outcome, at)
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if let Some(breaker) = self.breaker
            && self.is_probe
        {
            breaker.probe_abandoned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channels::outcomes::{ambiguous, held_back, permanent, retry, unavailable};

    const AT: Timestamp = Timestamp::UNIX_EPOCH;
    const NONE: Duration = Duration::ZERO;

    fn sent() -> Outcome {
        Outcome::Sent { provider_id: None }
    }

    async fn call(breaker: &Breaker, outcome: Outcome) {
        breaker.admit(NONE).await.unwrap().settle(&outcome, AT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_failures_open_it_when_they_go_on_for_long() {
        let breaker = Breaker::default();
        for wait in [0, 8] {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(wait)).await;
                call(&breaker, retry("http_502", None)).await;
            }
        }
        assert_eq!(breaker.opened().unwrap().cause, "http_502");
        // An answer in between begins the count anew.
        let breaker = Breaker::default();
        for _ in 0..4 {
            call(&breaker, retry("http_502", None)).await;
            tokio::time::sleep(LONG).await;
            call(&breaker, retry("http_502", None)).await;
            call(&breaker, sent()).await;
        }
        assert_eq!(breaker.opened(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it_and_an_answer_in_between_does_not() {
        let breaker = Breaker::default();
        for round in [retry("http_503", None), ambiguous("no_answer_after_send")] {
            for _ in 1..FAILURES {
                call(&breaker, round.clone()).await;
            }
            call(&breaker, permanent("http_400")).await;
        }
        for outcome in
            [retry("http_429", None), retry("smtp_450", None), held_back("throttled", None), sent()]
        {
            for _ in 0..FAILURES {
                call(&breaker, outcome.clone()).await;
            }
        }
        assert_eq!(breaker.opened(), None);
        for _ in 0..FAILURES {
            call(&breaker, retry("connect_failed", None)).await;
        }
        let opened = breaker.opened().unwrap();
        assert_eq!((opened.cause.as_str(), opened.since), ("connect_failed", AT));
        assert_eq!(breaker.admit(NONE).await.unwrap_err().cause, "connect_failed");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_everybodys_trouble_opens_it() {
        for reason in ["http_502", "smtp_421_4.3.2", "token_timeout", "aligo_-99", "unexpected_answer"] {
            let breaker = Breaker::default();
            for _ in 0..FAILURES {
                call(&breaker, retry(reason, None)).await;
            }
            assert_eq!(breaker.opened().unwrap().cause, reason);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_finds_out_for_all() {
        let breaker = Breaker::default();
        call(&breaker, unavailable("token_refused")).await;
        let patience = Duration::from_secs(20);
        let began = Instant::now();
        let probe = breaker.admit(patience).await.unwrap();
        assert!(probe.is_probe && began.elapsed() >= FIRST_WAIT && began.elapsed() < FIRST_WAIT * 2);
        // Nobody else passes while it is under way.
        let mut other = Box::pin(breaker.admit(patience));
        assert!(futures_util::poll!(other.as_mut()).is_pending());
        assert_eq!(probe.settle(&sent(), AT), None);
        assert!(!other.await.unwrap().is_probe);
        assert_eq!(breaker.opened(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_grow_to_their_limit_and_keep_to_what_was_asked() {
        let breaker = Breaker::default();
        call(&breaker, unavailable("token_refused")).await;
        let mut waits = Vec::new();
        for _ in 0..6 {
            let began = Instant::now();
            let probe = breaker.admit(Duration::from_secs(3600)).await.unwrap();
            waits.push(began.elapsed().as_secs());
            let in_vain = probe.settle(&unavailable("token_refused"), AT);
            assert_eq!(in_vain, breaker.opened(), "it is told how long to wait");
        }
        for (wait, least) in waits.iter().zip([5, 10, 20, 40, 60, 60]) {
            assert!((least..=least * 11 / 10 + 1).contains(wait), "{waits:?}");
        }
        let asked =
            Outcome::Unavailable { reason: "quota".to_owned(), after: Some(Duration::from_secs(1_000_000)) };
        breaker.admit(Duration::from_secs(3600)).await.unwrap().settle(&asked, AT);
        let left = breaker.opened().unwrap().left;
        assert!(left >= MAX_ASKED && left <= MAX_ASKED * 2, "{left:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_abandoned_or_held_back_leaves_its_place() {
        let breaker = Breaker::default();
        call(&breaker, unavailable("token_refused")).await;
        let patience = Duration::from_secs(20);
        drop(breaker.admit(patience).await.unwrap());
        breaker.admit(NONE).await.unwrap().settle(&held_back("throttled", None), AT);
        assert!(breaker.opened().is_some());
        breaker.admit(NONE).await.unwrap().settle(&permanent("http_400"), AT);
        assert_eq!(breaker.opened(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_were_under_way_say_nothing_new() {
        let breaker = Breaker::default();
        let (late, later) = (breaker.admit(NONE).await.unwrap(), breaker.admit(NONE).await.unwrap());
        call(&breaker, unavailable("token_refused")).await;
        late.settle(&sent(), AT);
        later.settle(&unavailable("something_else"), AT);
        assert_eq!(breaker.opened().unwrap().cause, "token_refused");
    }
}
