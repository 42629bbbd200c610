//! `peal doctor`: looks at everything and says what to do.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use peal_common::settings::Settings;
use reqwest::Url;
use serde_json::json;

use crate::api;
use crate::doctor::{
    Check, ServerPages, Status, accounts, acknowledgements, gateway_of_hub, links, power_loss, processes,
    region, running, servers, work,
};
use crate::output::{FAILED, Output, chain, table};
use crate::region::{self as settings_of, ConfigArgs};

/// The usual port of nats-server's monitoring pages.
const MONITOR_PORT: u16 = 8222;

/// Arguments of `peal doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Example: peal doctor --config /etc/peal/peal.toml --monitor http://10.0.0.1:8222")]
pub struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The monitoring page of each server of the region [default: those of `peal up`, else port 8222 of each NATS server]
    #[arg(long, value_name = "URL", env = "PEAL_MONITOR", value_delimiter = ',')]
    monitor: Vec<String>,
}

/// Looks, and prints a table; exits with 1 when something does not work.
///
/// # Errors
/// When the settings don't fit; what is merely wrong stands in the table.
pub async fn run(args: DoctorArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let file = args.config.file();
    let settings = args.config.load()?;
    let client = api::client()?;
    let from = file.as_ref().map_or("the built-in defaults".to_owned(), |file| file.display().to_string());
    let mut checks =
        vec![Check::ok("settings", format!("region {} from {from}", settings.region.name)), key(&settings)];
    match settings_of::connect(&settings).await {
        Ok(connection) => {
            checks.push(Check::ok("connection", format!("connected to {}", settings.nats.urls.join(", "))));
            checks.extend(region(&settings, &connection).await);
            let pages = match args.monitor.is_empty() {
                true => {
                    let pages = ServerPages::read(&client, &monitors(&settings, file.as_deref())).await;
                    pages.or_of_this_machine(&client, &settings.region.name).await
                }
                false => ServerPages::read(&client, &args.monitor).await,
            };
            checks.extend(servers(&pages));
            checks.push(power_loss(&settings, &pages));
            checks.extend(acknowledgements(&settings, &pages));
            checks.extend(links(&settings, &connection).await);
            checks.push(running(&settings, &connection).await);
            checks.extend(work(&connection).await);
        }
        Err(error) => {
            let advice = "start the server (`peal up` on a laptop), or correct nats.urls and the credentials";
            checks.push(Check::fail("connection", chain(&error), advice));
        }
    }
    if settings.is_hub() {
        checks.push(gateway_of_hub(&settings, &client).await);
    } else {
        checks.extend(processes(&settings, &client).await);
        checks.extend(accounts(settings.dispatcher.listen, &client).await);
    }
    show(&checks, output)
}

fn show(checks: &[Check], output: &Output) -> anyhow::Result<ExitCode> {
    let worst = checks.iter().map(|check| check.status).max().unwrap_or(Status::Ok);
    output.json(&json!({ "status": worst, "checks": checks }))?;
    let rows: Vec<_> = checks
        .iter()
        .map(|check| vec![check.status.as_str().to_owned(), check.name.to_owned(), check.found.clone()])
        .collect();
    output.line(table(&["STATUS", "WHAT", "FOUND"], &rows))?;
    let advice: Vec<_> =
        checks.iter().filter_map(|check| Some((check.name, check.advice.as_ref()?))).collect();
    if !advice.is_empty() {
        output.line("\nWhat to do:")?;
        for (name, advice) in advice {
            output.line(format!("  {name}: {advice}"))?;
        }
    }
    Ok(if worst == Status::Fail { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

fn key(settings: &Settings) -> Check {
    match settings.sealer() {
        Ok(_) => Check::ok("region key", "it can be read"),
        Err(error) => {
            let advice = "gateway and dispatcher need it; on a machine that runs neither this is fine";
            Check::warn("region key", error.to_string(), advice)
        }
    }
}

/// The monitoring page of the server that `peal up` started beside this settings file, else the usual ones of the
/// servers that the settings name.
fn monitors(settings: &Settings, file: Option<&Path>) -> Vec<String> {
    if let Some(folder) = file.and_then(Path::parent)
        && let Some(local) = monitor_of(&folder.join("nats-server"))
    {
        return vec![local];
    }
    let host = |url: &String| Some(Url::parse(url).ok()?.host_str()?.to_owned());
    let hosts: BTreeSet<_> = settings.nats.urls.iter().filter_map(host).collect();
    hosts.into_iter().map(|host| format!("http://{host}:{MONITOR_PORT}")).collect()
}

fn monitor_of(folder: &Path) -> Option<String> {
    let files = fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let ports: PathBuf =
        files.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "ports"))?;
    let ports: serde_json::Value = serde_json::from_slice(&fs::read(ports).ok()?).ok()?;
    Some(ports["monitoring"][0].as_str()?.to_owned())
}
