//! `peal send`: one notification, through the gateway.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use peal_common::channel::{ChannelChoice, Priority};
use peal_common::id::{CategoryId, NotificationId, RecipientId, TemplateId};
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::attach;
use crate::api::{Gateway, GatewayArgs};
use crate::output::{FAILED, Output, table};

const EXAMPLES: &str = "\
Examples:
  peal send --to u-42 --category orders --title 'Shipped' --body 'Your order is on its way' --wait
  peal send --email a@example.com --category orders --template order-shipped --data order=1042
  peal send --email a@example.com --category orders --title 'Your invoice' --attach invoice.pdf
  peal send --webhook https://example.com/hook --category alerts --priority critical --body 'Disk full'";

/// How often the gateway is asked while waiting.
const POLL: Duration = Duration::from_millis(100);

/// Arguments of `peal send`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SendArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
    #[command(flatten)]
    to: Targets,
    /// The category
    #[arg(long, value_name = "ID")]
    category: CategoryId,
    /// The template, unless --title or --body say it all
    #[arg(long, value_name = "ID", conflicts_with_all = ["title", "body", "link"], required_unless_present_any = ["title", "body"])]
    template: Option<TemplateId>,
    /// A variable of the template; the value is taken as text. Repeat it for more
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable, requires = "template", conflicts_with_all = ["title", "body"])]
    data: Vec<(String, String)>,
    /// Variables of the template as a JSON object, for values that are not text
    #[arg(long, value_name = "JSON", value_parser = object, requires = "template", conflicts_with_all = ["title", "body"])]
    data_json: Option<Map<String, Value>>,
    /// The headline
    #[arg(long)]
    title: Option<String>,
    /// The text
    #[arg(long)]
    body: Option<String>,
    /// What a tap opens
    #[arg(long, value_name = "URL")]
    link: Option<String>,
    /// A file for the e-mail; its type goes by its ending. Repeat it for up to 10 files, which hold at most 256 KiB
    /// together; other channels are sent without
    #[arg(long, value_name = "FILE")]
    attach: Vec<PathBuf>,
    /// critical, high, normal or bulk [default: what the category says]
    #[arg(long, value_parser = word::<Priority>)]
    priority: Option<Priority>,
    /// Channels in order of preference, instead of the category's; repeat it or write commas
    #[arg(long = "channel", value_name = "CHANNEL", value_parser = word::<ChannelChoice>, value_delimiter = ',')]
    channels: Vec<ChannelChoice>,
    /// The notification's id: sending it twice with the same id sends it once
    #[arg(long)]
    id: Option<NotificationId>,
    /// Wait until every delivery is settled and show them; exits with 1 when one failed
    #[arg(long)]
    wait: bool,
    /// How many seconds to wait at most
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "wait")]
    timeout: u64,
}

/// Who is to get it; at least one.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Targets {
    /// A recipient's id; every target can be repeated
    #[arg(long = "to", value_name = "RECIPIENT")]
    recipients: Vec<RecipientId>,
    /// An e-mail address
    #[arg(long, value_name = "ADDRESS")]
    email: Vec<String>,
    /// A webhook's URL
    #[arg(long, value_name = "URL")]
    webhook: Vec<String>,
    /// A Telegram chat id
    #[arg(long, value_name = "CHAT", allow_hyphen_values = true)]
    telegram: Vec<String>,
    /// A phone number
    #[arg(long, value_name = "NUMBER")]
    phone: Vec<String>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = pair.ok_or("write NAME=VALUE, such as order=1042")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("write a JSON object: {error}"))
}

/// A word of a closed set, as the API writes it.
fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    T::deserialize(Value::from(text)).map_err(|error| error.to_string())
}

impl SendArgs {
    /// The body of `POST /v1/notifications`.
    fn notification(&self) -> Value {
        let mut body = json!({ "category": self.category, "to": self.to.list() });
        let mut set = |name: &str, value: Value| {
            if !value.is_null() {
                body[name] = value;
            }
        };
        set("id", json!(self.id));
        set("template", json!(self.template));
        set("priority", json!(self.priority));
        if !self.channels.is_empty() {
            set("channels", json!(self.channels));
        }
        match self.template {
            Some(_) => {
                let mut data = self.data_json.clone().unwrap_or_default();
                data.extend(
                    self.data.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))),
                );
                if !data.is_empty() {
                    set("data", Value::Object(data));
                }
            }
            None => {
                let given = [("title", &self.title), ("body", &self.body), ("url", &self.link)];
                let content = given
                    .into_iter()
                    .filter_map(|(name, text)| Some((name.to_owned(), json!(text.as_ref()?))));
                set("content", Value::Object(content.collect()));
            }
        }
        body
    }
}

impl Targets {
    fn list(&self) -> Vec<Value> {
        let inline = [
            ("email", &self.email),
            ("webhook", &self.webhook),
            ("telegram", &self.telegram),
            ("phone", &self.phone),
        ];
        let recipients = self.recipients.iter().map(|id| json!({ "recipient": id }));
        let inline = inline
            .into_iter()
            .flat_map(|(name, all)| all.iter().map(move |address| json!({ name: address })));
        recipients.chain(inline).collect()
    }
}

/// Sends, and waits if asked to.
///
/// # Errors
/// When the gateway is not there or refuses.
pub async fn run(args: SendArgs, output: &Output) -> anyhow::Result<ExitCode> {
    let gateway = args.gateway.gateway()?;
    let mut notification = args.notification();
    if !args.attach.is_empty() {
        notification["attachments"] = json!(attach::read(args.attach.iter().map(PathBuf::as_path))?);
    }
    let accepted = gateway.post(&["v1", "notifications"], &notification).await?;
    let id = accepted["id"].as_str().context("the gateway's answer names no id")?.to_owned();
    if !args.wait {
        output.json(&accepted)?;
        let note = if accepted["duplicate"] == true { " (it was there already)" } else { "" };
        output.line(format!("{id} accepted{note}"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let found = settled(&gateway, &id, Duration::from_secs(args.timeout)).await?;
    output.json(&found)?;
    output.line(format!("{id} {}", found["status"].as_str().unwrap_or("?")))?;
    let rows = deliveries(&found);
    if !rows.is_empty() {
        output.line(table(&["CHANNEL", "RECIPIENT", "STATUS", "ATTEMPTS", "PROVIDER", "REASON"], &rows))?;
    }
    Ok(if has_arrived(&found) { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// Asks for a notification until every delivery of it is settled.
///
/// # Errors
/// When that takes longer than `limit`, or the gateway refuses.
pub async fn settled(gateway: &Gateway, id: &str, limit: Duration) -> anyhow::Result<Value> {
    let deadline = Instant::now() + limit;
    let mut status = "accepted".to_owned();
    loop {
        match gateway.get(&["v1", "notifications", id], &[]).await {
            Ok(found) if is_settled(&found) => return Ok(found),
            Ok(found) => status = found["status"].as_str().unwrap_or("?").to_owned(),
            // The gateway's read model may be a moment behind what it accepted.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        if Instant::now() >= deadline {
            anyhow::bail!("{id} is still {status} after {} s; `peal doctor` may say why", limit.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
}

fn status(value: &Value) -> Option<peal_common::event::Status> {
    peal_common::event::Status::deserialize(&value["status"]).ok()
}

fn is_settled(notification: &Value) -> bool {
    let settled = |value: &Value| status(value).is_some_and(peal_common::event::Status::is_settled);
    let deliveries = notification["deliveries"].as_array().map_or(&[][..], Vec::as_slice);
    settled(notification) && deliveries.iter().all(settled)
}

/// Whether something was sent, and nothing was meant to be and wasn't.
fn has_arrived(notification: &Value) -> bool {
    use peal_common::event::Status;
    let deliveries = notification["deliveries"].as_array().map_or(&[][..], Vec::as_slice);
    let is = |value: &Value, wanted: &[Status]| status(value).is_some_and(|status| wanted.contains(&status));
    deliveries.iter().any(|delivery| is(delivery, &[Status::Sent, Status::Delivered]))
        && deliveries
            .iter()
            .all(|delivery| is(delivery, &[Status::Sent, Status::Delivered, Status::Suppressed]))
}

fn deliveries(notification: &Value) -> Vec<Vec<String>> {
    let cell = |delivery: &Value, name: &str| match &delivery[name] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let names = ["channel", "recipient", "status", "attempts", "provider", "reason"];
    let all = notification["deliveries"].as_array().map_or(&[][..], Vec::as_slice);
    all.iter().map(|delivery| names.iter().map(|name| cell(delivery, name)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Parser {
        #[command(flatten)]
        args: SendArgs,
    }

    fn parsed(line: &str) -> Result<Value, clap::Error> {
        Parser::try_parse_from(line.split_whitespace()).map(|parser| parser.args.notification())
    }

    #[test]
    fn arguments_become_the_body_that_the_api_takes() {
        let body = parsed(
            "peal --to u-42 --telegram -100 --category c --template t --data n=a=b --priority high --channel push,email",
        );
        let expected = json!({
            "category": "c", "to": [{"recipient": "u-42"}, {"telegram": "-100"}], "template": "t",
            "data": {"n": "a=b"}, "priority": "high", "channels": ["push", "email"],
        });
        assert_eq!(body.unwrap(), expected);
        let body = parsed("peal --email a@example.com --category c --title Hi --id n-1").unwrap();
        let expected = json!({"id": "n-1", "category": "c", "to": [{"email": "a@example.com"}], "content": {"title": "Hi"}});
        assert_eq!(body, expected);
    }

    #[test]
    fn what_lacks_something_or_contradicts_itself_is_refused() {
        for bad in [
            "peal --category c --body b",
            "peal --to u --body b",
            "peal --to u --category c",
            "peal --to u --category c --template t --body b",
            "peal --to u --category c --body b --data a=b",
            "peal --to u --category c --template t --data a",
            "peal --to u --category c --body b --priority urgent",
            "peal --to a/b --category c --body b",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_notification_is_settled_with_its_last_delivery_and_fails_with_one() {
        let with = |status: &str, deliveries: &[&str]| {
            let deliveries: Vec<_> = deliveries.iter().map(|status| json!({"status": status})).collect();
            json!({"status": status, "deliveries": deliveries})
        };
        assert!(!is_settled(&with("accepted", &[])));
        assert!(!is_settled(&with("sent", &["sent", "queued"])));
        assert!(is_settled(&with("sent", &["sent", "failed"])));
        assert!(has_arrived(&with("sent", &["sent", "suppressed"])));
        assert!(!has_arrived(&with("sent", &["sent", "failed"])));
        assert!(!has_arrived(&with("suppressed", &[])));
    }
}
