//! How an access token is asked for, and what the answer means (RFC 7523 §2.1; Google, "Using OAuth 2.0 for Server to
//! Server Applications").

use std::time::Duration;

use http::header::HeaderValue;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use url::form_urlencoded;

use peal_common::outcome::Outcome;

use super::service_account::ServiceAccount;
use crate::channels::http::NoAnswer;
use crate::channels::outcomes::retry;
use crate::channels::{jwt, retry_after};

/// The right to send messages, and no other.
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// For how long the signed word counts: the hour that Google allows at most, in seconds.
const ASSERTION_LIFETIME: i64 = 3600;
/// How long an access token counts when the answer does not say it: as long as Google's do.
const LIFETIME: Duration = Duration::from_secs(3600);
/// No access token counts for longer, whatever the answer says: Google's longest.
const LONGEST_LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// An access token that was given.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// The value of `authorization` for whoever bears it.
    pub(super) header: HeaderValue,
    /// For how long it counts from when it was asked for.
    pub(super) lifetime: Duration,
}

/// The form that is posted. `None` when nothing can be signed.
pub(super) fn form(account: &ServiceAccount, now: Timestamp) -> Option<String> {
    let mut header = json!({"alg": "RS256", "typ": "JWT"});
    if let Some(key_id) = &account.key_id {
        header["kid"] = json!(key_id);
    }
    let issued = now.as_second();
    let claims = json!({
        "iss": account.email,
        "scope": SCOPE,
        "aud": account.token_uri,
        "iat": issued,
        "exp": issued + ASSERTION_LIFETIME,
    });
    let assertion = jwt::rs256(&account.key, &header, &claims)?;
    let mut form = form_urlencoded::Serializer::new(String::new());
    Some(form.append_pair("grant_type", GRANT_TYPE).append_pair("assertion", &assertion).finish())
}

/// RFC 6749 §5.1.
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    token_type: Option<String>,
    expires_in: Option<u64>,
}

/// What an answer means. `body` is `None` when it was too long or broke off.
///
/// A refusal (RFC 6749 §5.2) says that the account is out of order: its key was deleted, it is gone, or a clock is far
/// off. None of this is the message's fault.
pub(super) fn of_answer(
    status: StatusCode,
    headers: &HeaderMap,
    body: Option<&[u8]>,
    now: Timestamp,
) -> Result<Grant, Outcome> {
    let after = || retry_after::parse(headers, now);
    let out = |reason: &str| Outcome::Unavailable { reason: reason.to_owned(), after: after() };
    match status.as_u16() {
        200..=299 => body.and_then(granted).ok_or_else(|| retry("token_unreadable", None)),
        300..=399 => Err(out("token_redirect_refused")),
        408 | 425 | 429 | 500.. => Err(retry(format!("token_http_{}", status.as_u16()), after())),
        _ => Err(out("credentials_refused")),
    }
}

fn granted(body: &[u8]) -> Option<Grant> {
    let granted: Granted = serde_json::from_slice(body).ok()?;
    let is_bearer = granted.token_type.is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
    let token = granted.access_token;
    if !is_bearer || token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let mut header = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    header.set_sensitive(true);
    let lifetime = granted.expires_in.map_or(LIFETIME, Duration::from_secs);
    Some(Grant { header, lifetime: lifetime.min(LONGEST_LIFETIME) })
}

/// What it means when there is no answer.
pub(super) fn of_no_answer(no_answer: NoAnswer) -> Outcome {
    let reason = match no_answer {
        NoAnswer::Invalid => "token_request_invalid",
        NoAnswer::NotSent => "token_connect_failed",
        NoAnswer::Lost => "token_connection_lost",
        NoAnswer::TimedOut => "token_timeout",
    };
    retry(reason, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channels::outcomes::unavailable;

    fn answer(status: u16, body: &str) -> Result<Grant, Outcome> {
        let status = StatusCode::from_u16(status).unwrap();
        of_answer(status, &HeaderMap::new(), Some(body.as_bytes()), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_token_is_taken_with_its_lifetime() {
        let lifetime = |body: &str| {
            let grant = answer(200, body).unwrap();
            assert_eq!(grant.header, "Bearer ya29.c-A_b", "{body}");
            assert!(grant.header.is_sensitive());
            grant.lifetime.as_secs()
        };
        let google = r#"{"access_token":"ya29.c-A_b","expires_in":3599,"token_type":"Bearer"}"#;
        assert_eq!(lifetime(google), 3599);
        assert_eq!(lifetime(r#"{"access_token":"ya29.c-A_b","token_type":"bearer"}"#), 3600);
        assert_eq!(lifetime(r#"{"access_token":"ya29.c-A_b","expires_in":0}"#), 0);
        assert_eq!(lifetime(&google.replace("3599", "1000000000000")), 12 * 3600);
    }

    #[test]
    fn a_yes_without_a_token_is_none() {
        let bodies = [
            "",
            "<html>Welcome to the hotel</html>",
            "{}",
            "[]",
            r#"{"access_token":""}"#,
            r#"{"access_token":7}"#,
            r#"{"access_token":"a b"}"#,
            r#"{"access_token":"a\r\nx: y"}"#,
            r#"{"access_token":"a","token_type":"mac"}"#,
            r#"{"access_token":"a","expires_in":-1}"#,
            r#"{"id_token":"a"}"#,
        ];
        for body in bodies {
            assert_eq!(answer(200, body), Err(retry("token_unreadable", None)), "{body}");
        }
        let cut = of_answer(StatusCode::OK, &HeaderMap::new(), None, Timestamp::UNIX_EPOCH);
        assert_eq!(cut, Err(retry("token_unreadable", None)));
    }

    #[test]
    fn every_refusal_has_its_outcome() {
        for status in 300..1000 {
            let expected = match status {
                300..400 => unavailable("token_redirect_refused"),
                408 | 425 | 429 | 500.. => retry(format!("token_http_{status}"), None),
                _ => unavailable("credentials_refused"),
            };
            for body in ["", "<html>", r#"{"error":"invalid_grant","error_description":"Invalid JWT"}"#] {
                assert_eq!(answer(status, body), Err(expected.clone()), "{status} {body}");
            }
        }
        for error in ["invalid_grant", "invalid_client", "unauthorized_client", "invalid_scope"] {
            let body = format!(r#"{{"error":"{error}"}}"#);
            assert_eq!(answer(400, &body), Err(unavailable("credentials_refused")), "{error}");
            assert_eq!(answer(401, &body), Err(unavailable("credentials_refused")), "{error}");
        }
    }

    #[test]
    fn a_wait_is_passed_on() {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "17".parse().unwrap());
        let of = |status| of_answer(status, &headers, None, Timestamp::UNIX_EPOCH).unwrap_err();
        let after = Some(Duration::from_secs(17));
        assert_eq!(of(StatusCode::SERVICE_UNAVAILABLE), retry("token_http_503", after));
        let reason = "credentials_refused".to_owned();
        assert_eq!(of(StatusCode::UNAUTHORIZED), Outcome::Unavailable { reason, after });
    }

    #[test]
    fn no_answer_is_a_retry() {
        let cases = [
            (NoAnswer::Invalid, "token_request_invalid"),
            (NoAnswer::NotSent, "token_connect_failed"),
            (NoAnswer::Lost, "token_connection_lost"),
            (NoAnswer::TimedOut, "token_timeout"),
        ];
        for (no_answer, reason) in cases {
            assert_eq!(of_no_answer(no_answer), retry(reason, None));
        }
    }
}
