//! Apple, Firebase, and the push services of browsers.

use jiff::SignedDuration;
use peal_common::clock::Clock;
use peal_dispatcher::recording::{Answer, Apns, Fcm};
use serde_json::json;

use super::{Dead, Later, Out, Row, Wrong, after, answers, status};
use crate::spine::accounts::json_of;

pub(super) fn apns() -> Vec<Row> {
    let says = |status, reason| Apns::refusal(status, reason, None);
    let died = |status, reason, hours| {
        let at = Clock::System.now() + SignedDuration::from_hours(hours);
        Apns::refusal(status, reason, Some(at.as_millisecond()))
    };
    answers(
        "apns",
        [
            (says(410, "Unregistered"), "unregistered", Dead),
            (says(410, "ExpiredToken"), "expired_token", Dead),
            (died(410, "Unregistered", 1), "unregistered", Dead),
            (died(410, "ExpiredToken", 1), "expired_token", Dead),
            // The token has been registered again since.
            (died(410, "Unregistered", -1), "unregistered", Wrong),
            (died(410, "ExpiredToken", -1), "expired_token", Wrong),
            (says(400, "BadDeviceToken"), "bad_device_token", Dead),
            (says(413, "PayloadTooLarge"), "payload_too_large", Wrong),
            (says(400, "BadCollapseId"), "bad_collapse_id", Wrong),
            (says(400, "BadExpirationDate"), "bad_expiration_date", Wrong),
            (says(400, "BadMessageId"), "bad_message_id", Wrong),
            (says(400, "BadPriority"), "bad_priority", Wrong),
            (says(400, "BadTopic"), "bad_topic", Wrong),
            (says(404, "BadPath"), "bad_path", Wrong),
            (says(400, "InvalidPushType"), "invalid_push_type", Wrong),
            (says(400, "MissingTopic"), "missing_topic", Wrong),
            (says(400, "DeviceTokenNotForTopic"), "device_token_not_for_topic", Wrong),
            (says(429, "TooManyRequests"), "too_many_requests", Later(0)),
            (after(says(429, "TooManyRequests"), "2"), "too_many_requests", Later(2)),
            (after(says(429, "TooManyRequests"), "300"), "too_many_requests", Later(300)),
            (says(500, "InternalServerError"), "internal_server_error", Later(0)),
            (says(503, "ServiceUnavailable"), "service_unavailable", Later(0)),
            (after(says(503, "Shutdown"), "2"), "shutdown", Later(2)),
            (Answer::reset(), "connection_lost", Later(0)),
            (says(403, "InvalidProviderToken"), "invalid_provider_token", Out(0)),
            (says(403, "ExpiredProviderToken"), "expired_provider_token", Out(0)),
            (says(403, "MissingProviderToken"), "missing_provider_token", Out(0)),
            (says(403, "UnrelatedKeyIdInToken"), "unrelated_key_id", Out(0)),
            (says(403, "BadEnvironmentKeyIdInToken"), "bad_environment_key_id", Out(0)),
            (says(403, "BadCertificate"), "bad_certificate", Out(0)),
            (says(400, "TopicDisallowed"), "topic_disallowed", Out(0)),
            (after(says(429, "TooManyProviderTokenUpdates"), "7"), "too_many_provider_token_updates", Out(7)),
        ],
    )
}

pub(super) fn fcm() -> Vec<Row> {
    let says = |status, word, code| Fcm::error(status, word, &[Fcm::code(code)]);
    let wrong = |field| Fcm::error(400, "INVALID_ARGUMENT", &[Fcm::violation(field)]);
    let too_long =
        json!({"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "Message is too big"}});
    answers(
        "fcm",
        [
            (says(404, "NOT_FOUND", "UNREGISTERED"), "unregistered", Dead),
            (says(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"), "invalid_token", Dead),
            (wrong("message.token"), "invalid_token", Dead),
            (wrong("message.android.ttl"), "invalid_argument", Wrong),
            (wrong("message.data[0].value"), "invalid_argument", Wrong),
            (json_of(400, &too_long), "payload_too_large", Wrong),
            // One token of another project. Many of them are another matter (crowds.rs).
            (says(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH"), "sender_id_mismatch", Wrong),
            (says(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), "http_429", Later(60)),
            (after(says(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), "2"), "http_429", Later(60)),
            (after(says(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), "300"), "http_429", Later(300)),
            (says(500, "INTERNAL", "INTERNAL"), "http_500", Later(0)),
            (says(503, "UNAVAILABLE", "UNAVAILABLE"), "http_503", Later(0)),
            (after(says(503, "UNAVAILABLE", "UNAVAILABLE"), "2"), "http_503", Later(2)),
            (says(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"), "third_party_auth_error", Out(0)),
            (Fcm::error(401, "UNAUTHENTICATED", &[]), "unauthenticated", Out(0)),
            (Fcm::error(403, "PERMISSION_DENIED", &[]), "permission_denied", Out(0)),
            (Fcm::error(404, "NOT_FOUND", &[]), "not_found", Out(0)),
        ],
    )
}

pub(super) fn webpush() -> Vec<Row> {
    answers(
        "webpush",
        [
            (status(404), "http_404", Dead),
            (status(410), "http_410", Dead),
            (status(400), "http_400", Wrong),
            (status(413), "payload_too_large", Wrong),
            (status(429), "http_429", Later(0)),
            (after(status(429), "2"), "http_429", Later(2)),
            (after(status(429), "300"), "http_429", Later(300)),
            (status(500), "http_500", Later(0)),
            (status(502), "http_502", Later(0)),
            (after(status(503), "2"), "http_503", Later(2)),
            // One subscription. Many of them are another matter (crowds.rs).
            (status(401), "http_401", Later(0)),
            (status(403), "http_403", Later(0)),
        ],
    )
}
