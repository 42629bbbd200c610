//! The HTTP side that all routes share: what happens around a request, who is calling, bodies in and problems out.

pub mod auth;
pub mod hub;
pub mod json;
pub mod params;
pub mod problem;
pub mod request;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use peal_common::key::Scope;
use utoipa_axum::router::OpenApiRouter;

use self::problem::Problem;
use crate::api;
use crate::app::App;
use crate::console;

/// All routes, grouped by who may call them, each group behind its check.
pub fn router(app: App) -> Router {
    let groups = [
        (Scope::Send, api::send()),
        (Scope::Read, api::read()),
        (Scope::Manage, api::manage()),
        (Scope::Admin, api::admin()),
    ];
    let mut keyed = OpenApiRouter::with_openapi(api::docs::document());
    for (scope, routes) in groups {
        keyed = keyed.merge(routes.route_layer(from_fn_with_state((app.clone(), scope), auth::admit)));
    }
    if app.connection.is_hub {
        keyed = keyed.route_layer(from_fn(hub::look_only));
    }
    let (routes, document) = keyed.merge(api::open()).split_for_parts();
    routes
        .merge(api::docs::pages(document))
        .merge(console::routes(&app))
        .fallback(|| async { Problem::no_route() })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(from_fn(request::observe))
        .with_state(app)
}
