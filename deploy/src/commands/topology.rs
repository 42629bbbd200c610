//! `peal topology plan|apply|check|render`: the streams and consumers of a region, and the servers of a deployment.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use peal_common::settings::Settings;
use peal_nats::connect::Connection;
use peal_nats::topology::{self, ApplyError, Current, Plan, Topology};
use serde_json::json;

use crate::deployment::{self, Deployment, EXAMPLE};
use crate::output::{FAILED, Output};
use crate::region::{self, ConfigArgs};

/// What the server says when a stream would reserve more than it may use.
const NO_SPACE: &str = "insufficient storage resources";
const NO_SPACE_ADVICE: &str = "the streams reserve more disk than the server may use: raise `max_file_store` in the \
                               jetstream block of its configuration, or, to try Peal out, use `peal up`";

/// What to do with the topology.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what `apply` would change; changes nothing
    #[command(after_help = "Example: peal topology plan --config /etc/peal/peal.toml --exit-code")]
    Plan(PlanArgs),
    /// Create and update streams and consumers; running it again changes nothing
    Apply(ApplyArgs),
    /// Look whether everything is as it should be, live facts such as replicas included; exits with 1 when not
    Check(CheckArgs),
    /// Make the configuration of every nats-server, and the settings of every region, from one description
    #[command(after_help = RENDER_EXAMPLES)]
    Render(RenderArgs),
}

const RENDER_EXAMPLES: &str = "\
Examples:
  peal topology render --example > deployment.toml     a description to start from
  peal topology render --deployment deployment.toml --out deployment

Then copy each folder to its hosts (/etc/peal/<region> unless the description says otherwise), start
`nats-server -c <server>.conf` there, and run on one of them, the hub's first:
  peal topology apply --config /etc/peal/hub/peal.toml
  peal topology apply --config /etc/peal/eu/peal.toml";

/// Arguments of `peal topology render`.
#[derive(Debug, Args)]
pub struct RenderArgs {
    /// Print a description to start from
    #[arg(long, exclusive = true)]
    example: bool,
    /// The description
    #[arg(long, value_name = "FILE", required_unless_present = "example")]
    deployment: Option<PathBuf>,
    /// The folder for what is made of it; passwords and keys that are there already are kept
    #[arg(long, value_name = "DIR", required_unless_present = "example")]
    out: Option<PathBuf>,
}

/// Arguments of `peal topology plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Exit with 1 when there is something to change
    #[arg(long)]
    exit_code: bool,
}

/// Arguments of `peal topology apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Also carry out steps that lose data: recreate or remove a stream, shrink a limit, keep fewer copies
    #[arg(long)]
    allow_destructive: bool,
}

/// Arguments of `peal topology check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs one of the commands.
///
/// # Errors
/// When the settings don't fit, no server answers, or it refuses a step.
pub async fn run(command: Command, output: &Output) -> anyhow::Result<ExitCode> {
    match command {
        Command::Plan(args) => plan(args, output).await,
        Command::Apply(args) => apply(args, output).await,
        Command::Check(args) => check(args, output).await,
        Command::Render(args) => render(args, output),
    }
}

async fn planned(config: &ConfigArgs) -> anyhow::Result<(Settings, Connection, Plan)> {
    let (settings, connection) = config.connect().await?;
    let plan = plan_for(&connection, &region::topology(&settings)).await?;
    Ok((settings, connection, plan))
}

async fn plan_for(connection: &Connection, topology: &Topology) -> anyhow::Result<Plan> {
    let current = Current::read(&connection.jetstream, topology).await?;
    Ok(topology::plan(&current, topology))
}

fn render(args: RenderArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let (Some(file), Some(out)) = (args.deployment, args.out) else {
        output.json(&json!({ "example": EXAMPLE }))?;
        output.line(EXAMPLE.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    };
    let changed = deployment::write(&Deployment::read(&file)?, &out)?;
    output.json(&json!({ "changed": changed }))?;
    for path in &changed {
        output.line(path.to_string_lossy())?;
    }
    if changed.is_empty() {
        output.line("nothing has changed")?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn plan(args: PlanArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let (settings, _, plan) = planned(&args.config).await?;
    output.json(&json!({ "region": settings.region.name, "changes": plan }))?;
    output.line(format!("region {}\n{plan}", settings.region.name))?;
    if plan.dangerous().next().is_some() {
        output.progress("some of these steps lose data: `peal topology apply` wants --allow-destructive");
    }
    let changes = args.exit_code && !plan.is_empty();
    Ok(if changes { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

async fn apply(args: ApplyArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let (settings, connection, plan) = planned(&args.config).await?;
    match topology::apply(&connection.jetstream, &plan, args.allow_destructive).await {
        Err(error @ (ApplyError::Destructive(_) | ApplyError::Absent { .. })) => {
            anyhow::bail!("{error}\nadd --allow-destructive when that is what you want")
        }
        Err(error @ ApplyError::Refused { .. }) => {
            let error = anyhow::Error::new(error);
            let full = error.chain().any(|cause| cause.to_string().contains(NO_SPACE));
            return Err(if full { error.context(NO_SPACE_ADVICE) } else { error });
        }
        Ok(()) => {}
    }
    output.json(&json!({ "region": settings.region.name, "applied": plan }))?;
    output.line(format!("region {}\n{plan}", settings.region.name))?;
    if !plan.is_empty() {
        output.line(format!("done: {} steps", plan.changes.len()))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn check(args: CheckArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let (settings, connection) = args.config.connect().await?;
    let report = topology::check(&connection.jetstream, &region::topology(&settings)).await?;
    output.json(
        &json!({ "region": settings.region.name, "ok": report.is_ok(), "findings": report.findings }),
    )?;
    output.line(format!("region {}\n{report}", settings.region.name))?;
    Ok(if report.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}
