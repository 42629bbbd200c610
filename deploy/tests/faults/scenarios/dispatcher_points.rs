//! A dispatcher is killed at chosen steps of a delivery.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;

use crate::audit::{self, Findings};
use crate::faults::{Incident, kill_dispatcher};
use crate::journal::Journal;
use crate::load::Load;
use crate::provider::Provider;
use crate::region::{APP, Region, Wanted};
use crate::wait::{self, now_ms};

/// Short, so that what was in hand comes again soon; the calls of these tests are far shorter.
const ACK_WAIT: Duration = Duration::from_secs(4);
const LIMIT: Duration = Duration::from_secs(30);
/// Deliveries in hand when the dispatcher is killed.
const IN_HAND: u64 = 20;
/// How often the dispatcher is killed right after an event.
const ROUNDS: u64 = 8;

struct Trial {
    region: Region,
    journal: Journal,
    provider: Provider,
    load: Arc<Load>,
}

impl Trial {
    async fn start() -> anyhow::Result<Self> {
        let provider = Provider::start().await?;
        let region =
            Region::start(Wanted { ack_wait: Some(ACK_WAIT), ..Wanted::new(provider.url()) }).await?;
        let journal = Journal::start(&region.connection);
        let load = Arc::new(Load::new(&region.api, "p", provider.url()));
        Ok(Trial { region, journal, provider, load })
    }

    async fn kill(&mut self) -> anyhow::Result<Incident> {
        let at_ms = now_ms();
        self.region.dispatchers[0].kill().await?;
        self.region.dispatchers[0].start()?;
        Ok(Incident::repaired(kill_dispatcher::FAULT.name, at_ms).resending(kill_dispatcher::ON_ITS_WAY))
    }

    async fn findings(&mut self, incidents: &[Incident]) -> anyhow::Result<Findings> {
        let accepted = self.load.accepted();
        audit::settle(&mut self.region, &self.journal, &self.provider, &accepted).await?;
        let findings = audit::compare(&self.load, &self.journal.entries(), &self.provider.calls(), incidents);
        findings.check()?;
        Ok(findings)
    }
}

/// Between the call and its answer nobody can know whether it was heard: it is called again, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_call_and_answer_sends_once_more_at_most() -> anyhow::Result<()> {
    let mut trial = Trial::start().await?;
    let result = async {
        trial.provider.hold();
        trial.load.send((0..IN_HAND).collect()).await?;
        wait::until("all calls are in hand", LIMIT, async || {
            (trial.provider.total() as u64 == IN_HAND).then_some(())
        })
        .await?;
        let incident = trial.kill().await?;
        trial.provider.release();
        let findings = trial.findings(&[incident]).await?;
        let calls = trial.provider.calls();
        anyhow::ensure!(
            calls.values().all(|calls| calls.at_ms.len() <= 2),
            "more than one extra call: {calls:?}"
        );
        anyhow::ensure!(
            findings.repeats.len() as u64 == IN_HAND,
            "{} of {IN_HAND} calls without an answer were repeated",
            findings.repeats.len()
        );
        Ok(())
    }
    .await;
    result.map_err(|error: anyhow::Error| error.context(trial.region.logs()))
}

/// As soon as the event is durable, the delivery is settled whether or not its message was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_the_event_sends_no_more() -> anyhow::Result<()> {
    let mut trial = Trial::start().await?;
    let result = async {
        let subjects = peal_nats::Subjects::new(&trial.region.connection.region);
        let subject = subjects.event("delivered", Some(peal_common::channel::Channel::Webhook), APP);
        let mut events = trial.region.connection.client.subscribe(subject).await?;
        let mut incidents = Vec::new();
        for round in 0..ROUNDS {
            // Held back and released together, many events are on their way when the first one shows.
            trial.provider.hold();
            let before = trial.provider.total() as u64;
            trial.load.send((round * IN_HAND..(round + 1) * IN_HAND).collect()).await?;
            wait::until("all calls are in hand", LIMIT, async || {
                (trial.provider.total() as u64 >= before + IN_HAND).then_some(())
            })
            .await?;
            trial.provider.release();
            let first = tokio::time::timeout(LIMIT, events.next()).await;
            anyhow::ensure!(matches!(first, Ok(Some(_))), "no event came within {LIMIT:?}");
            incidents.push(trial.kill().await?);
            trial.findings(&incidents).await?;
            while let Ok(Some(_)) = tokio::time::timeout(Duration::ZERO, events.next()).await {}
        }
        // The audit accepts repetitions only of what had no event when the dispatcher was killed.
        let findings = trial.findings(&incidents).await?;
        println!(
            "{} calls had no event yet when the dispatcher was killed, and were repeated",
            findings.repeats.len()
        );
        Ok(())
    }
    .await;
    result.map_err(|error: anyhow::Error| error.context(trial.region.logs()))
}
