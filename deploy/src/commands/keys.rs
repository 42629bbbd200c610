//! `peal keys …`: API keys, straight in the region's state. An operator who has the settings file and the region's key
//! makes the first key this way; the API needs one already.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use peal_common::clock::Clock;
use peal_common::id::{AppId, AppKey};
use peal_common::key::{ApiKey, Grant, Scope};
use peal_common::settings::Secret;
use peal_common::state::{Record, RecordKey};
use peal_common::vapid::VapidKey;
use peal_nats::connect::Connection;
use peal_nats::keys::{Keys, NewSecret};
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::output::{Output, UsageError, table};
use crate::region::{self, ConfigArgs};

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a key; its secret is shown once
    #[command(
        after_help = "Example: peal keys create --app shop --name checkout --scope send --expires-in 90d"
    )]
    Create(CreateArgs),
    /// List keys; secrets are never shown
    List(ListArgs),
    /// Give a key a second secret; of two the older one stops working
    Rotate(KeyArgs),
    /// End a key for good
    Revoke(KeyArgs),
    /// Show the secret that signs an app's webhooks (Standard Webhooks)
    WebhookSecret(AppArgs),
    /// Show the public key that browsers subscribe with, or make a pair where the settings name none (Web Push)
    Vapid(ConfigArgs),
}

/// Arguments of `peal keys create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The app whose objects the key sees
    #[arg(long)]
    app: AppId,
    /// A name for people
    #[arg(long, default_value = "made with peal keys create")]
    name: String,
    /// What the key is for; repeat it or write commas
    #[arg(long = "scope", value_name = "SCOPE", value_enum, value_delimiter = ',', required = true)]
    scopes: Vec<ScopeArg>,
    /// When it stops working, RFC 3339, such as 2027-01-01T00:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "expires_in")]
    expires_at: Option<Timestamp>,
    /// After how long it stops working, such as 90d or 12h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    expires_in: Option<SignedDuration>,
    /// Requests a second at each gateway
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate_limit_per_second: Option<u32>,
}

/// Arguments of `peal keys list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Only keys of this app
    #[arg(long)]
    app: Option<AppId>,
}

/// Arguments of `peal keys rotate` and `revoke`.
#[derive(Debug, Args)]
pub struct KeyArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The public half of the key, pk_…
    key: AppKey,
}

/// Arguments of `peal keys webhook-secret`.
#[derive(Debug, Args)]
pub struct AppArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The app
    #[arg(long)]
    app: AppId,
}

/// A scope as an argument.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ScopeArg {
    /// Hand in notifications, cancel and acknowledge them
    Send,
    /// Read notifications, recipients, events
    Read,
    /// Change recipients, categories, templates; replay dead letters
    Manage,
    /// Make and revoke keys; includes the others
    Admin,
}

impl From<ScopeArg> for Scope {
    fn from(scope: ScopeArg) -> Self {
        match scope {
            ScopeArg::Send => Scope::Send,
            ScopeArg::Read => Scope::Read,
            ScopeArg::Manage => Scope::Manage,
            ScopeArg::Admin => Scope::Admin,
        }
    }
}

/// A duration as people write it: `90d`, `12h`, `30m`; a day has 24 hours.
///
/// # Errors
/// A sentence with what to write.
pub fn duration(text: &str) -> Result<SignedDuration, String> {
    let wrong = || "write a positive duration such as 90d, 12h or 10m".to_owned();
    let length = match text.strip_suffix('d').and_then(|days| days.parse::<i64>().ok()) {
        Some(days) => days.checked_mul(24).and_then(SignedDuration::try_from_hours),
        None => text.parse().ok(),
    };
    length.filter(|length| length.is_positive()).ok_or_else(wrong)
}

/// Runs one of the commands.
///
/// # Errors
/// When the settings don't fit, the region's key is missing, no server answers, or there is no such key.
pub async fn run(command: Command, output: &Output) -> anyhow::Result<ExitCode> {
    match command {
        Command::Create(args) => create(args, output).await?,
        Command::List(args) => list(args, output).await?,
        Command::Rotate(args) => rotate(args, output).await?,
        Command::Revoke(args) => {
            let (keys, _) = open(&args.config).await?;
            keys.revoke(&args.key).await.with_context(|| format!("cannot revoke {}", args.key))?;
            output.json(&json!({ "key": args.key, "revoked": true }))?;
            output.line(format!("{} is revoked: every gateway refuses it from now on", args.key))?;
        }
        Command::WebhookSecret(args) => {
            let secret = args.config.load()?.sealer()?.webhook_secret(&args.app);
            output.json(&json!({ "app": args.app, "secret": secret.as_str() }))?;
            output.line(secret.as_str())?;
        }
        Command::Vapid(config) => vapid(&config, output)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn vapid(config: &ConfigArgs, output: &Output) -> anyhow::Result<()> {
    if let Some(webpush) = &config.load()?.channels.webpush {
        let private = webpush.private_key()?;
        let key = VapidKey::parse(private.as_ref().map_or("", Secret::expose))
            .map_err(|error| UsageError(format!("settings: channels.webpush.private_key: {error}")))?;
        output.json(&json!({ "public_key": key.public() }))?;
        output.line(key.public())?;
        return Ok(());
    }
    let key = VapidKey::generate();
    output.json(&json!({ "private_key": key.private().as_str(), "public_key": key.public() }))?;
    output.line(format!("private_key  {}\npublic_key   {}", key.private().as_str(), key.public()))?;
    output
        .line("Dispatchers take the private key as channels.webpush.private_key, browsers the public one.")?;
    Ok(())
}

async fn open(config: &ConfigArgs) -> anyhow::Result<(Keys, Connection)> {
    let settings = config.load()?;
    let sealer = Arc::new(settings.sealer()?);
    let connection = region::connect(&settings).await?;
    Ok((Keys::new(region::state_writer(&connection), sealer), connection))
}

async fn create(args: CreateArgs, output: &Output) -> anyhow::Result<()> {
    let now = Clock::System.now();
    let expires_at = match (args.expires_at, args.expires_in) {
        (Some(at), _) => Some(at),
        (None, Some(length)) => {
            Some(now.checked_add(length).map_err(|_| UsageError("--expires-in is too long".to_owned()))?)
        }
        (None, None) => None,
    };
    if expires_at.is_some_and(|at| at <= now) {
        return Err(UsageError("--expires-at is in the past".to_owned()).into());
    }
    let mut scopes: Vec<Scope> = args.scopes.into_iter().map(Scope::from).collect();
    scopes.sort();
    scopes.dedup();
    let grant = Grant {
        app: args.app,
        name: args.name,
        scopes,
        created_at: now,
        expires_at,
        rate_limit_per_second: args.rate_limit_per_second,
    };
    let (keys, _) = open(&args.config).await?;
    let made = keys.create(grant, &mut rand::make_rng::<StdRng>()).await?;
    show(&made, "The secret is shown this once: keep it where your service reads its secrets.", output)
}

async fn rotate(args: KeyArgs, output: &Output) -> anyhow::Result<()> {
    let (keys, _) = open(&args.config).await?;
    let rotated = keys
        .rotate(&args.key, Clock::System.now(), &mut rand::make_rng::<StdRng>())
        .await
        .with_context(|| format!("cannot rotate {}", args.key))?;
    let note = "The secret before it keeps working until the next rotation. This one is shown once.";
    show(&rotated, note, output)
}

fn show(made: &NewSecret, note: &str, output: &Output) -> anyhow::Result<()> {
    let mut json = described(&made.key);
    json["secret"] = Value::from(made.secret.as_str());
    output.json(&json)?;
    output.line(format!(
        "key     {}\nsecret  {}\napp     {}",
        made.key.key,
        made.secret.as_str(),
        made.key.grant.app
    ))?;
    output.line(note)?;
    Ok(())
}

async fn list(args: ListArgs, output: &Output) -> anyhow::Result<()> {
    let (_, connection) = args.config.connect().await?;
    let mut keys = all(&connection).await?;
    keys.retain(|key| args.app.as_ref().is_none_or(|app| key.grant.app == *app));
    keys.sort_by(|a, b| (&a.grant.app, a.grant.created_at).cmp(&(&b.grant.app, b.grant.created_at)));
    output.json(&json!({ "data": keys.iter().map(described).collect::<Vec<_>>() }))?;
    let now = Clock::System.now();
    let rows: Vec<_> = keys.iter().map(|key| row(key, now)).collect();
    if rows.is_empty() {
        output.line("no keys yet: make one with `peal keys create`")?;
    } else {
        output.line(table(&["KEY", "APP", "NAME", "SCOPES", "SECRETS", "CREATED", "STATUS"], &rows))?;
    }
    Ok(())
}

/// Every key that this region knows of, wherever it was made or revoked.
async fn all(connection: &Connection) -> anyhow::Result<Vec<ApiKey>> {
    let records = connection.records(&RecordKey::api_key_prefix()).await?;
    let read = |(key, record): (&RecordKey, &Record)| ApiKey::read(&key.id()?.parse().ok()?, record);
    Ok(records.iter().filter_map(read).collect())
}

fn scopes(key: &ApiKey) -> Vec<&'static str> {
    key.grant.scopes.iter().map(|scope| scope.as_str()).collect()
}

fn described(key: &ApiKey) -> Value {
    json!({
        "key": key.key,
        "app": key.grant.app,
        "name": key.grant.name,
        "scopes": scopes(key),
        "created_at": key.grant.created_at,
        "expires_at": key.grant.expires_at,
        "rate_limit_per_second": key.grant.rate_limit_per_second,
        "secrets": key.secrets.iter().map(|secret| json!({ "created_at": secret.created_at })).collect::<Vec<_>>(),
        "revoked": key.revoked,
    })
}

fn row(key: &ApiKey, now: Timestamp) -> Vec<String> {
    let status = match key.grant.expires_at {
        _ if key.revoked => "revoked".to_owned(),
        Some(at) if at <= now => format!("expired {at}"),
        Some(at) => format!("live until {at}"),
        None => "live".to_owned(),
    };
    vec![
        key.key.to_string(),
        key.grant.app.to_string(),
        key.grant.name.clone(),
        scopes(key).join(","),
        key.secrets.len().to_string(),
        key.grant.created_at.strftime("%Y-%m-%d").to_string(),
        status,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_positive_and_know_days() {
        assert_eq!(duration("90d").unwrap(), SignedDuration::from_hours(90 * 24));
        assert_eq!(duration("10m").unwrap(), SignedDuration::from_mins(10));
        for bad in ["", "0d", "-1h", "soon", "d", "99999999999999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
