//! Categories: kinds of notifications, and what follows from them.

use axum::extract::State;
use peal_common::category::{CATEGORY_FACET, Category};
use peal_common::clock::Stamp;
use peal_common::id::CategoryId;
use peal_common::state::{Kind, Record, RecordKey};
use peal_nats::catalog::read_category;
use serde::Serialize;
use utoipa::ToSchema;

use super::page::{Page, PageQuery};
use crate::app::App;
use crate::http::auth::Caller;
use crate::http::json::Json;
use crate::http::params::{Id, Query};
use crate::http::problem::{NoContent, Problem, ProblemBody, Put};

/// A category, as the API gives it.
#[derive(Debug, Serialize, ToSchema)]
pub struct CategoryView {
    /// Its id.
    id: CategoryId,
    #[serde(flatten)]
    category: Category,
}

/// Makes or replaces a category.
#[utoipa::path(put, path = "/v1/categories/{id}", tag = "categories", request_body = Category,
    params(("id" = String, Path, description = "1 to 128 characters of A-Z a-z 0-9 _ : -")),
    responses(
        (status = 200, description = "replaced", body = CategoryView),
        (status = 201, description = "made", body = CategoryView),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn put(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<CategoryId>,
    Json(category): Json<Category>,
) -> Result<Put<CategoryView>, Problem> {
    category.validate()?;
    let value = serde_json::to_value(&category).map_err(|_| Problem::internal())?;
    let key = RecordKey::new(Kind::Category, &caller.app, id.as_str());
    let mut is_new = false;
    let change = |record: &mut Record, stamp: &Stamp| {
        is_new = record.get(CATEGORY_FACET).is_none();
        if record.get(CATEGORY_FACET) != Some(&value) {
            record.set(CATEGORY_FACET, value.clone(), stamp);
        }
        Ok::<_, Problem>(())
    };
    let written = app.writer.update(&key, change).await?;
    app.settle(&key, &written).await;
    let view = CategoryView { id, category };
    Ok(if is_new { Put::New(view) } else { Put::Changed(view) })
}

/// One category.
#[utoipa::path(get, path = "/v1/categories/{id}", tag = "categories",
    params(("id" = String, Path, description = "the category")),
    responses(
        (status = 200, description = "the category", body = CategoryView),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn get(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<CategoryId>,
) -> Result<Json<CategoryView>, Problem> {
    let found = app.catalog.category(&caller.app, &id)?.ok_or_else(|| Problem::not_found("category"))?;
    Ok(Json(CategoryView { id, category: (*found).clone() }))
}

/// Categories by id.
#[utoipa::path(get, path = "/v1/categories", tag = "categories", params(PageQuery), responses(
    (status = 200, description = "a page of categories", body = Page<CategoryView>),
    (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<CategoryView>>, Problem> {
    let (limit, after) = (page.limit()?, page.after()?);
    let read = |id: &str, _: &RecordKey, record: &Record| {
        let Ok(id) = id.parse::<CategoryId>() else { return Ok(None) };
        Ok(read_category(record)?.map(|category| CategoryView { id, category }))
    };
    let found = app.catalog.list(Kind::Category, &caller.app, after.as_deref(), limit + 1, read)?;
    Ok(Json(Page::of(found, limit)))
}

/// Deletes a category. New notifications can't name it any more; those that were accepted go their way. Deleting one
/// that is not there does no harm.
#[utoipa::path(delete, path = "/v1/categories/{id}", tag = "categories",
    params(("id" = String, Path, description = "the category")),
    responses(
        (status = 204, description = "deleted"),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<CategoryId>,
) -> Result<NoContent, Problem> {
    let key = RecordKey::new(Kind::Category, &caller.app, id.as_str());
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
