//! What recipients decide. Each permission is a register of its own, so that an opt-out wins over whatever another
//! region writes at the same time; see `peal_common::state`.

use axum::extract::State;
use peal_common::clock::Stamp;
use peal_common::id::RecipientId;
use peal_common::preferences::Preferences;
use peal_common::recipient::is_there;
use peal_common::state::Record;

use crate::app::App;
use crate::http::auth::Caller;
use crate::http::json::Json;
use crate::http::params::Id;
use crate::http::problem::{Problem, ProblemBody};

/// A recipient's preferences; empty as long as nobody set any.
#[utoipa::path(get, path = "/v1/recipients/{id}/preferences", tag = "recipients",
    params(("id" = String, Path, description = "the recipient")),
    responses(
        (status = 200, description = "the preferences", body = Preferences),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn get(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<RecipientId>,
) -> Result<Json<Preferences>, Problem> {
    let key = app.catalog.recipient_key(&caller.app, &id)?;
    let record = app.mirror.get(&key)?.filter(is_there).ok_or_else(|| Problem::not_found("recipient"))?;
    Ok(Json(Preferences::read(&record)))
}

/// Replaces a recipient's preferences. The recipient must be there. Once answered, every decision of this region that is
/// made for a later request obeys them.
#[utoipa::path(put, path = "/v1/recipients/{id}/preferences", tag = "recipients", request_body = Preferences,
    params(("id" = String, Path, description = "the recipient")),
    responses(
        (status = 200, description = "the preferences as they are kept", body = Preferences),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn put(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id<RecipientId>,
    Json(body): Json<Preferences>,
) -> Result<Json<Preferences>, Problem> {
    body.validate()?;
    let key = app.catalog.recipient_key(&caller.app, &id)?;
    let change = |record: &mut Record, stamp: &Stamp| {
        if !is_there(record) {
            return Err(Problem::not_found("recipient"));
        }
        body.write(record, stamp);
        Ok(())
    };
    let written = app.writer.update(&key, change).await?;
    app.settle(&key, &written).await;
    Ok(Json(Preferences::read(&written.record)))
}
