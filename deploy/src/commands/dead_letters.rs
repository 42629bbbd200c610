//! `peal dead-letters list|replay`: deliveries that were given up, through the gateway.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::api::GatewayArgs;
use crate::output::{FAILED, Output, UsageError, table};

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List them, the newest first
    List(ListArgs),
    /// Take them up again: the ones that are named, or all that a filter matches
    #[command(after_help = "Examples:
  peal dead-letters replay 1042 1043
  peal dead-letters replay --channel email --reason provider_unavailable
  peal dead-letters replay --all")]
    Replay(ReplayArgs),
}

/// Arguments of `peal dead-letters list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
    #[command(flatten)]
    filter: Filter,
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
    limit: u16,
    /// The cursor that an earlier list ended with
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
}

/// Arguments of `peal dead-letters replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
    /// Ids, as `list` shows them
    #[arg(value_name = "ID", conflicts_with_all = ["channel", "reason", "all"])]
    ids: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    /// Every one
    #[arg(long, conflicts_with_all = ["channel", "reason"])]
    all: bool,
}

/// Which dead letters.
#[derive(Debug, Args)]
struct Filter {
    /// Only those of this channel
    #[arg(long)]
    channel: Option<String>,
    /// Only those with this reason
    #[arg(long)]
    reason: Option<String>,
}

impl Filter {
    fn pairs(&self) -> Vec<(&'static str, String)> {
        let given = [("channel", &self.channel), ("reason", &self.reason)];
        given.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect()
    }
}

/// Runs one of the commands.
///
/// # Errors
/// When the gateway is not there or refuses.
pub async fn run(command: Command, output: &Output) -> anyhow::Result<ExitCode> {
    match command {
        Command::List(args) => list(args, output).await,
        Command::Replay(args) => replay(args, output).await,
    }
}

async fn list(args: ListArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let gateway = args.gateway.gateway()?;
    let limit = usize::from(args.limit);
    let mut after = args.after;
    let mut all: Vec<Value> = Vec::new();
    // A page may hold fewer than asked for although more follow.
    loop {
        let mut query = args.filter.pairs();
        query.push(("limit", (limit - all.len()).to_string()));
        query.extend(after.take().map(|after| ("after", after)));
        let page = gateway.get(&["v1", "dead-letters"], &query).await?;
        all.extend(page["data"].as_array().context("the gateway's answer holds no list")?.iter().cloned());
        after = page["next"].as_str().map(str::to_owned);
        if after.is_none() || all.len() >= limit {
            break;
        }
    }
    output.json(&json!({ "data": all, "next": after }))?;
    if all.is_empty() {
        output.line("no dead letters")?;
        return Ok(ExitCode::SUCCESS);
    }
    let names = ["id", "at", "channel", "reason", "attempts", "notification", "recipient"];
    let cell = |letter: &Value, name: &str| match &letter[name] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let rows: Vec<Vec<String>> =
        all.iter().map(|letter| names.iter().map(|name| cell(letter, name)).collect()).collect();
    output.line(table(&["ID", "AT", "CHANNEL", "REASON", "ATTEMPTS", "NOTIFICATION", "RECIPIENT"], &rows))?;
    if let Some(after) = after {
        output.line(format!("more: add --after '{after}'"))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn replay(args: ReplayArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let filter: Map<String, Value> =
        args.filter.pairs().into_iter().map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
    let body = match (args.ids.is_empty(), filter.is_empty(), args.all) {
        (false, _, _) => json!({ "ids": args.ids }),
        (true, false, _) | (true, true, true) => json!({ "filter": filter }),
        (true, true, false) => {
            let text = "which ones? Name ids, or a filter such as --channel email, or --all";
            return Err(UsageError(text.to_owned()).into());
        }
    };
    let gateway = args.gateway.gateway()?;
    let mut replayed = 0;
    let mut failed: Vec<Value> = Vec::new();
    // One request replays so many; what could not be replayed stays and must not be counted again and again.
    loop {
        let answer = gateway.post(&["v1", "dead-letters", "replay"], &body).await?;
        let now = answer["replayed"].as_u64().context("the gateway's answer holds no number")?;
        replayed += now;
        failed = answer["failed"].as_array().cloned().unwrap_or(failed);
        if answer["more"] != true || now == 0 {
            break;
        }
    }
    output.json(&json!({ "replayed": replayed, "failed": failed }))?;
    output.line(format!("replayed: {replayed}"))?;
    for letter in &failed {
        let said = |name: &str| letter[name].as_str().unwrap_or("?");
        output.line(format!("not replayed: {}: {} [{}]", said("id"), said("detail"), said("code")))?;
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}
