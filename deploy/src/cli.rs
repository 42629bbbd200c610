//! The table of commands, and what holds for all of them.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::bench;
use crate::commands::{dead_letters, doctor, keys, region, send, tail, topology, up};
use crate::output::Output;

const AFTER_HELP: &str = "\
Exit codes: 0 it worked, 1 it failed, 2 wrong arguments or settings.

Settings: --config FILE or PEAL_CONFIG names the settings file; without one, commands look at .peal/peal.toml, which
`peal up` writes. A variable PEAL__SECTION__KEY overrides any key of it.";

/// What is logged unless `PEAL_LOG` says otherwise: the connection's own troubles end up in a command's error.
const LOGGED: &str = "warn,peal_nats::connect=off,async_nats=off";

/// Peal, a notification system on NATS JetStream.
#[derive(Debug, Parser)]
#[command(name = "peal", version, about, after_help = AFTER_HELP, propagate_version = true)]
pub struct Cli {
    /// Print JSON, for programs.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, and it is read once")]
enum Command {
    /// Start NATS, gateway and dispatcher on this machine and deliver a first notification
    Up(up::UpArgs),
    /// Look at everything and say what is wrong and what to do
    Doctor(doctor::DoctorArgs),
    /// Streams and consumers of a region: compare, create, check; servers of a deployment: configure
    #[command(subcommand)]
    Topology(topology::Command),
    /// Regions: take over what one left that is gone for good
    #[command(subcommand)]
    Region(region::Command),
    /// API keys, straight in the region's state: also works before there is any key
    #[command(subcommand)]
    Keys(keys::Command),
    /// Send a notification through the gateway
    Send(send::SendArgs),
    /// Follow what happens, live
    Tail(tail::TailArgs),
    /// Deliveries that were given up
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// Measure this machine: rates, latencies, memory, beside the targets
    Bench(bench::Args),
}

/// Runs a command and prints its errors.
pub async fn run(cli: Cli) -> ExitCode {
    // What libraries warn of goes to stderr, so that stdout stays what the command is for.
    let filter = EnvFilter::try_from_env("PEAL_LOG").unwrap_or_else(|_| EnvFilter::new(LOGGED));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let output = Output::new(cli.json);
    // Boxed: the futures of some commands are large, and only one of them ever runs.
    let done = match cli.command {
        Command::Up(args) => Box::pin(up::run(args, &output)).await,
        Command::Doctor(args) => Box::pin(doctor::run(args, &output)).await,
        Command::Topology(command) => Box::pin(topology::run(command, &output)).await,
        Command::Region(command) => Box::pin(region::run(command, &output)).await,
        Command::Keys(command) => Box::pin(keys::run(command, &output)).await,
        Command::Send(args) => Box::pin(send::run(args, &output)).await,
        Command::Tail(args) => Box::pin(tail::run(args, &output)).await,
        Command::DeadLetters(command) => Box::pin(dead_letters::run(command, &output)).await,
        Command::Bench(args) => Box::pin(bench::run(args, &output)).await,
    };
    done.unwrap_or_else(|error| output.fail(&error))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_table_of_commands_is_sound() {
        Cli::command().debug_assert();
    }
}
