//! Sends requests to a gateway: as many as it takes, a number of them, or at a steady rate.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use peal_common::channel::Priority;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, sleep_until};

use crate::bench::http::{Connection, write_request};
use crate::bench::statistics::Latency;
use crate::bench::wall;

/// A connection that fails this often in a row is given up, and the task with it.
const MAX_ERRORS: u32 = 20;
/// How much of the first refused answer is kept.
const EXAMPLE_BYTES: usize = 400;

/// A task of the load generator.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// The gateway.
    pub address: SocketAddr,
    /// The value of the header `Authorization`.
    pub authorization: String,
    /// What to send.
    pub what: What,
    /// How fast.
    pub pace: Pace,
}

/// What to send.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Notifications `<series>-<number>` to recipients who exist.
    Notifications {
        /// How their ids begin; no other task has the same.
        series: String,
        /// Their category.
        category: String,
        /// Their priority.
        priority: Priority,
        /// The recipients that they go to in turn.
        to: Recipients,
        /// Notifications in one request; `None` sends each by itself.
        batch: Option<u64>,
    },
    /// New recipients.
    Recipients {
        /// Who.
        these: Recipients,
        /// The URL of their webhook.
        hook: String,
    },
}

/// Recipients `<prefix>-<number>`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recipients {
    /// How their ids begin.
    pub prefix: String,
    /// How many there are, from number 0 on.
    pub count: u64,
}

impl Recipients {
    /// The recipient that comes at a place in the line: neighbours in the line are no neighbours in any index.
    fn scattered(&self, place: u64) -> String {
        // Knuth's multiplicative hashing: the factor is 2^32 divided by the golden ratio, and prime.
        self.id(place.wrapping_mul(2_654_435_761) % self.count.max(1))
    }

    /// The id of a number.
    #[must_use]
    pub fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.prefix)
    }
}

/// How fast to send.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// Each connection sends as soon as it has its answer, for a time.
    Window {
        /// Connections.
        connections: usize,
        /// How long before counting, in milliseconds.
        warm_up_ms: u64,
        /// How long to count, in milliseconds.
        measure_ms: u64,
    },
    /// Each connection sends as soon as it has its answer, until everything is sent.
    Total {
        /// Connections.
        connections: usize,
        /// Notifications or recipients.
        total: u64,
    },
    /// At a steady rate, whether answers come or not.
    Steady {
        /// Requests in a second.
        per_second: u64,
        /// Requests.
        total: u64,
    },
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {
    /// Notifications that were answered by 202, or recipients that were stored.
    pub accepted: u64,
    /// Those that were not.
    pub refused: u64,
    /// Answers by status; 0 stands for a connection that broke.
    pub answers: BTreeMap<u16, u64>,
    /// The first answer that was a refusal.
    pub example: Option<String>,
    /// How long it was counted, in seconds.
    pub seconds: f64,
    /// When the first request was begun, in nanoseconds since the Unix epoch.
    pub first_ns: u64,
    /// How long requests took.
    pub latency: Option<Latency>,
    /// At a steady pace: number and begin of each request.
    pub begun: Vec<(u64, u64)>,
}

/// What one connection did.
#[derive(Default)]
struct Tally {
    done: Done,
    nanos: Vec<u64>,
}

impl Tally {
    fn answered(&mut self, what: &What, count: u64, status: u16, body: &[u8], took: Duration) {
        *self.done.answers.entry(status).or_default() += 1;
        let accepted = match what {
            What::Notifications { batch: None, .. } => u64::from(status == 202),
            What::Notifications { batch: Some(_), .. } if status == 202 => accepted_items(body),
            What::Notifications { .. } => 0,
            What::Recipients { .. } => u64::from(matches!(status, 200 | 201 | 204)),
        };
        self.done.accepted += accepted;
        self.done.refused += count.saturating_sub(accepted);
        if accepted < count && self.done.example.is_none() {
            let text = String::from_utf8_lossy(&body[..body.len().min(EXAMPLE_BYTES)]);
            self.done.example = Some(format!("{status} {text}"));
        }
        self.nanos.push(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    fn broke(&mut self, count: u64, error: &std::io::Error) {
        *self.done.answers.entry(0).or_default() += 1;
        self.done.refused += count;
        self.done.example.get_or_insert_with(|| error.to_string());
    }

    fn add(&mut self, other: Tally) {
        self.done.accepted += other.done.accepted;
        self.done.refused += other.done.refused;
        for (status, count) in other.done.answers {
            *self.done.answers.entry(status).or_default() += count;
        }
        self.done.example = self.done.example.take().or(other.done.example);
        self.nanos.extend(other.nanos);
    }
}

/// The accepted ones among the results of a batch.
fn accepted_items(body: &[u8]) -> u64 {
    let text = std::str::from_utf8(body).unwrap_or_default();
    text.matches("\"status\":\"accepted\"").count() as u64
}

pub(super) async fn run(task: Task) -> anyhow::Result<()> {
    let task = Arc::new(task);
    let done = match task.pace {
        Pace::Window { connections, warm_up_ms, measure_ms } => {
            let start = Duration::from_millis(warm_up_ms);
            let count = Duration::from_millis(measure_ms);
            closed(&task, connections, u64::MAX, start, Some(count)).await?
        }
        Pace::Total { connections, total } => closed(&task, connections, total, Duration::ZERO, None).await?,
        Pace::Steady { per_second, total } => steady(&task, per_second, total).await?,
    };
    super::say(&done)?;
    Ok(())
}

/// When answers count.
#[derive(Clone, Copy)]
struct Span {
    start: Instant,
    end: Option<Instant>,
}

impl Span {
    fn is_over(self) -> bool {
        self.end.is_some_and(|end| Instant::now() >= end)
    }

    fn counts(self, at: Instant) -> bool {
        at >= self.start && self.end.is_none_or(|end| at < end)
    }
}

/// Sends on `connections` connections, each of which waits for its answers.
async fn closed(
    task: &Arc<Task>,
    connections: usize,
    total: u64,
    warm_up: Duration,
    measure: Option<Duration>,
) -> anyhow::Result<Done> {
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        open.push(Connection::open(task.address).await?);
    }
    let start = Instant::now() + warm_up;
    let span = Span { start, end: measure.map(|measure| start + measure) };
    let next = Arc::new(AtomicU64::new(0));
    let first_ns = wall::nanos();
    let mut senders = JoinSet::new();
    for connection in open {
        senders.spawn(sender(Arc::clone(task), connection, Arc::clone(&next), total, span));
    }
    if measure.is_some() {
        sleep_until(start).await;
    }
    super::say(&super::STARTED)?;
    let mut all = Tally::default();
    while let Some(tally) = senders.join_next().await {
        all.add(tally??);
    }
    let seconds = measure.unwrap_or_else(|| start.elapsed()).as_secs_f64();
    Ok(Done { seconds, first_ns, latency: Latency::of(all.nanos), ..all.done })
}

async fn sender(
    task: Arc<Task>,
    mut connection: Connection,
    next: Arc<AtomicU64>,
    total: u64,
    span: Span,
) -> anyhow::Result<Tally> {
    let size = match &task.what {
        What::Notifications { batch: Some(size), .. } => *size,
        _ => 1,
    };
    let mut tally = Tally::default();
    let mut request = Vec::new();
    let mut errors = 0;
    while !span.is_over() {
        let from = next.fetch_add(size, Ordering::Relaxed);
        if from >= total {
            break;
        }
        let to = (from + size).min(total);
        request.clear();
        write(&task, from..to, &mut request);
        let begun = Instant::now();
        match connection.call(&request).await {
            Ok(status) => {
                errors = 0;
                let ended = Instant::now();
                if span.counts(ended) {
                    tally.answered(&task.what, to - from, status, connection.body(), ended - begun);
                }
            }
            Err(error) => {
                errors += 1;
                anyhow::ensure!(errors < MAX_ERRORS, "the gateway's connections break: {error}");
                if span.counts(Instant::now()) {
                    tally.broke(to - from, &error);
                }
                connection = Connection::open(task.address).await?;
            }
        }
    }
    Ok(tally)
}

/// Sends at a steady rate. A request whose turn has come begins then, also when earlier ones have no answer yet: what
/// it waits for a connection counts as its own.
async fn steady(task: &Arc<Task>, per_second: u64, total: u64) -> anyhow::Result<Done> {
    let idle = Arc::new(Mutex::new(Vec::new()));
    let mut requests = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(per_second.max(1))?);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    super::say(&super::STARTED)?;
    let start = Instant::now();
    let first_ns = wall::nanos();
    let mut begun = Vec::new();
    for number in 0..total {
        ticks.tick().await;
        begun.push((number, wall::nanos()));
        requests.spawn(single(Arc::clone(task), number, Arc::clone(&idle)));
    }
    let mut all = Tally::default();
    while let Some(tally) = requests.join_next().await {
        all.add(tally?);
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Done { seconds, first_ns, latency: Latency::of(all.nanos), begun, ..all.done })
}

async fn single(task: Arc<Task>, number: u64, idle: Arc<Mutex<Vec<Connection>>>) -> Tally {
    let mut tally = Tally::default();
    let mut request = Vec::new();
    write(&task, number..number + 1, &mut request);
    let start = Instant::now();
    let kept = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let called = async {
        let mut connection = match kept {
            Some(connection) => connection,
            None => Connection::open(task.address).await?,
        };
        let status = connection.call(&request).await?;
        Ok((connection, status))
    };
    match called.await {
        Ok((connection, status)) => {
            tally.answered(&task.what, 1, status, connection.body(), start.elapsed());
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
        Err(error) => tally.broke(1, &error),
    }
    tally
}

/// Writes the request for some numbers.
fn write(task: &Task, numbers: std::ops::Range<u64>, out: &mut Vec<u8>) {
    let authorization = &task.authorization;
    match &task.what {
        What::Notifications { batch, .. } => {
            let items: Vec<_> = numbers.map(|number| notification(&task.what, number)).collect();
            let (path, body) = match batch {
                None => ("/v1/notifications", items.concat()),
                Some(_) => {
                    ("/v1/notifications/batch", format!("{{\"notifications\":[{}]}}", items.join(",")))
                }
            };
            write_request(out, "POST", path, authorization, &body);
        }
        What::Recipients { these, hook } => {
            let id = these.id(numbers.start);
            let body = format!(
                "{{\"locale\":\"en-GB\",\"time_zone\":\"Europe/London\",\"attributes\":{{\"plan\":\"gold\"}},\"contacts\":[\
                 {{\"channel\":\"webhook\",\"address\":\"{hook}\"}},\
                 {{\"channel\":\"email\",\"address\":\"{id}@example.com\"}}]}}"
            );
            write_request(out, "PUT", &format!("/v1/recipients/{id}"), authorization, &body);
        }
    }
}

/// A notification of usual size. Ids and texts of this benchmark need no escaping in JSON.
fn notification(what: &What, number: u64) -> String {
    let What::Notifications { series, category, priority, to, .. } = what else { return String::new() };
    format!(
        "{{\"id\":\"{series}-{number}\",\"category\":\"{category}\",\"to\":[{{\"recipient\":\"{}\"}}],\
         \"content\":{{\"title\":\"Your order has been shipped\",\"body\":\"Order {number} left our warehouse today \
         and should arrive within two working days.\",\"url\":\"https://example.com/orders/{number}\"}},\
         \"priority\":\"{priority}\"}}",
        to.scattered(number)
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use peal_common::notification::Notification;

    use super::*;

    fn what(batch: Option<u64>) -> What {
        What::Notifications {
            series: "s".to_owned(),
            category: "bench".to_owned(),
            priority: Priority::Normal,
            to: Recipients { prefix: "r".to_owned(), count: 1000 },
            batch,
        }
    }

    #[test]
    fn notifications_are_what_the_gateway_takes_and_differ() {
        let ids: HashSet<_> = (0..100)
            .map(|number| {
                let read: Notification = serde_json::from_str(&notification(&what(None), number)).unwrap();
                read.id.unwrap().as_str().to_owned()
            })
            .collect();
        assert_eq!(ids.len(), 100);
    }

    #[test]
    fn everybody_in_a_group_gets_their_share() {
        let to = Recipients { prefix: "r".to_owned(), count: 1000 };
        let reached: HashSet<_> = (0..1000).map(|place| to.scattered(place)).collect();
        assert_eq!(reached.len(), 1000);
    }

    #[test]
    fn only_what_was_accepted_counts() {
        let took = Duration::from_millis(1);
        let mut tally = Tally::default();
        tally.answered(&what(None), 1, 202, b"", took);
        tally.answered(&what(None), 1, 200, b"", took);
        let results = br#"{"results":[{"index":0,"id":"a","status":"accepted"},{"index":1,"error":{}}]}"#;
        tally.answered(&what(Some(2)), 2, 202, results, took);
        tally.answered(&what(Some(2)), 2, 503, results, took);
        assert_eq!((tally.done.accepted, tally.done.refused), (2, 4));
        assert_eq!(tally.done.answers, BTreeMap::from([(200, 1), (202, 2), (503, 1)]));
    }
}
