//! API keys. An `admin` key manages the keys of its own app; the first key of an app is made with `peal keys create`,
//! by somebody who may write to the region's state.

use axum::extract::State;
use jiff::Timestamp;
use peal_common::id::{AppId, AppKey};
use peal_common::key::{ApiKey, Grant, Scope};
use peal_common::problem::FieldError;
use peal_common::state::RecordKey;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::page::{Page, PageQuery};
use crate::app::App;
use crate::http::auth::Caller;
use crate::http::json::Json;
use crate::http::params::{Id, Query};
use crate::http::problem::{Created, NoContent, Problem, ProblemBody};

/// The longest name, in bytes.
const MAX_NAME_BYTES: usize = 200;
/// The highest limit that a key may have.
const MAX_RATE: u32 = 1_000_000;

/// A key that is to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// The app; it can only be the caller's own.
    app: Option<AppId>,
    /// A name for people.
    name: String,
    /// What the key is for; at least one.
    scopes: Vec<Scope>,
    /// When it stops working.
    expires_at: Option<Timestamp>,
    /// Requests a second that it may make at each gateway; by default what the gateway's settings say.
    rate_limit_per_second: Option<u32>,
}

impl NewKey {
    fn grant(self, caller: &Caller, now: Timestamp) -> Result<Grant, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut wrong =
            |field: &str, code: &str, detail: &str| errors.push(FieldError::new(field, code, detail));
        if self.app.as_ref().is_some_and(|app| *app != caller.app) {
            wrong("app", "other_app", "a key makes keys of its own app; leave the field out");
        }
        if self.name.is_empty() || self.name.len() > MAX_NAME_BYTES || self.name.chars().any(char::is_control)
        {
            wrong("name", "invalid_value", "write 1 to 200 bytes without control characters");
        }
        if self.scopes.is_empty() {
            wrong("scopes", "required", "name at least one of send, read, manage, admin");
        }
        if self.expires_at.is_some_and(|at| at <= now) {
            wrong("expires_at", "in_the_past", "write a time in the future");
        }
        if self.rate_limit_per_second.is_some_and(|rate| !(1..=MAX_RATE).contains(&rate)) {
            wrong("rate_limit_per_second", "out_of_range", "write 1 to 1000000");
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut scopes = self.scopes;
        scopes.sort_unstable();
        scopes.dedup();
        Ok(Grant {
            app: caller.app.clone(),
            name: self.name,
            scopes,
            created_at: now,
            expires_at: self.expires_at,
            rate_limit_per_second: self.rate_limit_per_second,
        })
    }
}

/// A key, without its secrets.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyView {
    /// The public half.
    key: AppKey,
    #[serde(flatten)]
    grant: Grant,
    /// Whether it was revoked.
    revoked: bool,
    /// When each live secret was made, newest first.
    secrets_created_at: Vec<Timestamp>,
}

impl From<ApiKey> for KeyView {
    fn from(key: ApiKey) -> Self {
        let secrets_created_at = key.secrets.iter().map(|secret| secret.created_at).collect();
        KeyView { key: key.key, grant: key.grant, revoked: key.revoked, secrets_created_at }
    }
}

/// A key with a secret that was just made. The secret is never told again.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyWithSecret {
    #[serde(flatten)]
    key: KeyView,
    /// The secret, `sk_…`.
    secret: String,
}

/// Makes a key. The answer is the only time that its secret is told.
#[utoipa::path(post, path = "/v1/keys", tag = "keys", request_body = NewKey, responses(
    (status = 201, description = "the key and its secret", body = KeyWithSecret),
    (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Json(body): Json<NewKey>,
) -> Result<Created<KeyWithSecret>, Problem> {
    let grant = body.grant(&caller, app.clock.now())?;
    let made = app.keys.create(grant, &mut rand::make_rng::<StdRng>()).await?;
    tracing::info!(app.id = %caller.app, by = %caller.key, key = %made.key.key, "a key was made");
    app.settle(&RecordKey::api_key(&made.key.key), &made.written).await;
    Ok(Created(KeyWithSecret { key: made.key.into(), secret: made.secret.to_string() }))
}

/// The keys of the caller's app, revoked ones too.
#[utoipa::path(get, path = "/v1/keys", tag = "keys", params(PageQuery), responses(
    (status = 200, description = "a page of keys", body = Page<KeyView>),
    (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<KeyView>>, Problem> {
    let limit = page.limit()?;
    let mut after = match page.after()? {
        Some(id) => Some(RecordKey::api_key(&id.parse().map_err(|_| {
            Problem::invalid_field("after", "invalid_cursor", "write the `next` of the page before")
        })?)),
        None => None,
    };
    // Keys of all apps stand together, since a key is looked up before its app is known.
    let prefix = RecordKey::api_key_prefix();
    let mut found = Vec::new();
    while found.len() <= limit {
        let records = app.mirror.scan(&prefix, after.as_ref(), SCAN)?;
        let ended = records.len() < SCAN;
        for (key, record) in records {
            let name = key.id().and_then(|id| id.parse::<AppKey>().ok());
            after = Some(key);
            let Some(name) = name else { continue };
            if let Some(key) = ApiKey::read(&name, &record)
                && key.grant.app == caller.app
                && found.len() <= limit
            {
                found.push((name.to_string(), KeyView::from(key)));
            }
        }
        if ended {
            break;
        }
    }
    Ok(Json(Page::of(found, limit)))
}

/// How many records are read at a time.
const SCAN: usize = 200;

/// One key.
#[utoipa::path(get, path = "/v1/keys/{key}", tag = "keys", params(("key" = String, Path, description = "`pk_…`")), responses(
    (status = 200, description = "the key", body = KeyView),
    (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn get(
    State(app): State<App>,
    caller: Caller,
    Id(key): Id<AppKey>,
) -> Result<Json<KeyView>, Problem> {
    own(&app, &caller, &key).map(|key| Json(key.into()))
}

/// Gives a key a second secret, so that services can change over one by one. Of two that it has the older one stops
/// working at once.
#[utoipa::path(post, path = "/v1/keys/{key}/rotate", tag = "keys", params(("key" = String, Path, description = "`pk_…`")), responses(
    (status = 200, description = "the key and its new secret", body = KeyWithSecret),
    (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn rotate(
    State(app): State<App>,
    caller: Caller,
    Id(key): Id<AppKey>,
) -> Result<Json<KeyWithSecret>, Problem> {
    own(&app, &caller, &key)?;
    let rotated = app.keys.rotate(&key, app.clock.now(), &mut rand::make_rng::<StdRng>()).await?;
    tracing::info!(app.id = %caller.app, by = %caller.key, %key, "a key was rotated");
    app.settle(&RecordKey::api_key(&key), &rotated.written).await;
    Ok(Json(KeyWithSecret { key: rotated.key.into(), secret: rotated.secret.to_string() }))
}

/// Revokes a key, for good: it stops working at every gateway as soon as the change reaches it. A key may revoke itself.
#[utoipa::path(delete, path = "/v1/keys/{key}", tag = "keys", params(("key" = String, Path, description = "`pk_…`")), responses(
    (status = 204, description = "revoked"),
    (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn revoke(
    State(app): State<App>,
    caller: Caller,
    Id(key): Id<AppKey>,
) -> Result<NoContent, Problem> {
    own(&app, &caller, &key)?;
    let written = app.keys.revoke(&key).await?;
    tracing::info!(app.id = %caller.app, by = %caller.key, %key, "a key was revoked");
    app.settle(&RecordKey::api_key(&key), &written).await;
    Ok(NoContent)
}

/// A key of the caller's app.
fn own(app: &App, caller: &Caller, key: &AppKey) -> Result<ApiKey, Problem> {
    let record = app.mirror.get(&RecordKey::api_key(key))?;
    record
        .and_then(|record| ApiKey::read(key, &record))
        .filter(|found| found.grant.app == caller.app)
        .ok_or_else(|| Problem::not_found("key"))
}
