//! Looking for a message whose call was broken off: in the list of batches, and in those of the time of its call
//! (Aligo, "전송내역조회" and "전송결과조회(상세)").

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use serde::Deserialize;
use serde_json::Value;

use peal_common::outcome::Outcome;

use super::outcome::number;
use crate::channels::{CallTime, Found};

/// The most batches that are looked through; with more of them in so short a time nobody can tell.
const MAX_BATCHES: usize = 20;
/// The most entries of a list (Aligo, `limit`).
const PAGE: usize = 500;

/// Aligo's clock shows Korean time.
const KOREA: Offset = Offset::constant(9);

/// Aligo's list of batches (`history/list`), the latest first.
#[derive(Debug, Deserialize)]
pub(super) struct Batches {
    #[serde(default)]
    list: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    /// Numbers come as such and as text.
    #[serde(default)]
    mid: Value,
    #[serde(default)]
    msg_count: Value,
    /// When it was taken. Aligo's page calls it `regdate` in its table and `reg_date` in its example.
    #[serde(default, alias = "reg_date")]
    regdate: Option<String>,
}

/// A batch that was taken about the time of the call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) id: String,
    messages: i64,
}

/// A batch's messages (`history/detail`).
#[derive(Debug, Deserialize)]
pub(super) struct Messages {
    #[serde(default)]
    list: Vec<Sent>,
}

#[derive(Debug, Deserialize)]
struct Sent {
    #[serde(default)]
    phone: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    tpl_code: String,
}

/// The days to ask for: from one to another, which may be the same.
pub(super) fn days(call: CallTime) -> (String, String) {
    let day = |at| KOREA.to_datetime(at).strftime("%Y%m%d").to_string();
    (day(call.earliest()), day(call.latest()))
}

/// The batches that a message may be in. `None` when the list does not tell.
pub(super) fn batches(list: Batches, call: CallTime) -> Option<Vec<Batch>> {
    let count = list.list.len();
    let mut of_that_time = Vec::new();
    let mut reaches = count < PAGE;
    for entry in list.list {
        let at: DateTime = entry.regdate?.trim().parse().ok()?;
        let at = at.to_zoned(TimeZone::fixed(KOREA)).ok()?.timestamp();
        reaches |= at < call.earliest();
        if call.may_be(at) {
            let (id, messages) = (number(&entry.mid)?.to_string(), number(&entry.msg_count)?);
            of_that_time.push(Batch { id, messages });
        }
    }
    (reaches && of_that_time.len() <= MAX_BATCHES).then_some(of_that_time)
}

/// Looks for a message in a batch. What is on its way may not be listed yet: then nobody can tell.
pub(super) fn search(batch: &Batch, messages: Messages, receiver: &str, code: &str, text: &str) -> Found {
    let listed = i64::try_from(messages.list.len()).unwrap_or(i64::MAX);
    let digits = |phone: &str| phone.chars().filter(char::is_ascii_digit).collect::<String>();
    // Line breaks come as Aligo's own pages write them.
    let plain = |text: &str| text.replace("\r\n", "\n").trim().to_owned();
    let is_ours = |sent: &Sent| {
        digits(&sent.phone) == receiver && sent.tpl_code == code && plain(&sent.message) == plain(text)
    };
    if messages.list.iter().any(is_ours) {
        return Found::Taken(Outcome::Sent { provider_id: Some(batch.id.clone()) });
    }
    let is_similar =
        messages.list.iter().any(|sent| digits(&sent.phone) == receiver && sent.tpl_code == code);
    if is_similar || listed < batch.messages { Found::Unknown } else { Found::NotTaken }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    fn call() -> CallTime {
        CallTime::declared_at("2026-11-22T15:00:10Z".parse::<Timestamp>().unwrap())
    }

    fn listed(entries: &[(&str, &str)]) -> Option<Vec<Batch>> {
        let entry = |(mid, at): &(&str, &str)| json!({"mid": mid, "msg_count": "2", "reg_date": at});
        let list = json!({"code": 0, "list": entries.iter().map(entry).collect::<Vec<_>>()});
        batches(serde_json::from_value(list).unwrap(), call())
    }

    #[test]
    fn days_and_times_are_those_of_korea() {
        // 30 s before the call it was still the day before there.
        assert_eq!(days(call()), ("20261122".to_owned(), "20261123".to_owned()));
        let batch = |id: &str| Batch { id: id.to_owned(), messages: 2 };
        assert_eq!(listed(&[]), Some(vec![]));
        assert_eq!(
            listed(&[
                ("9", "2026-11-23 00:02:00"),
                ("8", "2026-11-23 00:00:12"),
                ("7", "2026-11-22 23:59:50"),
                ("6", "2026-11-22 23:50:00")
            ]),
            Some(vec![batch("8"), batch("7")])
        );
        assert_eq!(listed(&[("8", "yesterday")]), None);
        assert_eq!(listed(&[("8", "2026-11-23 00:00:12"); MAX_BATCHES + 1]), None);
        assert_eq!(
            listed(&[("8", "2026-11-23 00:02:00"); PAGE]),
            None,
            "what is behind the page is not known"
        );
    }

    #[test]
    fn a_message_is_known_by_its_number_its_code_and_its_text() {
        let batch = Batch { id: "8".to_owned(), messages: 2 };
        let search = |list: Value| {
            let messages = serde_json::from_value(json!({ "list": list })).unwrap();
            search(&batch, messages, "01012345678", "T1", "Order 1\non its way")
        };
        let ours = json!({"phone": "010-1234-5678", "tpl_code": "T1", "message": "Order 1\r\non its way"});
        let other = json!({"phone": "01099999999", "tpl_code": "T1", "message": "Order 1\non its way"});
        let taken = Found::Taken(Outcome::Sent { provider_id: Some("8".to_owned()) });
        assert_eq!(search(json!([other, ours])), taken);
        assert_eq!(search(json!([other, other])), Found::NotTaken);
        assert_eq!(search(json!([other])), Found::Unknown, "one is not listed yet");
        let another = json!({"phone": "01012345678", "tpl_code": "T1", "message": "Order 2"});
        assert_eq!(search(json!([another, other])), Found::Unknown, "it may be ours as Aligo shows it");
    }
}
