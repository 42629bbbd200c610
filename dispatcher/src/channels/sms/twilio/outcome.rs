//! What Twilio's answer means.

use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;

use peal_common::outcome::Outcome;

use crate::channels::http::{Answer, of_status};
use crate::channels::outcomes::{address_dead, ambiguous, permanent, retry, unavailable};
use crate::channels::retry_after;
use crate::channels::sms::account::provider_id;

/// The part of a created message that matters (Messages resource, "Message properties").
#[derive(Deserialize)]
pub(super) struct Created {
    pub(super) sid: String,
    #[serde(default)]
    status: String,
    error_code: Option<u32>,
}

/// The part of an error that matters ("Twilio's response", "Exceptions").
#[derive(Deserialize)]
struct Failure {
    code: u32,
}

/// The outcome of an answer.
pub(super) fn of_answer(answer: &Answer, now: Timestamp) -> Outcome {
    let after = || retry_after::parse(&answer.headers, now);
    if answer.status.is_success() {
        let created = answer.body.as_deref().and_then(|body| serde_json::from_slice::<Created>(body).ok());
        // Where it can't be read, somebody said yes who need not have been Twilio.
        return created.map_or_else(|| ambiguous("unreadable_answer"), |created| of_created(&created));
    }
    let code = answer.body.as_deref().and_then(|body| serde_json::from_slice::<Failure>(body).ok());
    let by_status = || of_status(answer.status, &answer.headers, now);
    match code.map(|failure| failure.code) {
        // Behind a server error the message may be out, whatever its code says.
        Some(_) if answer.status.is_server_error() => by_status(),
        Some(code) => of_code(code, after()).unwrap_or_else(|| match by_status() {
            Outcome::Retry { after, .. } => retry(format!("twilio_{code}"), after),
            Outcome::Unavailable { .. } => unavailable(format!("twilio_{code}")),
            _ => permanent(format!("twilio_{code}")),
        }),
        None => by_status(),
    }
}

/// The outcome of a message that Twilio has.
pub(super) fn of_created(created: &Created) -> Outcome {
    match created.error_code {
        // It was taken and has failed already.
        Some(code) if is_failure(&created.status) => {
            of_code(code, None).unwrap_or_else(|| permanent(format!("twilio_{code}")))
        }
        _ if created.sid.is_empty() => ambiguous("unreadable_answer"),
        _ => Outcome::Sent { provider_id: provider_id(&created.sid) },
    }
}

/// Message properties, `status`.
fn is_failure(status: &str) -> bool {
    matches!(status, "failed" | "undelivered" | "canceled")
}

/// What a code means (Twilio, "Error and Warning Dictionary"); `None` when nothing more than its status is known.
fn of_code(code: u32, after: Option<Duration>) -> Option<Outcome> {
    let reason = format!("twilio_{code}");
    Some(match code {
        // No number, no mobile number, opted out of our messages, a landline; unknown to its carrier, a landline.
        21211 | 21614 | 21610 | 21635 | 30005 | 30006 => address_dead(reason),
        // Filtered for what it says.
        30007 => permanent(reason),
        // Too many requests at once (not processed) or a second, or in the sender's queue; the phone is off.
        20429 | 14107 | 21611 | 30001 | 30003 => retry(reason, after),
        // Credentials, account out of order, sender not ours or not for texts, only verified numbers may be written to.
        20003 | 20005 | 20404 | 30002 | 21606 | 21608 | 21212 | 21603 | 21660 | 21703 => unavailable(reason),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;

    type Make = fn(String) -> Outcome;

    fn outcome(status: u16, body: Option<&str>, wait: Option<&str>) -> Outcome {
        let mut headers = HeaderMap::new();
        if let Some(wait) = wait {
            headers.insert("retry-after", wait.parse().unwrap());
        }
        let body = body.map(|body| body.as_bytes().to_vec());
        of_answer(
            &Answer { status: StatusCode::from_u16(status).unwrap(), headers, body },
            Timestamp::UNIX_EPOCH,
        )
    }

    fn error(status: u16, code: u32) -> Outcome {
        let body =
            format!(r#"{{"code":{code},"message":"'To' +82… private","more_info":"…","status":{status}}}"#);
        outcome(status, Some(&body), None)
    }

    #[test]
    fn codes_mean_what_the_dictionary_says() {
        let dead = [21211, 21614, 21610, 21635, 30005, 30006];
        let transient = [21611, 14107, 30001, 30003];
        let out_of_order = [20005, 30002, 21606, 21608, 21212, 21603, 21660, 21703];
        let wrong = [30007, 21408, 21617, 99999];
        let table: [(&[u32], Make); 4] = [
            (&dead, address_dead),
            (&transient, |reason| retry(reason, None)),
            (&out_of_order, unavailable),
            (&wrong, permanent),
        ];
        for (codes, make) in table {
            for code in codes {
                assert_eq!(error(400, *code), make(format!("twilio_{code}")), "{code}");
            }
        }
        assert_eq!(error(401, 20003), unavailable("twilio_20003"));
        assert_eq!(error(403, 20999), unavailable("twilio_20999"));
        assert_eq!(error(404, 20404), unavailable("twilio_20404"));
        assert_eq!(error(429, 20429), retry("twilio_20429", None));
        assert_eq!(error(429, 20999), retry("twilio_20999", None));
        let wait = outcome(429, Some(r#"{"code":20429}"#), Some("7"));
        assert_eq!(wait, retry("twilio_20429", Some(Duration::from_secs(7))));
    }

    #[test]
    fn what_was_taken_is_sent_unless_it_failed_at_once() {
        let sent = Outcome::Sent { provider_id: Some("SM1".to_owned()) };
        for status in ["queued", "accepted", "scheduled", "sending", "sent"] {
            let body = format!(r#"{{"sid":"SM1","status":"{status}","error_code":null,"body":"x"}}"#);
            assert_eq!(outcome(201, Some(&body), None), sent, "{status}");
        }
        assert_eq!(outcome(200, Some(r#"{"sid":"SM1"}"#), None), sent);
        let failed = r#"{"sid":"SM1","status":"failed","error_code":30006}"#;
        assert_eq!(outcome(201, Some(failed), None), address_dead("twilio_30006"));
        let unknown = r#"{"sid":"SM1","status":"undelivered","error_code":30999}"#;
        assert_eq!(outcome(201, Some(unknown), None), permanent("twilio_30999"));
        for body in [
            None,
            Some("<html>Welcome to the hotel</html>"),
            Some("{}"),
            Some(r#"{"sid":""}"#),
            Some("{\"si"),
        ] {
            assert_eq!(outcome(201, body, None), ambiguous("unreadable_answer"), "{body:?}");
        }
    }

    #[test]
    fn behind_a_server_error_the_message_may_be_out() {
        assert_eq!(error(500, 20500), ambiguous("http_500"));
        assert_eq!(error(500, 21211), ambiguous("http_500"));
        assert_eq!(outcome(502, Some("<html>Bad Gateway</html>"), None), ambiguous("http_502"));
        assert_eq!(outcome(503, None, None), ambiguous("http_503"));
        assert_eq!(outcome(503, None, Some("9")), retry("http_503", Some(Duration::from_secs(9))));
    }

    #[test]
    fn without_a_code_the_status_speaks() {
        assert_eq!(outcome(429, None, None), retry("http_429", None));
        assert_eq!(outcome(401, Some("no"), None), unavailable("http_401"));
        assert_eq!(outcome(403, Some("{}"), None), unavailable("http_403"));
        assert_eq!(outcome(404, Some("<html>"), None), unavailable("http_404"));
        assert_eq!(outcome(302, None, None), unavailable("http_302"));
        assert_eq!(outcome(400, Some(r#"{"code":"x"}"#), None), permanent("http_400"));
    }
}
