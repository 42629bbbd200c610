//! Whether every promise was kept: what the sender was told, what the streams say and what the provider saw, compared.

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::time::Duration;

use peal_common::envelope::Envelope as _;
use peal_common::event::{Event, Status};
use peal_nats::follow::Reader;
use peal_nats::topology::{EVENTS, INTAKE};
use peal_nats::unfinished::name;

use crate::faults::Incident;
use crate::journal::{Entries, Journal, Settlement};
use crate::load::{Kind, Load};
use crate::provider::{Calls, Provider};
use crate::region::{Api, Region};
use crate::report;
use crate::texts::Text;
use crate::wait::{self, Stall};

/// How long nothing may move before something counts as lost. Twice the acknowledgement wait of Peal's own topology.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// How many are shown that are not settled.
const SHOWN: usize = 5;
const POLL: Duration = Duration::from_millis(200);
/// How long the read model may lag behind.
const MODEL_LIMIT: Duration = Duration::from_secs(30);
/// From the call of the provider until its event is durable: the request limit of JetStream and as much again, and time
/// for a machine that is overloaded.
const HANDLING: Duration = Duration::from_secs(5);

/// A delivery that the provider got twice in a row.
#[derive(Debug, Clone)]
pub struct Repeat {
    /// Its notification.
    pub notification: String,
    /// The call before.
    pub first_ms: i64,
    /// The call again.
    pub again_ms: i64,
    /// When its first settling event was stored.
    pub settled_ms: Option<i64>,
    /// The incident at which it was in flight; `None` is a broken promise.
    pub incident: Option<usize>,
}

/// A delivery of which nobody knows whether it was made.
#[derive(Debug, Clone)]
pub struct Ambiguous {
    /// The notification.
    pub notification: String,
    /// When the intent to make it was stored, as far as that was read.
    pub intents_ms: Vec<i64>,
    /// When it was called so.
    pub settled_ms: i64,
    /// The incident at which it was in flight; `None` is a broken promise.
    pub incident: Option<usize>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Accepted, and not delivered to the provider or not settled.
    pub lost: Vec<String>,
    /// Deliveries that ended in more than one way, or otherwise than delivered.
    pub wrong_end: Vec<String>,
    /// Notifications with more than one delivery, or webhooks of notifications that nobody had accepted.
    pub foreign: Vec<String>,
    /// Deliveries that ended as ambiguous.
    pub ambiguous: Vec<Ambiguous>,
    /// Deliveries that the provider got more than once.
    pub repeats: Vec<Repeat>,
    /// When the stream of events lost what had been read from it.
    pub losses: Vec<String>,
}

impl Findings {
    /// Fails unless everything accepted ended in exactly one way and only what was in flight at an incident was repeated.
    pub fn check(&self) -> anyhow::Result<()> {
        let unexplained: Vec<_> = self.repeats.iter().filter(|repeat| repeat.incident.is_none()).collect();
        anyhow::ensure!(self.lost.is_empty(), "{} lost: {:?}", self.lost.len(), first(&self.lost));
        anyhow::ensure!(self.wrong_end.is_empty(), "wrong ends: {:?}", first(&self.wrong_end));
        anyhow::ensure!(self.foreign.is_empty(), "not asked for: {:?}", first(&self.foreign));
        anyhow::ensure!(self.losses.is_empty(), "EVENTS lost what it had shown: {:?}", self.losses);
        let unsure = self.ambiguous.iter().filter(|end| end.incident.is_none());
        let unsure: Vec<_> = unsure.map(|end| (&end.notification, &end.intents_ms, end.settled_ms)).collect();
        anyhow::ensure!(
            unsure.is_empty(),
            "{} of {} ambiguous ones were not in flight at any incident: {:?}",
            unsure.len(),
            self.ambiguous.len(),
            first(&unsure)
        );
        anyhow::ensure!(
            unexplained.is_empty(),
            "{} of {} repetitions were not in flight at any incident: {:?}",
            unexplained.len(),
            self.repeats.len(),
            first(&unexplained)
        );
        Ok(())
    }
}

fn first<T>(all: &[T]) -> &[T] {
    &all[..all.len().min(8)]
}

/// Waits until all that was accepted is settled and nothing is left in any queue.
///
/// # Errors
/// When nothing moves any more before that.
pub async fn settle(
    region: &mut Region,
    journal: &Journal,
    provider: &Provider,
    accepted: &BTreeSet<String>,
) -> anyhow::Result<()> {
    let mut stall = Stall::new(STALL_LIMIT);
    let mut interval = tokio::time::interval(POLL);
    loop {
        interval.tick().await;
        region.check()?;
        let (settled, events, ambiguous) = {
            let entries = journal.entries();
            (entries.notifications.len(), entries.events, entries.ambiguous())
        };
        // A server that was just restarted may not answer yet.
        let left = region.left_over(ambiguous).await.unwrap_or_else(|error| vec![format!("{error:#}")]);
        if settled >= accepted.len() && left.is_empty() {
            return Ok(());
        }
        let what = format!("{settled} of {} are settled", accepted.len());
        if let Err(error) = stall.look(&what, (settled, events, provider.total(), left)) {
            let missing = missing(region, journal, provider, accepted).await;
            return Err(error.context(missing.unwrap_or_else(|error| format!("{error:#}"))));
        }
    }
}

/// What the streams and the provider know of some of those that are not settled.
async fn missing(
    region: &Region,
    journal: &Journal,
    provider: &Provider,
    accepted: &BTreeSet<String>,
) -> anyhow::Result<String> {
    let open: BTreeSet<_> = {
        let entries = journal.entries();
        let is_open = |id: &&String| !entries.notifications.contains(*id);
        accepted.iter().filter(is_open).take(SHOWN).cloned().collect()
    };
    let mut known: HashMap<_, Vec<String>> = open.iter().map(|id| (id.clone(), Vec::new())).collect();
    for call in provider.calls().into_values() {
        let calls = known.get_mut(&call.notification);
        calls.into_iter().for_each(|known| known.push(format!("called at {:?}", call.at_ms)));
    }
    let mut intake = Reader::open(&region.connection, INTAKE).await?;
    while intake.peek().await?.is_some() {
        let Some(message) = intake.take() else { continue };
        let Some((_, id)) = name(&message) else { continue };
        let known = known.get_mut(id.as_str());
        let place = format!("INTAKE {} at {}", message.sequence, message.at_ms);
        known.into_iter().for_each(|known| known.push(place.clone()));
    }
    let mut events = Reader::open(&region.connection, EVENTS).await?;
    while events.peek().await?.is_some() {
        let Some(message) = events.take() else { continue };
        let Ok(event) = Event::decode(&message.payload) else { continue };
        let known = known.get_mut(event.notification.as_str());
        let place = format!("EVENTS {} at {}: {:?}", message.sequence, message.at_ms, event.kind);
        known.into_iter().for_each(|known| known.push(place.clone()));
    }
    Ok(format!("not settled: {known:#?}"))
}

/// Waits until all is settled, compares, adds what was found to the table, and fails unless every promise was kept.
/// `replay` has a seeded run again.
///
/// # Errors
/// As [`settle`] and [`Findings::check`].
pub async fn conclude(
    region: &mut Region,
    journal: &Journal,
    provider: &Provider,
    load: &Load,
    incidents: &[Incident],
    replay: Option<&str>,
) -> anyhow::Result<Findings> {
    let accepted = load.accepted();
    settle(region, journal, provider, &accepted).await?;
    let repaired = incidents.iter().map(|incident| incident.repaired_ms).max();
    let changes = region.spread.after(repaired.unwrap_or_default()).await?;
    let calls = calls_by_delivery(provider, &journal.entries());
    let findings = compare(load, &journal.entries(), &calls, incidents);
    let log = &load.log();
    report::Run { log, calls: &calls, changes: &changes, incidents, findings: &findings, replay }
        .add_to_table()?;
    findings.check()?;
    Ok(findings)
}

/// What the provider saw, by delivery. Text messages do not name theirs: what was settled of their notification tells it.
pub fn calls_by_delivery(provider: &Provider, entries: &Entries) -> HashMap<String, Calls> {
    let mut deliveries: HashMap<&str, &String> = HashMap::new();
    for (delivery, settlement) in &entries.settled {
        deliveries.insert(&settlement.notification, delivery);
    }
    let by_delivery = |(key, calls): (String, Calls)| match key == calls.notification {
        true => (deliveries.get(key.as_str()).map_or(key, |delivery| (*delivery).clone()), calls),
        false => (key, calls),
    };
    provider.calls().into_iter().map(by_delivery).collect()
}

/// Compares everything. To be called when all is settled.
pub fn compare(
    load: &Load,
    entries: &Entries,
    calls: &HashMap<String, Calls>,
    incidents: &[Incident],
) -> Findings {
    let accepted = load.accepted();
    let mut findings = Findings { losses: entries.losses.clone(), ..Findings::default() };
    let mut deliveries: HashMap<&str, Vec<&str>> = HashMap::new();
    for (delivery, calls) in calls {
        deliveries.entry(&calls.notification).or_default().push(delivery);
        for pair in calls.at_ms.windows(2) {
            let settled =
                entries.settled.get(delivery).and_then(|s| s.statuses.iter().map(|(_, at)| *at).min());
            let mut repeat = Repeat {
                notification: calls.notification.clone(),
                first_ms: pair[0],
                again_ms: pair[1],
                settled_ms: settled,
                incident: None,
            };
            repeat.incident = incidents.iter().position(|incident| was_in_flight(&repeat, incident));
            findings.repeats.push(repeat);
        }
    }
    let mut ends: HashMap<&str, Vec<&str>> = HashMap::new();
    for (delivery, settlement) in &entries.settled {
        ends.entry(&settlement.notification).or_default().push(delivery);
    }
    for id in &accepted {
        let kind = load.kind_of(id);
        if kind != Kind::Webhook {
            deliveries.remove(id.as_str());
            let ends = ends.get(id.as_str()).map_or(&[][..], Vec::as_slice);
            match ends {
                [] => findings.lost.push(format!("{id}: never settled")),
                &[delivery] => {
                    let text = Text {
                        kind,
                        times: calls.get(delivery).map_or(0, |calls| calls.at_ms.len()),
                        settlement: &entries.settled[delivery],
                        intents_ms: entries.intents.get(delivery).map_or(&[], Vec::as_slice),
                    };
                    findings.ambiguous.extend(text.ambiguous(incidents));
                    findings.wrong_end.extend((!text.is_kept()).then(|| format!("{text:?}")));
                }
                several => findings.foreign.push(format!("{id}: {} deliveries", several.len())),
            }
            continue;
        }
        match deliveries.remove(id.as_str()).as_deref() {
            None => {
                let ends = entries.settled.values().filter(|it| it.notification == *id);
                let ends: Vec<_> = ends.map(|it| (&it.statuses, &it.reason)).collect();
                findings.lost.push(format!("{id}: never came, and ended as {ends:?}"));
            }
            Some([delivery]) => match entries.settled.get(*delivery) {
                None => findings.lost.push(format!("{id}: never settled")),
                Some(settlement)
                    if settlement.statuses.iter().any(|(status, _)| *status != Status::Delivered) =>
                {
                    findings.wrong_end.push(format!("{id}: {:?}", settlement.statuses));
                }
                Some(_) => {}
            },
            Some(several) => findings.foreign.push(format!("{id}: {} deliveries", several.len())),
        }
    }
    findings.foreign.extend(deliveries.into_keys().map(|id| format!("{id}: was never accepted")));
    for (delivery, settlement) in &entries.settled {
        if !settlement.is(Status::Ambiguous) && !calls.contains_key(delivery) {
            let end = format!("{}: {:?} without a call", settlement.notification, settlement.statuses);
            findings.wrong_end.push(end);
        }
    }
    findings
}

/// When a call may have been made whose end an incident left untold.
pub fn called_at(incident: &Incident) -> Option<RangeInclusive<i64>> {
    let aftermath = incident.resends?;
    Some(incident.at_ms - ms(HANDLING)..=incident.repaired_ms + ms(aftermath))
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Whether a delivery was in flight at an incident: the provider had been called, or was called before the effects of
/// the incident were over, and no event that settles the delivery was stored when the incident began, nor long before the
/// second call. Only then may the provider be called again. An event that was stored must be found by whoever is handed
/// the delivery next.
fn was_in_flight(repeat: &Repeat, incident: &Incident) -> bool {
    called_at(incident).is_some_and(|called| called.contains(&repeat.first_ms))
        && incident.at_ms <= repeat.again_ms
        && repeat
            .settled_ms
            .is_none_or(|settled| settled >= incident.at_ms && repeat.again_ms <= settled + ms(HANDLING))
}

/// Asks the gateway about these notifications: its answers must agree with the streams.
///
/// # Errors
/// When an answer is still another one after the read model had time to follow.
pub async fn ask(api: &Api, journal: &Journal, ids: impl IntoIterator<Item = &String>) -> anyhow::Result<()> {
    let ends: HashMap<_, _> = {
        let entries = journal.entries();
        let end = |it: &Settlement| Some((it.notification.clone(), it.statuses.last()?.0.as_str()));
        entries.settled.values().filter_map(end).collect()
    };
    for id in ids {
        let end = ends.get(id).copied().unwrap_or(Status::Delivered.as_str());
        let path = format!("/v1/notifications/{id}");
        let mut last = None;
        let answered = wait::until("the read model agrees", MODEL_LIMIT, async || {
            let answer = api.get(&path).await.ok()?;
            let deliveries = answer.body["deliveries"].as_array().map_or(0, Vec::len);
            let agrees = answer.status == 200
                && answer.body["status"] == end
                && deliveries == 1
                && answer.body["deliveries"][0]["status"] == end;
            last = Some(answer);
            agrees.then_some(())
        })
        .await;
        anyhow::ensure!(answered.is_ok(), "{id} is shown otherwise than the streams have it: {last:?}");
    }
    Ok(())
}
