//! Templates and their versions. Every change makes a new version with the next number; a number never names two texts,
//! also when the template is deleted and made again. Old versions stay: notifications that were accepted with one are
//! delivered with it.

use axum::extract::State;
use jiff::Timestamp;
use peal_common::channel::Channel;
use peal_common::clock::Stamp;
use peal_common::id::{RecipientId, TemplateId};
use peal_common::state::{Kind, Record, RecordKey};
use peal_common::template::{RenderError, Rendered, Size, Template, size_warnings};
use peal_nats::catalog::{
    TEMPLATE_FACET, VERSION_FACET, latest_version, read_template, template_version_key,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::page::{Page, PageQuery, from_cursor};
use crate::app::App;
use crate::http::auth::Caller;
use crate::http::json::Json;
use crate::http::params::{Id, Ids, Query};
use crate::http::problem::{NoContent, Problem, ProblemBody, Put};

/// How often a number for a new version is looked for before the client is told to try again.
const MAX_TRIES: u32 = 16;

/// Which version a template has.
#[derive(Debug, Serialize, ToSchema)]
pub struct TemplateVersion {
    /// The template.
    id: TemplateId,
    /// The version, from 1.
    version: u32,
}

/// A template, as the API gives it.
#[derive(Debug, Serialize, ToSchema)]
pub struct TemplateView {
    /// Its id.
    id: TemplateId,
    /// The version, from 1.
    version: u32,
    #[serde(flatten)]
    template: Template,
}

/// One version of a template.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionView {
    /// The version, from 1.
    version: u32,
    /// When it was made.
    created_at: Timestamp,
    /// Whether new notifications use it.
    current: bool,
}

/// Makes a template, or a new version of it. The same texts again make none.
#[utoipa::path(put, path = "/v1/templates/{id}", tag = "templates", request_body = Template,
    params(("id" = String, Path, description = "1 to 128 characters of A-Z a-z 0-9 _ : -")),
    responses(
        (status = 200, description = "the version, new or not", body = TemplateVersion),
        (status = 201, description = "the template is new", body = TemplateVersion),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn put(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<TemplateId>,
    Json(template): Json<Template>,
) -> Result<Put<TemplateVersion>, Problem> {
    template.validate()?;
    let value = serde_json::to_value(&template).map_err(|_| Problem::internal())?;
    let key = RecordKey::new(Kind::Template, &caller.app, id.as_str());
    let mut number = 1 + app.mirror.get(&key)?.as_ref().and_then(latest_version).unwrap_or(0);
    for _ in 0..MAX_TRIES {
        // The version is written before the template points to it, so that a template never points nowhere. A number
        // that somebody else took for another text is passed over.
        match current(&app, &key, &value)? {
            Some(version) => return Ok(Put::Changed(TemplateVersion { id, version })),
            None if !write_version(&app, &caller, &id, number, &value).await? => number += 1,
            None => match point_to(&app, &key, number, &value).await? {
                Pointed::New => return Ok(Put::New(TemplateVersion { id, version: number })),
                Pointed::Changed => return Ok(Put::Changed(TemplateVersion { id, version: number })),
                Pointed::Beyond(latest) => number = latest + 1,
            },
        }
    }
    Err(Problem::unavailable("contended", "too many change this template at the same time; try again"))
}

/// The current version, when it says the same.
fn current(app: &App, key: &RecordKey, value: &Value) -> Result<Option<u32>, Problem> {
    let record = app.mirror.get(key)?;
    Ok(record.filter(|record| record.get(TEMPLATE_FACET) == Some(value)).as_ref().and_then(latest_version))
}

/// Writes a version; `false` when the number names another text.
async fn write_version(
    app: &App,
    caller: &Caller,
    id: &TemplateId,
    number: u32,
    value: &Value,
) -> Result<bool, Problem> {
    let mut taken = false;
    let change = |record: &mut Record, stamp: &Stamp| {
        match record.get(TEMPLATE_FACET) {
            Some(found) => taken = found != value,
            None => record.set(TEMPLATE_FACET, value.clone(), stamp),
        }
        Ok::<_, Problem>(())
    };
    app.writer.update(&template_version_key(&caller.app, id, number), change).await?;
    Ok(!taken)
}

enum Pointed {
    New,
    Changed,
    /// The template has a later version already.
    Beyond(u32),
}

async fn point_to(app: &App, key: &RecordKey, number: u32, value: &Value) -> Result<Pointed, Problem> {
    let mut pointed = Pointed::New;
    let change = |record: &mut Record, stamp: &Stamp| {
        let latest = latest_version(record).unwrap_or(0);
        if latest >= number {
            pointed = Pointed::Beyond(latest);
            return Ok::<_, Problem>(());
        }
        pointed = if record.get(TEMPLATE_FACET).is_some() { Pointed::Changed } else { Pointed::New };
        record.set(TEMPLATE_FACET, value.clone(), stamp);
        record.set(VERSION_FACET, Value::from(number), stamp);
        Ok(())
    };
    let written = app.writer.update(key, change).await?;
    app.settle(key, &written).await;
    Ok(pointed)
}

/// The current version of a template.
#[utoipa::path(get, path = "/v1/templates/{id}", tag = "templates",
    params(("id" = String, Path, description = "the template")),
    responses(
        (status = 200, description = "the template", body = TemplateView),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn get(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<TemplateId>,
) -> Result<Json<TemplateView>, Problem> {
    let found = app.catalog.template(&caller.app, &id)?.ok_or_else(|| Problem::not_found("template"))?;
    Ok(Json(TemplateView { id, version: found.version, template: (*found.template).clone() }))
}

/// Templates by id, each in its current version.
#[utoipa::path(get, path = "/v1/templates", tag = "templates", params(PageQuery), responses(
    (status = 200, description = "a page of templates", body = Page<TemplateView>),
    (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<TemplateView>>, Problem> {
    let (limit, after) = (page.limit()?, page.after()?);
    let read = |id: &str, _: &RecordKey, record: &Record| {
        let Ok(id) = id.parse::<TemplateId>() else { return Ok(None) };
        let view = |found: peal_nats::catalog::CurrentTemplate| TemplateView {
            id,
            version: found.version,
            template: (*found.template).clone(),
        };
        Ok(read_template(record)?.map(view))
    };
    let found = app.catalog.list(Kind::Template, &caller.app, after.as_deref(), limit + 1, read)?;
    Ok(Json(Page::of(found, limit)))
}

/// The versions of a template, newest first.
#[utoipa::path(get, path = "/v1/templates/{id}/versions", tag = "templates",
    params(("id" = String, Path, description = "the template"), PageQuery),
    responses(
        (status = 200, description = "a page of versions", body = Page<VersionView>),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn versions(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<TemplateId>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<VersionView>>, Problem> {
    let limit = page.limit()?;
    let template = app.mirror.get(&RecordKey::new(Kind::Template, &caller.app, id.as_str()))?;
    let template = template.filter(|record| record.get(TEMPLATE_FACET).is_some());
    let template = template.ok_or_else(|| Problem::not_found("template"))?;
    let latest = latest_version(&template).unwrap_or(0);
    let before = match &page.after {
        Some(cursor) => from_cursor(cursor)?.parse().unwrap_or(0),
        None => latest.saturating_add(1),
    };
    let mut found = Vec::new();
    for version in (1..before.min(latest.saturating_add(1))).rev() {
        let record = app.mirror.get(&template_version_key(&caller.app, &id, version))?;
        let facet = record.as_ref().and_then(|record| record.facets.get(TEMPLATE_FACET));
        let Some(facet) = facet else { continue };
        let made = i64::try_from(facet.stamp.ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let Some(created_at) = made else { continue };
        found.push((version.to_string(), VersionView { version, created_at, current: version == latest }));
        if found.len() > limit {
            break;
        }
    }
    Ok(Json(Page::of(found, limit)))
}

/// One version of a template, also of one that has been deleted.
#[utoipa::path(get, path = "/v1/templates/{id}/versions/{version}", tag = "templates",
    params(("id" = String, Path, description = "the template"), ("version" = u32, Path, description = "the version, from 1")),
    responses(
        (status = 200, description = "the template in that version", body = TemplateView),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn version(
    State(app): State<App>,
    caller: Caller,
    Ids(id, version): Ids<TemplateId, u32>,
) -> Result<Json<TemplateView>, Problem> {
    let found = app.catalog.template_source(&caller.app, &id, version)?;
    let template = found.ok_or_else(|| Problem::not_found("version"))?;
    Ok(Json(TemplateView { id, version, template }))
}

/// Deletes a template. New notifications can't name it any more; those that were accepted are delivered with their
/// version. Deleting one that is not there does no harm.
#[utoipa::path(delete, path = "/v1/templates/{id}", tag = "templates",
    params(("id" = String, Path, description = "the template")),
    responses(
        (status = 204, description = "deleted"),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<TemplateId>,
) -> Result<NoContent, Problem> {
    let key = RecordKey::new(Kind::Template, &caller.app, id.as_str());
    let change = |record: &mut Record, stamp: &Stamp| {
        // Not erased: the number of the last version stays, so that it is never given to another text.
        if record.get(TEMPLATE_FACET).is_some() {
            record.set(TEMPLATE_FACET, Value::Null, stamp);
        }
        Ok::<_, Problem>(())
    };
    let written = app.writer.update(&key, change).await?;
    app.settle(&key, &written).await;
    Ok(NoContent)
}

/// What to preview.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PreviewBody {
    /// The channel.
    channel: Channel,
    /// The template's variables; by default their examples.
    #[schema(value_type = Option<Object>)]
    data: Option<Map<String, Value>>,
    /// Renders for this recipient: in its locale.
    recipient: Option<RecipientId>,
    /// Renders in this locale, whatever the recipient's is.
    locale: Option<String>,
}

/// A rendered text.
#[derive(Debug, Serialize, ToSchema)]
pub struct Preview {
    /// The text as the channel would get it.
    rendered: Rendered,
    /// How large it is.
    size: Size,
    /// Limits of the channel that it passes.
    warnings: Vec<String>,
}

/// Renders the current version of a template, without sending anything.
#[utoipa::path(post, path = "/v1/templates/{id}/preview", tag = "templates", request_body = PreviewBody,
    params(("id" = String, Path, description = "the template")),
    responses(
        (status = 200, description = "the rendered text", body = Preview),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn preview(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<TemplateId>,
    Json(body): Json<PreviewBody>,
) -> Result<Json<Preview>, Problem> {
    let found = app.catalog.template(&caller.app, &id)?.ok_or_else(|| Problem::not_found("template"))?;
    let locale = match (body.locale, &body.recipient) {
        (None, Some(recipient)) => {
            let found = app.catalog.recipient(&caller.app, recipient)?.ok_or_else(|| {
                Problem::invalid_field("recipient", "unknown_recipient", "there is no such recipient")
            })?;
            found.body.locale
        }
        (locale, _) => locale,
    };
    let data = match body.data {
        Some(data) => data,
        None => found.template.example_data(),
    };
    found.template.check_data(&data)?;
    let compiled = app
        .catalog
        .template_version(&caller.app, &id, found.version)?
        .ok_or_else(|| Problem::not_found("template"))?;
    let channel = body.channel;
    // Rendering is bounded, but by more than what may keep other requests waiting.
    let rendered =
        tokio::task::spawn_blocking(move || compiled.render(channel, locale.as_deref(), &data)).await;
    let rendered = rendered.map_err(|_| Problem::internal())?.map_err(|error| render_problem(&error))?;
    let (size, warnings) = size_warnings(channel, &rendered);
    Ok(Json(Preview { rendered, size, warnings }))
}

/// Why a text could not be rendered, as a field error. The messages hold no value of the data.
fn render_problem(error: &RenderError) -> Problem {
    let (field, code) = match error {
        RenderError::NoBody { .. } => ("channel", "no_text"),
        RenderError::MissingVariable { .. } | RenderError::MissingValue { .. } => ("data", "missing_value"),
        RenderError::DataTooLarge => ("data", "too_large"),
        RenderError::TooManySteps { .. } => ("data", "too_many_steps"),
        RenderError::OutputTooLarge { .. } => ("data", "text_too_large"),
        RenderError::InvalidUrl { .. } => ("data", "invalid_url"),
        RenderError::Invalid { .. } | RenderError::Failed { .. } => ("data", "cannot_render"),
    };
    Problem::invalid_field(field, code, error.to_string())
}
