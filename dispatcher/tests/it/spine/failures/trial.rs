//! Runs rows through one dispatcher, each with an app, an account, a provider and an address of its own, so that what one
//! of them opens or freezes is none of the others' business.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use peal_common::envelope::Text;
use peal_common::event::{Event, EventType};
use peal_common::id::AppId;
use peal_nats::topology::SCHEDULE;
use serde_json::{Value, json};
use tokio::time::{Instant, interval};

use super::{Asked, BASE, Dead, FullForDays, Later, Meaning, Out, Repeated, Row, Said, Unknown, Wrong};
use crate::spine::accounts::{Account, Server, asks_for_results, content, is_message, result};
use crate::spine::region::{Region, from_now, intake};

const LIMIT: Duration = Duration::from_secs(60);
/// How far two looks at the clock may be apart, in seconds.
const SLACK: f64 = 0.3;

/// A row under way.
struct Trial {
    /// Of the app, of its account, of its recipient and of the notification.
    id: String,
    row: Row,
    account: Account,
    state: u64,
}

/// Everything that was told, by notification.
type Told = HashMap<String, Vec<Event>>;

impl Trial {
    async fn start(region: &Region, row: Row, number: usize, is_right: &Arc<AtomicBool>) -> Self {
        let id = format!("{}-{number}", row.provider.replace('_', "-"));
        let account = Account::start(row.provider).await;
        let app: AppId = id.parse().unwrap();
        region.category_of(&app, "orders", json!({"class": "transactional"})).await;
        if row.meaning == FullForDays {
            let days = [from_now(-3 * 24 * 3600), from_now(-2 * 24 * 3600)];
            region.full_mailbox_of(&app, &account.address(), &days).await;
        }
        let contacts = [(account.channel, &*account.address())];
        let state = region.recipient_of(&app, &id, &contacts, json!({})).await;
        let trial = Trial { id, row, account, state };
        trial.play(Arc::clone(is_right));
        trial
    }

    /// Has the provider fail: once, until it is put right, or always.
    fn play(&self, is_right: Arc<AtomicBool>) {
        let (name, meaning, said) = (self.row.provider, self.row.meaning, self.row.said.clone());
        if let (Server::Smtp(server), Said::Reply(command, reply)) = (&self.account.server, &said) {
            match is_passing(meaning) {
                true => server.reply_next(*command, reply.clone()),
                false => server.reply(*command, reply.clone()),
            }
        }
        let asked = AtomicU32::new(0);
        self.account.guard(move |request| {
            let answer = match &said {
                Said::Answer(answer) if is_message(name, request) => answer.clone(),
                Said::Result(code) if asks_for_results(request) => result(code),
                _ => return None,
            };
            let is_first = asked.fetch_add(1, Ordering::Relaxed) == 0;
            let fails = match meaning {
                Out(_) => !is_right.load(Ordering::Relaxed),
                _ => is_first || !is_passing(meaning),
            };
            fails.then_some(answer)
        });
    }

    fn put_right(&self) {
        if let (Server::Smtp(server), Out(_), Said::Reply(command, _)) =
            (&self.account.server, self.row.meaning, &self.row.said)
        {
            server.as_usual(*command);
        }
    }

    async fn accept(&self, region: &Region, id: &str) {
        let mut intake = intake(id, &[&self.id], self.state);
        intake.notification.app = self.id.parse().unwrap();
        intake.notification.text = Text::Content(content());
        intake.notification.channels = Some(serde_json::from_value(json!([self.account.channel])).unwrap());
        region.accept(&intake).await;
    }

    /// The name of its account in events.
    fn provider(&self) -> String {
        match self.row.provider {
            "webhook" | "webpush" => self.row.provider.to_owned(),
            provider => format!("{provider}:{}", self.id),
        }
    }

    /// The first thing that was told of its failure.
    fn failure<'t>(&self, told: &'t Told) -> Option<&'t Event> {
        let is_before = |kind| match kind {
            EventType::Planned => true,
            EventType::Sent => matches!(self.row.said, Said::Result(_)),
            _ => false,
        };
        told.get(&self.id)?.iter().find(|event| !is_before(event.kind))
    }

    /// That it was sent after all.
    fn sent<'t>(&self, told: &'t Told) -> Option<&'t Event> {
        let failure = self.failure(told)?;
        let kind = if self.row.provider == "webhook" { EventType::Delivered } else { EventType::Sent };
        let later = told.get(&self.id)?.iter().skip_while(|event| *event != failure);
        later.into_iter().find(|event| event.kind == kind)
    }

    fn again(&self) -> String {
        format!("{}-again", self.id)
    }

    /// What is told of a second notification, besides that it was planned.
    fn second<'t>(&self, told: &'t Told) -> Option<&'t Event> {
        told.get(&self.again())?.iter().find(|event| event.kind != EventType::Planned)
    }

    /// Where what was told differs from what has to be told.
    fn differences(&self, told: &Told, letters: &[(String, String)]) -> Vec<String> {
        let (expected, failure) = (self.row.expected(), self.failure(told).unwrap());
        let mut found = Vec::new();
        let mut compare = |what: &str, is: String, should: String| {
            if is != should {
                found.push(format!("{} ({}): {what} is {is}, not {should}", self.id, self.row.reason));
            }
        };
        compare("the event", format!("{:?}", failure.kind), format!("{:?}", expected.kind));
        compare("the reason", format!("{:?}", failure.reason), format!("{:?}", Some(&expected.reason)));
        compare("attempts", format!("{:?}", failure.attempts), format!("{:?}", expected.attempts));
        compare("the provider", format!("{:?}", failure.provider), format!("{:?}", Some(self.provider())));
        let wait = failure.until.map(|until| until.duration_since(failure.at).as_secs_f64());
        let is_within = match (&wait, &expected.wait) {
            (Some(wait), Some(range)) => (range.start() - SLACK..=range.end() + SLACK).contains(wait),
            (wait, range) => wait.is_some() == range.is_some(),
        };
        if !is_within {
            compare("the wait", format!("{wait:?}"), format!("{:?}", expected.wait));
        }
        let sent = self.sent(told).map(|sent| sent.attempts);
        compare("attempts when sent", format!("{sent:?}"), format!("{:?}", expected.sent.map(Some)));
        let letter = letters.iter().find(|(id, _)| *id == self.id).map(|(_, reason)| reason.as_str());
        compare("a dead letter", format!("{}", letter.is_some()), format!("{}", expected.is_dead_letter));
        let is_suppressed = self.second(told).is_some_and(|event| {
            event.kind == EventType::Suppressed && event.reason.as_deref() == Some("address_suppressed")
        });
        compare("suppressed", is_suppressed.to_string(), self.row.suppresses().to_string());
        let calls = match self.row.meaning {
            Dead | FullForDays => Some(1),
            Wrong | Unknown => Some(2),
            Later(_) | Out(_) | Repeated | Asked => None,
        };
        if let Some(calls) = calls {
            compare("calls", self.account.calls().to_string(), calls.to_string());
        }
        found
    }
}

/// Whether a provider does it once and is itself again.
fn is_passing(meaning: Meaning) -> bool {
    matches!(meaning, Later(_) | Repeated | Asked)
}

/// Reads everything that was told, until all rows are `done`.
async fn told(region: &Region, trials: &[Trial], what: &str, done: impl Fn(&Trial, &Told) -> bool) -> Told {
    let deadline = Instant::now() + LIMIT;
    let mut interval = interval(Duration::from_millis(100));
    loop {
        interval.tick().await;
        let mut told = Told::new();
        for event in region.events().await {
            told.entry(event.notification.as_str().to_owned()).or_default().push(event);
        }
        let missing: Vec<_> = trials.iter().filter(|trial| !done(trial, &told)).collect();
        if missing.is_empty() {
            return told;
        }
        let ids: Vec<_> = missing.iter().map(|trial| (&trial.id, told.get(&trial.id))).collect();
        assert!(Instant::now() < deadline, "{what}: not of {ids:?}");
    }
}

/// The accounts that are left alone, and why.
async fn open_circuits(port: u16) -> BTreeMap<String, String> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let answer = reqwest::get(format!("http://127.0.0.1:{port}/readyz")).await.unwrap();
    let ready: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    let accounts = ready["accounts"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let open = accounts.filter(|account| account["circuit"] == "open");
    open.map(|account| (text(&account["provider"]), text(&account["reason"]))).collect()
}

/// Runs all rows at once, and compares what becomes of each with what its meaning says.
pub(super) async fn judge<const N: usize>(tables: [Vec<Row>; N]) {
    let region = Region::start().await;
    let is_right = Arc::new(AtomicBool::new(false));
    let mut trials = Vec::new();
    for (number, row) in tables.into_iter().flatten().enumerate() {
        trials.push(Trial::start(&region, row, number, &is_right).await);
    }
    let port = peal_nats::server::free_port().unwrap();
    let mut settings =
        format!("[dispatcher]\nlisten = \"127.0.0.1:{port}\"\nretry_base_ms = {}\n", (BASE * 1000.0).round());
    for trial in &trials {
        settings += &match trial.row.provider {
            "webhook" => continue,
            "webpush" if settings.contains("[channels.webpush]") => continue,
            "webpush" => trial.account.settings("", "http", trial.account.host_and_port()),
            _ => trial.account.settings_for(&trial.id),
        };
    }
    let dispatcher = region.dispatcher(&settings);
    for trial in &trials {
        trial.accept(&region, &trial.id).await;
    }
    told(&region, &trials, "it fails", |trial, told| trial.failure(told).is_some()).await;
    let open = open_circuits(port).await;

    is_right.store(true, Ordering::Relaxed);
    trials.iter().for_each(Trial::put_right);
    let is_sent =
        |trial: &Trial, told: &Told| trial.row.expected().sent.is_none() || trial.sent(told).is_some();
    told(&region, &trials, "it is sent after all", is_sent).await;
    // Whether an address is written to again, the next notification shows.
    for trial in &trials {
        trial.accept(&region, &trial.again()).await;
    }
    let told = told(&region, &trials, "the second one", |trial, told| trial.second(told).is_some()).await;
    let letters = region.dead_letters().await.into_iter();
    let letters: Vec<_> = letters
        .filter_map(|letter| Some((letter.work?.notification.id.as_str().to_owned(), letter.reason)))
        .collect();
    let differences: Vec<_> = trials.iter().flat_map(|trial| trial.differences(&told, &letters)).collect();
    assert!(differences.is_empty(), "{differences:#?}");
    let out = trials.iter().filter(|trial| matches!(trial.row.meaning, Out(_)));
    assert_eq!(open, out.map(|trial| (trial.provider(), trial.row.reason.to_owned())).collect());

    // What waits for long waits in SCHEDULE, and nothing else does.
    for trial in trials.iter().filter(|trial| trial.row.waits()) {
        let delivery = trial.failure(&told).unwrap().delivery.as_ref().unwrap();
        let name = region.subjects.schedule(&["work", delivery.as_str()]);
        assert_eq!(region.connection.purge(SCHEDULE, &name).await.unwrap(), 1, "{}", trial.id);
    }
    region.drained().await;
    assert_eq!(open_circuits(port).await, BTreeMap::new());
    dispatcher.end().await;
}
