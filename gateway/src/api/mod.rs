//! The routes: one table, grouped by the scope that a caller needs, and one file per resource.

pub mod accounts;
pub mod callbacks;
pub mod categories;
pub mod dead_letters;
pub mod docs;
pub mod explain;
pub mod health;
pub mod inbox;
pub mod keys;
pub mod lookup;
pub mod page;
pub mod preferences;
pub mod recipients;
pub mod regions;
pub mod submit;
pub mod suppressions;
pub mod templates;
pub mod unsubscribe;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;

/// For everybody who reaches the gateway.
pub fn open() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .routes(routes!(unsubscribe::show, unsubscribe::act))
        .routes(routes!(callbacks::post, callbacks::head))
}

/// For keys with the scope `send`.
pub fn send() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(submit::one))
        .routes(routes!(submit::batch))
        .routes(routes!(submit::cancel))
        .routes(routes!(submit::acknowledge))
        .routes(routes!(inbox::seen))
        .routes(routes!(inbox::read))
        .routes(routes!(inbox::archive))
}

/// For keys with the scope `read`.
pub fn read() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(lookup::notifications))
        .routes(routes!(lookup::notification))
        .routes(routes!(explain::explain))
        .routes(routes!(lookup::events))
        .routes(routes!(dead_letters::list))
        .routes(routes!(regions::list))
        .routes(routes!(recipients::list))
        .routes(routes!(recipients::get))
        .routes(routes!(preferences::get))
        .routes(routes!(suppressions::list))
        .routes(routes!(suppressions::get))
        .routes(routes!(inbox::list))
        .routes(routes!(inbox::watch))
        .routes(routes!(categories::list))
        .routes(routes!(categories::get))
        .routes(routes!(templates::list))
        .routes(routes!(templates::get))
        .routes(routes!(templates::versions))
        .routes(routes!(templates::version))
        .routes(routes!(templates::preview))
}

/// For keys with the scope `manage`.
pub fn manage() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(recipients::put, recipients::delete))
        .routes(routes!(preferences::put))
        .routes(routes!(suppressions::put, suppressions::delete))
        .routes(routes!(categories::put, categories::delete))
        .routes(routes!(dead_letters::replay))
        .routes(routes!(dead_letters::delete))
        .routes(routes!(templates::put, templates::delete))
}

/// For keys with the scope `admin`.
pub fn admin() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::get, keys::revoke))
        .routes(routes!(keys::rotate))
        .routes(routes!(accounts::list))
        .routes(routes!(accounts::get, accounts::put, accounts::delete))
}
