//! What a gateway of the hub answers: queries over all regions. It changes nothing, since every write belongs to a region,
//! and it does not have what stays in the regions.

use axum::extract::Request;
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::problem::Problem;

/// Refuses what the hub can't do.
pub async fn look_only(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    // `/v1/recipients/{id}/inbox…`
    let is_inbox = path.split('/').nth(4) == Some("inbox");
    let stays = is_inbox || path.starts_with("/v1/dead-letters");
    if stays || ![Method::GET, Method::HEAD].contains(request.method()) {
        return Problem::only_in_regions().into_response();
    }
    next.run(request).await
}
