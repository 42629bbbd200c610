//! A random run: notifications flow while things break, and in the end everything is compared.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use peal_common::clock::Clock;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::audit;
use crate::faults::Fault;
use crate::journal::Journal;
use crate::load::{Flow, Load};
use crate::provider::Provider;
use crate::region::{Region, Wanted};
use crate::schedule::Schedule;

/// Held by each scenario that keeps the whole machine busy: two at once would measure each other.
pub static WHOLE_MACHINE: Mutex<()> = Mutex::const_new(());

/// How many notifications the gateway is asked about afterwards, besides those that were delivered twice or ended as
/// ambiguous.
const SAMPLE: usize = 500;

/// One line that has a scenario again: with what it was given (`own`) and every other variable that was set, such as that
/// of the programs, but for the sizes of other plans.
pub fn replay(scenario: &str, own: &[(&str, String)]) -> String {
    let set = std::env::vars().filter(|(name, _)| {
        let is_ours = name.starts_with("PEAL_FAULT_") || name == "PEAL_NATS_SERVER";
        let is_of_a_plan = name.ends_with("_NOTIFICATIONS") || name.ends_with("_TIMES");
        is_ours && !is_of_a_plan && own.iter().all(|(known, _)| known != name)
    });
    let mut all: Vec<_> = own.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let mut others: Vec<_> = set.collect();
    others.sort();
    all.extend(others);
    let is_plain = |value: &str| !value.is_empty() && value.bytes().all(|it| it.is_ascii_alphanumeric());
    let mut line = String::new();
    for (name, value) in all {
        let value = if is_plain(&value) { value } else { format!("'{}'", value.replace('\'', r"'\''")) };
        line += &format!("{name}={value} ");
    }
    line + &format!("cargo test -p peal --test faults scenarios::{scenario}:: -- --nocapture")
}

/// The folder that a variable names, from the workspace's own unless it is whole.
pub fn given_folder(variable: &str) -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::env::var_os(variable).map(|folder| workspace.join(folder))
}

/// The value of a variable.
///
/// # Panics
/// When it can't be read.
pub fn given<T: FromStr>(variable: &str, default: T) -> T {
    match std::env::var(variable) {
        Ok(text) => text.parse().ok().unwrap_or_else(|| panic!("{variable} is no number")),
        Err(_) => default,
    }
}

/// A random run.
pub struct Plan {
    /// What its variables are called, `PEAL_FAULT_<NAME>_NOTIFICATIONS` and `PEAL_FAULT_<NAME>_TIMES`, and in small letters
    /// its scenario.
    pub name: &'static str,
    /// How many notifications at least, unless the variable says otherwise: they flow until the last thing has broken.
    pub notifications: u64,
    /// How many of them in a second; as many as go when it is 0.
    pub rate: u64,
    /// How often something breaks, unless the variable says otherwise.
    pub times: usize,
    /// Whether text messages are among them. The settings of channels are the plan's own.
    pub has_texts: bool,
    /// What breaks, each equally often.
    pub faults: Vec<&'static Fault>,
}

impl Plan {
    /// Starts a region, sends everything while things break, waits until all is settled, and compares. The seed is
    /// `PEAL_FAULT_SEED`, or a new one; `PEAL_FAULT_ONLY` leaves only those faults whose name holds it.
    ///
    /// # Errors
    /// When a promise was broken; the error says how to have the same run again.
    pub async fn run(self, wanted: impl FnOnce(&str) -> Wanted<'_>) -> anyhow::Result<()> {
        self.run_with(Provider::start().await?, wanted).await
    }

    /// The same with another provider.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_with(
        self,
        provider: Provider,
        wanted: impl FnOnce(&str) -> Wanted<'_>,
    ) -> anyhow::Result<()> {
        let texts = if self.has_texts { provider.settings_of_texts() } else { String::new() };
        let seed: u64 = given("PEAL_FAULT_SEED", Clock::System.now_ms().unsigned_abs());
        let variable = |what: &str| format!("PEAL_FAULT_{}_{what}", self.name);
        let (notifications, times) = (variable("NOTIFICATIONS"), variable("TIMES"));
        let mut plan = Plan {
            notifications: given(&notifications, self.notifications),
            times: given(&times, self.times),
            ..self
        };
        let only: String = given("PEAL_FAULT_ONLY", String::new());
        plan.faults.retain(|fault| fault.name.contains(&only));
        if plan.faults.is_empty() {
            println!("{}: no fault here is called {only}", self.name);
            return Ok(());
        }
        let replay = replay(
            &self.name.to_lowercase(),
            &[
                ("PEAL_FAULT_SEED", seed.to_string()),
                (&notifications, plan.notifications.to_string()),
                (&times, plan.times.to_string()),
            ],
        );
        println!("{replay}");

        let _machine = WHOLE_MACHINE.lock().await;
        let mut region = Region::start(Wanted { channels: &texts, ..wanted(provider.url()) }).await?;
        let result = plan.go(&mut region, &provider, seed, &replay).await;
        result.map_err(|error| error.context(format!("{replay}\n{}", region.logs())))
    }

    async fn go(
        &self,
        region: &mut Region,
        provider: &Provider,
        seed: u64,
        replay: &str,
    ) -> anyhow::Result<()> {
        let journal = Journal::start(&region.connection);
        let load = Arc::new(Load::new(&region.api, "n", provider.url()).with_texts(self.has_texts));
        let over = CancellationToken::new();
        let flow = Flow { at_least: self.notifications, over: over.clone(), rate: self.rate, seed };
        let mut sending = tokio::spawn(Arc::clone(&load).flow(flow, provider.deliveries()));
        let schedule = Schedule::new(seed, &self.faults, self.times, self.notifications);
        let mut delivered = provider.deliveries();
        let incidents = tokio::select! {
            incidents = schedule.run(region, &mut delivered) => incidents?,
            ended = &mut sending => {
                ended??;
                anyhow::bail!("nothing is sent any more");
            }
        };
        over.cancel();
        sending.await??;
        let accepted = load.accepted();
        let findings = audit::conclude(region, &journal, provider, &load, &incidents, Some(replay)).await?;

        let mut rng = StdRng::seed_from_u64(seed);
        let sample = accepted.iter().sample(&mut rng, SAMPLE);
        let repeated = findings.repeats.iter().map(|repeat| &repeat.notification);
        let unsure = findings.ambiguous.iter().map(|end| &end.notification);
        audit::ask(&region.api, &journal, sample.into_iter().chain(repeated).chain(unsure)).await
    }
}
