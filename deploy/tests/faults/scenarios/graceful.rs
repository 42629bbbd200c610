//! A dispatcher is asked to end while it works: it finishes what it has in hand, and another goes on.

use std::sync::Arc;
use std::time::Duration;

use crate::audit;
use crate::journal::Journal;
use crate::load::Load;
use crate::provider::Provider;
use crate::region::{END_LIMIT, Region, Wanted};
use crate::wait;

const NOTIFICATIONS: u64 = 6_000;
/// Deliveries that must have come before each end, so that there is something in hand.
const FIRST_END: u64 = 1_000;
const SECOND_END: u64 = 3_000;
/// A provider that takes this long keeps many calls in flight.
const SLOWNESS: Duration = Duration::from_millis(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dispatcher_that_is_asked_to_end_repeats_nothing() -> anyhow::Result<()> {
    let provider = Provider::slow(SLOWNESS).await?;
    let mut region = Region::start(Wanted { dispatchers: 2, ..Wanted::new(provider.url()) }).await?;
    let result = end_both(&mut region, &provider).await;
    result.map_err(|error| error.context(region.logs()))
}

async fn end_both(region: &mut Region, provider: &Provider) -> anyhow::Result<()> {
    let journal = Journal::start(&region.connection);
    let load = Arc::new(Load::new(&region.api, "g", provider.url()));
    let sending = tokio::spawn(Arc::clone(&load).run(NOTIFICATIONS, 5, provider.deliveries()));
    let mut delivered = provider.deliveries();

    for (number, after) in [(0, FIRST_END), (1, SECOND_END)] {
        let reached =
            tokio::time::timeout(END_LIMIT, delivered.wait_for(|count| *count >= after)).await.is_ok();
        anyhow::ensure!(reached, "{after} deliveries did not come within {END_LIMIT:?}");
        let status = region.dispatchers[number].terminate(END_LIMIT).await?;
        anyhow::ensure!(status.success(), "a dispatcher that was asked to end says {status}");
        let then = *delivered.borrow();
        wait::until("the other dispatcher goes on", END_LIMIT, async || {
            (*delivered.borrow() > then || then == NOTIFICATIONS).then_some(())
        })
        .await?;
        region.dispatchers[number].start()?;
        region.dispatchers[number].until_ready().await?;
    }
    sending.await??;

    let accepted = load.accepted();
    audit::settle(region, &journal, provider, &accepted).await?;
    // No incident at all: every repetition is one too many.
    audit::compare(&load, &journal.entries(), &provider.calls(), &[]).check()
}
