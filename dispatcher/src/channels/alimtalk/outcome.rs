//! What Aligo's answers mean. Every one that is Aligo's own has the status 200 and a `code`: 0, or what is wrong.

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;

use peal_common::outcome::Outcome;

use crate::channels::http::{Answer, NoAnswer, of_status};
use crate::channels::outcomes::{address_dead, ambiguous, permanent, retry, unavailable};

/// The key or the address that calls is not known to Aligo.
const NOT_ADMITTED: i64 = -101;

/// What a call to send came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// For all messages of the batch.
    All(Outcome),
    /// The batch was refused as a whole, and nothing of it was sent: with several messages any one may be why.
    Refused(Outcome),
}

/// What came of a batch. `Ok` names it: there its messages' results are asked for.
pub(super) fn of_send(answer: Result<Answer, NoAnswer>, now: Timestamp) -> Sending {
    let answer = match answer {
        Ok(answer) => answer,
        Err(no_answer) => return Sending::All(no_answer.ambiguous()),
    };
    if !answer.status.is_success() {
        let outcome = of_status(answer.status, &answer.headers, now);
        return match outcome {
            Outcome::Permanent { .. } => Sending::Refused(outcome),
            outcome => Sending::All(outcome),
        };
    }
    let body: Option<Value> = answer.body.and_then(|body| serde_json::from_slice(&body).ok());
    let Some((code, body)) = body.and_then(|body| Some((number(&body["code"])?, body))) else {
        // Somebody answered, but it need not have been Aligo.
        return Sending::All(ambiguous("unreadable_answer"));
    };
    match code {
        0 => Sending::All(Outcome::Sent {
            provider_id: number(&body["info"]["mid"]).map(|mid| mid.to_string()),
        }),
        NOT_ADMITTED => Sending::All(unavailable(word(code))),
        // Among these is an account without money: so they count as attempts, and as trouble of the account.
        code => Sending::Refused(retry(word(code), None)),
    }
}

/// The answer to a question.
pub(super) fn of_question<T: DeserializeOwned>(
    answer: Result<Answer, NoAnswer>,
    now: Timestamp,
) -> Result<T, Outcome> {
    let answer = answer.map_err(NoAnswer::repeatable)?;
    if !answer.status.is_success() {
        // It may be asked again, whatever came of it.
        return Err(match of_status(answer.status, &answer.headers, now) {
            Outcome::Ambiguous { reason } | Outcome::Permanent { reason } => retry(reason, None),
            outcome => outcome,
        });
    }
    let body: Option<Value> = answer.body.and_then(|body| serde_json::from_slice(&body).ok());
    let body = body.ok_or_else(|| retry("unreadable_answer", None))?;
    match number(&body["code"]) {
        Some(0) => serde_json::from_value(body).map_err(|_| retry("unreadable_answer", None)),
        Some(NOT_ADMITTED) => Err(unavailable(word(NOT_ADMITTED))),
        Some(code) => Err(retry(word(code), None)),
        None => Err(retry("unreadable_answer", None)),
    }
}

/// What Kakao's code of a message means; `None` for one that is on its way.
///
/// From the messaging codes of Kakao's Bizmessage: 1002–1007 are the partner's or the channel's keys, 1021–1024 a channel
/// that is blocked or gone, 3008 a number without KakaoTalk or with the channel blocked, 3016 a text that is not the
/// registered one, 9998 and 9999 Kakao's own trouble.
pub(super) fn of_result(code: &str) -> Option<Outcome> {
    let code = code.trim().trim_start_matches('K');
    let reason = || format!("alimtalk_{code}");
    Some(match code {
        "" => return None,
        code if code.bytes().all(|byte| byte == b'0') => Outcome::Delivered { provider_id: None },
        "3008" | "3018" => address_dead(reason()),
        "9998" | "9999" => retry(reason(), None),
        "1002" | "1003" | "1004" | "1005" | "1006" | "1007" | "1021" | "1022" | "1023" | "1024" => {
            unavailable(reason())
        }
        code if code.len() <= 8 && code.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            permanent(reason())
        }
        _ => permanent("alimtalk_failed"),
    })
}

/// Numbers come as such and as text.
pub(super) fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
}

fn word(code: i64) -> String {
    format!("aligo_{code}")
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;

    fn answer(status: u16, body: &str) -> Result<Answer, NoAnswer> {
        let status = StatusCode::from_u16(status).unwrap();
        Ok(Answer { status, headers: HeaderMap::new(), body: Some(body.as_bytes().to_vec()) })
    }

    #[test]
    fn a_batch_is_taken_refused_or_unknown() {
        let sent = |id: Option<&str>| Sending::All(Outcome::Sent { provider_id: id.map(str::to_owned) });
        for (status, body, expected) in [
            (200, r#"{"code":0,"info":{"mid":7}}"#, sent(Some("7"))),
            (200, r#"{"code":"0","info":{"mid":"7"}}"#, sent(Some("7"))),
            (200, r#"{"code":0}"#, sent(None)),
            (200, r#"{"code":-101,"message":"…"}"#, Sending::All(unavailable("aligo_-101"))),
            (200, r#"{"code":-99}"#, Sending::Refused(retry("aligo_-99", None))),
            (200, r#"{"result":"ok"}"#, Sending::All(ambiguous("unreadable_answer"))),
            (200, "<html>Welcome</html>", Sending::All(ambiguous("unreadable_answer"))),
            (429, "", Sending::All(retry("http_429", None))),
            (500, "", Sending::All(ambiguous("http_500"))),
            (403, "", Sending::All(unavailable("http_403"))),
            (302, "", Sending::All(unavailable("http_302"))),
            (413, "", Sending::Refused(permanent("http_413"))),
        ] {
            assert_eq!(of_send(answer(status, body), Timestamp::UNIX_EPOCH), expected, "{status} {body}");
        }
        for (no_answer, expected) in [
            (NoAnswer::NotSent, retry("connect_failed", None)),
            (NoAnswer::TimedOut, ambiguous("no_answer_after_send")),
        ] {
            assert_eq!(of_send(Err(no_answer), Timestamp::UNIX_EPOCH), Sending::All(expected));
        }
    }

    #[test]
    fn a_question_may_always_be_asked_again() {
        let ask = |status, body| of_question::<Value>(answer(status, body), Timestamp::UNIX_EPOCH);
        assert!(ask(200, r#"{"code":0}"#).is_ok());
        for (status, body, expected) in [
            (200, r#"{"code":-101}"#, unavailable("aligo_-101")),
            (200, r#"{"code":-5}"#, retry("aligo_-5", None)),
            (200, "{}", retry("unreadable_answer", None)),
            (502, "", retry("http_502", None)),
            (400, "", retry("http_400", None)),
            (403, "", unavailable("http_403")),
        ] {
            assert_eq!(ask(status, body).unwrap_err(), expected, "{status} {body}");
        }
    }

    #[test]
    fn every_row_of_kakaos_codes() {
        let delivered = Outcome::Delivered { provider_id: None };
        assert_eq!(of_result(""), None);
        for ok in ["0", "0000", "K000", " 0 "] {
            assert_eq!(of_result(ok), Some(delivered.clone()), "{ok}");
        }
        for code in ["3008", "K3008", "3018"] {
            assert!(matches!(of_result(code), Some(Outcome::AddressDead { .. })), "{code}");
        }
        assert_eq!(of_result("3016"), Some(permanent("alimtalk_3016")));
        for code in ["9998", "9999"] {
            assert_eq!(of_result(code), Some(retry(format!("alimtalk_{code}"), None)));
        }
        for code in [1002, 1003, 1004, 1005, 1006, 1007, 1021, 1022, 1023, 1024] {
            assert_eq!(of_result(&code.to_string()), Some(unavailable(format!("alimtalk_{code}"))));
        }
        assert_eq!(of_result("x y"), Some(permanent("alimtalk_failed")));
    }
}
