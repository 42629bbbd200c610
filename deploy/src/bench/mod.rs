//! `peal bench`: measures this machine with Peal on it, in one run, with processes that are started for it and end with
//! it. Nothing leaves the machine.
//!
//! What is compared was measured in the same run: the rate of plain JetStream publishing ([`role::publisher`]) is the
//! measure of accepting ([`throughput`]) and of delivering ([`delivery`]). Everything shares the processors of one
//! machine, the load generator and the sink among it; the report says how much each took. [`report`] holds the targets.

mod delivery;
mod deployment;
mod http;
mod machine;
mod many;
mod process;
mod pushing;
pub mod report;
mod role;
mod seed;
mod sink;
mod sizes;
mod statistics;
mod throughput;
mod wall;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use peal_common::channel::{Channel, ChannelChoice};
use peal_common::settings::GroupCommit;
use peal_nats::server::Sync;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::output::{Output, UsageError};
use deployment::Deployment;
use machine::{Disk, Machine};
use report::{AlwaysSynced, Report};
use role::Role;
use sink::Sink;
use sizes::Sizes;
use throughput::{Measurement, Shape, recipients, sample};

/// No run takes longer, whatever hangs.
const LIMIT: Duration = Duration::from_secs(30 * 60);
/// Where temporary files go when the system's folder for them is in memory.
const ON_DISK: &str = "/var/tmp";

/// A part of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Plain publishing into JetStream: what the other rates are compared with
    Raw,
    /// Accepting single requests
    Single,
    /// Accepting batches
    Batched,
    /// From the first request to the last webhook
    EndToEnd,
    /// Critical notifications at light load
    Latency,
    /// Critical notifications behind a backlog of bulk ones
    Backlog,
    /// Pushes of one dispatcher through APNs and FCM
    Pushes,
    /// Memory and pace with many recipients
    Recipients,
    /// Accepting when every write is forced to disk
    Always,
}

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Small sizes, under a minute: shows that it works, not how fast
    #[arg(long)]
    quick: bool,
    /// Only these parts, with commas between
    #[arg(long, value_name = "PARTS", value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Recipients to put into the mirror; 0 leaves that part out [default: 1000000, with --quick 2000]
    #[arg(long, value_name = "N")]
    recipients: Option<u64>,
    /// The folder for streams and indexes, on the disk to measure; a folder in it is made and deleted again
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Be one of the measuring processes
    #[arg(long, hide = true, value_enum)]
    role: Option<Role>,
}

impl Args {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    fn sizes(&self) -> Sizes {
        let sizes = if self.quick { Sizes::quick() } else { Sizes::full() };
        Sizes { many_recipients: self.recipients.unwrap_or(sizes.many_recipients), ..sizes }
    }
}

/// Measures and prints the report.
///
/// # Errors
/// When a process does not start or fails, or the arguments don't fit. A figure that misses its target is no error; the
/// exit code is 1 when notifications were lost, repeated or refused.
pub async fn run(args: Args, output: &Output) -> anyhow::Result<ExitCode> {
    if let Some(role) = args.role {
        return role::run(role).await;
    }
    if args.recipients.is_some_and(|count| count > 0 && count < 10) {
        return Err(UsageError("--recipients: write 0, or at least 10".to_owned()).into());
    }
    let folder = temporary_folder(args.dir.as_deref())?;
    let mut report = Report::new(Machine::look(), Disk::of(folder.path()), args.quick);
    let start = Instant::now();
    // Dropping the measurement ends its processes.
    let measured = tokio::select! {
        measured = tokio::time::timeout(LIMIT, measure(&args, folder.path(), output, &mut report)) => {
            measured.with_context(|| format!("it did not end within {LIMIT:?}")).and_then(|measured| measured)
        }
        stopped = tokio::signal::ctrl_c() => stopped.context("no signals").and(Err(anyhow::anyhow!("stopped"))),
    };
    delete(folder).await?;
    measured?;
    report.seconds = start.elapsed().as_secs_f64();
    report.compare();
    output.line(report.text())?;
    output.json(&report)?;
    Ok(if report.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(crate::output::FAILED) })
}

fn temporary_folder(dir: Option<&Path>) -> anyhow::Result<TempDir> {
    let system = std::env::temp_dir();
    let parent = match dir {
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
            dir
        }
        None if Disk::of(&system).is_memory() => Path::new(ON_DISK),
        None => &system,
    };
    tempfile::Builder::new()
        .prefix("peal-bench-")
        .tempdir_in(parent)
        .with_context(|| format!("cannot create a folder in {}", parent.display()))
}

/// Deletes the folder, also when a killed process is still about to write into it.
async fn delete(folder: TempDir) -> anyhow::Result<()> {
    const TRIES: usize = 50;
    let path = folder.keep();
    let mut tries = 0;
    while let Err(error) = tokio::fs::remove_dir_all(&path).await {
        tries += 1;
        if tries == TRIES {
            return Err(error).with_context(|| format!("cannot delete {}", path.display()));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

async fn measure(args: &Args, folder: &Path, output: &Output, report: &mut Report) -> anyhow::Result<()> {
    let sizes = args.sizes();
    if [Part::Raw, Part::Single, Part::Batched].into_iter().any(|part| args.wants(part)) {
        accepting(args, &sizes, &folder.join("accepting"), output, report).await.context("accepting")?;
    }
    if [Part::EndToEnd, Part::Latency, Part::Backlog].into_iter().any(|part| args.wants(part)) {
        delivering(args, &sizes, &folder.join("delivering"), output, report).await.context("delivering")?;
    }
    if args.wants(Part::Pushes) {
        pushing(&sizes, &folder.join("pushing"), output, report).await.context("pushing")?;
    }
    if args.wants(Part::Recipients) && sizes.many_recipients > 0 {
        many_recipients(&sizes, &folder.join("recipients"), output, report).await.context("recipients")?;
    }
    if args.wants(Part::Always) {
        always(&sizes, &folder.join("always"), output, report).await.context("sync_interval: always")?;
    }
    Ok(())
}

/// A nats-server and a gateway with the category and the recipients that notifications name. No dispatcher: what is
/// measured is accepting.
async fn prepared(
    sizes: &Sizes,
    folder: &Path,
    sync: Sync,
    group_commit: GroupCommit,
    report: &mut Report,
) -> anyhow::Result<(Deployment, String)> {
    let deployment = Deployment::start(folder, sync, group_commit).await?;
    seed::category(&deployment, seed::CATEGORY, ChannelChoice::Webhook).await?;
    let who = recipients(sizes.recipients);
    // Nothing is delivered, so nobody needs to listen there.
    seed::recipients(&deployment, &who, 0..sizes.recipients, "http://127.0.0.1:9/webhook").await?;
    deployment.settle(Duration::from_secs(60)).await?;
    let payload = sample(&deployment, who).await?;
    report.nats_server = deployment.connection.client.server_info().version;
    report.payload_bytes = payload.len();
    Ok((deployment, payload))
}

async fn accepting(
    args: &Args,
    sizes: &Sizes,
    folder: &Path,
    output: &Output,
    report: &mut Report,
) -> anyhow::Result<()> {
    let (deployment, payload) =
        prepared(sizes, folder, Sync::ServerDefault, GroupCommit::Auto, report).await?;
    let mut shapes = Vec::new();
    if args.wants(Part::Raw) {
        shapes.extend(sizes.raw_windows.iter().map(|window| Shape::Raw { window: *window }));
    }
    if args.wants(Part::Single) {
        let single = sizes.single_connections.iter();
        shapes.extend(single.map(|connections| Shape::Single { connections: *connections }));
    }
    if args.wants(Part::Batched) {
        let batches = sizes.batches.iter();
        shapes.extend(batches.map(|&(size, connections)| Shape::Batched { size, connections }));
    }
    let measurement = measurement(&deployment, &payload, sizes);
    let shapes: Vec<_> = shapes.into_iter().map(|shape| (&measurement, shape)).collect();
    let measured = throughput::all(&shapes, sizes.rounds, "d", &|text| output.progress(text)).await;
    report.accepting = measured.with_context(|| deployment.logs())?;
    let best: Vec<_> = [report.single(), report.batched()].into_iter().flatten().map(|it| it.shape).collect();
    let sustained = Measurement { measure: sizes.sustained, ..measurement };
    let shapes: Vec<_> = best.into_iter().map(|shape| (&sustained, shape)).collect();
    let measured = throughput::all(&shapes, 1, "s", &|text| output.progress(text)).await;
    report.sustained = measured.with_context(|| deployment.logs())?;
    report.remember("accepting", &deployment);
    deployment.end().await
}

fn measurement<'a>(deployment: &'a Deployment, payload: &'a str, sizes: &Sizes) -> Measurement<'a> {
    Measurement {
        deployment,
        payload,
        recipients: sizes.recipients,
        warm_up: sizes.warm_up,
        measure: sizes.measure,
    }
}

async fn delivering(
    args: &Args,
    sizes: &Sizes,
    folder: &Path,
    output: &Output,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut sink = Sink::start().await?;
    let mut deployment = Deployment::start(folder, Sync::ServerDefault, GroupCommit::Auto).await?;
    report.nats_server = deployment.connection.client.server_info().version;
    seed::category(&deployment, seed::CATEGORY, ChannelChoice::Webhook).await?;
    let people = sizes.recipients;
    seed::recipients(&deployment, &recipients(people), 0..people, &sink.url()).await?;
    deployment.start_dispatcher().await?;
    let steady = (sizes.steady_per_second, sizes.steady_total);
    if args.wants(Part::EndToEnd) {
        let measured =
            delivery::end_to_end(&deployment, &mut sink, people, sizes.end_to_end, sizes.rounds).await;
        let measured = measured.with_context(|| deployment.logs())?;
        output.progress(format!("end to end: {:.0}/s", measured.per_second));
        report.end_to_end = Some(measured);
        report.remember("end to end", &deployment);
    }
    if args.wants(Part::Latency) {
        let measured = delivery::light(&deployment, &mut sink, people, steady.0, steady.1).await;
        let measured = measured.with_context(|| deployment.logs())?;
        output.progress(format!("critical, light load: p99 {:.1} ms", measured.to_provider.p99_ms));
        report.light = Some(measured);
        report.remember("light load", &deployment);
    }
    if args.wants(Part::Backlog) {
        let measured = delivery::backlog(&mut deployment, &mut sink, people, steady, sizes.backlog).await;
        let measured = measured.with_context(|| deployment.logs())?;
        output.progress(format!(
            "critical, behind a backlog: p99 {:.1} ms",
            measured.critical.to_provider.p99_ms
        ));
        report.backlog = Some(measured);
        report.remember("backlog", &deployment);
    }
    deployment.end().await
}

async fn pushing(sizes: &Sizes, folder: &Path, output: &Output, report: &mut Report) -> anyhow::Result<()> {
    let mut sink = Sink::start().await?;
    let more = pushing::settings(folder, &sink)?;
    let mut deployment =
        Deployment::start_with(folder, Sync::ServerDefault, GroupCommit::Auto, &more).await?;
    report.nats_server = deployment.connection.client.server_info().version;
    let people = sizes.recipients;
    seed::devices(&deployment, &recipients(people), 0..people).await?;
    for channel in [Channel::Apns, Channel::Fcm] {
        let measured =
            pushing::measure(&mut deployment, &mut sink, channel, people, sizes.pushes, sizes.rounds).await;
        let measured = measured.with_context(|| deployment.logs())?;
        output.progress(format!("pushes through {channel}: {:.0}/s", measured.per_second));
        report.pushed.push(measured);
    }
    report.remember("pushes", &deployment);
    deployment.end().await
}

async fn many_recipients(
    sizes: &Sizes,
    folder: &Path,
    output: &Output,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut sink = Sink::start().await?;
    let mut deployment = Deployment::start(folder, Sync::ServerDefault, GroupCommit::Auto).await?;
    report.nats_server = deployment.connection.client.server_info().version;
    seed::category(&deployment, seed::CATEGORY, ChannelChoice::Webhook).await?;
    deployment.start_dispatcher().await?;
    let many = many::Sizes {
        recipients: sizes.many_recipients,
        through_api: sizes.api_recipients,
        notifications: sizes.many_notifications,
    };
    let measured = many::measure(&deployment, &mut sink, many, &|text| output.progress(text)).await;
    report.recipients = Some(measured.with_context(|| deployment.logs())?);
    report.remember("recipients", &deployment);
    deployment.end().await
}

/// With every write forced to disk: plain publishing, a gateway that publishes singly, and one that groups where that
/// wins. The two gateways have a server each, of which only one is at work at a time.
async fn always(sizes: &Sizes, folder: &Path, output: &Output, report: &mut Report) -> anyhow::Result<()> {
    let (deployment, payload) =
        prepared(sizes, &folder.join("auto"), Sync::Always, GroupCommit::Auto, report).await?;
    let (singly, _) =
        prepared(sizes, &folder.join("never"), Sync::Always, GroupCommit::Never, report).await?;
    let (here, there) = (measurement(&deployment, &payload, sizes), measurement(&singly, &payload, sizes));
    let shapes: Vec<_> = sizes
        .always_waiting
        .iter()
        .flat_map(|&waiting| {
            let single = Shape::Single { connections: waiting };
            [(&here, Shape::Raw { window: waiting }), (&there, single), (&here, single)]
        })
        .collect();
    let measured = throughput::all(&shapes, sizes.rounds, "a", &|text| output.progress(text)).await;
    let measured = measured.with_context(|| deployment.logs())?;
    report.always = AlwaysSynced::of(measured);
    report.remember("always", &deployment);
    singly.end().await?;
    deployment.end().await
}
