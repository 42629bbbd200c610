//! How fast and how soon things come: what was handed in and when, what providers took and when, and figures of both.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use peal_common::channel::Channel;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::region::{Api, CATEGORY};
use crate::wait::now_ms;

/// How often something is handed in.
const TICK: Duration = Duration::from_millis(100);
const TICKS_PER_SECOND: u64 = 10;
/// What the ids of all notifications begin with; every text contains its notification's id.
const MARK: &str = "order-";

/// One notification on one channel.
#[derive(Debug, Clone, Default)]
pub struct Course {
    /// When it was handed in, in milliseconds since the Unix epoch.
    pub sent_ms: i64,
    /// When a provider took it, each time that one did.
    pub taken_ms: Vec<i64>,
}

/// What is known of all notifications, by channel and id.
#[derive(Debug, Clone, Default)]
pub struct Courses(Arc<Mutex<BTreeMap<Channel, BTreeMap<String, Course>>>>);

impl Courses {
    /// A provider takes the message with this text or body.
    pub fn take(&self, channel: Channel, text: &str) {
        let Some(start) = text.find(MARK) else { return };
        let rest = &text[start..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(rest.len());
        let now = now_ms();
        self.lock().entry(channel).or_default().entry(rest[..end].to_owned()).or_default().taken_ms.push(now);
    }

    /// Everything on one channel.
    pub fn of(&self, channel: Channel) -> Vec<Course> {
        self.lock().get(&channel).map(|courses| courses.values().cloned().collect()).unwrap_or_default()
    }

    /// How many notifications on one channel have not been taken.
    pub fn waiting(&self, channel: Channel) -> usize {
        let all = self.lock();
        all.get(&channel).map_or(0, |all| all.values().filter(|course| course.taken_ms.is_empty()).count())
    }

    /// All ids.
    pub fn ids(&self) -> Vec<String> {
        self.lock().values().flat_map(|courses| courses.keys().cloned()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Channel, BTreeMap<String, Course>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands in `rates` notifications a second on each channel, to `people` in turn, until `over`.
pub fn send(
    api: &Api,
    courses: &Courses,
    rates: Vec<(Channel, u64)>,
    people: u64,
    over: CancellationToken,
) -> JoinHandle<anyhow::Result<()>> {
    let (api, courses) = (api.clone(), courses.clone());
    tokio::spawn(async move {
        let mut ticks = interval(TICK);
        // A machine that was late for a while has to make up for it: the rate is what is promised.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut tick = 0;
        while !over.is_cancelled() {
            ticks.tick().await;
            let mut batch = Vec::new();
            for (channel, rate) in &rates {
                for number in rate * tick / TICKS_PER_SECOND..rate * (tick + 1) / TICKS_PER_SECOND {
                    let id = format!("{MARK}{channel}-{number:07}");
                    let course = Course { sent_ms: now_ms(), taken_ms: Vec::new() };
                    courses.lock().entry(*channel).or_default().insert(id.clone(), course);
                    batch.push(notification(&id, *channel, number % people));
                }
            }
            tick += 1;
            let count = batch.len();
            let answer = api.post("/v1/notifications/batch", &json!({ "notifications": batch })).await?;
            let results = answer.body["results"].as_array().cloned().unwrap_or_default();
            let accepted = results.iter().filter(|result| result["status"] == "accepted").count();
            anyhow::ensure!(accepted == count, "not all were accepted: {answer:?}");
        }
        Ok(())
    })
}

fn notification(id: &str, channel: Channel, to: u64) -> Value {
    json!({
        "id": id, "category": CATEGORY, "channels": [channel],
        "to": [{ "recipient": format!("w-{to}") }],
        "content": { "title": "Shipped", "body": format!("{id} is on its way") },
    })
}

/// What a channel did in a time.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Handed in, in a second.
    pub offered: f64,
    /// Taken by the provider, in a second.
    pub taken: f64,
    /// From handing in to the provider, of what was handed in during the time, in milliseconds.
    pub p99_ms: i64,
    /// What had been handed in by the end and not been taken.
    pub behind: usize,
}

impl Pace {
    /// In a time given in milliseconds since the Unix epoch.
    pub fn of(courses: &[Course], time: &Range<i64>) -> Self {
        let seconds = (time.end - time.start).max(1) as f64 / 1000.0;
        let sent: Vec<_> = courses.iter().filter(|course| time.contains(&course.sent_ms)).collect();
        let first = |course: &Course| course.taken_ms.first().copied();
        let taken = courses.iter().filter_map(first).filter(|at_ms| time.contains(at_ms)).count();
        let mut took: Vec<_> = sent
            .iter()
            .map(|course| first(course).map_or(i64::MAX, |at_ms| at_ms - course.sent_ms))
            .collect();
        took.sort_unstable();
        let is_behind = |course: &&Course| {
            course.sent_ms < time.end && first(course).is_none_or(|at_ms| at_ms >= time.end)
        };
        Pace {
            offered: sent.len() as f64 / seconds,
            taken: taken as f64 / seconds,
            p99_ms: took.get(took.len().saturating_sub(1) * 99 / 100).copied().unwrap_or_default(),
            behind: courses.iter().filter(is_behind).count(),
        }
    }

    /// The medians of rate and p99 over the parts of a time, each of so many milliseconds: what a machine that does much
    /// else does for a moment does not count.
    pub fn usual(courses: &[Course], time: &Range<i64>, part_ms: i64) -> (f64, i64) {
        let parts = (time.end - time.start) / part_ms;
        let part = |number: i64| time.start + number * part_ms..time.start + (number + 1) * part_ms;
        let paces: Vec<_> = (0..parts.max(1)).map(|number| Pace::of(courses, &part(number))).collect();
        let (mut rates, mut p99s): (Vec<_>, Vec<_>) = paces.iter().map(|it| (it.taken, it.p99_ms)).unzip();
        rates.sort_by(f64::total_cmp);
        p99s.sort_unstable();
        (rates[rates.len() / 2], p99s[p99s.len() / 2])
    }
}

/// The most that came within any `window_ms` of these times, from `from_ms` on.
pub fn peak(courses: &[Course], from_ms: i64, window_ms: i64) -> usize {
    let mut times: Vec<_> = courses.iter().flat_map(|course| course.taken_ms.iter().copied()).collect();
    times.retain(|at_ms| *at_ms >= from_ms);
    times.sort_unstable();
    let within = |(place, at_ms): (usize, &i64)| times.partition_point(|it| *it < at_ms + window_ms) - place;
    times.iter().enumerate().map(within).max().unwrap_or_default()
}

#[test]
fn figures_are_those_of_their_time() {
    let course = |sent_ms, taken_ms: &[i64]| Course { sent_ms, taken_ms: taken_ms.to_vec() };
    let courses = [course(0, &[10]), course(500, &[1500]), course(900, &[]), course(1200, &[1201])];
    let pace = Pace::of(&courses, &(0..1000));
    assert_eq!((pace.offered, pace.taken, pace.p99_ms, pace.behind), (3.0, 1.0, 1000, 2));
    assert_eq!(peak(&courses, 0, 1000), 2);
    assert_eq!(peak(&courses, 1000, 100), 1);
}
