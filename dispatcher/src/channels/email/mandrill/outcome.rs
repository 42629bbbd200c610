//! What Mailchimp Transactional's answer means (Mailchimp Transactional API reference, "Send new message" and "Errors").

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use peal_common::outcome::Outcome;

use crate::channels::http::Answer;
use crate::channels::outcomes::{address_dead, ambiguous, permanent, retry, unavailable};
use crate::channels::retry_after;

/// Nothing that Mailchimp gives as an id is longer, in bytes.
const MAX_PROVIDER_ID: usize = 256;

/// What became of one recipient.
#[derive(Debug, Default, Deserialize)]
struct Taken {
    #[serde(default)]
    status: String,
    reject_reason: Option<String>,
    #[serde(rename = "_id")]
    id: Option<String>,
}

/// The outcome of an answer.
///
/// Errors come with any status, often 500, and are told apart by their name. A mistake in what was set up (key, sender,
/// URL) is nobody's message's fault, so no message is lost over it: that is [`Outcome::Unavailable`].
pub(super) fn of_answer(answer: &Answer, now: Timestamp) -> Outcome {
    let body: Value =
        answer.body.as_deref().and_then(|body| serde_json::from_slice(body).ok()).unwrap_or_default();
    if body["status"] == "error" {
        return of_error(body["name"].as_str().unwrap_or_default(), answer, now);
    }
    if !answer.status.is_success() {
        return of_status(answer, now);
    }
    // One recipient was named. Somebody said yes otherwise, but it need not have been Mailchimp.
    match <[Taken; 1]>::deserialize(body) {
        Ok([taken]) => of_taken(taken),
        Err(_) => ambiguous("unreadable_answer"),
    }
}

fn of_taken(taken: Taken) -> Outcome {
    match taken.status.as_str() {
        "sent" | "queued" | "scheduled" => {
            Outcome::Sent { provider_id: taken.id.filter(|id| (1..=MAX_PROVIDER_ID).contains(&id.len())) }
        }
        "invalid" => permanent("invalid_address"),
        "rejected" => of_rejection(taken.reject_reason.as_deref().unwrap_or_default()),
        _ => ambiguous("unreadable_answer"),
    }
}

/// Nothing was sent, because of the account's rules or of what became of earlier e-mails.
fn of_rejection(reason: &str) -> Outcome {
    match reason {
        "hard-bounce" => address_dead("rejected_hard_bounce"),
        // Called spam, or unsubscribed from the sender as a whole.
        "spam" => address_dead("rejected_spam"),
        "unsub" => address_dead("rejected_unsub"),
        // The mailbox was full or away several times; Mailchimp takes e-mails for it again after a while.
        "soft-bounce" => permanent("rejected_soft_bounce"),
        "invalid" => permanent("invalid_address"),
        // On the account's own list, or by one of its rules.
        "custom" => permanent("rejected_custom"),
        "rule" => permanent("rejected_rule"),
        "invalid-sender" => unavailable("invalid_sender"),
        "test-mode-limit" => unavailable("test_mode_limit"),
        // The sender's domain is not verified or not signed for.
        "unsigned" => unavailable("unsigned"),
        _ => permanent("rejected"),
    }
}

fn of_error(name: &str, answer: &Answer, now: Timestamp) -> Outcome {
    let after = || retry_after::parse(&answer.headers, now);
    let out = |reason: &str| Outcome::Unavailable { reason: reason.to_owned(), after: after() };
    match name {
        "Invalid_Key" => out("invalid_key"),
        "PaymentRequired" => out("payment_required"),
        "PoorReputation" => out("poor_reputation"),
        "Unknown_Subaccount" => out("unknown_subaccount"),
        "ServiceUnavailable" => retry("service_unavailable", after()),
        "ValidationError" => permanent("validation_error"),
        // An error with a status of success is none of the message's either.
        _ if answer.status.is_success() => retry("internal_server_error", after()),
        // `GeneralError`, which is Mailchimp's own, among them.
        _ => of_status(answer, now),
    }
}

fn of_status(answer: &Answer, now: Timestamp) -> Outcome {
    let after = || retry_after::parse(&answer.headers, now);
    let out = |reason: &str| Outcome::Unavailable { reason: reason.to_owned(), after: after() };
    match answer.status.as_u16() {
        300..=399 => out("redirect_refused"),
        401 => out("invalid_key"),
        402 => out("payment_required"),
        403 => out("forbidden"),
        // There is nothing of Mailchimp's at this URL.
        404 | 405 => out("not_found"),
        413 => permanent("payload_too_large"),
        code @ (408 | 425 | 429 | 500..) => retry(format!("http_{code}"), after()),
        code => permanent(format!("http_{code}")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, StatusCode};
    use serde_json::json;

    use super::*;

    fn outcome(status: u16, body: &str) -> Outcome {
        let answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Some(body.as_bytes().to_vec()),
        };
        of_answer(&answer, Timestamp::UNIX_EPOCH)
    }

    fn taken(status: &str, reject_reason: Option<&str>) -> Outcome {
        let entry =
            json!({"email": "a@b.c", "status": status, "reject_reason": reject_reason, "_id": "1a2b"});
        outcome(200, &json!([entry]).to_string())
    }

    #[test]
    fn what_was_taken_is_named_and_what_was_rejected_says_why() {
        for status in ["sent", "queued", "scheduled"] {
            assert_eq!(taken(status, None), Outcome::Sent { provider_id: Some("1a2b".to_owned()) });
        }
        assert_eq!(outcome(200, r#"[{"status":"sent"}]"#), Outcome::Sent { provider_id: None });
        assert_eq!(taken("invalid", None), permanent("invalid_address"));
        let cases = [
            ("hard-bounce", address_dead("rejected_hard_bounce")),
            ("soft-bounce", permanent("rejected_soft_bounce")),
            ("spam", address_dead("rejected_spam")),
            ("unsub", address_dead("rejected_unsub")),
            ("custom", permanent("rejected_custom")),
            ("invalid", permanent("invalid_address")),
            ("rule", permanent("rejected_rule")),
            ("invalid-sender", unavailable("invalid_sender")),
            ("test-mode-limit", unavailable("test_mode_limit")),
            ("unsigned", unavailable("unsigned")),
            ("something new", permanent("rejected")),
            ("", permanent("rejected")),
        ];
        for (reason, expected) in cases {
            assert_eq!(taken("rejected", Some(reason)), expected, "{reason}");
        }
    }

    #[test]
    fn errors_are_told_apart_by_name_whatever_their_status() {
        let cases = [
            ("Invalid_Key", unavailable("invalid_key")),
            ("PaymentRequired", unavailable("payment_required")),
            ("PoorReputation", unavailable("poor_reputation")),
            ("Unknown_Subaccount", unavailable("unknown_subaccount")),
            ("ServiceUnavailable", retry("service_unavailable", None)),
            ("ValidationError", permanent("validation_error")),
        ];
        for (name, expected) in cases {
            let body = json!({"status": "error", "code": -1, "name": name, "message": "x"}).to_string();
            for status in [200, 400, 401, 500] {
                assert_eq!(outcome(status, &body), expected, "{status} {name}");
            }
        }
        let general = r#"{"status":"error","code":-99,"name":"GeneralError","message":"x"}"#;
        assert_eq!(outcome(500, general), retry("http_500", None));
        assert_eq!(outcome(200, general), retry("internal_server_error", None));
        assert_eq!(outcome(400, &general.replace("GeneralError", "New")), permanent("http_400"));
    }

    #[test]
    fn answers_that_name_nothing_are_told_apart_by_status() {
        let cases = [
            (200, "<html>Welcome</html>", ambiguous("unreadable_answer")),
            (200, "[]", ambiguous("unreadable_answer")),
            (200, "{}", ambiguous("unreadable_answer")),
            (200, r#"[{"status":"new"}]"#, ambiguous("unreadable_answer")),
            (200, r#"[{"status":"sent"},{"status":"sent"}]"#, ambiguous("unreadable_answer")),
            (302, "", unavailable("redirect_refused")),
            (400, "", permanent("http_400")),
            (401, "", unavailable("invalid_key")),
            (402, "", unavailable("payment_required")),
            (403, "<html>", unavailable("forbidden")),
            (404, "", unavailable("not_found")),
            (405, "", unavailable("not_found")),
            (413, "", permanent("payload_too_large")),
            (429, "", retry("http_429", None)),
            (500, "", retry("http_500", None)),
            (502, "<html>", retry("http_502", None)),
        ];
        for (status, body, expected) in cases {
            assert_eq!(outcome(status, body), expected, "{status} {body}");
        }
    }

    #[test]
    fn a_wait_is_passed_on() {
        let cases = [("7", Some(7)), ("Thu, 01 Jan 1970 00:00:30 GMT", Some(30)), ("soon", None)];
        for (text, seconds) in cases {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", text.parse().unwrap());
            let answer = Answer { status: StatusCode::TOO_MANY_REQUESTS, headers, body: None };
            let expected = retry("http_429", seconds.map(Duration::from_secs));
            assert_eq!(of_answer(&answer, Timestamp::UNIX_EPOCH), expected, "{text}");
        }
    }
}
