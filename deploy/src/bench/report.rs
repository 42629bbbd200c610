//! What was measured, beside the targets, for people and for programs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::delivery::{Backlog, CriticalLatency, Delivered, EndToEnd};
use super::deployment::Deployment;
use super::machine::{Disk, Machine};
use super::many::Many;
use super::process::{Memory, busy_words};
use super::pushing::Pushed;
use super::throughput::{Series, Shape};
use crate::output::table;

/// Single requests accepted, as a part of the raw rate.
const SINGLE_TARGET: f64 = 0.20;
/// Batched notifications accepted, as a part of the raw rate.
const BATCHED_TARGET: f64 = 0.70;
/// Notifications delivered, as a part of the raw rate.
const END_TO_END_TARGET: f64 = 0.12;
/// Pushes of one dispatcher in a second, through APNs and through FCM.
const PUSHES_TARGET: f64 = 5_000.0;
/// Milliseconds from a critical request to its webhook, 99 % of the time, behind a backlog.
const CRITICAL_P99_MS: f64 = 150.0;
/// Megabytes of gateway and of dispatcher with many recipients.
const MEMORY_MB: f64 = 150.0;
/// Recipients added in a second in the last tenth, as a part of the first: some noise is allowed.
const SAME_PACE: f64 = 0.80;
/// Accepting while every write is forced to disk, as a part of accepting without grouping: never less, but for noise.
const ALWAYS_TARGET: f64 = 0.95;
/// The same with so many waiting requests that grouping must pay.
const GROUPED_TARGET: f64 = 2.0;
const GROUPED_WAITING: usize = 1_000;

const MEGABYTE: f64 = 1_000_000.0;

/// What stands in the report about who shares the machine.
const SHARED: &str = "nats-server, gateway, dispatcher, load generator and sink share these processors";

/// Everything that was measured.
#[derive(Serialize)]
pub struct Report {
    /// Peal's version.
    pub peal: &'static str,
    /// nats-server's version.
    pub nats_server: String,
    /// `release`, or `debug`: figures of a debug build mean nothing.
    pub build: &'static str,
    /// Whether the sizes were too small for figures that mean something.
    pub quick: bool,
    /// What it ran on.
    pub machine: Machine,
    /// Where the data lay.
    pub disk: Disk,
    /// Who shared the machine.
    pub shared: &'static str,
    /// Bytes of a message in INTAKE, which the raw rate is measured with too.
    pub payload_bytes: usize,
    /// How long everything took.
    pub seconds: f64,
    /// The server's `sync_interval` of everything but `always`.
    pub sync_interval: &'static str,
    /// Rates of publishing and accepting.
    pub accepting: Vec<Series>,
    /// The best ways of accepting, measured for longer.
    pub sustained: Vec<Series>,
    /// The delivered rate.
    pub end_to_end: Option<EndToEnd>,
    /// Critical notifications at light load.
    pub light: Option<CriticalLatency>,
    /// Critical notifications behind a backlog.
    pub backlog: Option<Backlog>,
    /// Pushes.
    pub pushed: Vec<Pushed>,
    /// Many recipients.
    pub recipients: Option<Many>,
    /// Accepting with `sync_interval: always`.
    pub always: Vec<AlwaysSynced>,
    /// The memory of each process at the end of each part.
    pub memory: BTreeMap<String, BTreeMap<String, Memory>>,
    /// What was measured beside what is wanted.
    pub comparisons: Vec<Comparison>,
    /// What must not happen and did: notifications lost, repeated or refused.
    pub faults: Vec<String>,
}

/// Accepting with the same number of waiting requests, in both ways.
#[derive(Debug, Clone, Serialize)]
pub struct AlwaysSynced {
    /// Requests that wait at once.
    pub waiting: usize,
    /// Plain publishing without Peal, for comparison.
    pub raw: Series,
    /// Single requests to a gateway that publishes each by itself.
    pub singly: Series,
    /// Single requests to a gateway that groups them where that wins.
    pub gateway: Series,
    /// The rate with grouping as a part of the one without.
    pub ratio: f64,
}

impl AlwaysSynced {
    /// Brings together what was measured: for each number of waiting requests raw, singly, and with grouping.
    #[must_use]
    pub fn of(measured: Vec<Series>) -> Vec<Self> {
        let mut measured = measured.into_iter();
        let next = || {
            let (raw, singly, gateway) = (measured.next()?, measured.next()?, measured.next()?);
            let Shape::Raw { window: waiting } = raw.shape else { return None };
            let ratio = gateway.per_second / singly.per_second;
            Some(AlwaysSynced { waiting, raw, singly, gateway, ratio })
        };
        std::iter::from_fn(next).collect()
    }

    fn series(&self) -> [&Series; 3] {
        [&self.raw, &self.singly, &self.gateway]
    }
}

/// A figure beside what is wanted.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// What was measured.
    pub what: String,
    /// The figure in its own unit, in words.
    pub figure: String,
    /// The figure that is compared.
    pub value: f64,
    /// What is wanted; `None` where nothing is.
    pub target: Option<Target>,
    /// Whether it is as wanted.
    pub met: Option<bool>,
}

/// What is wanted.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// This or more, as a part of the raw rate.
    RatioAtLeast(f64),
    /// This or more in a second.
    PerSecondAtLeast(f64),
    /// Less than this, in milliseconds.
    MillisBelow(f64),
    /// Less than this, in megabytes.
    MegabytesBelow(f64),
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Target::RatioAtLeast(wanted) | Target::PerSecondAtLeast(wanted) => value >= wanted,
            Target::MillisBelow(limit) | Target::MegabytesBelow(limit) => value < limit,
        }
    }

    fn words(self) -> String {
        match self {
            Target::RatioAtLeast(wanted) => format!("≥ {wanted:.2}"),
            Target::PerSecondAtLeast(wanted) => format!("≥ {wanted:.0}/s"),
            Target::MillisBelow(limit) => format!("< {limit:.0} ms"),
            Target::MegabytesBelow(limit) => format!("< {limit:.0} MB"),
        }
    }

    fn value(self, value: f64) -> String {
        match self {
            Target::RatioAtLeast(_) => format!("{value:.2}"),
            Target::PerSecondAtLeast(_) => format!("{value:.0}/s"),
            Target::MillisBelow(_) => format!("{value:.1} ms"),
            Target::MegabytesBelow(_) => format!("{value:.0} MB"),
        }
    }
}

impl Report {
    /// An empty report.
    #[must_use]
    pub(super) fn new(machine: Machine, disk: Disk, quick: bool) -> Self {
        Report {
            peal: env!("CARGO_PKG_VERSION"),
            nats_server: String::new(),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            quick,
            machine,
            disk,
            shared: SHARED,
            payload_bytes: 0,
            seconds: 0.0,
            sync_interval: "2m (the server's default)",
            accepting: Vec::new(),
            sustained: Vec::new(),
            end_to_end: None,
            light: None,
            backlog: None,
            pushed: Vec::new(),
            recipients: None,
            always: Vec::new(),
            memory: BTreeMap::new(),
            comparisons: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// Notes the memory of all processes at the end of a part.
    pub(super) fn remember(&mut self, part: &str, deployment: &Deployment) {
        self.memory.insert(part.to_owned(), deployment.memory());
    }

    /// The best of the shapes of a kind.
    fn best(&self, of_kind: impl Fn(Shape) -> bool) -> Option<&Series> {
        let of_kind = self.accepting.iter().filter(|series| of_kind(series.shape));
        of_kind.max_by(|one, other| one.per_second.total_cmp(&other.per_second))
    }

    /// The best rate of single requests.
    pub(super) fn single(&self) -> Option<&Series> {
        self.best(|shape| matches!(shape, Shape::Single { .. }))
    }

    /// The best rate of batches.
    pub(super) fn batched(&self) -> Option<&Series> {
        self.best(|shape| matches!(shape, Shape::Batched { .. }))
    }

    /// Compares what was measured with what is wanted.
    pub(super) fn compare(&mut self) {
        self.comparisons =
            [self.rates(), self.latencies(), self.pushes(), self.pace(), self.synced()].concat();
        self.faults = self.find_faults();
    }

    fn rates(&self) -> Vec<Comparison> {
        let raw = self.best(|shape| matches!(shape, Shape::Raw { .. }));
        let mut rows = Vec::new();
        let mut row = |what: &str, rate: f64, how: String, target| {
            let value = raw.map_or(f64::NAN, |raw| rate / raw.per_second);
            rows.push(comparison(what, format!("{rate:.0}/s{how}"), value, target));
        };
        let how = |series: &Series| format!(", {}", series.shape.words());
        if let Some(raw) = raw {
            row("raw JetStream publishing", raw.per_second, how(raw), None);
        }
        if let Some(single) = self.single() {
            let target = Some(Target::RatioAtLeast(SINGLE_TARGET));
            row("accept, single requests", single.per_second, how(single), target);
        }
        if let Some(batched) = self.batched() {
            let target = Some(Target::RatioAtLeast(BATCHED_TARGET));
            row("accept, batched", batched.per_second, how(batched), target);
        }
        for series in &self.sustained {
            row("accept, sustained", series.per_second, how(series), None);
        }
        if let Some(delivered) = &self.end_to_end {
            let target = Some(Target::RatioAtLeast(END_TO_END_TARGET));
            row("end to end, to a webhook", delivered.per_second, String::new(), target);
        }
        rows
    }

    fn latencies(&self) -> Vec<Comparison> {
        let mut rows = Vec::new();
        let mut row = |what: &str, critical: &CriticalLatency, note: String, target: Option<Target>| {
            let latency = &critical.to_provider;
            let figure = format!("p50 {:.1} ms, p99 {:.1} ms{note}", latency.p50_ms, latency.p99_ms);
            let value = target.map_or(f64::NAN, |_| latency.p99_ms);
            rows.push(comparison(what, figure, value, target));
        };
        let target = Some(Target::MillisBelow(CRITICAL_P99_MS));
        if let Some(light) = &self.light {
            row("critical to provider, p99, light load", light, String::new(), target);
        }
        if let Some(backlog) = &self.backlog {
            let (from, to) = (backlog.waiting_at_start, backlog.waiting_at_end);
            let what = "critical to provider, p99, behind a backlog";
            match to {
                // Then some of them had nothing in front, and the figure says nothing about a backlog.
                0 => row(what, &backlog.critical, format!(", but the backlog of {from} ran out"), None),
                _ => row(what, &backlog.critical, format!(", behind {from} to {to} bulk ones"), target),
            }
        }
        rows
    }

    fn pushes(&self) -> Vec<Comparison> {
        let rows = self.pushed.iter().map(|pushed| {
            let figure = format!("{:.0}/s, {}", pushed.per_second, busy_words(&pushed.processors));
            let what = format!("pushes of one dispatcher, {}", pushed.channel);
            comparison(&what, figure, pushed.per_second, Some(Target::PerSecondAtLeast(PUSHES_TARGET)))
        });
        rows.collect()
    }

    fn pace(&self) -> Vec<Comparison> {
        let Some(many) = &self.recipients else { return Vec::new() };
        let mut rows = Vec::new();
        for name in ["peal-gateway", "peal-dispatcher"] {
            if let Some(memory) = many.used.get(name) {
                let value = memory.resident_bytes as f64 / MEGABYTE;
                let peak = memory.peak_bytes as f64 / MEGABYTE;
                let what = format!("{name}, {} recipients", many.recipients);
                let figure = format!("{value:.0} MB resident, {peak:.0} MB at the peak");
                rows.push(comparison(&what, figure, value, Some(Target::MegabytesBelow(MEMORY_MB))));
            }
        }
        let tenths = &many.per_second_by_tenth;
        if let (Some(first), Some(last)) = (tenths.first(), tenths.last()) {
            let figure = format!("first tenth {first:.0}/s, last tenth {last:.0}/s");
            let target = Some(Target::RatioAtLeast(SAME_PACE));
            rows.push(comparison("adding recipients, last to first", figure, last / first, target));
        }
        let (first, last) = (many.api_first_per_second, many.api_last_per_second);
        let figure = format!("first {first:.0}/s, last {last:.0}/s");
        let target = Some(Target::RatioAtLeast(SAME_PACE));
        rows.push(comparison("adding recipients by the API, last to first", figure, last / first, target));
        rows
    }

    fn synced(&self) -> Vec<Comparison> {
        let rows = self.always.iter().map(|always| {
            let wanted = if always.waiting >= GROUPED_WAITING { GROUPED_TARGET } else { ALWAYS_TARGET };
            let rates = always.series().map(|series| series.per_second);
            let figure = format!("{:.0}/s, singly {:.0}/s, raw {:.0}/s", rates[2], rates[1], rates[0]);
            let what = format!("always synced, {} waiting", always.waiting);
            comparison(&what, figure, always.ratio, Some(Target::RatioAtLeast(wanted)))
        });
        rows.collect()
    }

    fn find_faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let synced = self.always.iter().flat_map(AlwaysSynced::series);
        for series in
            self.accepting.iter().chain(&self.sustained).chain(synced).filter(|series| series.refused > 0)
        {
            let example = series.example.as_deref().unwrap_or("no acknowledgement");
            faults.push(format!("{}: {} refused; {example}", series.shape.words(), series.refused));
        }
        let mut delivered: Vec<(&str, &Delivered)> = Vec::new();
        if let Some(measured) = &self.end_to_end {
            delivered.extend(measured.runs.iter().map(|run| ("end to end", run)));
        }
        delivered.extend(self.light.iter().map(|light| ("light load", &light.delivered)));
        let pushed = self.pushed.iter().flat_map(|pushed| &pushed.runs);
        delivered.extend(pushed.map(|run| ("pushes", run)));
        delivered.extend(self.recipients.iter().map(|many| ("recipients", &many.delivered)));
        if let Some(backlog) = &self.backlog {
            delivered.push(("critical behind a backlog", &backlog.critical.delivered));
            // The dispatcher is stopped with nothing in flight, so these too must come exactly once.
            delivered.push(("backlog", &backlog.delivered));
        }
        for (what, run) in delivered.into_iter().filter(|(_, run)| !run.exactly_once()) {
            faults.push(format!(
                "{what}: {} accepted, {} arrived, {} repeated",
                run.accepted, run.arrived, run.repeated
            ));
        }
        faults
    }

    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let rows: Vec<Vec<String>> = self.comparisons.iter().map(Comparison::row).collect();
        let mut parts = vec![self.heading()];
        parts.push(table(&["MEASURED", "FIGURE", "TO RAW", "WANTED", ""], &rows));
        if let Some(details) = self.processors() {
            parts.push(details);
        }
        parts.push(self.memories());
        for fault in &self.faults {
            parts.push(format!("FAULT: {fault}"));
        }
        parts.join("\n\n")
    }

    fn heading(&self) -> String {
        let machine = &self.machine;
        let memory = machine.memory_bytes.map_or(0, |bytes| bytes / 1_000_000_000);
        let mut lines = vec![
            format!(
                "Peal {} ({} build), nats-server {}, sync_interval {}",
                self.peal, self.build, self.nats_server, self.sync_interval
            ),
            format!(
                "{} processors ({}), {memory} GB, Linux {}, data on {} ({})",
                machine.cores,
                machine.processor.as_deref().unwrap_or("unknown"),
                machine.kernel.as_deref().unwrap_or("unknown"),
                self.disk.file_system,
                self.disk.device
            ),
            format!("{SHARED}; {:.0} s in all", self.seconds),
        ];
        if self.payload_bytes > 0 {
            lines.push(format!("Messages of {} bytes, as the gateway writes them", self.payload_bytes));
        }
        if self.quick {
            lines.push("Quick sizes: this shows that it works, not how fast it is.".to_owned());
        }
        if self.build == "debug" {
            lines.push(
                "A debug build: build with --release before you compare anything with these figures."
                    .to_owned(),
            );
        }
        if self.disk.is_memory() {
            lines.push("The data lies in memory: forcing it to disk costs nothing here.".to_owned());
        }
        lines.join("\n")
    }

    /// Processors that each process took, of every shape.
    fn processors(&self) -> Option<String> {
        let ways = ["always", "always, singly", "always"];
        let synced = self.always.iter().flat_map(|always| always.series().into_iter().zip(ways));
        let mut rows: Vec<Vec<String>> = self
            .accepting
            .iter()
            .chain(&self.sustained)
            .map(|series| (series, "default"))
            .chain(synced)
            .map(|(series, sync)| {
                let kind = match series.shape {
                    Shape::Raw { .. } => "raw",
                    Shape::Single { .. } => "single",
                    Shape::Batched { .. } => "batched",
                };
                let latency =
                    series.latency.as_ref().map(|l| format!("{:.1} / {:.1} ms", l.p50_ms, l.p99_ms));
                vec![
                    kind.to_owned(),
                    series.shape.words(),
                    sync.to_owned(),
                    format!("{:.0}/s", series.per_second),
                    latency.unwrap_or_default(),
                    busy_words(&series.processors),
                    format!("{:.1} s", series.settled_after_seconds),
                ]
            })
            .collect();
        if let Some(measured) = &self.end_to_end {
            let rate = format!("{:.0}/s", measured.per_second);
            let cells = ["end to end", "", "default", &rate, "", &busy_words(&measured.processors)];
            rows.push(cells.map(str::to_owned).to_vec());
        }
        let heading = ["KIND", "SHAPE", "SYNC", "RATE", "P50 / P99", "PROCESSORS BUSY", "INDEXED AFTER"];
        (!rows.is_empty()).then(|| table(&heading, &rows))
    }

    fn memories(&self) -> String {
        let megabytes = |bytes: u64| format!("{:.0}", bytes as f64 / MEGABYTE);
        let rows: Vec<Vec<String>> = self
            .memory
            .iter()
            .flat_map(|(part, processes)| {
                processes.iter().map(move |(name, memory)| {
                    let (now, peak) = (megabytes(memory.resident_bytes), megabytes(memory.peak_bytes));
                    vec![part.clone(), name.clone(), now, peak]
                })
            })
            .collect();
        table(&["MEMORY AFTER", "PROCESS", "MB", "PEAK MB"], &rows)
    }
}

fn comparison(what: &str, figure: String, value: f64, target: Option<Target>) -> Comparison {
    let met = target.filter(|_| value.is_finite()).map(|target| target.is_met(value));
    Comparison { what: what.to_owned(), figure, value, target, met }
}

impl Comparison {
    fn row(&self) -> Vec<String> {
        let value = match self.target {
            _ if !self.value.is_finite() => String::new(),
            Some(target) => target.value(self.value),
            None => format!("{:.2}", self.value),
        };
        let verdict = match self.met {
            Some(true) => "ok",
            Some(false) => "MISSED",
            None => "",
        };
        let wanted = self.target.map(Target::words).unwrap_or_default();
        vec![self.what.clone(), self.figure.clone(), value, wanted, verdict.to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(shape: Shape, per_second: f64) -> Series {
        Series { per_second, ..Series::new(shape) }
    }

    fn report() -> Report {
        let mut report = Report::new(Machine::look(), Disk::of(std::path::Path::new("/")), true);
        report.accepting = vec![
            series(Shape::Raw { window: 1000 }, 90_000.0),
            series(Shape::Raw { window: 2000 }, 100_000.0),
            series(Shape::Single { connections: 16 }, 19_000.0),
            series(Shape::Single { connections: 64 }, 21_000.0),
            series(Shape::Batched { size: 100, connections: 8 }, 69_000.0),
        ];
        report
    }

    #[test]
    fn rates_are_compared_with_the_best_raw_rate_of_the_run() {
        let mut report = report();
        report.compare();
        let found: Vec<_> = report.comparisons.iter().map(|row| (row.value, row.met)).collect();
        assert_eq!(found, [(1.0, None), (0.21, Some(true)), (0.69, Some(false))]);
        assert!(report.text().contains("MISSED"));
    }

    #[test]
    fn without_a_raw_rate_nothing_is_compared() {
        let mut report = report();
        report.accepting.drain(..2);
        report.compare();
        assert!(report.comparisons.iter().all(|row| row.met.is_none()));
    }

    #[test]
    fn a_refused_or_lost_notification_is_a_fault() {
        let mut report = report();
        report.accepting[2].refused = 1;
        let run = Delivered { accepted: 10, arrived: 9, repeated: 0, seconds: 1.0, per_second: 9.0 };
        report.end_to_end = Some(EndToEnd { per_second: 9.0, runs: vec![run], processors: BTreeMap::new() });
        report.compare();
        assert_eq!(report.faults.len(), 2);
    }

    #[test]
    fn waiting_requests_are_paired_and_many_of_them_must_pay() {
        let mut report = report();
        report.always = AlwaysSynced::of(vec![
            series(Shape::Raw { window: 1 }, 200.0),
            series(Shape::Single { connections: 1 }, 100.0),
            series(Shape::Single { connections: 1 }, 100.0),
            series(Shape::Raw { window: 1000 }, 1_000.0),
            series(Shape::Single { connections: 1000 }, 1_000.0),
            series(Shape::Single { connections: 1000 }, 1_900.0),
        ]);
        let met: Vec<_> = report.synced().iter().map(|row| row.met).collect();
        assert_eq!(met, [Some(true), Some(false)]);
    }
}
