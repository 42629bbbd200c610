//! The console: what an operator or a developer looks at in a browser. Rendered here, useful without scripts; a few
//! lines of script keep the overview up to date.
//!
//! [`overview`] is the first page, [`feed`] its stream of changes, [`sandbox`] the messages that the sandbox provider
//! recorded, [`regions`] how each region stands, [`notification`] one notification with everything that happened to it. [`access`] says who gets in and what
//! a page may do in the browser. Nothing here changes anything. Addresses stand on the sandbox's page alone.

mod access;
mod feed;
mod notification;
mod overview;
mod page;
mod regions;
mod sandbox;
mod tone;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Redirect;
use axum::routing::get;
use peal_common::key::Scope;

use crate::app::App;
use crate::http::auth;

/// What the pages have at hand.
#[derive(Clone)]
struct Console {
    app: App,
}

/// The console's routes with their own rule of access: the setting `gateway.console_requires_key`.
pub fn routes(app: &App) -> Router<App> {
    let console = Console { app: app.clone() };
    let pages = Router::new()
        .route("/console", get(overview::page))
        .route("/console/", get(|| async { Redirect::permanent("/console") }))
        .route("/console/feed", get(feed::watch))
        .route("/console/regions", get(regions::page))
        .route("/console/sandbox", get(sandbox::page))
        .route("/console/notifications/{app}/{id}", get(notification::page))
        .with_state(console);
    let guarded = if app.settings.gateway.console_requires_key {
        pages.route_layer(from_fn_with_state((app.clone(), Scope::Read), auth::admit))
    } else {
        pages.route_layer(from_fn(access::only_local_names))
    };
    guarded.route_layer(from_fn(access::restrict))
}
