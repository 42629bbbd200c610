//! JetStream stores what the gateway publishes, and every acknowledgement is lost: the gateway promises nothing, and a
//! repetition under the same id is recognised.

use std::time::Duration;

use peal_nats::topology::INTAKE;

use crate::audit;
use crate::faults::Incident;
use crate::journal::Journal;
use crate::load::Load;
use crate::provider::Provider;
use crate::region::{Region, Wanted};
use crate::wait::{self, now_ms};

const COUNT: u64 = 300;
/// How long anything may take on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_acknowledgements_make_no_copies() -> anyhow::Result<()> {
    let provider = Provider::start().await?;
    let mut region = Region::start(Wanted { relayed: true, ..Wanted::new(provider.url()) }).await?;
    let result = run(&mut region, &provider).await;
    result.map_err(|error| error.context(region.logs()))
}

async fn run(region: &mut Region, provider: &Provider) -> anyhow::Result<()> {
    let journal = Journal::start(&region.connection);
    let load = Load::new(&region.api, "a", provider.url());
    let stored =
        async |region: &Region| region.connection.stream_state(INTAKE).await.map_or(0, |it| it.messages);
    let at_ms = now_ms();
    region.gateway_link()?.deafen();
    let healing = async {
        wait::until("JetStream has all of them", LIMIT, async || {
            (stored(region).await == COUNT).then_some(())
        })
        .await?;
        anyhow::ensure!(load.accepted().is_empty(), "something was promised without an acknowledgement");
        // The gateway gives up waiting, and the sender repeats: that is what the load does. Now it may be heard again.
        wait::until("the sender was refused", LIMIT, async || {
            (!load.log().requests.is_empty()).then_some(())
        })
        .await?;
        let link = region.gateway_link()?;
        link.cut();
        link.heal();
        Ok(Incident::repaired("acknowledgements lost", at_ms))
    };
    let ((), incident) = tokio::try_join!(load.send((0..COUNT).collect()), healing)?;

    let duplicates = load.log().duplicates;
    audit::conclude(region, &journal, provider, &load, &[incident], None).await?;
    println!("{duplicates} of {COUNT} were accepted as repetitions");
    anyhow::ensure!(duplicates == COUNT, "{duplicates} of {COUNT} were recognised");
    anyhow::ensure!(stored(region).await == COUNT, "INTAKE has copies");
    Ok(())
}
