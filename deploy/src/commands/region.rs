//! `peal region takeover`: go on with what a region left that is gone for good.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use peal_common::envelope::WhenAmbiguous;
use peal_nats::Region;
use serde_json::json;

use crate::output::{FAILED, Output};
use crate::region::ConfigArgs;
use crate::takeover::{self, Done};

/// What to do with a region.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Deliver here what another region accepted and did not finish, because it is gone for good
    #[command(
        after_help = "Run it with the settings of the region that takes over. It reads from the hub what the lost \
region accepted
and what became of it, and hands what has no outcome to the dispatchers here. Running it again does no harm. A region
that comes back leaves alone what others took over, as soon as the hub has told it.

Examples:
  peal region takeover eu --config us.toml
  peal region takeover eu --ambiguous put-aside"
    )]
    Takeover(TakeoverArgs),
}

/// Arguments of `peal region takeover`.
#[derive(Debug, Args)]
pub struct TakeoverArgs {
    /// The region that is gone
    region: Region,
    /// What becomes of deliveries that it may have made without having been able to tell
    #[arg(long, value_enum, default_value_t)]
    ambiguous: Ambiguous,
    #[command(flatten)]
    config: ConfigArgs,
}

/// What is done with a delivery that may have been made.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Ambiguous {
    /// Send again where a repetition is recognised or matters little; put SMS, Alimtalk and marketing in Telegram aside
    #[default]
    ByChannel,
    /// Send all of them
    Send,
    /// Put all of them into the dead letters, to be looked at and replayed
    PutAside,
}

impl From<Ambiguous> for WhenAmbiguous {
    fn from(choice: Ambiguous) -> Self {
        match choice {
            Ambiguous::ByChannel => WhenAmbiguous::ByChannel,
            Ambiguous::Send => WhenAmbiguous::Send,
            Ambiguous::PutAside => WhenAmbiguous::PutAside,
        }
    }
}

/// Runs one of the commands.
///
/// # Errors
/// When the region still lives, the hub does not answer, or something can't be written.
pub async fn run(command: Command, output: &Output) -> anyhow::Result<ExitCode> {
    let Command::Takeover(args) = command;
    let (settings, connection) = args.config.connect().await?;
    let from = &args.region;
    let done = takeover::take_over(&settings, &connection, from, args.ambiguous.into(), output)
        .await
        .with_context(|| format!("{from} was not taken over"))?;
    let Done { accepted, taken, left, last } = done;
    output.json(&json!({
        "region": from, "by": connection.region, "accepted": accepted, "taken_over": taken,
        "unreadable": left.unreadable, "too_old": left.too_old, "out_of_reach": left.out_of_reach,
        "last_heard_of": last,
    }))?;
    output
        .line(format!("{from} accepted {accepted} that the hub knows of and was last heard of at {last}"))?;
    output.line(format!("taken over by {}: {taken}", connection.region))?;
    let reasons = [
        (left.unreadable, "written by a newer version of Peal: run that version's command"),
        (
            left.too_old,
            "accepted before the hub's first event: whether they have ended is not known any more",
        ),
        (
            left.out_of_reach,
            "only the lost region has them: they did not reach the hub, or were scheduled long ago",
        ),
    ];
    for (count, reason) in reasons.iter().filter(|(count, _)| *count > 0) {
        output.line(format!("not taken over: {count}, {reason}"))?;
    }
    let complete = reasons.iter().all(|(count, _)| *count == 0);
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}
