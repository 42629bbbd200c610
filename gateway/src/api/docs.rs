//! The API's description: OpenAPI 3.1 made from the handlers themselves, at `/openapi.json`, and a page to browse it at
//! `/docs`. The page's parts are compiled in; it needs no other server.

use axum::Router;
use utoipa::Modify;
use utoipa::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_swagger_ui::SwaggerUi;

use crate::app::App;
use crate::http::problem::ProblemBody;

/// Notifications over push, SMS, e-mail, Telegram, Alimtalk, webhooks and an in-app inbox.
///
/// Every call takes `Authorization: Basic base64(appKey:appSecret)`, or a signature (see the security scheme `signed`).
/// A key belongs to one app and sees that app's objects only: another app's read as `404`. Errors are
/// `application/problem+json` (RFC 9457): `400` for what is no JSON text, `422` with one entry per field for JSON that
/// does not fit, also for ids in paths and for query parameters.
#[derive(OpenApi)]
#[openapi(
    info(title = "Peal"),
    components(schemas(ProblemBody)),
    security(("basic" = []), ("signed" = [])),
    modifiers(&Schemes),
    tags(
        (name = "notifications", description = "Hand in, look up, cancel"),
        (name = "recipients", description = "Who is reached, where, and what they want"),
        (name = "inbox", description = "The in-app inbox"),
        (name = "categories", description = "Kinds of notifications and what follows from them"),
        (name = "suppressions", description = "Addresses that nothing is sent to"),
        (name = "templates", description = "What notifications say"),
        (name = "events", description = "What happened"),
        (name = "callbacks", description = "What providers report"),
        (name = "regions", description = "Where Peal runs"),
        (name = "dead letters", description = "What could not be delivered"),
        (name = "keys", description = "Who may call"),
        (name = "operation", description = "Alive, ready, measured"),
    )
)]
struct Document;

struct Schemes;

impl Modify for Schemes {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let basic = HttpBuilder::new()
            .scheme(HttpAuthScheme::Basic)
            .description(Some("appKey as the user, appSecret as the password"));
        components.add_security_scheme("basic", SecurityScheme::Http(basic.build()));
        let signed = ApiKeyValue::with_description(
            "Authorization",
            "`PEAL-HMAC-SHA256 key=<appKey>,timestamp=<unix seconds>,nonce=<16+ characters>,signature=<base64>`: \
             HMAC-SHA-256, keyed with the secret as it is written, over the lines METHOD, PATH, SORTED_QUERY, \
             SHA256(body) in lower-case hexadecimal, timestamp, nonce. The timestamp may differ from the gateway's \
             clock by 5 minutes; each nonce counts once.",
        );
        components.add_security_scheme("signed", SecurityScheme::ApiKey(ApiKey::Header(signed)));
    }
}

/// The part of the description that no handler gives.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// The description itself and the page to browse it.
pub fn pages(document: utoipa::openapi::OpenApi) -> Router<App> {
    Router::from(SwaggerUi::new("/docs").url("/openapi.json", document))
}
