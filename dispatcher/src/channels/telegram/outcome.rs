//! What the Bot API's answer means.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;

use peal_common::outcome::Outcome;

use crate::channels::outcomes::{address_dead, ambiguous, permanent, retry, unavailable};
use crate::channels::retry_after;

/// The part of an answer that matters (Bot API, "Making requests"). What is sent is never read back.
#[derive(Debug, Default, Deserialize)]
struct Answer {
    ok: bool,
    error_code: Option<u16>,
    #[serde(default)]
    description: String,
    result: Option<SentMessage>,
    parameters: Option<Parameters>,
}

#[derive(Debug, Deserialize)]
struct SentMessage {
    message_id: i64,
}

/// Bot API, `ResponseParameters`.
#[derive(Debug, Default, Deserialize)]
struct Parameters {
    retry_after: Option<u64>,
    migrate_to_chat_id: Option<i64>,
}

/// The outcome of an answer. `body` is `None` when it was too long or broke off.
pub(super) fn of_answer(
    status: StatusCode,
    headers: &HeaderMap,
    body: Option<&[u8]>,
    now: Timestamp,
) -> Outcome {
    let answer = body.and_then(|body| serde_json::from_slice::<Answer>(body).ok());
    if status.is_success() {
        return match answer {
            Some(Answer { ok: true, result, .. }) => {
                Outcome::Sent { provider_id: result.map(|message| message.message_id.to_string()) }
            }
            Some(answer) => of_error(answer.error_code.unwrap_or(500), &answer, headers, now),
            // Somebody said yes, but it need not have been Telegram.
            None => ambiguous("unreadable_answer"),
        };
    }
    match answer {
        Some(answer) => of_error(status.as_u16(), &answer, headers, now),
        // That somebody blocked the bot, Telegram alone can say.
        None if status == StatusCode::FORBIDDEN => unavailable("http_403"),
        None => of_error(status.as_u16(), &Answer::default(), headers, now),
    }
}

fn of_error(code: u16, answer: &Answer, headers: &HeaderMap, now: Timestamp) -> Outcome {
    let asked = answer.parameters.as_ref().and_then(|parameters| parameters.retry_after);
    let after = || asked.map(Duration::from_secs).or_else(|| retry_after::parse(headers, now));
    match code {
        // The bot's token is wrong: 404 when it has not even the shape of one.
        401 | 404 => unavailable("token_refused"),
        // Blocked, kicked, deactivated, never talked to.
        403 => address_dead("http_403"),
        400 => of_bad_request(answer),
        429 => retry("http_429", after()),
        500.. => retry(format!("http_{code}"), after()),
        // Telegram redirects no bot: the Bot API is not, or no longer, where the settings say, or somebody stands in between.
        300..=399 => unavailable("redirect_refused"),
        405 | 407 => unavailable(format!("http_{code}")),
        _ => permanent(format!("http_{code}")),
    }
}

/// Telegram tells the errors of 400 apart by their description only.
fn of_bad_request(answer: &Answer) -> Outcome {
    let description = answer.description.to_ascii_lowercase();
    let says = |text: &str| description.contains(text);
    if answer.parameters.as_ref().is_some_and(|parameters| parameters.migrate_to_chat_id.is_some()) {
        // The group became a supergroup: this id is gone for good.
        address_dead("chat_migrated")
    } else if says("chat not found") {
        address_dead("chat_not_found")
    } else if says("message is too long") {
        permanent("message_too_long")
    } else if says("can't parse entities") {
        permanent("invalid_html")
    } else if says("text is empty") {
        permanent("message_empty")
    } else {
        permanent("http_400")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: u16, body: &str) -> Outcome {
        let status = StatusCode::from_u16(status).unwrap();
        of_answer(status, &HeaderMap::new(), Some(body.as_bytes()), Timestamp::UNIX_EPOCH)
    }

    fn error(code: u16, description: &str) -> Outcome {
        outcome(code, &format!(r#"{{"ok":false,"error_code":{code},"description":"{description}"}}"#))
    }

    #[test]
    fn answers_are_told_apart() {
        assert_eq!(
            outcome(200, r#"{"ok":true,"result":{"message_id":7,"date":1,"chat":{"id":1}}}"#),
            Outcome::Sent { provider_id: Some("7".to_owned()) }
        );
        assert_eq!(outcome(200, r#"{"ok":true,"result":null}"#), Outcome::Sent { provider_id: None });
        let cases = [
            (403, "Forbidden: bot was blocked by the user", address_dead("http_403")),
            (403, "Forbidden: user is deactivated", address_dead("http_403")),
            (400, "Bad Request: chat not found", address_dead("chat_not_found")),
            (400, "Bad Request: message is too long", permanent("message_too_long")),
            (400, "Bad Request: can't parse entities: x", permanent("invalid_html")),
            (400, "Bad Request: message text is empty", permanent("message_empty")),
            (400, "Bad Request: something new", permanent("http_400")),
            (401, "Unauthorized", unavailable("token_refused")),
            (404, "Not Found", unavailable("token_refused")),
            (409, "Conflict", permanent("http_409")),
            (500, "Internal Server Error", retry("http_500", None)),
            (502, "Bad Gateway", retry("http_502", None)),
        ];
        for (code, description, expected) in cases {
            assert_eq!(error(code, description), expected, "{code} {description}");
        }
        assert_eq!(outcome(502, "<html>Bad Gateway</html>"), retry("http_502", None));
        assert_eq!(outcome(403, "<html>Blocked by your company</html>"), unavailable("http_403"));
        for status in [301, 302, 307, 308] {
            assert_eq!(outcome(status, "<html>Moved</html>"), unavailable("redirect_refused"), "{status}");
        }
        assert_eq!(outcome(405, "<html>nginx</html>"), unavailable("http_405"));
        assert_eq!(outcome(407, ""), unavailable("http_407"));
        assert_eq!(outcome(413, ""), permanent("http_413"));
    }

    #[test]
    fn the_wait_is_taken_from_the_body_or_from_the_header() {
        let wait = |seconds| retry("http_429", Some(Duration::from_secs(seconds)));
        let body = r#"{"ok":false,"error_code":429,"description":"x","parameters":{"retry_after":35}}"#;
        assert_eq!(outcome(429, body), wait(35));
        assert_eq!(outcome(429, &body.replace("35", "1000000000")), wait(1_000_000_000));
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "9".parse().unwrap());
        let status = StatusCode::TOO_MANY_REQUESTS;
        assert_eq!(of_answer(status, &headers, None, Timestamp::UNIX_EPOCH), wait(9));
    }

    #[test]
    fn a_yes_that_can_not_be_read_is_ambiguous() {
        assert_eq!(outcome(200, "<html>Welcome to the hotel</html>"), ambiguous("unreadable_answer"));
        let lost = of_answer(StatusCode::OK, &HeaderMap::new(), None, Timestamp::UNIX_EPOCH);
        assert_eq!(lost, ambiguous("unreadable_answer"));
    }

    #[test]
    fn a_group_that_became_another_is_gone() {
        let body =
            r#"{"ok":false,"error_code":400,"description":"x","parameters":{"migrate_to_chat_id":-1}}"#;
        assert_eq!(outcome(400, body), address_dead("chat_migrated"));
    }
}
