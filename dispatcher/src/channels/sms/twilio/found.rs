//! What Twilio's list of messages says of one whose call was broken off.

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use serde::Deserialize;

use peal_common::outcome::Outcome;

use super::outcome::{self, Created};
use crate::channels::http::{Answer, of_status};
use crate::channels::outcomes::retry;
use crate::channels::{CallTime, Claim, Found};

/// So many messages are asked for: more than one number gets in a minute.
pub(super) const PAGE: usize = 50;

/// A page of the list (Messages resource, "Read multiple Message resources"), the latest message first.
#[derive(Deserialize)]
struct List {
    messages: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    body: Option<String>,
    /// When Twilio took it, as in RFC 2822.
    date_created: Option<String>,
    #[serde(flatten)]
    created: Created,
}

/// Looks for a text in the list of the last messages to its number, among those that are no other delivery's.
pub(super) fn of_list(
    answer: &Answer,
    text: &str,
    call: CallTime,
    claim: Claim<'_>,
    now: Timestamp,
) -> Result<Found, Outcome> {
    if !answer.status.is_success() {
        return Err(match of_status(answer.status, &answer.headers, now) {
            // To ask again does no harm.
            Outcome::Ambiguous { reason } | Outcome::Permanent { reason } => retry(reason, None),
            outcome => outcome,
        });
    }
    let list = answer.body.as_deref().and_then(|body| serde_json::from_slice::<List>(body).ok());
    let list = list.ok_or_else(|| retry("unreadable_answer", None))?;
    let times: Option<Vec<Timestamp>> = list.messages.iter().map(|entry| entry.taken_at()).collect();
    let Some(times) = times else { return Ok(Found::Unknown) };
    let of_that_time =
        || list.messages.iter().zip(&times).filter(|(_, at)| call.may_be(**at)).map(|(entry, _)| entry);
    let is_same = |entry: &&Entry| entry.body.as_deref() == Some(text);
    if let Some(entry) = of_that_time().filter(is_same).find(|entry| claim(&entry.created.sid)) {
        return Ok(Found::Taken(outcome::of_created(&entry.created)));
    }
    // Another text may be ours, in other letters: Twilio replaces some. And what is behind a full page is not known.
    let is_whole = times.len() < PAGE || times.iter().any(|at| *at < call.earliest());
    match of_that_time().find(|entry| !is_same(entry)) {
        None if is_whole => Ok(Found::NotTaken),
        _ => Ok(Found::Unknown),
    }
}

impl Entry {
    fn taken_at(&self) -> Option<Timestamp> {
        rfc2822::parse(self.date_created.as_deref()?).ok().map(|at| at.timestamp())
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};
    use serde_json::{Value, json};

    use super::*;
    use crate::channels::outcomes::{address_dead, unavailable};

    const TEXT: &str = "Your order is on its way.";

    fn ask(status: u16, body: &str) -> Result<Found, Outcome> {
        let answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Some(body.as_bytes().to_vec()),
        };
        let call = CallTime::declared_at("2026-11-22T12:00:00Z".parse().unwrap());
        of_list(&answer, TEXT, call, &|sid| sid != "SM9", Timestamp::UNIX_EPOCH)
    }

    fn entry(time: &str, text: &str, status: &str, error: Option<u32>) -> Value {
        json!({"sid": "SM1", "body": text, "date_created": format!("Sun, 22 Nov 2026 {time} +0000"), "status": status, "error_code": error})
    }

    fn found(entries: &[Value]) -> Found {
        ask(200, &json!({ "messages": entries }).to_string()).unwrap()
    }

    #[test]
    fn a_message_is_known_by_its_text_and_the_time_of_its_call() {
        let sent = Found::Taken(Outcome::Sent { provider_id: Some("SM1".to_owned()) });
        for (entries, expected) in [
            (vec![], Found::NotTaken),
            (vec![entry("12:00:02", TEXT, "queued", None)], sent.clone()),
            (vec![entry("12:00:09", "another", "sent", None), entry("11:59:40", TEXT, "sent", None)], sent),
            (
                vec![entry("12:00:02", TEXT, "undelivered", Some(30005))],
                Found::Taken(address_dead("twilio_30005")),
            ),
            // Of the day before, or of a later call.
            (vec![entry("11:59:00", TEXT, "delivered", None)], Found::NotTaken),
            (vec![entry("12:01:10", TEXT, "delivered", None)], Found::NotTaken),
            (vec![entry("12:00:02", "Your order is on it’s way.", "queued", None)], Found::Unknown),
            (vec![json!({"sid": "SM1", "body": TEXT})], Found::Unknown),
        ] {
            assert_eq!(found(&entries), expected, "{entries:?}");
        }
    }

    #[test]
    fn what_is_another_delivery_s_is_not_taken_for_this_one() {
        let ours = entry("12:00:02", TEXT, "queued", None);
        let mut anothers = entry("12:00:03", TEXT, "queued", None);
        anothers["sid"] = json!("SM9");
        assert_eq!(found(std::slice::from_ref(&anothers)), Found::NotTaken);
        let sent = Found::Taken(Outcome::Sent { provider_id: Some("SM1".to_owned()) });
        assert_eq!(found(&[anothers, ours]), sent);
    }

    #[test]
    fn a_full_page_of_later_messages_says_nothing() {
        let mut entries = vec![entry("12:01:30", "later", "sent", None); PAGE];
        assert_eq!(found(&entries), Found::Unknown);
        entries[PAGE - 1] = entry("11:59:00", "earlier", "sent", None);
        assert_eq!(found(&entries), Found::NotTaken);
    }

    #[test]
    fn a_question_that_is_not_answered_may_be_asked_again() {
        for (status, body, expected) in [
            (200, "<html>", retry("unreadable_answer", None)),
            (201, r#"{"sid":"SM1"}"#, retry("unreadable_answer", None)),
            (500, "", retry("http_500", None)),
            (429, "", retry("http_429", None)),
            (401, "", unavailable("http_401")),
        ] {
            assert_eq!(ask(status, body), Err(expected), "{status} {body}");
        }
    }
}
