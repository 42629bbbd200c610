//! A dispatcher is killed at four points of a delivery, on every channel at once: how often each provider has it in the end
//! is what the channel's policy says. The providers are the oracle.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use peal_common::channel::Channel;
use peal_common::event::Status;
use peal_nats::server::Link;
use peal_nats::topology::DEAD_LETTERS;
use serde_json::json;
use tokio::time::Instant;

use crate::channels::{Carrier, Channels};
use crate::journal::Journal;
use crate::points::{self, Point, keeps_intents};
use crate::region::tap::Verdict;
use crate::region::{CATEGORY, NEWS, Region, Wanted};
use crate::report;
use crate::wait;

/// Short, so that what was in hand comes again soon.
const ACK_WAIT: Duration = Duration::from_secs(4);
/// How long anything may take on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(60);
/// So long after a dispatcher has started, what comes is certainly new to it, and made at once where that is possible: what
/// was there before may have been handed out, and goes through the queues.
const NEW_AFTER: Duration = Duration::from_secs(3);
/// Deliveries of a row at each point.
const EACH: u64 = 4;
/// What is shown: every channel, what another class changes, and carriers that can't be asked for a message.
const ROWS: [Row; 12] = [
    Row::of(Channel::Apns),
    Row::of(Channel::Fcm),
    Row::of(Channel::Webpush),
    Row { name: "sms (Twilio)", ..Row::of(Channel::Sms) },
    Row { name: "sms (Vonage)", carrier: Carrier::Vonage, ..Row::of(Channel::Sms) },
    Row { name: "sms (HTTP)", carrier: Carrier::Gateway, ..Row::of(Channel::Sms) },
    Row::of(Channel::Email),
    Row::of(Channel::Telegram),
    Row { category: NEWS, ..Row::of(Channel::Telegram) },
    Row::of(Channel::Alimtalk),
    Row::of(Channel::Webhook),
    Row::of(Channel::Inbox),
];

/// Deliveries of one kind.
struct Row {
    name: &'static str,
    channel: Channel,
    category: &'static str,
    carrier: Carrier,
}

impl Row {
    const fn of(channel: Channel) -> Self {
        Row { name: channel.as_str(), channel, category: CATEGORY, carrier: Carrier::Twilio }
    }

    /// Whether whoever was called can say whether it has a message.
    fn is_asked(&self) -> bool {
        match self.channel {
            Channel::Sms => self.carrier == Carrier::Twilio,
            channel => channel == Channel::Alimtalk,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dispatcher_killed_at_any_point_sends_as_often_as_the_channels_policy_says() -> anyhow::Result<()> {
    let channels = Channels::start().await?;
    let settings = channels.settings("")? + &channels.settings_of_carriers();
    let wanted =
        Wanted { ack_wait: Some(ACK_WAIT), tapped: true, channels: &settings, ..Wanted::new(UNUSED) };
    let region = Region::start(wanted).await?;
    let journal = Journal::start(&region.connection);
    let mut trial = Trial { region, journal, channels, started: Instant::now() };
    let result = trial.run().await;
    result.map_err(|error| error.context(trial.region.logs()))
}

/// Nobody is sent anything there.
const UNUSED: &str = "http://127.0.0.1:9/unused";

struct Trial {
    region: Region,
    journal: Journal,
    channels: Channels,
    /// When the dispatcher was ready.
    started: Instant,
}

/// What became of the deliveries of a row at a point.
struct Cell {
    /// How often each was sent, and how it ended.
    ends: BTreeSet<(usize, Vec<Status>)>,
    /// Whether that is what was promised.
    is_kept: bool,
}

impl Trial {
    async fn run(&mut self) -> anyhow::Result<()> {
        let mut cells: Vec<Vec<Cell>> = ROWS.iter().map(|_| Vec::new()).collect();
        let mut put_aside = 0;
        for (place, point) in Point::ALL.into_iter().enumerate() {
            self.strike(place as u64, point).await?;
            for (row, cells) in cells.iter_mut().enumerate() {
                let cell = self.cell(place as u64, point, row).await?;
                let is_open = cell.ends.iter().any(|(_, end)| end.contains(&Status::Ambiguous));
                put_aside += if is_open { EACH } else { 0 };
                cells.push(cell);
            }
        }
        show(&cells)?;
        let dead = self.region.connection.stream_state(DEAD_LETTERS).await?.messages;
        anyhow::ensure!(dead == put_aside, "{dead} dead letters, and {put_aside} ended as ambiguous");
        let broken = cells.iter().flatten().filter(|cell| !cell.is_kept).count();
        anyhow::ensure!(broken == 0, "{broken} are otherwise than promised: see the table");
        Ok(())
    }

    /// Has the deliveries of all rows come to a point, kills the dispatcher there, and waits until another one has settled
    /// them.
    async fn strike(&mut self, place: u64, point: Point) -> anyhow::Result<()> {
        for (row, Row { carrier, .. }) in ROWS.iter().enumerate() {
            for number in numbers(place, row) {
                let path = format!("/v1/recipients/w-{number}");
                self.region.api.put(&path, &self.channels.recipient(number, *carrier)).await?;
            }
        }
        wait::until("what comes is new", LIMIT, async || (self.started.elapsed() > NEW_AFTER).then_some(()))
            .await?;
        self.region.tap()?.judge(point.rule(&self.region.connection.region));
        if point == Point::IntentToCall {
            self.channels.links().for_each(Link::silence);
        }
        self.send(place).await?;
        let all = ROWS.len() * EACH as usize;
        let mut here = 0;
        wait::until("all deliveries are there", LIMIT, async || {
            here = self.region.tap().ok()?.noted().len();
            (here >= all).then_some(())
        })
        .await
        .with_context(|| format!("{}: {here} of {all} came to it", point.name()))?;

        self.region.dispatchers[0].kill().await?;
        self.region.tap()?.hang_up();
        if point == Point::IntentToCall {
            // What the dead process wrote is lost with its connections.
            self.channels.links().for_each(Link::cut);
            self.channels.links().for_each(Link::heal);
        }
        if point == Point::AcceptToEvent {
            self.region.tap()?.judge(|message| match points::handed_out(message) {
                Some(work) if work.channel == Channel::Alimtalk => Verdict::Lose,
                _ => Verdict::Pass,
            });
        }
        self.region.dispatchers[0].start()?;
        self.region.dispatchers[0].until_ready().await?;
        self.started = Instant::now();
        if point == Point::AcceptToEvent {
            self.until_asked(place).await?;
        }
        self.settle(place).await
    }

    /// Waits until Aligo was asked. With Peal's own acknowledgement wait that is long before the messages come again; with
    /// the short one of this test they are kept back until then.
    async fn until_asked(&self, place: u64) -> anyhow::Result<()> {
        let row = ROWS.iter().position(|row| row.channel == Channel::Alimtalk).unwrap_or_default();
        wait::until("Aligo was asked", LIMIT, async || {
            let known = self.ends(place, row);
            (known.len() as u64 == EACH).then_some(())
        })
        .await?;
        self.region.tap()?.judge(|_| Verdict::Pass);
        Ok(())
    }

    async fn send(&self, place: u64) -> anyhow::Result<()> {
        let mut notifications = Vec::new();
        for (row, Row { channel, category, .. }) in ROWS.iter().enumerate() {
            notifications.extend(numbers(place, row).map(|number| {
                json!({
                    "id": id(number), "category": category, "channels": [channel],
                    "to": [{ "recipient": format!("w-{number}") }], "content": Channels::content(),
                })
            }));
        }
        let body = json!({ "notifications": notifications });
        let answer = self.region.api.post("/v1/notifications/batch", &body).await?;
        let results = answer.body["results"].as_array().cloned().unwrap_or_default();
        let accepted = results.iter().filter(|result| result["status"] == "accepted").count();
        anyhow::ensure!(accepted == notifications.len(), "not all were accepted: {answer:?}");
        Ok(())
    }

    /// Waits until the deliveries of a point have ended and nothing is left to do.
    async fn settle(&mut self, place: u64) -> anyhow::Result<()> {
        let all = ROWS.len() * EACH as usize;
        let patience = wait::Patience::new("all is settled", LIMIT);
        loop {
            self.region.check()?;
            let settled: usize = (0..ROWS.len()).map(|row| self.ends(place, row).len()).sum();
            let left = self.region.left_over(0).await.unwrap_or_else(|error| vec![format!("{error:#}")]);
            // What may have been sent is put aside, and counted in the end.
            let left: Vec<_> = left.into_iter().filter(|line| !line.starts_with(DEAD_LETTERS)).collect();
            if settled == all && left.is_empty() {
                return Ok(());
            }
            let so_far = || format!("{settled} of {all} are settled; {left:?}");
            patience.pause().await.with_context(so_far)?;
        }
    }

    /// How the deliveries of a row ended so far that have, by their numbers.
    fn ends(&self, place: u64, row: usize) -> BTreeMap<u64, Vec<Status>> {
        let ids: BTreeMap<_, _> = numbers(place, row).map(|number| (id(number), number)).collect();
        let entries = self.journal.entries();
        let mine = entries.settled.values().filter_map(|end| Some((*ids.get(&end.notification)?, end)));
        mine.map(|(number, end)| (number, end.statuses.iter().map(|(status, _)| *status).collect())).collect()
    }

    async fn cell(&self, place: u64, point: Point, row: usize) -> anyhow::Result<Cell> {
        let Row { channel, category, .. } = ROWS[row];
        let ends = self.ends(place, row);
        let calls = self.channels.calls(channel, &self.region.connection).await?;
        let mut found = BTreeSet::new();
        for number in numbers(place, row) {
            let mine: Vec<_> = calls.iter().filter(|call| call.to == number).collect();
            let handles: BTreeSet<_> = mine.iter().map(|call| call.handle.as_deref()).collect();
            // Whoever is sent something twice can tell, but for an alert by Telegram.
            let is_recognisable = !handles.contains(&None) || channel == Channel::Telegram;
            anyhow::ensure!(
                mine.len() < 2 || (handles.len() == 1 && is_recognisable),
                "{channel}, {}: called twice under {handles:?}",
                point.name()
            );
            found.insert((mine.len(), ends.get(&number).cloned().unwrap_or_default()));
        }
        let promised = BTreeSet::from([point.promise(channel, category, ROWS[row].is_asked())]);
        Ok(Cell { is_kept: found == promised, ends: found })
    }
}

/// The numbers of a row's deliveries at a point, which are those of their recipients.
fn numbers(place: u64, row: usize) -> std::ops::Range<u64> {
    let first = (place * ROWS.len() as u64 + row as u64) * EACH;
    first..first + EACH
}

fn id(number: u64) -> String {
    format!("w-{number:06}")
}

fn show(cells: &[Vec<Cell>]) -> anyhow::Result<()> {
    let mut lines = vec![vec!["killed -9".to_owned(), "class".to_owned(), "intent".to_owned()]];
    lines[0].extend(Point::ALL.map(|point| point.name().to_owned()));
    for (Row { name, channel, category, .. }, cells) in ROWS.iter().zip(cells) {
        let class = if *category == NEWS { "marketing" } else { "transactional" };
        let intent = if keeps_intents(*channel, category) { "kept" } else { "none" };
        let mut line = vec![(*name).to_owned(), class.to_owned(), intent.to_owned()];
        line.extend(cells.iter().map(Cell::text));
        lines.push(line);
    }
    report::add_below(&format!(
        "Extra sends of each of {EACH} deliveries and how they ended, by the point at which their dispatcher was killed. \
         Where no intent is kept, nobody can tell the second point from the first:\n\n{}",
        report::table(&lines)
    ))
}

impl Cell {
    fn text(&self) -> String {
        let one = |(calls, end): &(usize, Vec<Status>)| {
            let end = end.iter().map(|status| status.as_str()).collect::<Vec<_>>().join(" and ");
            match calls.checked_sub(1) {
                Some(extra) => format!("{extra} extra, {end}"),
                None => format!("never sent, {end}"),
            }
        };
        let all = self.ends.iter().map(one).collect::<Vec<_>>().join("; ");
        if self.is_kept { all } else { format!("{all} (BROKEN)") }
    }
}
