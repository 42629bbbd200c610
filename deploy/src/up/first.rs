//! What `peal up` does with a running region: a key pair, something to send to, and a first notification.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use peal_common::clock::Clock;
use peal_common::id::{AppId, AppKey};
use peal_common::key::{ApiKey, Grant, Scope};
use peal_common::settings::Settings;
use peal_common::state::RecordKey;
use peal_nats::connect::Connection;
use peal_nats::keys::{self, Keys};
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::folder::Folder;
use crate::api::{ApiError, Gateway};
use crate::commands::send;
use crate::credentials::{self, Credentials};
use crate::region;

/// The app of the key pair.
const APP: &str = "demo";
/// The category of the first notification.
pub const CATEGORY: &str = "demo";
/// Its recipient.
pub const RECIPIENT: &str = "demo-user";
/// An address that can never belong to anybody (RFC 2606).
const ADDRESS: &str = "demo-user@example.com";

/// The key pair of this folder: the one from before while it works, else a new one with every scope.
///
/// # Errors
/// When the state can't be read or written.
pub async fn key_pair(
    connection: &Connection,
    settings: &Settings,
    folder: &Folder,
    url: &str,
) -> anyhow::Result<Credentials> {
    let path = folder.path().join(credentials::FILE);
    let sealer = Arc::new(settings.sealer()?);
    if let Some(mut known) = Credentials::read(&path)? {
        let live = stored_key(connection, &known.key).await?.filter(|key| !key.revoked);
        let opened = live.map(|key| keys::open_secrets(&key, &sealer)).unwrap_or_default();
        if opened.iter().any(|secret| secret.as_str() == known.secret) {
            if known.url != url {
                url.clone_into(&mut known.url);
                known.write(&path)?;
            }
            return Ok(known);
        }
    }
    let app: AppId = APP.parse()?;
    let grant = Grant {
        app,
        name: "made by peal up".to_owned(),
        scopes: vec![Scope::Send, Scope::Read, Scope::Manage, Scope::Admin],
        created_at: Clock::System.now(),
        expires_at: None,
        rate_limit_per_second: None,
    };
    let keys = Keys::new(region::state_writer(connection), sealer);
    let made = keys.create(grant, &mut rand::make_rng::<StdRng>()).await.context("cannot make a key pair")?;
    let made = Credentials {
        url: url.to_owned(),
        app: APP.to_owned(),
        key: made.key.key.to_string(),
        secret: made.secret.to_string(),
    };
    made.write(&path)?;
    Ok(made)
}

async fn stored_key(connection: &Connection, key: &str) -> anyhow::Result<Option<ApiKey>> {
    let Ok(key) = key.parse::<AppKey>() else { return Ok(None) };
    let (_, record) = region::state_writer(connection).fetch(&RecordKey::api_key(&key)).await?;
    Ok(ApiKey::read(&key, &record))
}

/// Makes the category and the recipient unless they are there, sends a notification and waits until it is settled.
///
/// # Errors
/// When the gateway refuses, or it takes longer than `limit`.
pub async fn notification(gateway: &Gateway, settings: &Settings, limit: Duration) -> anyhow::Result<Value> {
    // Nobody must get real mail because somebody tried Peal: with a mail server the inbox takes the first one.
    let channel = if settings.channels.email.smtp.is_none() { "email" } else { "inbox" };
    let category = json!({ "class": "transactional", "channels": [channel] });
    unless_there(gateway, &["v1", "categories", CATEGORY], &category)
        .await
        .context("cannot make the category demo")?;
    let recipient = json!({ "locale": "en", "contacts": [{ "channel": "email", "address": ADDRESS }] });
    unless_there(gateway, &["v1", "recipients", RECIPIENT], &recipient)
        .await
        .context("cannot make the recipient demo-user")?;
    let sent = json!({
        "id": format!("peal-up-{}", Clock::System.now_ms()),
        "category": CATEGORY,
        "to": [{ "recipient": RECIPIENT }],
        "channels": [channel],
        "content": {
            "title": "Peal is running",
            "body": "This notification went from the gateway through JetStream and the dispatcher to its recipient.",
        },
    });
    let accepted =
        gateway.post(&["v1", "notifications"], &sent).await.context("cannot send a first notification")?;
    let id = accepted["id"].as_str().context("the gateway's answer names no id")?;
    send::settled(gateway, id, limit).await.context("the first notification was not delivered")
}

async fn unless_there(gateway: &Gateway, path: &[&str], body: &Value) -> Result<(), ApiError> {
    match gateway.get(path, &[]).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => gateway.put(path, body).await.map(drop),
        Err(error) => Err(error),
    }
}
