//! API keys: who may call, for which app, and for what.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::id::{AppId, AppKey};
use crate::state::Record;

/// The facet that holds what a key may do.
pub const GRANT_FACET: &str = "grant";
/// The facet that holds the key's live secrets, sealed.
pub const SECRETS_FACET: &str = "secrets";
/// The guarded facet that says whether the key is live: a revocation wins over whatever is written at the same time.
pub const LIVE_FACET: &str = "live";
/// How many secrets of a key are live at once: the current one and the one it replaces.
pub const LIVE_SECRETS: usize = 2;

/// What a key is for. `admin` includes the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Hand in notifications, cancel and acknowledge them.
    Send,
    /// Read notifications, recipients, events.
    Read,
    /// Change recipients, categories, templates; replay dead letters.
    Manage,
    /// Make and revoke keys.
    Admin,
}

impl Scope {
    /// The scope's name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Scope::Send => "send",
            Scope::Read => "read",
            Scope::Manage => "manage",
            Scope::Admin => "admin",
        }
    }
}

/// What a key may do and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Grant {
    /// The app whose objects the key sees.
    pub app: AppId,
    /// A name for people.
    pub name: String,
    /// What the key is for.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops working.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Requests a second that the key may make at each gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit_per_second: Option<u32>,
}

impl Grant {
    /// Whether the key may do what needs `scope`.
    #[must_use]
    pub fn allows(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }
}

/// One live secret, sealed with the region's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedSecret {
    /// The secret, sealed for the key's name.
    pub sealed: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A key as it stands in its record.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// The public half.
    pub key: AppKey,
    /// What it may do.
    pub grant: Grant,
    /// Its live secrets, newest first.
    pub secrets: Vec<SealedSecret>,
    /// Whether it has been revoked.
    pub revoked: bool,
}

impl ApiKey {
    /// Reads a key from its record. `None` when there is no such key, or the record is damaged.
    #[must_use]
    pub fn read(key: &AppKey, record: &Record) -> Option<Self> {
        Some(ApiKey {
            key: key.clone(),
            grant: Grant::deserialize(record.get(GRANT_FACET)?).ok()?,
            secrets: Vec::deserialize(record.get(SECRETS_FACET)?).ok()?,
            revoked: record.allowed(LIVE_FACET) != Some(true),
        })
    }

    /// Writes the key into its record.
    pub fn write(&self, record: &mut Record, stamp: &crate::clock::Stamp) {
        let facets = [
            (GRANT_FACET, serde_json::to_value(&self.grant)),
            (SECRETS_FACET, serde_json::to_value(&self.secrets)),
        ];
        for (name, value) in facets {
            let value = value.unwrap_or(Value::Null);
            if record.get(name) != Some(&value) {
                record.set(name, value, stamp);
            }
        }
        if record.allowed(LIVE_FACET) != Some(!self.revoked) {
            record.set_guarded(LIVE_FACET, Some(!self.revoked), stamp);
        }
    }
}
