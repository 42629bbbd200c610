//! One provider is down entirely while all channels are under load: the others don't notice, and what waited for it goes
//! out afterwards, at the pace that the channel is allowed, with nothing lost, repeated or given up.
//!
//! `PEAL_FAULT_DOWN_SECONDS` says for how long. From five minutes on each outage comes in turn, and the others' rates
//! and times must stay within a tenth of what they were; a shorter run has one of them, chosen by `PEAL_FAULT_SEED`, and
//! looks only for what no busy machine explains. `PEAL_FAULT_ONLY` leaves those whose name holds it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use peal_common::channel::Channel;
use peal_common::clock::Clock;
use peal_common::envelope::Envelope as _;
use peal_common::event::{Event, Status};
use peal_dispatcher::recording::Answer;
use peal_nats::follow::Reader;
use peal_nats::topology::EVENTS;
use serde_json::json;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::channels::{Carrier, Channels};
use crate::journal::Journal;
use crate::pace::{self, Course, Courses, Pace};
use crate::plan::{WHOLE_MACHINE, given, replay};
use crate::region::{Region, Wanted};
use crate::report;
use crate::wait::{Stall, now_ms};

/// Notifications a second on each channel, unless `PEAL_FAULT_DOWN_RATE` says another one for webhooks and APNs.
const RATE: u64 = 60;
/// The same where less is allowed: a little more than half of that.
const LIMITED_RATE: u64 = 12;
/// What the account for text messages may send in a second.
const SMS_LIMIT: usize = 20;
/// What one bot may send in a second (Telegram's Bots FAQ); dispatchers keep below it.
const BOT_LIMIT: usize = 30;
/// Pushes that one dispatcher has in hand at most: the share of normal priority in `dispatcher.concurrency`, and those that
/// are made at once.
const IN_HAND: usize = 384 + 128;
/// How long APNs takes for an answer: so many pushes that come within that time were in hand at once.
const ANSWER_TIME: Duration = Duration::from_millis(100);
/// One chat takes a message a second, so that there have to be many.
const PEOPLE: u64 = 200;
/// How long the load runs before anything breaks.
const BEFORE: Duration = Duration::from_secs(8);
const LONGEST_BEFORE: Duration = Duration::from_secs(120);
/// Outages as long as this are compared strictly.
const LONG: Duration = Duration::from_secs(300);
/// What no busy machine explains: how far others may fall behind in a short run.
const LATE: Duration = Duration::from_secs(5);
/// How long a call may be on its way.
const IN_FLIGHT: Duration = Duration::from_secs(1);
/// Parts of a long run whose median is compared, and the difference of two times that says nothing.
const PART_MS: i64 = 10_000;
const NOISE_MS: f64 = 2.0;
/// Limits are looked at over this time; messages may be late by a second on their way, and then be together with others.
const WINDOW_SECONDS: usize = 2;
const DELAY_SECONDS: usize = 1;
/// How long nothing may move while the backlog drains: the longest time between two questions whether a provider is back,
/// and as much again.
const STALL_LIMIT: Duration = Duration::from_secs(130);

/// A way in which a provider can be down.
struct Outage {
    name: &'static str,
    channel: Channel,
    begin: fn(&World),
    end: fn(&World),
    /// What may come in how many milliseconds afterwards.
    limit: (usize, i64),
}

const OUTAGES: [Outage; 3] = [
    Outage {
        name: "Telegram refuses connections",
        channel: Channel::Telegram,
        begin: |world| world.channels.link(Channel::Telegram).refuse(),
        end: |world| world.channels.link(Channel::Telegram).heal(),
        limit: (BOT_LIMIT * (WINDOW_SECONDS + DELAY_SECONDS), WINDOW_SECONDS as i64 * 1000),
    },
    Outage {
        name: "Twilio answers 503",
        channel: Channel::Sms,
        begin: |world| world.is_busy.store(true, Ordering::Relaxed),
        end: |world| world.is_busy.store(false, Ordering::Relaxed),
        limit: (SMS_LIMIT * (WINDOW_SECONDS + DELAY_SECONDS), WINDOW_SECONDS as i64 * 1000),
    },
    Outage {
        name: "APNs hangs",
        channel: Channel::Apns,
        begin: |world| world.channels.link(Channel::Apns).silence(),
        end: |world| {
            // What was written meanwhile never arrives.
            world.channels.link(Channel::Apns).cut();
            world.channels.link(Channel::Apns).heal();
        },
        limit: (IN_HAND, ANSWER_TIME.as_millis() as i64),
    },
];

struct World {
    channels: Channels,
    courses: Courses,
    /// Whether Twilio has too much to do.
    is_busy: Arc<AtomicBool>,
}

impl World {
    async fn start() -> anyhow::Result<Self> {
        let (channels, courses) = (Channels::start().await?, Courses::default());
        let is_busy = Arc::new(AtomicBool::new(false));
        let took = courses.clone();
        channels.hooks.answer_with(move |request| {
            took.take(Channel::Webhook, &String::from_utf8_lossy(&request.body));
            Answer::status(204)
        });
        let took = courses.clone();
        channels.apns.answer_with(move |request| {
            took.take(Channel::Apns, &String::from_utf8_lossy(&request.body));
            Answer::status(200).header("apns-id", request.header("apns-id")).after(ANSWER_TIME)
        });
        let took = courses.clone();
        channels.bot.answer_with(move |call| {
            took.take(Channel::Telegram, call.parameters["text"].as_str().unwrap_or_default());
            Answer::status(200).body(r#"{"ok":true,"result":{"message_id":1}}"#)
        });
        let (took, busy) = (courses.clone(), Arc::clone(&is_busy));
        channels.twilio.answer_with(move |request| {
            if busy.load(Ordering::Relaxed) {
                return Answer::status(503).header("retry-after", "1");
            }
            took.take(Channel::Sms, &String::from_utf8_lossy(&request.body));
            Answer::status(201).body(json!({ "sid": "SM1", "status": "queued" }).to_string())
        });
        Ok(World { channels, courses, is_busy })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_provider_down_leaves_the_others_alone_and_drains_at_its_own_pace() -> anyhow::Result<()> {
    let down = Duration::from_secs(given("PEAL_FAULT_DOWN_SECONDS", 10));
    let seed: u64 = given("PEAL_FAULT_SEED", Clock::System.now_ms().unsigned_abs());
    let only: String = given("PEAL_FAULT_ONLY", String::new());
    let mut outages: Vec<_> = OUTAGES.iter().filter(|outage| outage.name.contains(&only)).collect();
    if down < LONG && !outages.is_empty() {
        let chosen = seed as usize % outages.len();
        outages = vec![outages[chosen]];
    }
    let _machine = WHOLE_MACHINE.lock().await;
    for outage in outages {
        let seconds = down.as_secs().to_string();
        let own = [("PEAL_FAULT_ONLY", outage.name.to_owned()), ("PEAL_FAULT_DOWN_SECONDS", seconds)];
        println!("{}: {}", outage.name, replay("provider_down", &own));
        let world = World::start().await?;
        let settings = world.channels.settings(&format!("rate_per_second = {SMS_LIMIT}"))?;
        let unused = "http://127.0.0.1:9/unused";
        let mut region = Region::start(Wanted { channels: &settings, ..Wanted::new(unused) }).await?;
        let result = endure(outage, &world, &mut region, down).await;
        result.map_err(|error| error.context(format!("{}\n{}", outage.name, region.logs())))?;
    }
    Ok(())
}

async fn endure(outage: &Outage, world: &World, region: &mut Region, down: Duration) -> anyhow::Result<()> {
    for number in 0..PEOPLE {
        let path = format!("/v1/recipients/w-{number}");
        region.api.put(&path, &world.channels.recipient(number, Carrier::Twilio)).await?;
    }
    let journal = Journal::start(&region.connection);
    let rate = given("PEAL_FAULT_DOWN_RATE", RATE);
    let rates = vec![
        (Channel::Webhook, rate),
        (Channel::Apns, rate),
        (Channel::Telegram, LIMITED_RATE),
        (Channel::Sms, LIMITED_RATE),
    ];
    let over = CancellationToken::new();
    let mut sending = pace::send(&region.api, &world.courses, rates.clone(), PEOPLE, over.clone());
    let before = pass(BEFORE.max(down.min(LONGEST_BEFORE)), &mut sending).await?;
    (outage.begin)(world);
    let during = pass(down, &mut sending).await?;
    let backlog = world.courses.waiting(outage.channel);
    (outage.end)(world);
    over.cancel();
    sending.await??;
    drain(world, region, &journal).await?;
    conclude(&Seen { outage, world, rates: &rates, before, during, backlog }, region, &journal).await
}

/// Lets the load go on for a time, and says when that was.
async fn pass(
    time: Duration,
    sending: &mut tokio::task::JoinHandle<anyhow::Result<()>>,
) -> anyhow::Result<Range<i64>> {
    let from_ms = now_ms();
    tokio::select! {
        () = sleep_until(Instant::now() + time) => Ok(from_ms..now_ms()),
        ended = sending => {
            ended??;
            anyhow::bail!("nothing is sent any more");
        }
    }
}

/// Waits until every notification has ended and nothing is left to do.
async fn drain(world: &World, region: &mut Region, journal: &Journal) -> anyhow::Result<()> {
    let all = world.courses.ids().len();
    let mut stall = Stall::new(STALL_LIMIT);
    let mut interval = tokio::time::interval(Duration::from_millis(200));
    loop {
        interval.tick().await;
        region.check()?;
        let (settled, events) = {
            let entries = journal.entries();
            (entries.notifications.len(), entries.events)
        };
        let left = region.left_over(0).await.unwrap_or_else(|error| vec![format!("{error:#}")]);
        if settled >= all && left.is_empty() {
            return Ok(());
        }
        stall.look(&format!("{settled} of {all} are settled"), (settled, events, left))?;
    }
}

/// A run that is over.
struct Seen<'a> {
    outage: &'a Outage,
    world: &'a World,
    rates: &'a [(Channel, u64)],
    before: Range<i64>,
    during: Range<i64>,
    backlog: usize,
}

async fn conclude(seen: &Seen<'_>, region: &Region, journal: &Journal) -> anyhow::Result<()> {
    let Seen { outage, world, rates, before, during, backlog } = seen;
    let is_long = Duration::from_millis((during.end - during.start).unsigned_abs()) >= LONG;
    let head = ["channel", "offered", "before", "during", "p99 before", "p99 during", "behind at its end"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    let (mut broken, mut resent) = (Vec::new(), 0);
    for (channel, rate) in *rates {
        let courses = world.courses.of(*channel);
        let (was, is) = (Pace::of(&courses, before), Pace::of(&courses, during));
        let is_down = *channel == outage.channel;
        lines.push(vec![
            if is_down { format!("{channel} (down)") } else { channel.to_string() },
            format!("{:.1}/s", is.offered),
            format!("{:.1}/s", was.taken),
            format!("{:.1}/s", is.taken),
            format!("{} ms", was.p99_ms),
            if is_down { String::new() } else { format!("{} ms", is.p99_ms) },
            is.behind.to_string(),
        ]);
        let repeated = |course: &&Course| course.taken_ms.len() > 1;
        let in_flight = |course: &&Course| is_down && was_in_flight(course, during.start);
        let wrong = courses.iter().find(|it| it.taken_ms.len() != 1 && !in_flight(it));
        if let Some(course) = wrong {
            broken.push(format!("{channel}: not taken exactly once: {course:?}"));
        }
        if is_down {
            resent = courses.iter().filter(repeated).count();
            continue;
        }
        let late = LATE.as_millis() as i64;
        if is.p99_ms > late || is.behind as u64 > rate * LATE.as_secs() {
            broken.push(format!("{channel} fell behind: {is:?}"));
        }
        let ((usual_rate, usual_ms), (rate, ms)) =
            (Pace::usual(&courses, before, PART_MS), Pace::usual(&courses, during, PART_MS));
        if is_long && (rate < usual_rate * 0.9 || ms as f64 > usual_ms as f64 * 1.1 + NOISE_MS) {
            broken.push(format!(
                "{channel}: usually {rate:.1}/s and {ms} ms, and {usual_rate:.1}/s and {usual_ms} ms before"
            ));
        }
    }

    let courses = world.courses.of(outage.channel);
    let (limit, window_ms) = outage.limit;
    let most = pace::peak(&courses, during.end, window_ms);
    // All at once would not be more than that: nothing is shown by such a run.
    anyhow::ensure!(
        *backlog > limit,
        "{backlog} waited, and {limit} may come at once: let it be down for longer"
    );
    if most > limit {
        broken.push(format!("{most} came within {window_ms} ms, and {limit} may"));
    }
    let after = || courses.iter().flat_map(|it| &it.taken_ms).filter(|at_ms| **at_ms >= during.end);
    let (first_ms, last_ms) = (after().min().unwrap_or(&during.end), after().max().unwrap_or(&during.end));
    let attempts = most_attempts(region, outage.channel).await?;
    let wrong = journal.entries().settled.values().filter(|end| !is_well(&end.statuses)).count();
    if wrong > 0 {
        broken.push(format!("{wrong} deliveries did not end as sent or delivered"));
    }
    let seconds = |ms: i64| ms as f64 / 1000.0;
    report::add_below(&format!(
        "{} for {:.0} s:\n\n{}\nOf its {backlog} that waited the first went out {:.1} s after it was back, the last {:.1} s later; \
         at most {} came within a second, and {most} within {window_ms} ms ({limit} may). No delivery took more than \
         {attempts} attempts; {resent} came twice that were in flight when it went down.",
        outage.name,
        seconds(during.end - during.start),
        report::table(&lines),
        seconds(first_ms - during.end),
        seconds(last_ms - first_ms),
        pace::peak(&courses, during.end, 1000),
    ))?;
    anyhow::ensure!(broken.is_empty(), "{broken:#?}");
    Ok(())
}

/// Whether a provider had just taken it and had not been heard when it went down: then it may come once more.
fn was_in_flight(course: &Course, down_ms: i64) -> bool {
    let first_ms = course.taken_ms.first().copied().unwrap_or(i64::MAX);
    course.taken_ms.len() == 2 && (first_ms - down_ms).abs() < IN_FLIGHT.as_millis() as i64
}

fn is_well(statuses: &[(Status, i64)]) -> bool {
    statuses.len() == 1 && matches!(statuses[0].0, Status::Sent | Status::Delivered)
}

/// The most attempts that a delivery on a channel took.
async fn most_attempts(region: &Region, channel: Channel) -> anyhow::Result<u32> {
    let (mut most, mut events) = (0, Reader::open(&region.connection, EVENTS).await?);
    while events.peek().await?.is_some() {
        let Some(message) = events.take() else { continue };
        let event = Event::decode(&message.payload)?;
        if event.channel == Some(channel) && event.kind.status().is_some_and(Status::is_settled) {
            most = most.max(event.attempts.unwrap_or_default());
        }
    }
    Ok(most)
}
