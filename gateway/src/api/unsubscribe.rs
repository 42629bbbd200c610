//! The link in e-mails with which recipients stop a category (RFC 2369, RFC 8058). It needs no key: its token says what it
//! is for. Looking changes nothing, since scanners follow every link in an e-mail; what is posted does.

use std::sync::LazyLock;

use askama::Template;
use axum::extract::{Path, State};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, StatusCode};
use peal_common::channel::Channel;
use peal_common::clock::Stamp;
use peal_common::preferences;
use peal_common::recipient::is_there;
use peal_common::state::Record;
use peal_common::unsubscribe::Unsubscribe;
use sha2::{Digest as _, Sha256};

use crate::app::App;
use crate::http::problem::Problem;

/// A refusal as young as this, in milliseconds, is not said once more.
const SAID_AGAIN_MS: u64 = 2_000;
const STYLE: &str = include_str!("../../templates/unsubscribe.css");
/// What a page may do in the browser: have its style, and post its form to where it came from.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
    let text = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

#[derive(Template)]
#[template(path = "unsubscribe.html")]
struct Page<'a> {
    style: &'static str,
    title: &'static str,
    lead: &'a str,
    /// Whether there is a button.
    asks: bool,
}

/// Asks whether to stop what the link is for. Changes nothing.
#[utoipa::path(get, path = "/u/{token}", tag = "recipients", security(()),
    params(("token" = String, Path, description = "from the header `List-Unsubscribe` of an e-mail")),
    responses(
        (status = 200, description = "a page with one button", body = String, content_type = "text/html"),
        (status = 404, description = "a page: the link is not valid", body = String, content_type = "text/html"),
    ))]
pub async fn show(State(app): State<App>, Path(token): Path<String>) -> Response {
    match Unsubscribe::read(&token, &app.sealer) {
        Ok(link) => {
            let lead = format!("You will get no more {}.", what(&link));
            page(StatusCode::OK, "Unsubscribe?", &lead, true)
        }
        Err(_) => not_valid(),
    }
}

/// Stops what the link is for: the recipient's preferences for the category on the channel are off from now on. May be
/// repeated.
#[utoipa::path(post, path = "/u/{token}", tag = "recipients", security(()),
    params(("token" = String, Path, description = "from the header `List-Unsubscribe` of an e-mail")),
    request_body(content = String, content_type = "application/x-www-form-urlencoded",
        description = "`List-Unsubscribe=One-Click` (RFC 8058)"),
    responses(
        (status = 200, description = "a page: it is stopped", body = String, content_type = "text/html"),
        (status = 404, description = "a page: the link is not valid", body = String, content_type = "text/html"),
        (status = 503, description = "a page: not stopped, try again", body = String, content_type = "text/html",
            headers(("Retry-After" = u64, description = "seconds"))),
    ))]
pub async fn act(State(app): State<App>, Path(token): Path<String>) -> Response {
    let Ok(link) = Unsubscribe::read(&token, &app.sealer) else { return not_valid() };
    match stop(&app, &link).await {
        Ok(()) => {
            let lead =
                format!("You get no more {}. What is on its way already may still arrive.", what(&link));
            page(StatusCode::OK, "You are unsubscribed", &lead, false)
        }
        Err(problem) => failed(problem),
    }
}

async fn stop(app: &App, link: &Unsubscribe) -> Result<(), Problem> {
    if app.connection.is_hub {
        return Err(Problem::only_in_regions());
    }
    let key = app.catalog.recipient_key(&link.app, &link.recipient)?;
    // Whoever was erased gets nothing, and a link may be called as often as anybody likes.
    let now_ms = u64::try_from(app.clock.now_ms()).unwrap_or(0);
    let was_just_refused = |record: &Record| {
        let refused = preferences::refused_at(record, &link.category, link.channel);
        refused.is_some_and(|at| now_ms.saturating_sub(at.ms) < SAID_AGAIN_MS)
    };
    let settled = |record: &Record| !is_there(record) || was_just_refused(record);
    if app.mirror.get(&key)?.as_ref().is_none_or(settled) {
        return Ok(());
    }
    let change = |record: &mut Record, stamp: &Stamp| {
        if is_there(record) {
            preferences::refuse(record, &link.category, link.channel, stamp);
        }
        Ok::<(), Problem>(())
    };
    let written = app.writer.update(&key, change).await?;
    app.settle(&key, &written).await;
    Ok(())
}

fn what(link: &Unsubscribe) -> String {
    let kind = match link.channel {
        Channel::Email => "e-mails",
        _ => "messages on this channel",
    };
    format!("{kind} of the category “{}”", link.category)
}

fn not_valid() -> Response {
    let lead = "It may have been cut short: open the whole link as it stands in the e-mail.";
    page(StatusCode::NOT_FOUND, "This link is not valid", lead, false)
}

/// A problem as a page, with its headers.
fn failed(problem: Problem) -> Response {
    let lead = "You are not unsubscribed yet. Please try again in a moment.";
    let mut response = problem.into_response();
    let page = page(response.status(), "This did not work", lead, false);
    response.headers_mut().remove(CONTENT_LENGTH);
    for (name, value) in page.headers() {
        response.headers_mut().insert(name, value.clone());
    }
    *response.body_mut() = page.into_body();
    response
}

fn page(status: StatusCode, title: &'static str, lead: &str, asks: bool) -> Response {
    let html = match (Page { style: STYLE, title, lead, asks }).render() {
        Ok(html) => html,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "a page cannot be rendered");
            return Problem::internal().into_response();
        }
    };
    let mut response = (status, Html(html)).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
