//! What a gateway's answer means, by the rules of the settings.

use std::ops::RangeInclusive;

use jiff::Timestamp;
use serde_json::Value;

use peal_common::outcome::Outcome;

use crate::channels::http::Answer;
use crate::channels::outcomes::{ambiguous, permanent, retry, unavailable};
use crate::channels::retry_after;
use crate::channels::sms::account::provider_id;

/// How answers are read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rules {
    /// Whether all messages go to one path: nothing of a message stands in it.
    pub(super) has_fixed_path: bool,
    /// The statuses of which one is needed.
    pub(super) success: Vec<RangeInclusive<u16>>,
    /// A place in the JSON and what is to stand there.
    pub(super) value: Option<(String, String)>,
    /// What is to stand in the body.
    pub(super) contains: Option<String>,
    /// Where the JSON names the message.
    pub(super) id: Option<String>,
    /// The statuses that say that nothing was sent.
    pub(super) retried: Vec<u16>,
    /// Whether every 5xx says so.
    pub(super) retries_server_errors: bool,
}

/// The outcome of an answer.
pub(super) fn of_answer(rules: &Rules, answer: &Answer, now: Timestamp) -> Outcome {
    let status = answer.status.as_u16();
    if rules.success.iter().any(|range| range.contains(&status)) {
        return of_success(rules, answer.body.as_deref());
    }
    let reason = format!("http_{status}");
    match status {
        _ if rules.retried.contains(&status) => retry(reason, retry_after::parse(&answer.headers, now)),
        500.. if rules.retries_server_errors => retry(reason, retry_after::parse(&answer.headers, now)),
        // Somebody behind the gateway may have taken it.
        500.. | ..300 => ambiguous(reason),
        300..=399 | 401 | 403 | 407 => unavailable(reason),
        // The URL, the method or the content type is not the gateway's, or no longer (RFC 9110 §15.5): as they stand in the
        // settings, every message would be refused.
        404 | 410 if rules.has_fixed_path => unavailable(reason),
        405 | 415 => unavailable(reason),
        _ => permanent(reason),
    }
}

/// Whether it says that nothing is there: at the URL, or of the number that the body names. Nobody can tell from it alone.
pub(super) fn is_not_found(answer: &Answer) -> bool {
    matches!(answer.status.as_u16(), 404 | 410)
}

fn of_success(rules: &Rules, body: Option<&[u8]>) -> Outcome {
    let json = body.and_then(|body| serde_json::from_slice::<Value>(body).ok());
    let at = |pointer: &str| text(json.as_ref()?.pointer(pointer)?);
    if let Some((pointer, wanted)) = &rules.value {
        match at(pointer) {
            Some(found) if found == *wanted => {}
            Some(_) => return permanent("not_accepted"),
            // Somebody answered, but it need not have been the gateway.
            None => return ambiguous("unreadable_answer"),
        }
    }
    if let Some(wanted) = &rules.contains {
        let Some(body) = body else { return ambiguous("unreadable_answer") };
        if !String::from_utf8_lossy(body).contains(wanted.as_str()) {
            return ambiguous("unexpected_answer");
        }
    }
    let id = rules.id.as_deref().and_then(at);
    Outcome::Sent { provider_id: id.as_deref().and_then(provider_id) }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, StatusCode};

    use super::*;

    fn rules() -> Rules {
        Rules {
            has_fixed_path: true,
            success: vec![200..=200, 202..=299],
            value: None,
            contains: None,
            id: None,
            retried: vec![429, 503],
            retries_server_errors: false,
        }
    }

    fn outcome(rules: &Rules, status: u16, body: Option<&str>) -> Outcome {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "7".parse().unwrap());
        let body = body.map(|body| body.as_bytes().to_vec());
        let answer = Answer { status: StatusCode::from_u16(status).unwrap(), headers, body };
        of_answer(rules, &answer, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn statuses_are_told_apart() {
        let seven = Some(Duration::from_secs(7));
        let sent = Outcome::Sent { provider_id: None };
        let cases = [
            (200, sent.clone()),
            (202, sent),
            (201, ambiguous("http_201")),
            (429, retry("http_429", seven)),
            (503, retry("http_503", seven)),
            (500, ambiguous("http_500")),
            (502, ambiguous("http_502")),
            (302, unavailable("http_302")),
            (401, unavailable("http_401")),
            (403, unavailable("http_403")),
            (407, unavailable("http_407")),
            (404, unavailable("http_404")),
            (405, unavailable("http_405")),
            (410, unavailable("http_410")),
            (415, unavailable("http_415")),
            (400, permanent("http_400")),
            (413, permanent("http_413")),
            (422, permanent("http_422")),
        ];
        for (status, expected) in cases {
            assert_eq!(outcome(&rules(), status, Some("x")), expected, "{status}");
        }
        // Where a number or a name stands in the path, it may be what is not found.
        let varying = Rules { has_fixed_path: false, ..rules() };
        assert_eq!(outcome(&varying, 404, None), permanent("http_404"));
        assert_eq!(outcome(&varying, 410, None), permanent("http_410"));
        assert_eq!(outcome(&varying, 405, None), unavailable("http_405"));
        let trusting = Rules { retries_server_errors: true, ..rules() };
        assert_eq!(outcome(&trusting, 500, None), retry("http_500", seven));
        let strict = Rules { retried: vec![], ..rules() };
        assert_eq!(outcome(&strict, 503, None), ambiguous("http_503"));
        assert_eq!(outcome(&strict, 429, None), permanent("http_429"));
    }

    #[test]
    fn a_value_in_the_json_can_be_asked_for() {
        let status = Rules { value: Some(("/status".to_owned(), "0".to_owned())), ..rules() };
        let sent = Outcome::Sent { provider_id: None };
        assert_eq!(outcome(&status, 200, Some(r#"{"status":"0"}"#)), sent);
        assert_eq!(outcome(&status, 200, Some(r#"{"status":0}"#)), sent);
        assert_eq!(outcome(&status, 200, Some(r#"{"status":"7"}"#)), permanent("not_accepted"));
        for body in [None, Some("{}"), Some(r#"{"status":null}"#), Some("<html>Welcome</html>"), Some("")] {
            assert_eq!(outcome(&status, 200, body), ambiguous("unreadable_answer"), "{body:?}");
        }
        let flag = Rules { value: Some(("/a/0/ok".to_owned(), "true".to_owned())), ..rules() };
        assert_eq!(outcome(&flag, 200, Some(r#"{"a":[{"ok":true}]}"#)), sent);
    }

    #[test]
    fn a_part_of_the_body_can_be_asked_for() {
        let ok = Rules { contains: Some("OK:".to_owned()), ..rules() };
        assert_eq!(outcome(&ok, 200, Some("OK: 7")), Outcome::Sent { provider_id: None });
        assert_eq!(outcome(&ok, 200, Some("<html>")), ambiguous("unexpected_answer"));
        assert_eq!(outcome(&ok, 200, None), ambiguous("unreadable_answer"));
    }

    #[test]
    fn the_answer_names_the_message() {
        let named = Rules { id: Some("/message/id".to_owned()), ..rules() };
        let id = |body: &str| outcome(&named, 200, Some(body));
        let sent = |id: &str| Outcome::Sent { provider_id: Some(id.to_owned()) };
        assert_eq!(id(r#"{"message":{"id":"m-1"}}"#), sent("m-1"));
        assert_eq!(id(r#"{"message":{"id":42}}"#), sent("42"));
        for body in [r#"{"message":{"id":"a b"}}"#, "{}", "no JSON"] {
            assert_eq!(id(body), Outcome::Sent { provider_id: None }, "{body}");
        }
    }
}
