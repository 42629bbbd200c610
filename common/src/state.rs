//! State as every region must be able to merge it: records of facets, each facet a last-writer-wins register.
//!
//! A record is what one key of the state stream holds. Merging two versions of a record is commutative, associative and
//! idempotent, so the order and the repetition of writes don't matter. Two rules go beyond "the later stamp wins":
//!
//! - **Erasure wins.** Deleting a record raises its *era*. Facets written by somebody who had not seen the erasure
//!   belong to an older era and are dropped, however late their stamps are.
//! - **A denial wins.** A guarded facet that was set to `false` stays denied until somebody who has *seen* that denial
//!   sets it to something else. An opt-out is such a facet. The last denial of each region is kept for itself: whoever
//!   lifts one of them may know nothing of the others.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Stamp;
use crate::facet::Facet;
use crate::id::{AppId, AppKey};

/// The version of the record format that this code writes.
pub const RECORD_VERSION: u8 = 1;

/// What a record is about. The name is the first token of its key in the state stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A recipient: profile, contacts, preferences, data key.
    Recipient,
    /// A recipient who is pinned to the region that has the record: it never leaves that.
    PinnedRecipient,
    /// A category.
    Category,
    /// The current version of a template.
    Template,
    /// One version of a template, kept for notifications that were accepted with it.
    TemplateVersion,
    /// An API key.
    Key,
    /// A notification that was cancelled.
    Cancellation,
    /// The same of a notification that is pinned.
    PinnedCancellation,
    /// An address that nothing is sent to.
    Suppression,
    /// The same of an address of somebody who is pinned.
    PinnedSuppression,
    /// An app's own account at a provider, sealed.
    Account,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 11] = [
        Kind::Recipient,
        Kind::PinnedRecipient,
        Kind::Category,
        Kind::Template,
        Kind::TemplateVersion,
        Kind::Key,
        Kind::Cancellation,
        Kind::PinnedCancellation,
        Kind::Suppression,
        Kind::PinnedSuppression,
        Kind::Account,
    ];

    /// Whether records of this kind stay in their region.
    #[must_use]
    pub const fn is_pinned(self) -> bool {
        matches!(self, Kind::PinnedRecipient | Kind::PinnedCancellation | Kind::PinnedSuppression)
    }

    /// The first token of the key.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Recipient => "recipient",
            Kind::PinnedRecipient => "pinned_recipient",
            Kind::Category => "category",
            Kind::Template => "template",
            Kind::TemplateVersion => "template_version",
            Kind::Key => "key",
            Kind::Cancellation => "cancellation",
            Kind::PinnedCancellation => "pinned_cancellation",
            Kind::Suppression => "suppression",
            Kind::PinnedSuppression => "pinned_suppression",
            Kind::Account => "account",
        }
    }
}

/// Names a record. The text form is `<kind>.<app>.<id>`, with bytes of the id that have a meaning in a subject written
/// as `=XX`; it is both the key in the bucket and the key in the mirror.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKey(Box<str>);

impl RecordKey {
    /// The key of an object of an app.
    #[must_use]
    pub fn new(kind: Kind, app: &AppId, id: &str) -> Self {
        let mut key = prefix(kind, app.as_str(), id.len());
        push_token(&mut key, id);
        RecordKey(key.into())
    }

    /// The key of an API key, which is looked up before its app is known.
    #[must_use]
    pub fn api_key(key: &AppKey) -> Self {
        RecordKey(format!("{}.-.{}", Kind::Key.as_str(), token(key.as_str())).into())
    }

    /// The kind that the key names, `None` when the text is not a key of ours.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        let name = self.0.split('.').next()?;
        Kind::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// The prefix that all records of a kind in one app share.
    #[must_use]
    pub fn prefix(kind: Kind, app: &AppId) -> String {
        prefix(kind, app.as_str(), 0)
    }

    /// The prefix that all records of a kind share.
    #[must_use]
    pub fn prefix_of_all(kind: Kind) -> String {
        format!("{}.", kind.as_str())
    }

    /// The prefix of all API keys.
    #[must_use]
    pub fn api_key_prefix() -> String {
        format!("{}.-.", Kind::Key.as_str())
    }

    /// Takes a key as it stands in a stream or a file.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        RecordKey(text.into())
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The app that the object belongs to. `None` when the text is not a key of ours; keys of API keys have `-` here.
    #[must_use]
    pub fn app(&self) -> Option<AppId> {
        untoken(self.0.split('.').nth(1)?)?.parse().ok()
    }

    /// The object's id, as its owner wrote it. `None` when the text is not a key of ours.
    #[must_use]
    pub fn id(&self) -> Option<String> {
        untoken(self.0.splitn(3, '.').nth(2)?)
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Encodes any text as one token of a key: `[A-Za-z0-9_-]` stays, every other byte becomes `=XX`. Key-value clients, the
/// `nats` command among them, take no other characters (a colon, for example, they refuse).
#[must_use]
pub fn token(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    push_token(&mut out, text);
    out
}

fn push_token(out: &mut String, text: &str) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') {
            out.push(char::from(byte));
        } else {
            out.extend(['=', digit(byte >> 4), digit(byte & 0xf)]);
        }
    }
}

/// What all keys of a kind in one app begin with, with room for the rest.
fn prefix(kind: Kind, app: &str, room: usize) -> String {
    let kind = kind.as_str();
    let mut key = String::with_capacity(kind.len() + app.len() + room + 2);
    key.push_str(kind);
    key.push('.');
    push_token(&mut key, app);
    key.push('.');
    key
}

/// The inverse of [`token`]. `None` when the text was not made by it.
#[must_use]
pub fn untoken(token: &str) -> Option<String> {
    let mut out = Vec::with_capacity(token.len());
    let mut rest = token.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'=' {
            let hex = std::str::from_utf8(tail.get(..2)?).ok()?;
            out.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &tail[2..];
        } else {
            out.push(first);
            rest = tail;
        }
    }
    String::from_utf8(out).ok()
}

/// The content of one key: facets by name, and the era that erasures raise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The format's version; see [`RECORD_VERSION`].
    pub v: u8,
    /// The stamp of the last erasure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub era: Option<Stamp>,
    /// The registers. None at all means that the object does not exist.
    #[serde(default)]
    pub facets: BTreeMap<String, Facet>,
    /// After this time, in milliseconds since the Unix epoch, the record has no meaning any more and may be dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

impl Default for Record {
    fn default() -> Self {
        Record { v: RECORD_VERSION, era: None, facets: BTreeMap::new(), expires_ms: None }
    }
}

impl Record {
    /// Whether the object exists: it has at least one facet that is set.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.facets.values().any(|facet| !facet.value.is_null())
    }

    /// The value of a facet; `None` when it is not set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.facets.get(name).map(|facet| &facet.value).filter(|value| !value.is_null())
    }

    /// The latest stamp in the record: its revision.
    #[must_use]
    pub fn latest(&self) -> Option<&Stamp> {
        self.facets.values().map(|facet| &facet.stamp).chain(&self.era).max()
    }

    /// Sets a facet.
    pub fn set(&mut self, name: &str, value: Value, stamp: &Stamp) {
        self.facets.insert(name.to_owned(), Facet::new(value, stamp));
    }

    /// The value of a guarded facet: `Some(false)` while a denial stands.
    #[must_use]
    pub fn allowed(&self, name: &str) -> Option<bool> {
        let facet = self.facets.get(name)?;
        if facet.is_denied() { Some(false) } else { facet.value.as_bool() }
    }

    /// Sets a guarded facet. `Some(false)` denies; anything else lifts the denials that this record shows.
    pub fn set_guarded(&mut self, name: &str, value: Option<bool>, stamp: &Stamp) {
        let facet = Facet::guarded(value, stamp, self.facets.remove(name));
        self.facets.insert(name.to_owned(), facet);
    }

    /// Erases the record: every facet goes, and whatever was written without knowing of it goes when it arrives.
    pub fn erase(&mut self, stamp: &Stamp) {
        self.era = self.era.take().max(Some(stamp.clone()));
        self.facets.clear();
        self.expires_ms = None;
    }

    /// Takes in another version of the same record.
    pub fn merge(&mut self, other: Record) {
        if other.era < self.era {
            return;
        }
        if other.era > self.era {
            *self = other;
            return;
        }
        self.v = self.v.max(other.v);
        self.expires_ms = self.expires_ms.max(other.expires_ms);
        for (name, facet) in other.facets {
            match self.facets.get_mut(&name) {
                Some(own) => own.merge(facet),
                None => {
                    self.facets.insert(name, facet);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn stamp(ms: u64, region: &str) -> Stamp {
        Stamp { ms, counter: 0, region: region.parse().unwrap() }
    }

    fn merged(a: &Record, b: &Record) -> Record {
        let mut out = a.clone();
        out.merge(b.clone());
        out
    }

    /// A history of writes in three regions that sometimes hear of one another.
    fn versions() -> impl Strategy<Value = Vec<Record>> {
        let step = (0usize..3, 0usize..3, 0u8..6, 0u64..40);
        proptest::collection::vec(step, 1..25).prop_map(|steps| {
            let names = ["eu", "us", "ap"];
            let mut replicas = vec![Record::default(); 3];
            let mut all = Vec::new();
            for (at, from, action, ms) in steps {
                let stamp = stamp(ms, names[at]);
                match action {
                    0 => replicas[at].set("profile", Value::from(ms), &stamp),
                    1 => replicas[at].set_guarded("marketing", Some(false), &stamp),
                    2 => replicas[at].set_guarded("marketing", Some(true), &stamp),
                    3 => replicas[at].erase(&stamp),
                    _ => {
                        let other = replicas[from].clone();
                        replicas[at].merge(other);
                    }
                }
                all.push(replicas[at].clone());
            }
            all
        })
    }

    proptest! {
        #[test]
        fn merging_is_commutative_associative_and_idempotent(all in versions()) {
            for a in &all {
                prop_assert_eq!(&merged(a, a), a);
                for b in &all {
                    prop_assert_eq!(merged(a, b), merged(b, a));
                    for c in &all {
                        prop_assert_eq!(merged(&merged(a, b), c), merged(a, &merged(b, c)));
                    }
                }
            }
        }

        /// Each region's clock goes its own way.
        #[test]
        fn a_denial_stands_until_somebody_who_has_seen_it_lifts_it(
            steps in proptest::collection::vec((0usize..3, 0usize..3, 0u8..6), 1..40)
        ) {
            let mut replicas = vec![(Record::default(), BTreeSet::new()); 3];
            let (mut denials, mut lifted) = (BTreeSet::new(), BTreeSet::new());
            for (step, (at, from, action)) in steps.into_iter().enumerate() {
                let stamp = stamp([0, 1_000, 20][at] + step as u64, ["eu", "us", "ap"][at]);
                let other = replicas[from].clone();
                let (record, seen) = &mut replicas[at];
                match action {
                    0 => {
                        record.set_guarded("marketing", Some(false), &stamp);
                        seen.insert(step);
                        denials.insert(step);
                    }
                    1 => {
                        record.set_guarded("marketing", Some(true), &stamp);
                        lifted.extend(seen.iter().copied());
                    }
                    _ => {
                        record.merge(other.0);
                        seen.extend(other.1);
                    }
                }
            }
            let all = replicas.iter().fold(Record::default(), |all, (record, _)| merged(&all, record));
            let is_denied = all.facets.get("marketing").is_some_and(Facet::is_denied);
            prop_assert_eq!(is_denied, !denials.is_subset(&lifted));
        }

        #[test]
        fn tokens_are_injective_and_safe_in_subjects(text in any::<String>()) {
            let token = token(&text);
            prop_assert!(!token.contains(['.', '*', '>', ' ', '\r', '\n', '\0', '@', '/', ':']));
            prop_assert_eq!(untoken(&token), Some(text));
        }
    }

    #[test]
    fn an_opt_out_beats_a_later_opt_in_that_did_not_know_of_it() {
        let mut here = Record::default();
        here.set_guarded("marketing", Some(true), &stamp(1, "eu"));
        let mut there = here.clone();
        there.set_guarded("marketing", Some(false), &stamp(2, "us"));
        here.set_guarded("marketing", Some(true), &stamp(3, "eu"));
        assert_eq!(merged(&here, &there).allowed("marketing"), Some(false));

        let mut knowing = merged(&here, &there);
        knowing.set_guarded("marketing", Some(true), &stamp(4, "eu"));
        assert_eq!(merged(&knowing, &there).allowed("marketing"), Some(true));
    }

    #[test]
    fn an_opt_out_outlives_the_lifting_of_another_one() {
        let mut here = Record::default();
        let mut there = here.clone();
        there.set_guarded("marketing", Some(false), &stamp(1, "us"));
        here.set_guarded("marketing", Some(false), &stamp(2, "eu"));
        here.set_guarded("marketing", Some(true), &stamp(3, "eu"));
        assert_eq!(here.allowed("marketing"), Some(true));
        let both = merged(&here, &there);
        assert_eq!(both.allowed("marketing"), Some(false), "nobody who knew of it has lifted that of us");
        let text = serde_json::to_value(&both).unwrap();
        assert_eq!(
            text["facets"]["marketing"],
            serde_json::json!({
                "s": "3.0.eu", "v": true, "d": "2.0.eu", "other_d": ["1.0.us"], "c": "2.0.eu", "other_c": []
            })
        );
        assert_eq!(serde_json::from_value::<Record>(text).unwrap(), both);
    }

    #[test]
    fn what_an_earlier_build_lifted_stays_lifted() {
        let read = |facet: Value| {
            let text = serde_json::json!({"v": 1, "facets": {"marketing": facet}});
            serde_json::from_value::<Record>(text).unwrap()
        };
        // eu refuses; us lifts that, refuses, and lifts again.
        let eu = read(serde_json::json!({"s": "3.0.eu", "v": false, "d": "3.0.eu"}));
        let us = read(serde_json::json!({"s": "6.0.us", "v": true, "d": "5.0.us", "c": "5.0.us"}));
        let mut both = merged(&us, &eu);
        assert_eq!(both.allowed("marketing"), Some(true));
        assert_eq!(serde_json::to_value(&us).unwrap()["facets"]["marketing"]["c"], "5.0.us");
        both.set_guarded("marketing", Some(false), &stamp(7, "eu"));
        let lifted_in_us = {
            let mut lifted = both.clone();
            lifted.set_guarded("marketing", Some(true), &stamp(8, "us"));
            lifted
        };
        both.set_guarded("marketing", Some(false), &stamp(9, "eu"));
        assert_eq!(lifted_in_us.allowed("marketing"), Some(true));
        assert_eq!(merged(&lifted_in_us, &both).allowed("marketing"), Some(false));
        let text = serde_json::to_value(&lifted_in_us).unwrap();
        assert_eq!(serde_json::from_value::<Record>(text).unwrap(), lifted_in_us);
    }

    #[test]
    fn an_erasure_beats_a_later_write_that_did_not_know_of_it() {
        let mut here = Record::default();
        here.set("profile", Value::from("a"), &stamp(1, "eu"));
        let mut there = here.clone();
        here.erase(&stamp(2, "eu"));
        there.set("profile", Value::from("b"), &stamp(9, "us"));
        let after = merged(&there, &here);
        assert!(!after.exists());

        let mut again = after.clone();
        again.set("profile", Value::from("c"), &stamp(10, "eu"));
        assert_eq!(merged(&again, &there).get("profile"), Some(&Value::from("c")));
    }

    #[test]
    fn keys_name_the_kind_the_app_and_the_id() {
        let app: AppId = "shop".parse().unwrap();
        let key = RecordKey::new(Kind::Recipient, &app, "u.42@x");
        assert_eq!(key.as_str(), "recipient.shop.u=2E42=40x");
        assert_eq!(key.id().as_deref(), Some("u.42@x"));
        assert_eq!(key.app(), Some(app.clone()));
        assert!(key.as_str().starts_with(&RecordKey::prefix(Kind::Recipient, &app)));
    }
}
