//! An app's own accounts at providers. What stands in one is sealed with the region's key, and never given out again.

use axum::extract::{Request, State};
use peal_common::category::Class;
use peal_common::clock::Stamp;
use peal_common::id::AppId;
use peal_common::problem::FieldError;
use peal_common::settings::{AccountSettings, CallbackSettings, SettingsError, is_account_name};
use peal_common::state::{Kind, Record, RecordKey};
use peal_nats::catalog::{ACCOUNT_FACET, AppAccount, read_account};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::page::{Page, PageQuery};
use crate::app::App;
use crate::callbacks::Keys;
use crate::http::auth::Caller;
use crate::http::json::{self, Json};
use crate::http::params::{Id, Query};
use crate::http::problem::{NoContent, Problem, ProblemBody, Put};

/// The most accounts of an app: every dispatcher keeps connections to each.
const MAX_ACCOUNTS: usize = 32;

/// Why no file may be named.
const NO_FILES: &str =
    "an account that is handed in has its secrets in it: files are for the dispatchers' settings";

/// What an account's provider signs its reports with, sealed like the account. Dispatchers have no use for it.
const CALLBACKS_FACET: &str = "callbacks";

/// An account, without what is secret in it.
#[derive(Debug, Serialize, ToSchema)]
pub struct AccountView {
    /// Its name.
    name: String,
    /// The providers that it is at.
    providers: Vec<&'static str>,
    /// Which of the app's messages it takes.
    #[serde(rename = "for")]
    route: RouteView,
}

/// Which messages an account takes: those that fit every rule that there is.
#[derive(Debug, Serialize, ToSchema)]
struct RouteView {
    /// The classes of their categories; all when it is empty.
    classes: Vec<Class>,
    /// The calling codes of the phone numbers that they go to; all when it is empty.
    countries: Vec<String>,
}

impl AccountView {
    fn of(account: AppAccount) -> Self {
        let providers = account.settings.providers().collect();
        let route = account.settings.route;
        let route = RouteView { classes: route.classes, countries: route.countries };
        AccountView { name: account.name, providers, route }
    }
}

/// Makes or replaces an account. The body has the keys of `[channels.accounts.<name>]` in the settings, but for files:
/// `{"for": {"classes": ["marketing"]}, "smtp": {"host": "…", "from": "…"}}`. It takes messages of the key's app alone, and
/// these go out with no other account then, where it fits. Dispatchers use it for what is accepted after the answer.
///
/// Beside them, `callbacks` has the keys of `[callbacks]`, but for files and apps: `{"callbacks": {"sendgrid": {"keys":
/// ["…"]}}}`. What the account's provider posts to `/v1/callbacks/{provider}?app={app}` is taken when one of them signed it;
/// Twilio signs with the account's `auth_token`, which need not be written again.
#[utoipa::path(put, path = "/v1/accounts/{name}", tag = "accounts", request_body = Object,
    params(("name" = String, Path, description = "1 to 32 characters of a-z 0-9 -")),
    responses(
        (status = 200, description = "replaced", body = AccountView),
        (status = 201, description = "made", body = AccountView),
        (status = 409, description = "the app has as many as it may have", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn put(
    State(app): State<App>,
    caller: Caller,
    Id(name): Id<String>,
    request: Request,
) -> Result<Put<AccountView>, Problem> {
    check_name(&name)?;
    let body = json::json_bytes(request).await?;
    let mut raw: Map<String, Value> = json::parse_object(&body)?;
    let callbacks = raw.remove("callbacks").filter(|it| !it.is_null()).unwrap_or_else(|| json!({}));
    let raw = Value::Object(raw);
    let settings: AccountSettings = json::parse_object(&raw.to_string().into_bytes())?;
    check(&settings, &raw, &caller)?;
    if app.settings.gateway.public_base().is_none() {
        check_addresses(&callbacks)?;
    }
    let callbacks = signed_with(callbacks, &settings)?;
    let key = RecordKey::new(Kind::Account, &caller.app, &name);
    let before = app.catalog.list(Kind::Account, &caller.app, None, MAX_ACCOUNTS, |_, key, record| {
        Ok(record.get(ACCOUNT_FACET).map(|_| key.clone()))
    })?;
    if before.len() == MAX_ACCOUNTS && before.iter().all(|(_, own)| *own != key) {
        return Err(Problem::conflict("too_many", "an app has at most 32 accounts; delete one first"));
    }
    let seal = |text: &Value| {
        let sealed = app.catalog.sealer().seal_secret(&text.to_string(), key.as_str(), &mut rand::rng());
        sealed.map(Value::String).map_err(|_| Problem::internal())
    };
    let (sealed, callbacks) = (seal(&raw)?, seal(&callbacks)?);
    let mut is_new = false;
    let change = |record: &mut Record, stamp: &Stamp| {
        is_new = record.get(ACCOUNT_FACET).is_none();
        record.set(ACCOUNT_FACET, sealed.clone(), stamp);
        record.set(CALLBACKS_FACET, callbacks.clone(), stamp);
        Ok::<_, Problem>(())
    };
    let written = app.writer.update(&key, change).await?;
    app.settle(&key, &written).await;
    let view = AccountView::of(AppAccount { app: caller.app.clone(), name, settings, written: None });
    Ok(if is_new { Put::New(view) } else { Put::Changed(view) })
}

/// Fails where a provider is named that signs the address it posts to, which nobody knows here.
fn check_addresses(callbacks: &Value) -> Result<(), Problem> {
    match ["twilio", "mandrill"].into_iter().find(|name| !callbacks[name].is_null()) {
        Some(name) => Err(Problem::invalid_field(
            &format!("callbacks.{name}"),
            "not_set_up",
            "it signs the address that it posts to: have gateway.public_url written in this gateway's settings first",
        )),
        None => Ok(()),
    }
}

/// What stands in `callbacks`, and what Twilio signs with.
fn signed_with(callbacks: Value, account: &AccountSettings) -> Result<Value, Problem> {
    #[derive(Deserialize)]
    struct Given {
        callbacks: CallbackSettings,
    }
    let mut given = json!({ "callbacks": callbacks });
    check_sections(&given, "")?;
    check_sections(&given["callbacks"], "callbacks.")?;
    if let Some(token) = account.twilio.as_ref().and_then(|twilio| twilio.auth_token.as_ref())
        && given["callbacks"]["twilio"].is_null()
    {
        given["callbacks"]["twilio"] = json!({ "keys": [token.expose()] });
    }
    let Given { callbacks } = json::parse_object(given.to_string().as_bytes())?;
    if callbacks.telegram.as_ref().is_some_and(|bot| !bot.apps.is_empty()) {
        let detail = "the bot writes for the key's own app; leave it out";
        return Err(Problem::invalid_field("callbacks.telegram.apps", "other_app", detail));
    }
    Keys::from_settings(&callbacks).map_err(|error| in_field(&error))?;
    Ok(given["callbacks"].take())
}

/// What providers sign with that report of an app's own accounts.
///
/// # Errors
/// [`Problem`] while the mirror can't answer.
pub fn callback_keys(app: &App, owner: &AppId) -> Result<Keys, Problem> {
    let read = |_: &str, key: &RecordKey, record: &Record| {
        let Some(sealed) = record.get(CALLBACKS_FACET).and_then(Value::as_str) else { return Ok(None) };
        Ok(Some(app.catalog.sealer().open_secret(sealed, key.as_str())?))
    };
    let mut keys = Keys::default();
    for (_, callbacks) in app.catalog.list(Kind::Account, owner, None, MAX_ACCOUNTS, read)? {
        let callbacks = serde_json::from_str(&callbacks).map_err(|_| Problem::internal())?;
        keys.extend(Keys::from_settings(&callbacks).map_err(|_| Problem::internal())?);
    }
    Ok(keys)
}

/// An error of settings as one of the field that it names.
fn in_field(error: &SettingsError) -> Problem {
    let text = error.to_string();
    let text = text.strip_prefix("settings: ").unwrap_or(&text);
    let (field, detail) = text.split_once(": ").unwrap_or(("", text));
    vec![FieldError::new(field, "invalid_value", detail)].into()
}

fn check_name(name: &str) -> Result<(), Problem> {
    match is_account_name(name) {
        true => Ok(()),
        false => {
            Err(Problem::invalid_field("name", "invalid_value", "write 1 to 32 characters of a-z 0-9 -"))
        }
    }
}

fn check(settings: &AccountSettings, raw: &Value, caller: &Caller) -> Result<(), Problem> {
    check_sections(raw, "")?;
    if settings.route.apps.iter().any(|app| *app != caller.app) {
        return Err(Problem::invalid_field(
            "for.apps",
            "other_app",
            "it takes messages of the key's own app; leave it out",
        ));
    }
    settings.check_own().map_err(|error| in_field(&error))
}

/// Fails where a section is none, or names a file. What names its fields by their places, a list, could hide that.
fn check_sections(sections: &Value, path: &str) -> Result<(), Problem> {
    for (name, section) in sections.as_object().into_iter().flatten() {
        let field = format!("{path}{name}");
        if !section.is_object() && !section.is_null() {
            return Err(Problem::invalid_field(&field, "wrong_type", "expected an object"));
        }
        if let Some(file) = file_in(section, &field) {
            return Err(Problem::invalid_field(&file, "not_allowed", NO_FILES));
        }
    }
    Ok(())
}

/// The first key that names a file.
fn file_in(value: &Value, path: &str) -> Option<String> {
    value.as_object()?.iter().find_map(|(key, value)| {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let is_file = key.ends_with("_file") || key.ends_with("_files");
        if is_file && !value.is_null() { Some(path) } else { file_in(value, &path) }
    })
}

/// One account.
#[utoipa::path(get, path = "/v1/accounts/{name}", tag = "accounts",
    params(("name" = String, Path, description = "the account")),
    responses(
        (status = 200, description = "the account", body = AccountView),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn get(
    State(app): State<App>,
    caller: Caller,
    Id(name): Id<String>,
) -> Result<Json<AccountView>, Problem> {
    let key = RecordKey::new(Kind::Account, &caller.app, &name);
    let found = app.catalog.mirror().get(&key)?;
    let account =
        found.map(|record| read_account(&key, &record, app.catalog.sealer())).transpose()?.flatten();
    Ok(Json(AccountView::of(account.ok_or_else(|| Problem::not_found("account"))?)))
}

/// Accounts by name.
#[utoipa::path(get, path = "/v1/accounts", tag = "accounts", params(PageQuery), responses(
    (status = 200, description = "a page of accounts", body = Page<AccountView>),
    (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<AccountView>>, Problem> {
    let (limit, after) = (page.limit()?, page.after()?);
    let read = |_: &str, key: &RecordKey, record: &Record| {
        Ok(read_account(key, record, app.catalog.sealer())?.map(AccountView::of))
    };
    let found = app.catalog.list(Kind::Account, &caller.app, after.as_deref(), limit + 1, read)?;
    Ok(Json(Page::of(found, limit)))
}

/// Deletes an account. What was meant for it goes out with the accounts of the dispatchers' settings, if any takes it.
/// Deleting one that is not there does no harm.
#[utoipa::path(delete, path = "/v1/accounts/{name}", tag = "accounts",
    params(("name" = String, Path, description = "the account")),
    responses(
        (status = 204, description = "deleted"),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    Id(name): Id<String>,
) -> Result<NoContent, Problem> {
    let key = RecordKey::new(Kind::Account, &caller.app, &name);
    let change = |record: &mut Record, stamp: &Stamp| {
        if !record.facets.is_empty() {
            record.erase(stamp);
        }
        Ok::<_, Problem>(())
    };
    let written = app.writer.update(&key, change).await?;
    app.settle(&key, &written).await;
    Ok(NoContent)
}
