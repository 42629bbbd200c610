//! The regions, as far as this gateway sees them.

use axum::Json;
use axum::extract::State;

use super::page::Page;
use crate::app::App;
use crate::http::problem::ProblemBody;
use crate::regions::RegionView;

/// How each region stands: what runs and waits there, and what the hub has not got from it yet. A region that does not
/// answer is cut off from this one; it may well be at work.
#[utoipa::path(get, path = "/v1/regions", tag = "regions", responses(
    (status = 200, description = "all regions, by name", body = Page<RegionView>),
    (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
))]
pub async fn list(State(app): State<App>) -> Json<Page<RegionView>> {
    Json(Page { data: app.regions.all().await.to_vec(), next: None })
}
