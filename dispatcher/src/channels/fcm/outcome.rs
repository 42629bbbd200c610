//! What FCM's answer means (Firebase, "FCM error codes"; FCM reference, `ErrorCode`).

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde_json::Value;

use peal_common::outcome::Outcome;

use crate::channels::outcomes::{address_dead, permanent, retry};
use crate::channels::retry_after;

/// Firebase does not take the access token.
pub(super) const UNAUTHENTICATED: &str = "unauthenticated";
/// The device's token belongs to another Firebase project.
pub(super) const SENDER_ID_MISMATCH: &str = "sender_id_mismatch";
/// The least wait after 429 (FCM reference, `ErrorCode`, `QUOTA_EXCEEDED`: a minute).
const QUOTA_WAIT: Duration = Duration::from_secs(60);
/// Nothing that FCM gives as a name is longer, in bytes.
const MAX_PROVIDER_ID: usize = 256;

/// What an error says (Google APIs, `google.rpc.Status`).
#[derive(Default)]
struct Error {
    /// FCM's own code, or the general one where there is none.
    code: String,
    /// Whether the code is FCM's own.
    is_fcm: bool,
    /// The fields that are wrong.
    fields: Vec<String>,
    message: String,
}

impl Error {
    fn read(body: Option<&[u8]>) -> Self {
        let body: Value = body.and_then(|body| serde_json::from_slice(body).ok()).unwrap_or_default();
        let error = &body["error"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let details = error["details"].as_array().map_or(&[][..], Vec::as_slice);
        let of_type = |name: &'static str| {
            details
                .iter()
                .filter(move |detail| detail["@type"].as_str().is_some_and(|kind| kind.ends_with(name)))
        };
        let own = of_type("google.firebase.fcm.v1.FcmError").find_map(|detail| detail["errorCode"].as_str());
        let violations = of_type("google.rpc.BadRequest").filter_map(|it| it["fieldViolations"].as_array());
        Error {
            code: own.map_or_else(|| text(&error["status"]), str::to_owned),
            is_fcm: own.is_some(),
            fields: violations.flatten().map(|violation| text(&violation["field"])).collect(),
            message: text(&error["message"]).to_ascii_lowercase(),
        }
    }
}

/// The outcome of an answer. `body` is `None` when it was too long or broke off.
///
/// A mistake in what was set up (credentials, project, URL) is nobody's message's fault, so no message is lost over it:
/// that is [`Outcome::Unavailable`].
pub(super) fn of_answer(
    status: StatusCode,
    headers: &HeaderMap,
    body: Option<&[u8]>,
    now: Timestamp,
) -> Outcome {
    if status.is_success() {
        return of_success(body);
    }
    let error = Error::read(body);
    let after = || retry_after::parse(headers, now);
    let out = |reason: &str| Outcome::Unavailable { reason: reason.to_owned(), after: after() };
    match (status.as_u16(), error.code.as_str()) {
        (300..=399, _) => out("redirect_refused"),
        (400, _) => of_bad_request(&error),
        // FCM's own credentials for Apple or a browser's push service.
        (401, "THIRD_PARTY_AUTH_ERROR") => out("third_party_auth_error"),
        (401, _) => out(UNAUTHENTICATED),
        // The contact stays: should our project be the wrong one, this is said of every token.
        (403, "SENDER_ID_MISMATCH") => permanent(SENDER_ID_MISMATCH),
        (403, _) => out("permission_denied"),
        (404, "UNREGISTERED") => address_dead("unregistered"),
        // There is no such project, or nothing of Firebase's at all.
        (404, _) => out("not_found"),
        (413, _) => permanent("payload_too_large"),
        (429, _) => retry("http_429", Some(after().unwrap_or(QUOTA_WAIT).max(QUOTA_WAIT))),
        (code @ (408 | 425 | 500..), _) => retry(format!("http_{code}"), after()),
        (code, _) => permanent(format!("http_{code}")),
    }
}

/// A success names the message. Any other one was not FCM's, or it can't be told: the message goes out again, which
/// does no harm, because it takes the place of the first on the screen and bears the same id for the app.
fn of_success(body: Option<&[u8]>) -> Outcome {
    let sent: Option<Value> = body.and_then(|body| serde_json::from_slice(body).ok());
    let name = sent.as_ref().and_then(|sent| sent["name"].as_str());
    match name.filter(|name| (1..=MAX_PROVIDER_ID).contains(&name.len())) {
        Some(name) => Outcome::Sent { provider_id: Some(name.to_owned()) },
        None => retry("unreadable_answer", None),
    }
}

/// Which field is wrong is said by `BadRequest`. FCM's own code alone means the device's token, except for a message
/// that is too long, which its text tells.
fn of_bad_request(error: &Error) -> Outcome {
    let is_token = |field: &String| matches!(field.as_str(), "message.token" | "message.fid");
    let is_known = matches!(error.code.as_str(), "INVALID_ARGUMENT" | "UNREGISTERED");
    if ["too big", "too large"].iter().any(|words| error.message.contains(words)) {
        permanent("payload_too_large")
    } else if !error.fields.is_empty() {
        if error.fields.iter().all(is_token) {
            address_dead("invalid_token")
        } else {
            permanent("invalid_argument")
        }
    } else if error.is_fcm && is_known {
        address_dead("invalid_token")
    } else {
        permanent("http_400")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::channels::outcomes::unavailable;

    const FCM_ERROR: &str = "type.googleapis.com/google.firebase.fcm.v1.FcmError";
    const BAD_REQUEST: &str = "type.googleapis.com/google.rpc.BadRequest";

    fn outcome(status: u16, body: &str) -> Outcome {
        let status = StatusCode::from_u16(status).unwrap();
        of_answer(status, &HeaderMap::new(), Some(body.as_bytes()), Timestamp::UNIX_EPOCH)
    }

    fn error(code: u16, status: &str, message: &str, details: &Value) -> String {
        let error = json!({"code": code, "message": message, "status": status, "details": details});
        json!({"error": error}).to_string()
    }

    fn fcm(code: &str) -> Value {
        json!({"@type": FCM_ERROR, "errorCode": code})
    }

    fn violations(fields: &[&str]) -> Value {
        let violations: Vec<_> =
            fields.iter().map(|field| json!({"field": field, "description": "x"})).collect();
        json!({"@type": BAD_REQUEST, "fieldViolations": violations})
    }

    #[test]
    fn each_of_firebases_codes_has_its_outcome() {
        let quota = || retry("http_429", Some(Duration::from_secs(60)));
        let cases = [
            (404, "NOT_FOUND", "UNREGISTERED", address_dead("unregistered")),
            (400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", address_dead("invalid_token")),
            (400, "INVALID_ARGUMENT", "UNSPECIFIED_ERROR", permanent("http_400")),
            (401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR", unavailable("third_party_auth_error")),
            (403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH", permanent("sender_id_mismatch")),
            (429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", quota()),
            (500, "INTERNAL", "INTERNAL", retry("http_500", None)),
            (503, "UNAVAILABLE", "UNAVAILABLE", retry("http_503", None)),
            // Without a code of FCM's own.
            (400, "INVALID_ARGUMENT", "", permanent("http_400")),
            (401, "UNAUTHENTICATED", "", unavailable("unauthenticated")),
            (403, "PERMISSION_DENIED", "", unavailable("permission_denied")),
            (404, "NOT_FOUND", "", unavailable("not_found")),
            (404, "UNREGISTERED", "", address_dead("unregistered")),
            (429, "RESOURCE_EXHAUSTED", "", quota()),
            (504, "DEADLINE_EXCEEDED", "", retry("http_504", None)),
            // A code counts with its own status alone.
            (503, "UNAVAILABLE", "UNREGISTERED", retry("http_503", None)),
            (401, "UNAUTHENTICATED", "SENDER_ID_MISMATCH", unavailable("unauthenticated")),
        ];
        for (code, status, own, expected) in cases {
            let details = if own.is_empty() { json!([]) } else { json!([fcm(own)]) };
            assert_eq!(outcome(code, &error(code, status, "x", &details)), expected, "{code} {status} {own}");
        }
    }

    #[test]
    fn a_bad_request_is_the_tokens_fault_or_the_messages() {
        let invalid = "Request contains an invalid argument.";
        let dead = || address_dead("invalid_token");
        let wrong = || permanent("invalid_argument");
        let both = |fields: &[&str]| json!([fcm("INVALID_ARGUMENT"), violations(fields)]);
        let cases = [
            // Firebase's own two examples.
            (
                "The registration token is not a valid FCM registration token",
                json!([fcm("INVALID_ARGUMENT")]),
                dead(),
            ),
            (
                "Invalid value at 'message.data[0].value' (TYPE_STRING), 12",
                json!([violations(&["message.data[0].value"])]),
                wrong(),
            ),
            (invalid, both(&["message.token"]), dead()),
            (invalid, json!([violations(&["message.token"])]), dead()),
            (invalid, json!([violations(&["message.token"]), fcm("INVALID_ARGUMENT")]), dead()),
            (invalid, both(&["message.fid"]), dead()),
            (invalid, both(&["message.android.ttl"]), wrong()),
            (invalid, both(&["message.token", "message.data[0].value"]), wrong()),
            ("Recipient of the message is not set.", both(&["message"]), wrong()),
            ("Android message is too big", json!([fcm("INVALID_ARGUMENT")]), permanent("payload_too_large")),
            ("Message is too large", json!([]), permanent("payload_too_large")),
            (invalid, json!([]), permanent("http_400")),
            (invalid, Value::Null, permanent("http_400")),
            (invalid, json!({"@type": FCM_ERROR}), permanent("http_400")),
            (invalid, json!([7, null, {}, {"@type": 7}]), permanent("http_400")),
            (invalid, json!([violations(&[])]), permanent("http_400")),
        ];
        for (message, details, expected) in cases {
            let body = error(400, "INVALID_ARGUMENT", message, &details);
            assert_eq!(outcome(400, &body), expected, "{body}");
        }
    }

    #[test]
    fn other_answers_go_by_their_status() {
        for status in 300..1000 {
            let word = format!("http_{status}");
            let expected = match status {
                300..400 => unavailable("redirect_refused"),
                401 => unavailable("unauthenticated"),
                403 => unavailable("permission_denied"),
                404 => unavailable("not_found"),
                413 => permanent("payload_too_large"),
                429 => retry(word, Some(Duration::from_secs(60))),
                408 | 425 => retry(word, None),
                400..500 => permanent(word),
                _ => retry(word, None),
            };
            for body in ["", "<html>Error 404 (Not Found)!!1</html>", "{}", "[]", "7", r#"{"error":"x"}"#] {
                assert_eq!(outcome(status, body), expected, "{status} {body}");
            }
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(of_answer(status, &HeaderMap::new(), None, Timestamp::UNIX_EPOCH), expected);
        }
    }

    #[test]
    fn a_success_names_the_message() {
        let name = "projects/shop-1042/messages/0:1500415314455276%31bd1c9631bd1c96";
        let sent = outcome(200, &json!({"name": name}).to_string());
        assert_eq!(sent, Outcome::Sent { provider_id: Some(name.to_owned()) });
        let unreadable = retry("unreadable_answer", None);
        let long = json!({"name": "a".repeat(257)}).to_string();
        let bodies =
            ["", "<html>Welcome to the hotel</html>", "{", "{}", "[]", r#"{"name":7}"#, r#"{"name":""}"#];
        for body in bodies.into_iter().chain([long.as_str()]) {
            assert_eq!(outcome(200, body), unreadable, "{body}");
        }
        assert_eq!(of_answer(StatusCode::OK, &HeaderMap::new(), None, Timestamp::UNIX_EPOCH), unreadable);
    }

    #[test]
    fn the_wait_that_firebase_asks_for_is_passed_on() {
        let now: Timestamp = "1994-11-06T08:49:00Z".parse().unwrap();
        let of = |status: u16, header: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", header.parse().unwrap());
            let outcome = of_answer(StatusCode::from_u16(status).unwrap(), &headers, None, now);
            match outcome {
                Outcome::Retry { after, .. } | Outcome::Unavailable { after, .. } => {
                    after.map(|after| after.as_secs())
                }
                other => panic!("{other:?}"),
            }
        };
        let date = "Sun, 06 Nov 1994 08:51:00 GMT";
        for status in [401, 403, 500, 503] {
            let cases =
                [("17", Some(17)), (date, Some(120)), ("soon", None), ("1000000000", Some(1_000_000_000))];
            for (header, expected) in cases {
                assert_eq!(of(status, header), expected, "{status} {header}");
            }
        }
        let cases = [("17", 60), ("90", 90), (date, 120), ("soon", 60), ("1000000000", 1_000_000_000)];
        for (header, expected) in cases {
            assert_eq!(of(429, header), Some(expected), "{header}");
        }
    }
}
