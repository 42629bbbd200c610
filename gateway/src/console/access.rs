//! Who gets into the console, and what its pages may do in the browser.
//!
//! With `gateway.console_requires_key` a key with the scope `read` opens the console, and shows its own app only.
//! Without it whoever reaches the gateway sees all apps. A page of another site must not be among them: a name that it
//! points at this machine (DNS rebinding) makes its scripts part of our origin, so only this machine's own names are
//! answered.

use std::sync::LazyLock;

use axum::extract::{FromRequestParts, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::uri::Authority;
use peal_common::id::AppId;
use sha2::{Digest as _, Sha256};

use super::Console;
use super::page::{Failure, SCRIPT, STYLE};
use crate::http::auth::Caller;
use crate::http::problem::Problem;

/// What the pages may do: their own style and script, which are known by their hashes, and the feed.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| policy(&hash(STYLE), &hash(SCRIPT)));
/// What the sandbox's page may do. Its frames show e-mails and inherit it: no script at all, no picture from elsewhere,
/// and styles as e-mails have them, which stand in attributes.
static SANDBOX_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| policy("'unsafe-inline'", "'none'"));

fn policy(style: &str, script: &str) -> HeaderValue {
    let text = format!(
        "default-src 'none'; style-src {style}; script-src {script}; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

fn hash(content: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(content.as_bytes())))
}

/// The policy of the sandbox's page, as a header.
pub(super) fn sandbox_policy() -> (HeaderName, HeaderValue) {
    (CONTENT_SECURITY_POLICY, SANDBOX_POLICY.clone())
}

/// Tells the browser what the answer may do and that nobody else may show or keep it.
pub(super) async fn restrict(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.entry(CONTENT_SECURITY_POLICY).or_insert_with(|| POLICY.clone());
    for (name, value) in [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Lets a request through that was made to one of this machine's own names.
pub(super) async fn only_local_names(request: Request, next: Next) -> Response {
    let mut named = request.headers().get_all(HOST).iter();
    let local = match (named.next(), named.next(), request.uri().authority()) {
        (Some(host), None, _) => host.to_str().is_ok_and(is_local),
        (None, None, Some(authority)) => is_local(authority.as_str()),
        _ => false,
    };
    if local { next.run(request).await } else { Failure::from(Problem::foreign_host()).into_response() }
}

fn is_local(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    name.eq_ignore_ascii_case("localhost") || name == "127.0.0.1" || name == "[::1]"
}

/// What somebody who got in may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Viewer {
    /// Everything: the console asks for no key.
    Everybody,
    /// What belongs to the app of the key.
    App(AppId),
}

impl Viewer {
    /// Whether the viewer may see what belongs to `app`.
    pub(super) fn sees(&self, app: &AppId) -> bool {
        match self {
            Viewer::Everybody => true,
            Viewer::App(own) => own == app,
        }
    }
}

impl FromRequestParts<Console> for Viewer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, console: &Console) -> Result<Self, Problem> {
        if !console.app.settings.gateway.console_requires_key {
            return Ok(Viewer::Everybody);
        }
        let caller = Caller::from_request_parts(parts, console).await?;
        Ok(Viewer::App(caller.app.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machines_own_names_are_local() {
        for local in ["localhost", "LOCALHOST:8080", "127.0.0.1:80", "[::1]", "[::1]:8080"] {
            assert!(is_local(local), "{local}");
        }
        for foreign in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:8080",
            "localhost@evil.example",
            "10.0.0.1",
            "0.0.0.0",
            "localhost evil",
            "[::2]",
        ] {
            assert!(!is_local(foreign), "{foreign}");
        }
    }

    #[test]
    fn a_viewer_with_a_key_sees_one_app() {
        let (shop, bank): (AppId, AppId) = ("shop".parse().unwrap(), "bank".parse().unwrap());
        let viewer = Viewer::App(shop.clone());
        assert!(viewer.sees(&shop) && !viewer.sees(&bank));
        assert!(Viewer::Everybody.sees(&bank));
    }

    #[test]
    fn policies_allow_what_they_name_and_nothing_else() {
        let text = POLICY.to_str().unwrap();
        assert!(text.starts_with("default-src 'none'; style-src 'sha256-"), "{text}");
        assert!(!text.contains("unsafe"), "{text}");
        assert!(SANDBOX_POLICY.to_str().unwrap().contains("script-src 'none'"));
    }
}
