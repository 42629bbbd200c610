//! The table of everything that broke: each scenario adds what it saw, rows of the same name become one.
//!
//! It is printed with every addition, and the last one stands in `faults.md` in Cargo's folder for the files of tests.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::audit::Findings;
use crate::faults::Incident;
use crate::load::{Log, Request};
use crate::provider::Calls;
use crate::spread::Change;

/// Deliveries come several times in this while anything is accepted.
const STALL_MS: i64 = 500;

/// The table so far.
static TABLE: Mutex<Table> =
    Mutex::new(Table { rows: Vec::new(), lost: 0, replays: Vec::new(), below: Vec::new() });

/// Rows in the order in which they came, and how to have the random ones again.
struct Table {
    rows: Vec<Row>,
    lost: usize,
    replays: Vec<String>,
    /// What scenarios measured that fits in no row.
    below: Vec<String>,
}

/// Adds what fits in no row below the table, prints that and keeps it in its file.
///
/// # Errors
/// When the file can't be written.
pub fn add_below(text: &str) -> anyhow::Result<()> {
    let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    table.below.push(text.to_owned());
    table.show()
}

/// A table of lines of as many cells each, of which the first is its head.
pub fn table(lines: &[Vec<String>]) -> String {
    let count = lines.iter().map(Vec::len).max().unwrap_or_default();
    let mut widths = vec![0; count];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (cell, &width) in line.iter().zip(&widths) {
            let _ = write!(text, "| {cell:<width$} ");
        }
        text.push_str("|\n");
        if number == 0 {
            widths.iter().for_each(|width| text.push_str(&format!("|{}", "-".repeat(width + 2))));
            text.push_str("|\n");
        }
    }
    text
}

/// What one kind of fault did.
#[derive(Debug, Default, Clone)]
struct Row {
    name: String,
    runs: usize,
    /// From this fault to the next one.
    accepted: u64,
    /// In the whole run, which can't say at which fault.
    lost: usize,
    duplicated: usize,
    ambiguous: usize,
    unavailable_ms: i64,
    recoveries_ms: Vec<i64>,
    convergences_ms: Vec<i64>,
}

/// What a scenario saw.
pub struct Run<'a> {
    /// What the sender knows.
    pub log: &'a Log,
    /// What the provider saw.
    pub calls: &'a HashMap<String, Calls>,
    /// What is known to be everywhere.
    pub changes: &'a [Change],
    /// What broke, in the order of time.
    pub incidents: &'a [Incident],
    /// What the comparison found.
    pub findings: &'a Findings,
    /// What a seeded run is replayed with.
    pub replay: Option<&'a str>,
}

impl Run<'_> {
    /// Adds it to the table, prints that and keeps it in its file.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn add_to_table(self) -> anyhow::Result<()> {
        let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
        for row in self.rows() {
            table.add(row);
        }
        table.lost += self.findings.lost.len();
        table.replays.extend(self.replay.map(str::to_owned));
        table.show()
    }

    /// A row for each incident.
    fn rows(&self) -> Vec<Row> {
        let mut arrivals: Vec<i64> = self.calls.values().flat_map(|calls| calls.at_ms.clone()).collect();
        arrivals.sort_unstable();
        let mut accepting: Vec<_> = self.log.requests.iter().filter(|request| request.accepted > 0).collect();
        accepting.sort_by_key(|request| request.until_ms);
        let outages = outages(self.log);
        let stalls = stalls(&arrivals, &accepting);
        let mut rows = Vec::new();
        for (number, incident) in self.incidents.iter().enumerate() {
            // What came before the first one was at stake, too.
            let from = if number == 0 { i64::MIN } else { incident.at_ms };
            let until = self.incidents.get(number + 1).map_or(i64::MAX, |next| next.at_ms);
            // An answer to an earlier request says nothing about what can be accepted now.
            let accepted = accepting.iter().find(|request| request.from_ms >= incident.at_ms);
            let delivered = arrivals.get(arrivals.partition_point(|at| *at <= incident.at_ms)).copied();
            // Things may go on for a moment before they stop.
            let stopped = incident.at_ms..=incident.repaired_ms;
            let stops = outages.iter().copied().chain(stalls.iter().copied());
            let went_on = stops.filter(|(began, _)| stopped.contains(began)).map(|(_, ended)| ended).max();
            let recovered = accepted.map(|request| request.until_ms).max(delivered).max(went_on);
            let known = self.changes.iter().find(|change| change.sent_ms >= incident.repaired_ms);
            let known = known.map(|change| change.everywhere_ms - incident.repaired_ms);
            let elsewhere = incident.converged_after.map(|time| time.as_millis() as i64);
            let during = |at_ms: i64| (from..until).contains(&at_ms);
            rows.push(Row {
                name: incident.name.clone(),
                runs: 1,
                accepted: accepting
                    .iter()
                    .filter(|request| during(request.until_ms))
                    .map(|request| request.accepted)
                    .sum(),
                lost: self.findings.lost.len(),
                duplicated: self
                    .findings
                    .repeats
                    .iter()
                    .filter(|it| it.incident.map_or_else(|| during(it.again_ms), |by| by == number))
                    .count(),
                ambiguous: self
                    .findings
                    .ambiguous
                    .iter()
                    .filter(|it| it.incident.map_or_else(|| during(it.settled_ms), |by| by == number))
                    .count(),
                unavailable_ms: outages
                    .iter()
                    .map(|&(began, ended)| (ended.min(until) - began.max(from)).max(0))
                    .sum(),
                recoveries_ms: recovered.map(|at| at - incident.at_ms).into_iter().collect(),
                convergences_ms: known.max(elsewhere).into_iter().collect(),
            });
        }
        rows
    }
}

impl Table {
    fn add(&mut self, row: Row) {
        match self.rows.iter_mut().find(|known| known.name == row.name) {
            Some(known) => known.merge(&row),
            None => self.rows.push(row),
        }
    }

    fn render(&self) -> String {
        let mut all = Row { name: "all".to_owned(), ..Row::default() };
        for row in &self.rows {
            all.merge(row);
        }
        all.lost = self.lost;
        let mut lines = vec![
            [
                "what happened",
                "times",
                "accepted",
                "lost",
                "duplicated",
                "ambiguous",
                "unavailable",
                "recovered p50 / max",
                "state everywhere p50 / max",
            ]
            .map(str::to_owned)
            .to_vec(),
        ];
        lines.extend(self.rows.iter().chain([&all]).map(|row| row.cells().to_vec()));
        let mut text = if self.rows.is_empty() { String::new() } else { table(&lines) };
        for replay in &self.replays {
            let _ = write!(text, "\n{replay}");
        }
        for below in &self.below {
            let _ = write!(text, "\n\n{below}");
        }
        text
    }

    fn show(&self) -> anyhow::Result<()> {
        let text = self.render();
        println!("{text}");
        Ok(fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults.md"), text)?)
    }
}

impl Row {
    fn merge(&mut self, other: &Row) {
        self.runs += other.runs;
        self.accepted += other.accepted;
        // Rows of one run repeat what the run lost.
        self.lost = self.lost.max(other.lost);
        self.duplicated += other.duplicated;
        self.ambiguous += other.ambiguous;
        self.unavailable_ms += other.unavailable_ms;
        self.recoveries_ms.extend(&other.recoveries_ms);
        self.convergences_ms.extend(&other.convergences_ms);
    }

    fn cells(&self) -> [String; 9] {
        [
            self.name.clone(),
            self.runs.to_string(),
            self.accepted.to_string(),
            self.lost.to_string(),
            self.duplicated.to_string(),
            self.ambiguous.to_string(),
            format!("{} s", seconds(self.unavailable_ms)),
            middle_and_most(&self.recoveries_ms),
            middle_and_most(&self.convergences_ms),
        ]
    }
}

fn seconds(ms: i64) -> String {
    format!("{:.1}", ms as f64 / 1000.0)
}

fn middle_and_most(times_ms: &[i64]) -> String {
    let mut times = times_ms.to_vec();
    times.sort_unstable();
    match times.last() {
        Some(most) => format!("{} / {} s", seconds(times[times.len() / 2]), seconds(*most)),
        None => String::new(),
    }
}

/// The times in which nothing was delivered although something had been accepted: from its acceptance until the next delivery.
fn stalls(arrivals: &[i64], accepting: &[&Request]) -> Vec<(i64, i64)> {
    let gaps = arrivals.windows(2).map(|pair| (pair[0], pair[1]));
    gaps.filter_map(|(from, until)| {
        let next = accepting.get(accepting.partition_point(|request| request.until_ms < from))?;
        (until - next.until_ms > STALL_MS).then_some((next.until_ms, until))
    })
    .collect()
}

/// The times in which nothing was accepted although the sender asked: from when the first request was sent that failed,
/// or from the last acceptance after that, until the next acceptance.
fn outages(log: &Log) -> Vec<(i64, i64)> {
    let mut requests = log.requests.clone();
    requests.sort_by_key(|request| request.until_ms);
    let mut outages = Vec::new();
    let (mut since, mut last_accepted) = (None, i64::MIN);
    for request in requests {
        if request.accepted > 0 {
            outages.extend(since.take().map(|from| (from, request.until_ms)));
            last_accepted = request.until_ms;
        } else {
            since = since.or(Some(request.from_ms.max(last_accepted)));
        }
    }
    outages
}
