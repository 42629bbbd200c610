//! What SendGrid's answer means (SendGrid, "Mail Send" and its "Errors"; "Rate limits").

use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;
use serde_json::Value;

use peal_common::outcome::Outcome;

use crate::channels::http::Answer;
use crate::channels::outcomes::{ambiguous, permanent, retry};
use crate::channels::retry_after;

/// Nothing that SendGrid gives as an id is longer, in bytes.
const MAX_PROVIDER_ID: usize = 256;

/// The outcome of an answer.
///
/// A mistake in what was set up (key, sender, URL) is nobody's message's fault, so no message is lost over it: that is
/// [`Outcome::Unavailable`].
pub(super) fn of_answer(answer: &Answer, sandbox_mode: bool, now: Timestamp) -> Outcome {
    let headers = &answer.headers;
    let after = || wait(headers, now);
    let out = |reason: &str| Outcome::Unavailable { reason: reason.to_owned(), after: after() };
    match answer.status.as_u16() {
        202 => Outcome::Sent { provider_id: message_id(headers) },
        // This is how an e-mail is answered that was only to be checked.
        200 if sandbox_mode => Outcome::Sent { provider_id: message_id(headers) },
        // Somebody said yes, but it need not have been SendGrid.
        200..=299 => ambiguous("unreadable_answer"),
        300..=399 => out("redirect_refused"),
        400 => permanent(of_field(&field(answer.body.as_deref()))),
        401 => out("key_refused"),
        // The key may not send, or not as this sender.
        403 => out("forbidden"),
        // There is nothing of SendGrid's at this URL.
        404 | 405 => out("not_found"),
        413 => permanent("payload_too_large"),
        429 => retry("http_429", after()),
        // When the pace is looked at again says nothing of whether it was taken.
        code @ (408 | 425 | 500..) => retry(format!("http_{code}"), retry_after::parse(&answer.headers, now)),
        code => permanent(format!("http_{code}")),
    }
}

fn message_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get("x-message-id")?.to_str().ok()?;
    (1..=MAX_PROVIDER_ID).contains(&id.len()).then(|| id.to_owned())
}

/// The wait that is asked for: Retry-After, or the time in Unix seconds from which calls are taken again.
fn wait(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let reset = || {
        let seconds: i64 = headers.get("x-ratelimit-reset")?.to_str().ok()?.trim().parse().ok()?;
        let wait = seconds.saturating_sub(now.as_second());
        Some(Duration::from_secs(u64::try_from(wait).unwrap_or(0)))
    };
    retry_after::parse(headers, now).or_else(reset)
}

/// The first field that is wrong; empty where none is named.
fn field(body: Option<&[u8]>) -> String {
    let body: Value = body.and_then(|body| serde_json::from_slice(body).ok()).unwrap_or_default();
    let errors = body["errors"].as_array().map_or(&[][..], Vec::as_slice);
    errors.iter().find_map(|error| error["field"].as_str()).unwrap_or_default().to_owned()
}

/// The reason for a field's path, such as `personalizations.0.to.0.email`.
fn of_field(path: &str) -> &'static str {
    let mut names = path.split(['.', '[', ']']).filter(|name| !name.is_empty());
    match names.next() {
        Some("personalizations") if names.any(|name| name == "to") => "invalid_address",
        Some("from") => "invalid_sender",
        Some("subject") => "invalid_subject",
        Some("content") => "invalid_content",
        Some("headers") => "invalid_header",
        Some("attachments") => "invalid_attachment",
        _ => "http_400",
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use http::header::{HeaderName, HeaderValue};

    use super::*;
    use crate::channels::outcomes::unavailable;

    type Headers<'a> = [(&'static str, &'a str)];

    fn answer(status: u16, headers: &Headers<'_>, body: &str) -> Answer {
        let header = |&(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: headers.iter().map(header).collect(),
            body: Some(body.as_bytes().to_vec()),
        }
    }

    fn outcome(status: u16, headers: &Headers<'_>, body: &str) -> Outcome {
        let now = Timestamp::from_second(1_000).unwrap();
        of_answer(&answer(status, headers, body), false, now)
    }

    fn sent(id: Option<&str>) -> Outcome {
        Outcome::Sent { provider_id: id.map(str::to_owned) }
    }

    #[test]
    fn answers_are_told_apart() {
        let no_key = r#"{"errors":[{"message":"The provided authorization grant is invalid","field":null}]}"#;
        let cases = [
            (202, "", sent(None)),
            (202, "<html>", sent(None)),
            (200, "{}", ambiguous("unreadable_answer")),
            (200, "<html>Welcome</html>", ambiguous("unreadable_answer")),
            (204, "", ambiguous("unreadable_answer")),
            (302, "", unavailable("redirect_refused")),
            (400, "{}", permanent("http_400")),
            (401, no_key, unavailable("key_refused")),
            (403, no_key, unavailable("forbidden")),
            (404, "", unavailable("not_found")),
            (405, "", unavailable("not_found")),
            (408, "", retry("http_408", None)),
            (413, "", permanent("payload_too_large")),
            (415, "", permanent("http_415")),
            (429, "", retry("http_429", None)),
            (500, "", retry("http_500", None)),
            (502, "<html>", retry("http_502", None)),
            (503, "", retry("http_503", None)),
        ];
        for (status, body, expected) in cases {
            assert_eq!(outcome(status, &[], body), expected, "{status} {body}");
        }
    }

    #[test]
    fn a_wrong_field_is_named_by_its_class() {
        let cases = [
            (r#""personalizations.0.to.0.email""#, "invalid_address"),
            (r#""personalizations[0].to[0].email""#, "invalid_address"),
            (r#""personalizations""#, "http_400"),
            (r#""personalizations.0.custom_args""#, "http_400"),
            (r#""from.email""#, "invalid_sender"),
            (r#""subject""#, "invalid_subject"),
            (r#""content.0.value""#, "invalid_content"),
            (r#""headers""#, "invalid_header"),
            (r#""attachments.0.content""#, "invalid_attachment"),
            (r#""kim@example.org""#, "http_400"),
            ("null", "http_400"),
            ("7", "http_400"),
        ];
        for (field, expected) in cases {
            let body = format!(r#"{{"errors":[{{"message":"x","field":{field},"help":"x"}}]}}"#);
            assert_eq!(outcome(400, &[], &body), permanent(expected), "{field}");
        }
        assert_eq!(outcome(400, &[], "[1]"), permanent("http_400"));
    }

    #[test]
    fn the_message_is_named_by_a_header() {
        let id = "14c5d75ce93.dfd.64b469";
        assert_eq!(outcome(202, &[("x-message-id", id)], ""), sent(Some(id)));
        assert_eq!(outcome(202, &[("x-message-id", "")], ""), sent(None));
        assert_eq!(outcome(202, &[("x-message-id", &"x".repeat(257))], ""), sent(None));
        assert_eq!(of_answer(&answer(200, &[], "{}"), true, Timestamp::UNIX_EPOCH), sent(None));
    }

    #[test]
    fn waits_are_seconds_dates_or_the_time_of_the_reset() {
        let cases: &[(&Headers<'_>, Option<u64>)] = &[
            (&[("x-ratelimit-reset", "1060")], Some(60)),
            (&[("x-ratelimit-reset", "900")], Some(0)),
            (&[("x-ratelimit-reset", "soon")], None),
            (&[("x-ratelimit-reset", "-9223372036854775808")], Some(0)),
            (&[("x-ratelimit-reset", "1060"), ("retry-after", "7")], Some(7)),
            (&[("x-ratelimit-reset", "1060"), ("retry-after", "soon")], Some(60)),
            (&[("retry-after", "Thu, 01 Jan 1970 00:17:10 GMT")], Some(30)),
            (&[("retry-after", "1000000000")], Some(1_000_000_000)),
        ];
        for (headers, seconds) in cases {
            let expected = retry("http_429", seconds.map(Duration::from_secs));
            assert_eq!(outcome(429, headers, ""), expected, "{headers:?}");
        }
    }
}
