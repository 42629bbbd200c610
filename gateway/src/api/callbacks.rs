//! Where providers post what became of what they were sent. No key is asked for: their signatures show who they are.

use axum::extract::{Request, State};
use http::StatusCode;
use peal_common::id::AppId;

use super::accounts;
use crate::app::App;
use crate::callbacks::{Provider, Refused, take};
use crate::http::json::body_bytes;
use crate::http::params::Id;
use crate::http::problem::{Problem, ProblemBody};

/// The largest body: a thousand events of SendGrid or Mandrill.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// Takes a provider's report: it moves deliveries on, and suppresses addresses that are dead or complained. Repeating it
/// changes nothing. Reports about messages that Peal did not send are accepted and left. What an app's own account sent is
/// reported with the app's name, `?app=shop`, and signed with a key of that account.
#[utoipa::path(post, path = "/v1/callbacks/{provider}", tag = "callbacks", security(()),
    params(
        ("provider" = String, Path, description = "twilio, vonage, sendgrid, mandrill or telegram"),
        ("app" = Option<String>, Query, description = "whose account it is, when it came by `PUT /v1/accounts/{name}`"),
    ),
    request_body(content = String, description = "as the provider writes it, with its signature in a header"),
    responses(
        (status = 200, description = "taken"),
        (status = 401, description = "the signature is not valid", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "no such provider, or no key for it", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "not taken: to be posted again", body = ProblemBody, content_type = "application/problem+json"),
        (status = "default", description = "a problem", body = ProblemBody, content_type = "application/problem+json"),
    ))]
pub async fn post(
    State(app): State<App>,
    Id(provider): Id<Provider>,
    request: Request,
) -> Result<StatusCode, Problem> {
    if app.connection.is_hub {
        return Err(Problem::only_in_regions());
    }
    let (uri, headers) = (request.uri().clone(), request.headers().clone());
    let body = body_bytes(request, MAX_BODY_BYTES).await?;
    let own = owner(uri.query())?;
    let own_keys = own.as_ref().map(|own| accounts::callback_keys(&app, own)).transpose()?;
    let read = app.callbacks.get().read(provider, own_keys.as_ref(), &uri, &headers, &body);
    let reports = read.map_err(|refused| match refused {
        Refused::NotSetUp => {
            Problem::not_found("callback: neither the settings nor the account have a key for it")
        }
        Refused::Signature => Problem::unauthorized_because(
            "invalid_signature",
            "no key that is known here made this signature for this address and body",
        ),
        Refused::Malformed => {
            Problem::malformed("invalid_callback", "it is signed, and not written as this provider does")
        }
    })?;
    take::reported(&app, provider, reports, own.as_ref()).await?;
    // Some providers take no other answer for a success.
    Ok(StatusCode::OK)
}

/// The app that the address names.
fn owner(query: Option<&str>) -> Result<Option<AppId>, Problem> {
    let named = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).find(|(key, _)| key == "app");
    let named = named.map(|(_, app)| app.parse()).transpose();
    named.map_err(|_| Problem::not_found("callback: `app` in its address names no app"))
}

/// Whether there is such a callback. Mandrill asks before it keeps an address, and takes no other answer than 200.
#[utoipa::path(head, path = "/v1/callbacks/{provider}", tag = "callbacks", security(()),
    params(("provider" = String, Path, description = "the provider")),
    responses((status = 200, description = "there is"), (status = 404, description = "there is not")))]
pub async fn head(Id(_): Id<Provider>) -> StatusCode {
    StatusCode::OK
}
