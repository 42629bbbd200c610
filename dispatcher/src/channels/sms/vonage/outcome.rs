//! What Vonage's answer means.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use peal_common::outcome::Outcome;

use crate::channels::http::{Answer, of_status};
use crate::channels::outcomes::{address_dead, ambiguous, permanent, retry, unavailable};
use crate::channels::retry_after;
use crate::channels::sms::account::provider_id;

/// The part of an answer that matters (SMS API reference): one entry for each part of the message.
#[derive(Deserialize)]
struct Parts {
    messages: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    /// A number as a string.
    status: Value,
    #[serde(rename = "message-id", default)]
    id: String,
}

impl Part {
    fn status(&self) -> Option<u16> {
        match &self.status {
            Value::String(text) => text.parse().ok(),
            Value::Number(number) => number.as_u64().and_then(|number| number.try_into().ok()),
            _ => None,
        }
    }
}

/// The outcome of an answer.
pub(super) fn of_answer(answer: &Answer, now: Timestamp) -> Outcome {
    if !answer.status.is_success() {
        return of_status(answer.status, &answer.headers, now);
    }
    let read = || {
        let parts: Parts = serde_json::from_slice(answer.body.as_deref()?).ok()?;
        let statuses: Vec<u16> = parts.messages.iter().map(Part::status).collect::<Option<_>>()?;
        let failed = statuses.iter().copied().find(|status| *status != 0);
        Some(match failed {
            // A second time its beginning would come twice.
            Some(_) if statuses.contains(&0) => ambiguous("partly_sent"),
            Some(status) => match of_part(status) {
                Outcome::Retry { reason, .. } => retry(reason, retry_after::parse(&answer.headers, now)),
                outcome => outcome,
            },
            None => Outcome::Sent { provider_id: provider_id(&parts.messages.first()?.id) },
        })
    };
    // Somebody said yes, but it need not have been Vonage.
    read().unwrap_or_else(|| ambiguous("unreadable_answer"))
}

/// What a status other than 0 means (SMS API, "SMS API error codes").
fn of_part(status: u16) -> Outcome {
    let reason = format!("vonage_{status}");
    match status {
        // Too fast for the account, an internal error, too many connections, no communication.
        1 | 5 | 10 | 13 => retry(reason, None),
        // Barred by the recipient or for good; de-activated.
        7 | 33 => address_dead(reason),
        // Credentials, suspended, no credit, not enabled, signature; the callback that the settings name; a trial account,
        // which may write to few; both ways to sign in at once.
        4 | 8 | 9 | 11 | 14 | 23 | 29 | 32 => unavailable(reason),
        // A parameter, the message, its length, a sender that this country does not take, the network.
        _ => permanent(reason),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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

    fn parts(statuses: &[u16]) -> String {
        let part = |status: &u16| match status {
            0 => r#"{"to":"82","message-id":"0A","status":"0","remaining-balance":"3.1"}"#.to_owned(),
            status => format!(r#"{{"status":"{status}","error-text":"private"}}"#),
        };
        let messages: Vec<String> = statuses.iter().map(part).collect();
        format!(r#"{{"message-count":"{}","messages":[{}]}}"#, statuses.len(), messages.join(","))
    }

    #[test]
    fn statuses_mean_what_the_table_says() {
        let table: [(&[u16], Make); 4] = [
            (&[1, 5, 10, 13], |reason| retry(reason, None)),
            (&[7, 33], address_dead),
            (&[4, 8, 9, 11, 14, 23, 29, 32], unavailable),
            (&[2, 3, 6, 12, 15, 22, 99], permanent),
        ];
        for (statuses, make) in table {
            for status in statuses {
                let expected = make(format!("vonage_{status}"));
                assert_eq!(outcome(200, Some(&parts(&[*status])), None), expected, "{status}");
                assert_eq!(outcome(200, Some(&parts(&[*status, 6])), None), expected, "{status}");
            }
        }
        let wait = outcome(200, Some(&parts(&[1])), Some("3"));
        assert_eq!(wait, retry("vonage_1", Some(Duration::from_secs(3))));
        let number = r#"{"message-count":1,"messages":[{"status":7}]}"#;
        assert_eq!(outcome(200, Some(number), None), address_dead("vonage_7"));
    }

    #[test]
    fn all_parts_are_sent_or_it_is_not_known_what_arrives() {
        let sent = Outcome::Sent { provider_id: Some("0A".to_owned()) };
        assert_eq!(outcome(200, Some(&parts(&[0])), None), sent);
        assert_eq!(outcome(200, Some(&parts(&[0, 0, 0])), None), sent);
        for mixed in [&[0, 1][..], &[0, 0, 5], &[9, 0], &[7, 0]] {
            assert_eq!(outcome(200, Some(&parts(mixed)), None), ambiguous("partly_sent"), "{mixed:?}");
        }
        for body in [
            None,
            Some("<html>Welcome to the hotel</html>"),
            Some("{}"),
            Some(r#"{"messages":[]}"#),
            Some(r#"{"messages":[{"status":"ok"}]}"#),
            Some(r#"{"messages":[{"status":null}]}"#),
        ] {
            assert_eq!(outcome(200, body, None), ambiguous("unreadable_answer"), "{body:?}");
        }
    }

    #[test]
    fn the_status_of_the_answer_speaks_where_it_is_no_success() {
        assert_eq!(outcome(401, Some("{}"), None), unavailable("http_401"));
        assert_eq!(outcome(429, None, Some("7")), retry("http_429", Some(Duration::from_secs(7))));
        assert_eq!(outcome(500, None, None), ambiguous("http_500"));
        assert_eq!(outcome(503, None, Some("7")), retry("http_503", Some(Duration::from_secs(7))));
        assert_eq!(outcome(400, None, None), permanent("http_400"));
    }
}
