//! The table of a random run.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::audit::Findings;
use crate::faults::{Fault, Incident};
use crate::load::Log;
use crate::provider::Calls;

/// What one kind of fault did.
#[derive(Default)]
struct Row {
    count: usize,
    duplicated: usize,
    unavailable_ms: i64,
    accepts: Vec<i64>,
    deliveries: Vec<i64>,
}

/// The table: a row for each fault, and one for all.
pub fn table(
    log: &Log,
    calls: &HashMap<String, Calls>,
    incidents: &[Incident],
    findings: &Findings,
) -> String {
    let mut names: Vec<&'static str> = Vec::new();
    let mut rows: HashMap<&'static str, Row> = HashMap::new();
    let mut arrivals: Vec<i64> = calls.values().flat_map(|calls| calls.at_ms.iter().copied()).collect();
    arrivals.sort_unstable();
    let mut starts: Vec<_> = log.requests.iter().filter(|request| request.accepted > 0).collect();
    starts.sort_by_key(|request| request.until_ms);
    for (index, incident) in incidents.iter().enumerate() {
        if !rows.contains_key(incident.fault.name) {
            names.push(incident.fault.name);
        }
        let row = rows.entry(incident.fault.name).or_default();
        row.count += 1;
        row.duplicated += findings.repeats.iter().filter(|repeat| repeat.incident == Some(index)).count();
        // An answer to an earlier request says nothing about what can be accepted now.
        let accepted = starts.iter().find(|request| request.from_ms >= incident.at_ms);
        row.accepts.extend(accepted.map(|request| request.until_ms - incident.at_ms));
        let delivered = arrivals.get(arrivals.partition_point(|at| *at <= incident.at_ms));
        row.deliveries.extend(delivered.map(|at| at - incident.at_ms));
    }
    let mut without_cause = 0;
    for (from, until) in outages(log) {
        match incidents.iter().rev().find(|incident| incident.at_ms <= from).map(fault_name) {
            Some(name) => rows.entry(name).or_default().unavailable_ms += until - from,
            None => without_cause += until - from,
        }
    }
    let mut text = String::from(
        "fault                 kills  accepted  lost  duplicated  ambiguous  unavailable  to next accept   to next delivery\n\
         \x20                                                                               p50 / max ms     p50 / max ms\n",
    );
    for name in names {
        let row = &rows[name];
        let _ = writeln!(
            text,
            "{name:<20} {:>6} {:>9} {:>5} {:>11} {:>10} {:>10.1} s {:>14} {:>18}",
            row.count,
            "",
            "",
            row.duplicated,
            "",
            row.unavailable_ms as f64 / 1000.0,
            middle_and_most(&row.accepts),
            middle_and_most(&row.deliveries),
        );
    }
    let all = |of: fn(&Row) -> &Vec<i64>| rows.values().flat_map(|row| of(row).clone()).collect::<Vec<_>>();
    let unavailable = rows.values().map(|row| row.unavailable_ms).sum::<i64>() + without_cause;
    let _ = writeln!(
        text,
        "{:<20} {:>6} {:>9} {:>5} {:>11} {:>10} {:>10.1} s {:>14} {:>18}",
        "all",
        incidents.len(),
        log.accepted.len(),
        findings.lost.len(),
        findings.repeats.len(),
        findings.ambiguous,
        unavailable as f64 / 1000.0,
        middle_and_most(&all(|row| &row.accepts)),
        middle_and_most(&all(|row| &row.deliveries)),
    );
    let _ = writeln!(
        text,
        "{} requests; {} notifications were sent in requests that got no answer, {} acceptances were told to be repetitions",
        log.requests.len(),
        log.unanswered,
        log.duplicates,
    );
    text
}

fn fault_name(incident: &Incident) -> &'static str {
    let Fault { name, .. } = incident.fault;
    name
}

fn middle_and_most(times: &[i64]) -> String {
    let mut times = times.to_vec();
    times.sort_unstable();
    match times.last() {
        Some(most) => format!("{} / {most}", times[times.len() / 2]),
        None => "-".to_owned(),
    }
}

/// The times in which the sender saw errors only: from the end of the first request that failed to that of the next
/// one that did not.
fn outages(log: &Log) -> Vec<(i64, i64)> {
    let mut requests = log.requests.clone();
    requests.sort_by_key(|request| request.until_ms);
    let mut outages = Vec::new();
    let mut since = None;
    for request in requests {
        match (request.accepted > 0, since) {
            (false, None) => since = Some(request.until_ms),
            (true, Some(from)) => {
                outages.push((from, request.until_ms));
                since = None;
            }
            _ => {}
        }
    }
    outages
}
