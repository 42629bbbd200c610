//! What APNs' answer means (Apple, "Handling notification responses from APNs").

use std::borrow::Cow;

use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use peal_common::outcome::Outcome;

use super::request::APNS_ID;
use crate::channels::outcomes::{permanent, retry};
use crate::channels::retry_after;

/// The provider token is too old.
pub(super) const EXPIRED_PROVIDER_TOKEN: &str = "expired_provider_token";
/// The account may not send to the app.
pub(super) const TOPIC_DISALLOWED: &str = "topic_disallowed";
/// Nothing that Apple sends as an id is longer, in bytes.
const MAX_PROVIDER_ID: usize = 64;

/// What follows from a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// This push will never be accepted.
    Wrong,
    /// The device's token is not to be used again.
    Dead,
    /// It may work later.
    Later,
    /// The account is out of order.
    Out,
}

/// Apple's reasons with their status, our word for each, and what it means.
///
/// `BadDeviceToken` comes also for a token of the other environment: for this server the address is dead all the same.
/// `DeviceTokenNotForTopic` says that token and topic do not belong together, not that either is wrong: it is no reason
/// to give up the address, least of all for a mistake in the topic of all contacts. `TopicDisallowed` is about the
/// topics that the account may use. `IdleTimeout` and `Shutdown` are about the connection.
const REASONS: [(u16, &str, &str, Meaning); 32] = [
    (400, "BadCollapseId", "bad_collapse_id", Meaning::Wrong),
    (400, "BadDeviceToken", "bad_device_token", Meaning::Dead),
    (400, "BadExpirationDate", "bad_expiration_date", Meaning::Wrong),
    (400, "BadMessageId", "bad_message_id", Meaning::Wrong),
    (400, "BadPriority", "bad_priority", Meaning::Wrong),
    (400, "BadTopic", "bad_topic", Meaning::Wrong),
    (400, "DeviceTokenNotForTopic", "device_token_not_for_topic", Meaning::Wrong),
    (400, "DuplicateHeaders", "duplicate_headers", Meaning::Wrong),
    (400, "IdleTimeout", "idle_timeout", Meaning::Later),
    (400, "InvalidPushType", "invalid_push_type", Meaning::Wrong),
    (400, "MissingDeviceToken", "missing_device_token", Meaning::Wrong),
    (400, "MissingTopic", "missing_topic", Meaning::Wrong),
    (400, "PayloadEmpty", "payload_empty", Meaning::Wrong),
    (400, "TopicDisallowed", TOPIC_DISALLOWED, Meaning::Out),
    (403, "BadCertificate", "bad_certificate", Meaning::Out),
    (403, "BadCertificateEnvironment", "bad_certificate_environment", Meaning::Out),
    (403, "BadEnvironmentKeyIdInToken", "bad_environment_key_id", Meaning::Out),
    (403, "ExpiredProviderToken", EXPIRED_PROVIDER_TOKEN, Meaning::Out),
    (403, "Forbidden", "forbidden", Meaning::Out),
    (403, "InvalidProviderToken", "invalid_provider_token", Meaning::Out),
    (403, "MissingProviderToken", "missing_provider_token", Meaning::Out),
    (403, "UnrelatedKeyIdInToken", "unrelated_key_id", Meaning::Out),
    (404, "BadPath", "bad_path", Meaning::Wrong),
    (405, "MethodNotAllowed", "method_not_allowed", Meaning::Wrong),
    (410, "ExpiredToken", "expired_token", Meaning::Dead),
    (410, "Unregistered", "unregistered", Meaning::Dead),
    (413, "PayloadTooLarge", "payload_too_large", Meaning::Wrong),
    (429, "TooManyProviderTokenUpdates", "too_many_provider_token_updates", Meaning::Out),
    (429, "TooManyRequests", "too_many_requests", Meaning::Later),
    (500, "InternalServerError", "internal_server_error", Meaning::Later),
    (503, "ServiceUnavailable", "service_unavailable", Meaning::Later),
    (503, "Shutdown", "shutdown", Meaning::Later),
];

/// The body of a refusal.
#[derive(Debug, Deserialize)]
struct Refusal<'a> {
    #[serde(borrow)]
    reason: Cow<'a, str>,
    /// With 410: when the token was last known to be of no use for the topic, in milliseconds since the epoch.
    timestamp: Option<Value>,
}

/// The outcome of a success that names the push; its body has nothing to add. `None` when there is more to look at.
pub(super) fn of_head(status: StatusCode, headers: &HeaderMap) -> Option<Outcome> {
    let id = headers.get(APNS_ID)?.to_str().ok()?;
    let named = status.is_success() && (1..=MAX_PROVIDER_ID).contains(&id.len());
    named.then(|| Outcome::Sent { provider_id: Some(id.to_owned()) })
}

/// The outcome of any other answer. `body` is `None` when it was too long or broke off.
pub(super) fn of_answer(
    status: StatusCode,
    headers: &HeaderMap,
    body: Option<&[u8]>,
    now: Timestamp,
) -> Outcome {
    let refusal = body.and_then(|body| serde_json::from_slice::<Refusal<'_>>(body).ok());
    if status.is_success() {
        return match body {
            Some(body) if refusal.is_none() && is_plain(body) => Outcome::Sent { provider_id: None },
            // Somebody said yes, but it can't have been APNs. Should it have been, the push is recognised.
            _ => retry("unreadable_answer", None),
        };
    }
    let (reason, mut meaning) = meaning(status.as_u16(), refusal.as_ref().map(|refusal| &*refusal.reason));
    // That a token is dead, APNs alone can say: in its own words, not in those of others.
    if meaning == Meaning::Dead && refusal.is_none() && body.is_some_and(|body| !body.is_empty()) {
        meaning = Meaning::Out;
    }
    let after = || retry_after::parse(headers, now);
    match meaning {
        Meaning::Wrong => permanent(reason),
        Meaning::Dead => {
            let since = refusal.and_then(|refusal| refusal.timestamp?.as_i64());
            // A token that is registered from now on is a new one, whatever the answer says.
            let since = since.and_then(|ms| Timestamp::from_millisecond(ms).ok()).map(|since| since.min(now));
            Outcome::AddressDead { reason: reason.into_owned(), since }
        }
        Meaning::Later => retry(reason, after()),
        Meaning::Out => Outcome::Unavailable { reason: reason.into_owned(), after: after() },
    }
}

/// Whether a success without a name can be one: it has no body, or at least one that could be meant for programs.
fn is_plain(body: &[u8]) -> bool {
    body.is_empty() || serde_json::from_slice::<IgnoredAny>(body).is_ok()
}

/// What a refusal means: by its reason where that is one of Apple's for this status, or else by the status.
fn meaning(status: u16, reason: Option<&str>) -> (Cow<'static, str>, Meaning) {
    let known = reason.and_then(|reason| {
        REASONS.iter().find(|(own_status, own_reason, ..)| *own_status == status && *own_reason == reason)
    });
    if let Some((_, _, word, meaning)) = known {
        return (Cow::Borrowed(word), *meaning);
    }
    let meaning = match status {
        300..=399 => return (Cow::Borrowed("redirect_refused"), Meaning::Out),
        413 => return (Cow::Borrowed("payload_too_large"), Meaning::Wrong),
        401 | 403 | 407 => Meaning::Out,
        410 => Meaning::Dead,
        408 | 425 | 429 | 500.. => Meaning::Later,
        _ => Meaning::Wrong,
    };
    (Cow::Owned(format!("http_{status}")), meaning)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::channels::outcomes::{address_dead, unavailable};

    const NOW: i64 = 1_800_000_000_000;

    fn now() -> Timestamp {
        Timestamp::from_millisecond(NOW).unwrap()
    }

    fn outcome(status: u16, body: &str) -> Outcome {
        of_answer(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), Some(body.as_bytes()), now())
    }

    fn refusal(reason: &str) -> String {
        format!(r#"{{"reason":"{reason}"}}"#)
    }

    #[test]
    fn each_of_apples_reasons_has_its_outcome() {
        let cases = [
            (400, "BadCollapseId", permanent("bad_collapse_id")),
            (400, "BadDeviceToken", address_dead("bad_device_token")),
            (400, "BadExpirationDate", permanent("bad_expiration_date")),
            (400, "BadMessageId", permanent("bad_message_id")),
            (400, "BadPriority", permanent("bad_priority")),
            (400, "BadTopic", permanent("bad_topic")),
            (400, "DeviceTokenNotForTopic", permanent("device_token_not_for_topic")),
            (400, "DuplicateHeaders", permanent("duplicate_headers")),
            (400, "IdleTimeout", retry("idle_timeout", None)),
            (400, "InvalidPushType", permanent("invalid_push_type")),
            (400, "MissingDeviceToken", permanent("missing_device_token")),
            (400, "MissingTopic", permanent("missing_topic")),
            (400, "PayloadEmpty", permanent("payload_empty")),
            (400, "TopicDisallowed", unavailable("topic_disallowed")),
            (403, "BadCertificate", unavailable("bad_certificate")),
            (403, "BadCertificateEnvironment", unavailable("bad_certificate_environment")),
            (403, "BadEnvironmentKeyIdInToken", unavailable("bad_environment_key_id")),
            (403, "ExpiredProviderToken", unavailable("expired_provider_token")),
            (403, "Forbidden", unavailable("forbidden")),
            (403, "InvalidProviderToken", unavailable("invalid_provider_token")),
            (403, "MissingProviderToken", unavailable("missing_provider_token")),
            (403, "UnrelatedKeyIdInToken", unavailable("unrelated_key_id")),
            (404, "BadPath", permanent("bad_path")),
            (405, "MethodNotAllowed", permanent("method_not_allowed")),
            (410, "ExpiredToken", address_dead("expired_token")),
            (410, "Unregistered", address_dead("unregistered")),
            (413, "PayloadTooLarge", permanent("payload_too_large")),
            (429, "TooManyProviderTokenUpdates", unavailable("too_many_provider_token_updates")),
            (429, "TooManyRequests", retry("too_many_requests", None)),
            (500, "InternalServerError", retry("internal_server_error", None)),
            (503, "ServiceUnavailable", retry("service_unavailable", None)),
            (503, "Shutdown", retry("shutdown", None)),
        ];
        assert_eq!(cases.len(), REASONS.len());
        for (status, reason, expected) in cases {
            assert_eq!(outcome(status, &refusal(reason)), expected, "{status} {reason}");
        }
    }

    #[test]
    fn other_refusals_go_by_their_status() {
        for status in 300..1000 {
            let word = format!("http_{status}");
            let expected = match status {
                300..400 => unavailable("redirect_refused"),
                401 | 403 | 407 => unavailable(word.as_str()),
                410 => address_dead(word.as_str()),
                413 => permanent("payload_too_large"),
                408 | 425 | 429 => retry(word.as_str(), None),
                400..500 => permanent(word.as_str()),
                _ => retry(word.as_str(), None),
            };
            let bodies = ["", "<html>", "{}", "[]", r#"{"reason":7}"#, &refusal("SomethingNew")];
            // What is not Apple's does not end a token.
            let by_others = if status == 410 { unavailable(word) } else { expected.clone() };
            for body in bodies {
                let is_apples = body.is_empty() || body.contains("New");
                let expected = if is_apples { &expected } else { &by_others };
                assert_eq!(outcome(status, body), *expected, "{status} {body}");
            }
            let cut = of_answer(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), None, now());
            assert_eq!(cut, expected, "{status}");
        }
        // A reason counts with its own status alone.
        assert_eq!(outcome(503, &refusal("BadDeviceToken")), retry("http_503", None));
    }

    #[test]
    fn a_dead_token_is_dead_since_the_time_that_apple_names() {
        let since = |timestamp: &str| {
            let body = format!(r#"{{"reason":"Unregistered","timestamp":{timestamp}}}"#);
            match outcome(410, &body) {
                Outcome::AddressDead { reason, since } if reason == "unregistered" => since,
                other => panic!("{timestamp}: {other:?}"),
            }
        };
        let at = |ms| Some(Timestamp::from_millisecond(ms).unwrap());
        assert_eq!(since("1454402113000"), at(1_454_402_113_000));
        assert_eq!(since(&(NOW + 1).to_string()), at(NOW), "not in the future");
        for garbage in ["null", "\"1454402113000\"", "-9223372036854775808", "1e30", "{}"] {
            assert_eq!(since(garbage), None, "{garbage}");
        }
    }

    #[test]
    fn the_wait_that_apple_asks_for_is_passed_on() {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "17".parse().unwrap());
        let after = Some(Duration::from_secs(17));
        let with = |status, reason: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            of_answer(status, &headers, Some(refusal(reason).as_bytes()), now())
        };
        assert_eq!(with(503, "ServiceUnavailable"), retry("service_unavailable", after));
        assert_eq!(with(429, "TooManyRequests"), retry("too_many_requests", after));
        let unavailable = Outcome::Unavailable { reason: "invalid_provider_token".to_owned(), after };
        assert_eq!(with(403, "InvalidProviderToken"), unavailable);
        assert_eq!(with(400, "BadTopic"), permanent("bad_topic"));
    }

    #[test]
    fn a_success_names_the_push_or_has_at_least_no_foreign_body() {
        let head = |status: u16, id: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("apns-id", id.parse().unwrap());
            of_head(StatusCode::from_u16(status).unwrap(), &headers)
        };
        let id = "EC1BF194-B3B2-424A-89A9-5A918A6E6B5D";
        assert_eq!(head(200, id), Some(Outcome::Sent { provider_id: Some(id.to_owned()) }));
        assert_eq!(head(400, id), None);
        assert_eq!(head(200, ""), None);
        assert_eq!(head(200, &"a".repeat(65)), None);
        assert_eq!(of_head(StatusCode::OK, &HeaderMap::new()), None);

        let unreadable = retry("unreadable_answer", None);
        for body in ["", "{}", "[1]"] {
            assert_eq!(outcome(200, body), Outcome::Sent { provider_id: None }, "{body}");
        }
        for body in ["<html>Welcome to the hotel</html>", "{", &refusal("BadDeviceToken")] {
            assert_eq!(outcome(200, body), unreadable, "{body}");
        }
        assert_eq!(of_answer(StatusCode::OK, &HeaderMap::new(), None, now()), unreadable);
    }
}
