//! The disk of the nats-server is full: the gateway says so and accepts nothing, and nothing accepted is lost.
//!
//! After a failed write nats-server 2.15 refuses every further write to that stream until it is started again, also
//! when there is room; `/healthz` of the server says so. Whoever runs it starts it again, and so does this test; that
//! `peal up` does, `tests/it/full_disk.rs` shows. Everything else resumes by itself.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::audit;
use crate::disk::SmallDisk;
use crate::faults::{Incident, kill_server};
use crate::journal::Journal;
use crate::load::Load;
use crate::provider::Provider;
use crate::region::{Region, Wanted};
use crate::wait::{self, now_ms};

/// How long the gateway may take to see what happened.
const LIMIT: Duration = Duration::from_secs(30);
/// How soon it must answer.
const PROMISED: Duration = Duration::from_secs(2);
const BEFORE: u64 = 600;
const DURING: u64 = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_and_loses_nothing() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let Some(disk) = SmallDisk::mount(folder.path().join("disk"))? else { return Ok(()) };
    let provider = Provider::start().await?;
    let nats_folder = Some(Path::join(disk.folder(), "nats"));
    let wanted =
        Wanted { nats_folder, ack_wait: Some(Duration::from_secs(5)), ..Wanted::new(provider.url()) };
    let mut region = Region::start(wanted).await?;
    let result = fill_and_free(&mut region, &provider, &disk).await;
    let result = result.map_err(|error| error.context(region.logs()));
    // The server must be gone before its disk is.
    drop(region);
    result
}

async fn fill_and_free(region: &mut Region, provider: &Provider, disk: &SmallDisk) -> anyhow::Result<()> {
    let journal = Journal::start(&region.connection);
    let load = Arc::new(Load::new(&region.api, "d", provider.url()));
    Arc::clone(&load).run(BEFORE, 3, provider.deliveries()).await?;

    let at_ms = now_ms();
    let balloon = disk.fill()?;
    // What still fits into blocks that are allotted may be accepted; then it must be refused.
    let mut number = BEFORE;
    let refused = wait::until("a notification is refused", LIMIT, async || {
        number += 1;
        let answer = region.api.post("/v1/notifications", &load.notification(number - 1)).await.ok()?;
        match answer.status {
            202 => {
                load.log().accepted.extend(answer.body["id"].as_str().map(str::to_owned));
                None
            }
            _ => Some(answer),
        }
    })
    .await?;
    anyhow::ensure!(refused.is_come_back() && refused.took < PROMISED, "{refused:?}");
    let said = wait::until("/readyz names the storage", LIMIT, async || {
        // Readiness forgets a refusal after a while; somebody has to ask again.
        let refused = region.api.post("/v1/notifications", &load.notification(number - 1)).await.ok()?;
        let answer = region.api.get("/readyz").await.ok()?;
        let said = refused.is_come_back() && answer.status == 503 && answer.body["storage"]["ok"] == false;
        said.then(|| answer.body["storage"]["reason"].as_str().unwrap_or_default().to_owned())
    })
    .await?;
    println!("/readyz: storage: {said}");
    let calls_when_full = provider.total();

    balloon.burst()?;
    region.nodes[0].kill().await?;
    region.nodes[0].restart().await?;
    // A full disk may cut off a delivery between the call and its event, as a kill of the server may.
    let incident = Incident::repaired("disk full", at_ms).resending(kill_server::RECONNECTED);
    load.send((number - 1..number + DURING).collect()).await?;
    wait::until("/readyz says that it is ready", LIMIT, async || {
        region.api.get("/readyz").await.ok().filter(|answer| answer.status == 200)
    })
    .await?;
    audit::conclude(region, &journal, provider, &load, &[incident], None).await?;
    println!("{calls_when_full} calls before there was room again, {} in all", provider.total());
    audit::ask(&region.api, &journal, load.accepted().iter().step_by(53)).await
}
