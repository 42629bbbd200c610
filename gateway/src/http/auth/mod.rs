//! Who is calling: the key of a request, whether it may do this, and how often.
//!
//! A request carries a key and its secret ([`basic`]) or a signature made with the secret ([`signed`]). [`keyring`]
//! knows the keys, [`limit`] counts their requests, [`nonces`] remembers signatures. Every answer to somebody without
//! working credentials reads the same, whatever was wrong with them; while the gateway can't look keys up it says so
//! and refuses nobody by a guess.

mod basic;
mod keyring;
mod limit;
mod nonces;
mod signed;

use std::convert::Infallible;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::AUTHORIZATION;
use http::request::Parts;
use peal_common::id::{AppId, AppKey};
use peal_common::key::{Grant, Scope};
use peal_nats::mirror::NotReady;

use self::limit::Limiter;
use super::problem::Problem;
use crate::app::App;

pub use keyring::Keyring;
pub use nonces::Nonces;
pub use signed::{canonical, sign};

/// Who is calling: a key whose credentials were right. Cheap to clone.
#[derive(Clone)]
pub struct Caller(Arc<Principal>);

/// What is known of a caller.
pub struct Principal {
    /// The key.
    pub key: AppKey,
    /// The app whose objects the caller sees.
    pub app: AppId,
    /// What the key may do.
    pub grant: Grant,
    limiter: Arc<Limiter>,
}

impl Deref for Caller {
    type Target = Principal;

    fn deref(&self) -> &Principal {
        &self.0
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("key", &self.key).field("app", &self.app).finish()
    }
}

impl Caller {
    /// Whether the caller may do what needs `scope`.
    ///
    /// # Errors
    /// [`Problem::forbidden`]
    pub fn require(&self, scope: Scope) -> Result<(), Problem> {
        if self.grant.allows(scope) { Ok(()) } else { Err(Problem::forbidden(scope)) }
    }
}

/// Why nobody is let in.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Keys can't be looked up yet.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// No credentials, or none that work.
    #[error("no valid credentials")]
    Refused,
    /// A right signature whose time is too far from ours.
    #[error("the signature is stale")]
    Stale,
    /// A right signature that was used before.
    #[error("the signature was used before")]
    Replayed,
    /// More signed requests than can be told apart from replays.
    #[error("too many signed requests")]
    TooManySigned,
    /// The body can't be read, so its signature can't be checked.
    #[error("the body cannot be read")]
    Body(Box<Problem>),
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::NotReady(error) => error.into(),
            AuthError::Refused => Problem::unauthorized(),
            AuthError::Stale => Problem::unauthorized_because(
                "stale_signature",
                "the timestamp differs from our clock by more than 5 minutes; sign the request again",
            ),
            AuthError::Replayed => Problem::unauthorized_because(
                "replayed_signature",
                "a request with this nonce was made before; sign each request with a new one",
            ),
            AuthError::TooManySigned => Problem::too_many(
                "too_many_signed_requests",
                "this key has signed more requests within ten minutes than can be told apart from replays; \
                 wait, or use Basic authentication over TLS",
                nonces::RETRY_AFTER,
            ),
            AuthError::Body(problem) => *problem,
        }
    }
}

/// Lets a request through whose caller is known, has not made too many, and has the scope; the handler finds the
/// [`Caller`].
pub async fn admit(State((app, scope)): State<(App, Scope)>, request: Request, next: Next) -> Response {
    let (caller, mut request) = match identify(&app, request).await {
        Ok(known) => known,
        Err(error) => {
            metrics::counter!(crate::metrics::Metric::AuthRefused.name()).increment(1);
            return Problem::from(error).into_response();
        }
    };
    tracing::debug!(app.id = %caller.app, key = %caller.key, "the caller is known");
    let (mut response, allowance) = match caller.limiter.admit() {
        Ok(allowance) => match caller.require(scope) {
            Ok(()) => {
                request.extensions_mut().insert(caller);
                (next.run(request).await, allowance)
            }
            Err(problem) => (problem.into_response(), allowance),
        },
        Err(refused) => (Problem::rate_limited(refused.wait).into_response(), refused.allowance),
    };
    allowance.write(response.headers_mut());
    response
}

async fn identify(app: &App, request: Request) -> Result<(Caller, Request), AuthError> {
    let header = request.headers().get(AUTHORIZATION).map(HeaderValue::to_str);
    let Some(Ok(header)) = header else {
        return Err(AuthError::Refused);
    };
    let (scheme, credentials) = header.split_once(' ').ok_or(AuthError::Refused)?;
    if scheme.eq_ignore_ascii_case("basic") {
        let caller = basic::check(&app.keyring, credentials, app.clock.now())?;
        return Ok((caller, request));
    }
    if scheme == signed::SCHEME {
        let credentials = signed::Credentials::read(credentials).ok_or(AuthError::Refused)?;
        return signed::check(&app.keyring, &app.nonces, credentials, app.clock.now(), request).await;
    }
    Err(AuthError::Refused)
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // A route that is not behind `admit` has no caller: nobody gets in.
        parts.extensions.get::<Caller>().cloned().ok_or_else(Problem::unauthorized)
    }
}

/// The caller, if there is one: for pages that also strangers may see.
pub struct MaybeCaller(pub Option<Caller>);

impl FromRequestParts<App> for MaybeCaller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let caller = header
            .and_then(|header| header.strip_prefix("Basic "))
            .and_then(|credentials| basic::check(&app.keyring, credentials, app.clock.now()).ok());
        Ok(MaybeCaller(caller))
    }
}
