//! Notifications on their way in, as a careful service sends them: each is repeated under its own id until there is an
//! answer for it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::provider::Provider;
use crate::region::{Answer, Api, CATEGORY, NEWS, RECIPIENTS};
use crate::wait::now_ms;

/// Requests on their way at the same time.
const CALLERS: usize = 4;
/// The pause before a request is repeated: shorter than the gateway asks for, so that recovery is noticed.
const PAUSE: Duration = Duration::from_millis(50);
/// How many notifications may be accepted and not yet delivered: a share of all, so that both go on side by side.
const WINDOW_SHARE: u64 = 5;
const LEAST_WINDOW: u64 = 2_000;
/// The same in seconds for a load with a rate: longer than what a lost dispatcher had is kept for it (30 s).
const WINDOW_SECONDS: u64 = 60;
/// While working for a time: notifications of one request, and how many may be accepted and not yet delivered.
const BATCH: u64 = 200;
const AHEAD: u64 = 2_000;
/// Of so many notifications one is a text message, and another one an advertisement by text message.
const TEXTS_IN: u64 = 20;
/// How long nothing may be delivered on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(60);

/// One request and what came of it.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// When it was sent, in milliseconds since the Unix epoch.
    pub from_ms: i64,
    /// When its answer came, or the sign that none would.
    pub until_ms: i64,
    /// How many notifications it got accepted.
    pub accepted: u64,
}

/// What the sender knows.
#[derive(Debug, Default)]
pub struct Log {
    /// The ids that were accepted.
    pub accepted: BTreeSet<String>,
    /// How many acceptances were told to be repetitions.
    pub duplicates: u64,
    /// How many notifications were sent in requests without any answer, so that nobody knew what became of them.
    pub unanswered: u64,
    /// All requests.
    pub requests: Vec<Request>,
}

/// What kind of notification one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A webhook, which may be repeated.
    Webhook,
    /// A text message, which is repeated only when whoever carries it does not have it.
    Text,
    /// A text message that is an advertisement: rather never sent than twice.
    Advertisement,
}

/// A series of notifications.
pub struct Load {
    api: Api,
    prefix: String,
    webhook: String,
    names_recipients: bool,
    has_texts: bool,
    log: Arc<Mutex<Log>>,
}

impl Load {
    /// A series whose ids begin with `prefix`; one in ten names the webhook itself instead of a recipient.
    pub fn new(api: &Api, prefix: &str, webhook: &str) -> Self {
        Load {
            api: api.clone(),
            prefix: prefix.to_owned(),
            webhook: webhook.to_owned(),
            names_recipients: true,
            has_texts: false,
            log: Arc::default(),
        }
    }

    /// Names the webhook in each: recipients are the same in all regions.
    pub fn webhook_only(self) -> Self {
        Load { names_recipients: false, ..self }
    }

    /// With text messages among them: one in ten, half of which are advertisements.
    pub fn with_texts(self, has_texts: bool) -> Self {
        Load { has_texts, ..self }
    }

    /// What kind the notification with this id is. Those of another series are webhooks.
    pub fn kind_of(&self, id: &str) -> Kind {
        let number = id.strip_prefix(&self.prefix).and_then(|rest| rest.strip_prefix('-'));
        number.and_then(|number| number.parse().ok()).map_or(Kind::Webhook, |number| self.kind(number))
    }

    fn kind(&self, number: u64) -> Kind {
        match number % TEXTS_IN {
            // Both meet all priorities.
            3 if self.has_texts => Kind::Text,
            11 if self.has_texts => Kind::Advertisement,
            _ => Kind::Webhook,
        }
    }

    /// What is known so far. Must not be held across an await.
    pub fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ids that were accepted so far.
    pub fn accepted(&self) -> BTreeSet<String> {
        self.log().accepted.clone()
    }

    /// Sends all of `total`, see [`flow`](Self::flow).
    ///
    /// # Errors
    /// When the gateway refuses what it must not refuse.
    pub async fn run(
        self: Arc<Self>,
        total: u64,
        seed: u64,
        delivered: watch::Receiver<u64>,
    ) -> anyhow::Result<()> {
        let over = CancellationToken::new();
        over.cancel();
        self.flow(Flow { at_least: total, rate: 0, seed, over }, delivered).await
    }

    /// Sends in batches of 100 to 500 and single requests, never too far ahead of `delivered`.
    ///
    /// # Errors
    /// When the gateway refuses what it must not refuse.
    pub async fn flow(self: Arc<Self>, flow: Flow, delivered: watch::Receiver<u64>) -> anyhow::Result<()> {
        let places = match flow.rate {
            0 => LEAST_WINDOW.max(flow.at_least / WINDOW_SHARE),
            rate => rate * WINDOW_SECONDS,
        };
        let places = Arc::new(Semaphore::new(places as usize));
        let feeder = tokio::spawn(give_back(Arc::clone(&places), delivered));
        let numbers = Arc::new(Mutex::new(Numbers::new(flow)));
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let (load, places, numbers) = (Arc::clone(&self), Arc::clone(&places), Arc::clone(&numbers));
            callers.spawn(async move {
                loop {
                    let next = numbers.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((batch, at)) = next else { return Ok(()) };
                    sleep_until(at).await;
                    places.acquire_many(batch.len() as u32).await?.forget();
                    load.send(batch).await?;
                }
            });
        }
        let mut result = Ok(());
        while let Some(ended) = callers.join_next().await {
            result = result.and(ended?);
        }
        feeder.abort();
        result
    }

    /// Sends numbers from `from` on for some time, `rate` in a second at most unless that is 0, and waits until all are
    /// delivered; returns the next number and how many were delivered in a second.
    ///
    /// # Errors
    /// When the gateway refuses what it must not refuse, or nothing is delivered.
    pub async fn work(
        &self,
        provider: &Provider,
        from: u64,
        time: Duration,
        rate: u64,
    ) -> anyhow::Result<(u64, f64)> {
        let mut delivered = provider.deliveries();
        let (began, before) = (Instant::now(), *delivered.borrow());
        let mut next = from;
        while began.elapsed() < time {
            self.send((next..next + BATCH).collect()).await?;
            next += BATCH;
            // Delivering keeps up with accepting, so that the rate is that of both.
            let soon = before + (next - from).saturating_sub(AHEAD);
            reach(&mut delivered, soon).await?;
            if rate > 0 {
                sleep_until(began + Duration::from_secs(1) * (next - from) as u32 / rate as u32).await;
            }
        }
        let all = before + (next - from);
        reach(&mut delivered, all).await?;
        Ok((next, (next - from) as f64 / began.elapsed().as_secs_f64()))
    }

    /// Sends these notifications, in one request or one by one as their number says, until each is accepted.
    pub async fn send(&self, numbers: Vec<u64>) -> anyhow::Result<()> {
        let single = numbers.len() == 1;
        let mut open = numbers;
        while !open.is_empty() {
            let from_ms = now_ms();
            let (path, body) = match single {
                true => ("/v1/notifications", self.notification(open[0])),
                false => ("/v1/notifications/batch", self.batch(&open)),
            };
            let answer = self.api.post(path, &body).await;
            let before = open.len();
            match &answer {
                Ok(answer) if answer.status == 202 && single => {
                    self.take(&mut open, std::slice::from_ref(&answer.body))?
                }
                Ok(answer) if answer.status == 202 => {
                    let results =
                        answer.body["results"].as_array().context("a batch's answer has no results")?;
                    self.take(&mut open, results)?;
                }
                Ok(answer) => anyhow::ensure!(is_passing(answer), "a request was refused: {answer:?}"),
                Err(_) => self.log().unanswered += open.len() as u64,
            }
            let accepted = (before - open.len()) as u64;
            self.log().requests.push(Request { from_ms, until_ms: now_ms(), accepted });
            if !open.is_empty() {
                sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    /// Strikes out what was accepted; what comes with an error that passes stays.
    fn take(&self, open: &mut Vec<u64>, results: &[Value]) -> anyhow::Result<()> {
        anyhow::ensure!(
            results.len() == open.len(),
            "{} results for {} notifications",
            results.len(),
            open.len()
        );
        let mut left = Vec::new();
        let mut log = self.log();
        for (number, result) in open.iter().zip(results) {
            let id = self.id(*number);
            if let Some(code) = result["error"]["code"].as_str() {
                let passes = matches!(
                    code,
                    "unavailable"
                        | "jetstream_unavailable"
                        | "not_ready"
                        | "in_flight"
                        | "timed_out"
                        | "contended"
                );
                anyhow::ensure!(passes, "a notification was refused: {result}");
                left.push(*number);
                continue;
            }
            anyhow::ensure!(
                result["id"] == id.as_str() && result["status"] == "accepted",
                "no acceptance: {result}"
            );
            log.duplicates += u64::from(result["duplicate"] == true);
            log.accepted.insert(id);
        }
        *open = left;
        Ok(())
    }

    /// The id of a notification.
    pub fn id(&self, number: u64) -> String {
        format!("{}-{number:06}", self.prefix)
    }

    /// The body of a request for several.
    pub fn batch(&self, numbers: &[u64]) -> Value {
        json!({ "notifications": numbers.iter().map(|number| self.notification(*number)).collect::<Vec<_>>() })
    }

    /// Always the same for the same number, so that a repetition is one.
    pub fn notification(&self, number: u64) -> Value {
        let recipient = number % RECIPIENTS;
        let kind = self.kind(number);
        let to = match kind {
            Kind::Webhook if self.names_recipients && !number.is_multiple_of(10) => {
                json!({ "recipient": format!("u-{recipient}") })
            }
            Kind::Webhook => json!({ "webhook": format!("{}/{recipient}", self.webhook) }),
            // A telephone for each, since carriers are asked for a message by its number.
            Kind::Text | Kind::Advertisement => json!({ "phone": format!("+8210{number:08}") }),
        };
        let category = if kind == Kind::Advertisement { NEWS } else { CATEGORY };
        let priority =
            ["normal", "bulk", "high", "normal", "critical", "bulk", "normal"][(number % 7) as usize];
        json!({
            "id": self.id(number),
            "category": category,
            "to": [to],
            "priority": priority,
            "content": { "title": "Shipped", "body": format!("Order {} is on its way", self.id(number)) },
        })
    }
}

/// Waits until so many were delivered.
async fn reach(delivered: &mut watch::Receiver<u64>, all: u64) -> anyhow::Result<()> {
    let is_reached = timeout(LIMIT, delivered.wait_for(|count| *count >= all)).await.is_ok();
    anyhow::ensure!(is_reached, "{} of {all} were delivered within {LIMIT:?}", *delivered.borrow());
    Ok(())
}

/// Whether the same request may succeed in a moment.
fn is_passing(answer: &Answer) -> bool {
    answer.is_come_back() || (answer.status == 409 && answer.body["code"] == "in_flight")
}

/// What to send, and how fast.
#[derive(Debug, Clone)]
pub struct Flow {
    /// So many, and more until it is `over`.
    pub at_least: u64,
    /// Until when.
    pub over: CancellationToken,
    /// How many in a second at most; as many as go when it is 0.
    pub rate: u64,
    /// How they are put into requests.
    pub seed: u64,
}

/// What is to be sent next.
struct Numbers {
    flow: Flow,
    rng: StdRng,
    next: u64,
    began: Instant,
}

impl Numbers {
    fn new(flow: Flow) -> Self {
        Numbers { rng: StdRng::seed_from_u64(flow.seed), flow, next: 0, began: Instant::now() }
    }

    /// The numbers of the next request, and when it may be sent. One request in ten carries one notification, the others
    /// carry 100 to 500.
    fn next(&mut self) -> Option<(Vec<u64>, Instant)> {
        let is_over = self.flow.over.is_cancelled();
        if is_over && self.next >= self.flow.at_least {
            return None;
        }
        let count = if self.rng.random_range(0..10) == 0 { 1 } else { self.rng.random_range(100..=500) };
        let limit = if is_over { self.flow.at_least } else { u64::MAX };
        let batch = self.next..limit.min(self.next + count);
        let ahead =
            (self.next * 1000).checked_div(self.flow.rate).map_or(Duration::ZERO, Duration::from_millis);
        self.next = batch.end;
        Some((batch.collect(), self.began + ahead))
    }
}

/// A delivered notification makes room for another.
async fn give_back(places: Arc<Semaphore>, mut delivered: watch::Receiver<u64>) {
    let mut known = *delivered.borrow_and_update();
    while delivered.changed().await.is_ok() {
        let now = *delivered.borrow_and_update();
        places.add_permits((now - known) as usize);
        known = now;
    }
}
