//! The texts that are registered with Kakao, and whether a message is one of them.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use peal_common::outcome::Outcome;
use peal_common::template::alimtalk::{self, Part};
use peal_common::template::{Button, Rendered};

use super::request::code_of;

/// How long what is known of them counts. A text that is known can't change: it would have to be approved anew.
const FRESH: Duration = Duration::from_secs(10 * 60);
/// How long one that was not among them is not looked for again.
const MISSED: Duration = Duration::from_secs(30);
/// How much of a text is shown where a message differs from it, in characters.
const SHOWN: usize = 40;

/// Aligo's list of them (`template/list`).
#[derive(Debug, Deserialize)]
pub(super) struct List {
    #[serde(default)]
    list: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    templt_code: String,
    #[serde(default)]
    templt_content: String,
    #[serde(default)]
    templt_title: Option<String>,
    /// `APR` once it is approved.
    #[serde(default)]
    insp_status: String,
    /// `S` when it was stopped.
    #[serde(default)]
    status: String,
    #[serde(default)]
    buttons: Value,
}

/// A registered text.
#[derive(Debug)]
pub(super) struct Registered {
    /// Why nothing of it can be sent.
    refused: Option<String>,
    title: Option<Pattern>,
    text: Pattern,
    buttons: Vec<RegisteredButton>,
}

#[derive(Debug)]
struct RegisteredButton {
    kind: String,
    name: Pattern,
    /// Links of phones and of computers, of iOS and of Android.
    links: [Option<Pattern>; 4],
}

/// A text with places for values.
#[derive(Debug)]
struct Pattern(Vec<Part>);

/// Where a message leaves what is registered.
#[derive(Debug, PartialEq, Eq)]
struct Mismatch {
    line: usize,
    expected: String,
}

impl fmt::Display for Mismatch {
    /// Shows what is registered, never what the message says: that may be personal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: \"{}\" is registered there", self.line, self.expected)
    }
}

impl Pattern {
    fn parse(source: &str) -> Self {
        let source = unix_lines(source);
        // What Peal would not take for places stands there as it is.
        Pattern(alimtalk::parse(&source).unwrap_or_else(|_| vec![Part::Text(source)]))
    }

    /// Finds the places for values in `text`. Earliest finds are enough: a later one leaves less text for what follows.
    fn check(&self, text: &str) -> Result<(), Mismatch> {
        let text = unix_lines(text);
        let (mut rest, mut is_open) = (text.as_str(), false);
        let line = |rest: &str| text[..text.len() - rest.len()].matches('\n').count() + 1;
        let mismatch = |rest: &str, expected: &str| Mismatch {
            line: line(rest),
            expected: expected.lines().next().unwrap_or_default().chars().take(SHOWN).collect(),
        };
        for (at, part) in self.0.iter().enumerate() {
            let Part::Text(literal) = part else {
                is_open = true;
                continue;
            };
            let is_last = at + 1 == self.0.len();
            let found = match (is_open, is_last) {
                (false, _) => rest.starts_with(literal.as_str()).then_some(0),
                (true, true) => rest.ends_with(literal.as_str()).then(|| rest.len() - literal.len()),
                (true, false) => rest.find(literal.as_str()),
            };
            let Some(found) = found else {
                let same = literal.char_indices().zip(rest.chars()).take_while(|((_, a), b)| a == b).count();
                let same = if is_open { 0 } else { same };
                let from = literal.char_indices().nth(same).map_or(literal.len(), |(at, _)| at);
                let read = rest.char_indices().nth(same).map_or(rest.len(), |(at, _)| at);
                return Err(mismatch(&rest[read..], &literal[from..]));
            };
            rest = &rest[found + literal.len()..];
            is_open = false;
        }
        if is_open || rest.is_empty() { Ok(()) } else { Err(mismatch(rest, "(the end)")) }
    }
}

fn unix_lines(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

impl Registered {
    fn new(entry: &Entry) -> Self {
        let refused = match (entry.insp_status.as_str(), entry.status.as_str()) {
            (_, "S") => Some("template_stopped".to_owned()),
            ("APR" | "", _) => None,
            (status, _) => Some(format!("template_not_approved: {}", &word(status))),
        };
        let text_of = |value: &Value| value.as_str().map(str::to_owned);
        let button = |value: &Value| {
            let field = |names: [&str; 2]| {
                let found = names.iter().find_map(|name| text_of(&value[*name]));
                found.filter(|found| !found.is_empty()).map(|found| Pattern::parse(&found))
            };
            RegisteredButton {
                kind: text_of(&value["linkType"]).unwrap_or_default(),
                name: Pattern::parse(value["name"].as_str().unwrap_or_default()),
                links: [["linkMo", "linkM"], ["linkPc", "linkP"], ["linkIos", "linkI"], ["linkAnd", "linkA"]]
                    .map(field),
            }
        };
        // Some answers have it as JSON in a string.
        let buttons = match &entry.buttons {
            Value::String(text) => serde_json::from_str(text).unwrap_or_default(),
            other => other.clone(),
        };
        let title = entry.templt_title.as_deref().filter(|title| !title.is_empty());
        Registered {
            refused,
            title: title.map(Pattern::parse),
            text: Pattern::parse(&entry.templt_content),
            buttons: buttons.as_array().map_or(&[][..], Vec::as_slice).iter().map(button).collect(),
        }
    }

    /// Why a message is not to be sent: the reason of its event, which shows where it differs.
    pub(super) fn difference(&self, rendered: &Rendered) -> Option<String> {
        if let Some(refused) = &self.refused {
            return Some(refused.clone());
        }
        if let Err(mismatch) = self.text.check(&rendered.text) {
            return Some(format!("template_differs: {mismatch}"));
        }
        let title = rendered.title.as_deref().unwrap_or_default();
        if let Some(Err(mismatch)) = self.title.as_ref().map(|pattern| pattern.check(title)) {
            return Some(format!("template_differs: title, {mismatch}"));
        }
        if self.buttons.len() != rendered.buttons.len() {
            let (own, found) = (self.buttons.len(), rendered.buttons.len());
            return Some(format!("template_differs: {own} buttons are registered, the message has {found}"));
        }
        let pairs = self.buttons.iter().zip(&rendered.buttons).enumerate();
        let wrong = pairs.filter_map(|(at, (own, button))| Some((at + 1, own.difference(button)?))).next();
        wrong.map(|(at, wrong)| format!("template_differs: button {at}, {wrong}"))
    }
}

impl RegisteredButton {
    fn difference(&self, button: &Button) -> Option<String> {
        if self.kind != code_of(button.kind) {
            return Some(format!("{} is registered there", word(&self.kind)));
        }
        if let Err(mismatch) = self.name.check(&button.name) {
            return Some(format!("name, {mismatch}"));
        }
        let links = [&button.url, &button.desktop_url, &button.ios_url, &button.android_url];
        let names = ["url", "desktop_url", "ios_url", "android_url"];
        for ((own, link), name) in self.links.iter().zip(links).zip(names) {
            match (own, link) {
                (Some(own), link) => {
                    if let Err(mismatch) = own.check(link.as_deref().unwrap_or_default()) {
                        return Some(format!("{name}, {mismatch}"));
                    }
                }
                (None, Some(_)) => return Some(format!("no {name} is registered there")),
                (None, None) => {}
            }
        }
        None
    }
}

/// A status or kind as it came, if it can be one.
fn word(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).take(8).collect()
}

/// What is known of the registered texts.
#[derive(Default)]
pub(super) struct Texts {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    texts: HashMap<String, Arc<Registered>>,
    read_at: Option<Instant>,
    /// When Aligo could not tell last, and what it said instead.
    failed: Option<(Instant, Outcome)>,
}

impl Known {
    fn is_older_than(&self, limit: Duration) -> bool {
        self.read_at.is_none_or(|at| at.elapsed() > limit)
    }
}

impl Texts {
    /// The text with this code; `None` when none is registered. `read` asks Aligo, at most once at a time.
    ///
    /// # Errors
    /// The outcome, when Aligo can't tell and nothing is known from before.
    pub(super) async fn find(
        &self,
        code: &str,
        read: impl AsyncFnOnce() -> Result<List, Outcome>,
    ) -> Result<Option<Arc<Registered>>, Outcome> {
        let came = Instant::now();
        let mut known = self.known.lock().await;
        let found = known.texts.get(code).cloned();
        let is_due = known.is_older_than(if found.is_some() { FRESH } else { MISSED });
        if !is_due {
            return Ok(found);
        }
        // Whoever waited for an answer that did not come need not ask, each in turn. Nor is a text asked for again and again
        // that is known.
        if let Some((at, outcome)) = &known.failed
            && (*at >= came || (found.is_some() && at.elapsed() < MISSED))
        {
            return found.map(Some).ok_or_else(|| outcome.clone());
        }
        match (read().await, found) {
            (Ok(list), _) => {
                let texts = list
                    .list
                    .iter()
                    .map(|entry| (entry.templt_code.clone(), Arc::new(Registered::new(entry))));
                *known = Known { texts: texts.collect(), read_at: Some(Instant::now()), failed: None };
                Ok(known.texts.get(code).cloned())
            }
            (Err(outcome), found) => {
                known.failed = Some((Instant::now(), outcome.clone()));
                found.map(Some).ok_or(outcome)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn registered(entry: &Value) -> Registered {
        Registered::new(&serde_json::from_value(entry.clone()).unwrap())
    }

    fn message(text: &str) -> Rendered {
        Rendered { text: text.to_owned(), ..Rendered::default() }
    }

    fn entry() -> Value {
        json!({
            "templtCode": "T1", "inspStatus": "APR", "status": "A",
            "templtContent": "[가게] #{name}님,\r\n주문 #{order}이(가) 출발했습니다.\r\n감사합니다.",
            "buttons": [{"name": "배송 조회", "linkType": "WL", "linkMo": "https://m.example.com/#{order}", "linkPc": ""}]
        })
    }

    fn button(url: &str) -> Button {
        Button { name: "배송 조회".to_owned(), url: Some(url.to_owned()), ..Button::default() }
    }

    const GOOD: &str = "[가게] 김님님,\n주문 1042\n그리고 1043이(가) 출발했습니다.\n감사합니다.";

    #[test]
    fn a_message_may_differ_in_its_values_alone() {
        let registered = registered(&entry());
        let with =
            |text: &str, buttons: Vec<Button>| registered.difference(&Rendered { buttons, ..message(text) });
        let buttons = || vec![button("https://m.example.com/1042")];
        assert_eq!(with(GOOD, buttons()), None);
        for (text, differs) in [
            (
                "[가게] 김님,\n주문 1이(가) 출발했습니다. \n감사합니다.",
                "line 2: \"이(가) 출발했습니다.\" is registered there",
            ),
            (
                "[상점] 김님,\n주문 1이(가) 출발했습니다.\n감사합니다.",
                "line 1: \"가게] \" is registered there",
            ),
            (
                "[가게] 김님,\n주문 1이(가) 출발했습니다.\n감사합니다.\n!",
                "line 2: \"이(가) 출발했습니다.\" is registered there",
            ),
            ("", "line 1: \"[가게] \" is registered there"),
        ] {
            assert_eq!(with(text, buttons()), Some(format!("template_differs: {differs}")), "{text}");
        }
        let of = |buttons| with(GOOD, buttons).unwrap();
        assert_eq!(of(vec![]), "template_differs: 1 buttons are registered, the message has 0");
        let other = Button { name: "조회".to_owned(), ..button("https://m.example.com/1") };
        assert_eq!(
            of(vec![other]),
            "template_differs: button 1, name, line 1: \"배송 조회\" is registered there"
        );
        assert_eq!(
            of(vec![button("https://evil.example.com/1")]),
            "template_differs: button 1, url, line 1: \"m.example.com/\" is registered there"
        );
        let desktop =
            Button { desktop_url: Some("https://x".to_owned()), ..button("https://m.example.com/1") };
        assert_eq!(of(vec![desktop]), "template_differs: button 1, no desktop_url is registered there");
        let kind =
            Button { kind: peal_common::template::ButtonKind::Ds, ..button("https://m.example.com/1") };
        assert_eq!(of(vec![kind]), "template_differs: button 1, WL is registered there");
    }

    #[test]
    fn what_is_not_approved_is_not_sent() {
        for (status, state, why) in [
            ("REJ", "R", Some("template_not_approved: REJ")),
            ("REQ", "R", Some("template_not_approved: REQ")),
            ("APR", "S", Some("template_stopped")),
            ("APR", "R", None),
        ] {
            let text =
                json!({"templtCode": "T1", "inspStatus": status, "status": state, "templtContent": "x"});
            assert_eq!(registered(&text).difference(&message("x")).as_deref(), why);
        }
    }

    #[test]
    fn a_title_is_compared_where_one_is_registered() {
        let text =
            json!({"templtCode": "T1", "templtContent": "x", "templtTitle": "No. #{n}", "buttons": "[]"});
        let with = |title: Option<&str>| {
            let title = title.map(str::to_owned);
            registered(&text).difference(&Rendered { title, ..message("x") })
        };
        assert_eq!(with(Some("No. 7")), None);
        assert!(with(None).is_some() && with(Some("Nr. 7")).is_some());
    }

    proptest! {
        #[test]
        fn what_is_rendered_from_a_text_is_found_in_it(
            literals in prop::collection::vec("[가나ab \\n]{0,6}", 1..5),
            values in prop::collection::vec("[가나ab \\n]{0,6}", 4),
        ) {
            let source = literals.join("#{v}");
            let text: String = literals.iter().enumerate().map(|(at, literal)| {
                if at == 0 { literal.clone() } else { format!("{}{literal}", values[at - 1]) }
            }).collect();
            prop_assert_eq!(Pattern::parse(&source).check(&text), Ok(()));
        }
    }
}
