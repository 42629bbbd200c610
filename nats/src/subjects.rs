//! Names of everything in JetStream: subjects, streams, buckets and the encoding of ids into them.
//!
//! Nothing else in Peal writes a subject by hand. All subjects of a region start with `peal.<region>.`, so that the
//! regions of one account never overlap and a permission or an export can name a region by its prefix.

use peal_common::channel::{Channel, Priority};
use peal_common::event::Event;
use peal_common::state::Kind;

use crate::topology::INTAKE;

pub use peal_common::id::Region;

/// What a message in a recipient's inbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InboxEntry {
    /// An item that the recipient sees.
    Item,
    /// A mark on an item: read, seen or archived.
    Mark,
}

impl InboxEntry {
    /// The last token of the subject.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            InboxEntry::Item => "item",
            InboxEntry::Mark => "mark",
        }
    }
}

/// The token of an event that belongs to no channel, such as the acceptance of a notification.
pub const NO_CHANNEL: &str = "none";

/// Stands where a priority or the type of an event would.
const AGAIN: &str = "again";

/// How the subjects of key-value buckets begin.
const BUCKETS: &str = "$KV.";

/// The subjects and names of one region.
///
/// Parameters such as `app`, `node` and `recipient` are ids as people wrote them: every method encodes them with
/// [`token`]. Methods whose names end in `_all` give the wildcard that a stream or consumer binds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subjects {
    region: Region,
    prefix: String,
}

impl Subjects {
    /// The subjects of `region`.
    #[must_use]
    pub fn new(region: &Region) -> Self {
        Subjects { region: region.clone(), prefix: format!("peal.{region}") }
    }

    /// The region that these subjects belong to.
    #[must_use]
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The region that a subject of ours belongs to.
    #[must_use]
    pub fn region_of(subject: &str) -> Option<Region> {
        subject.strip_prefix("peal.")?.split('.').next()?.parse().ok()
    }

    /// Accepted notifications of one application: `peal.<r>.intake.<priority>.<app>`.
    #[must_use]
    pub fn intake(&self, priority: Priority, app: &str) -> String {
        format!("{}.intake.{priority}.{}", self.prefix, token(app))
    }

    /// One lane of the intake: `peal.<r>.intake.<priority>.>`.
    #[must_use]
    pub fn intake_lane(&self, priority: Priority) -> String {
        format!("{}.intake.{priority}.>", self.prefix)
    }

    /// The same subject for what may not leave the region: one token more, which no filter of a link lets through.
    #[must_use]
    pub fn pin(subject: String, is_pinned: bool) -> String {
        if is_pinned { subject + ".pinned" } else { subject }
    }

    /// Accepted notifications that may leave the region: `peal.<r>.intake.*.*`.
    #[must_use]
    pub fn intake_unpinned(&self) -> String {
        format!("{}.intake.*.*", self.prefix)
    }

    /// `peal.<r>.intake.>`.
    #[must_use]
    pub fn intake_all(&self) -> String {
        format!("{}.intake.>", self.prefix)
    }

    /// Accepted notifications that were written again: `peal.<r>.intake.again.>`.
    #[must_use]
    pub fn intake_again(&self) -> String {
        format!("{}.intake.{AGAIN}.>", self.prefix)
    }

    /// Where a message of `stream` that the hub missed is written again: `peal.<r>.intake.again.<sequence>` or
    /// `peal.<r>.event.again.none.<sequence>`. It may leave the region, and nobody in it works on it.
    #[must_use]
    pub fn again(&self, stream: &str, sequence: u64) -> String {
        match stream {
            INTAKE => format!("{}.intake.{AGAIN}.{sequence}", self.prefix),
            _ => format!("{}.event.{AGAIN}.{NO_CHANNEL}.{sequence}", self.prefix),
        }
    }

    /// An empty message after another one of `stream`: `peal.<r>.intake.again.after-<sequence>` or
    /// `peal.<r>.event.again.none.after-<sequence>`. Whoever misses what is before it sees so.
    #[must_use]
    pub fn mark(&self, stream: &str, sequence: u64) -> String {
        match stream {
            INTAKE => format!("{}.intake.{AGAIN}.after-{sequence}", self.prefix),
            _ => format!("{}.event.{AGAIN}.{NO_CHANNEL}.after-{sequence}", self.prefix),
        }
    }

    /// Whether a message is there for the hub alone: its region has had it before.
    #[must_use]
    pub fn is_again(subject: &str) -> bool {
        subject.split('.').nth(3) == Some(AGAIN)
    }

    /// Where a message waits for its time: `peal.<r>.schedule.<part>.…`. One schedule per subject: publishing again
    /// replaces it, purging the subject cancels it.
    #[must_use]
    pub fn schedule(&self, parts: &[&str]) -> String {
        format!("{}.schedule.{}", self.prefix, joined(parts))
    }

    /// `peal.<r>.schedule.>`.
    #[must_use]
    pub fn schedule_all(&self) -> String {
        format!("{}.schedule.>", self.prefix)
    }

    /// Where a message arrives when its time has come: `peal.<r>.due.<part>.…`; the target of a schedule.
    #[must_use]
    pub fn due(&self, parts: &[&str]) -> String {
        format!("{}.due.{}", self.prefix, joined(parts))
    }

    /// `peal.<r>.due.>`.
    #[must_use]
    pub fn due_all(&self) -> String {
        format!("{}.due.>", self.prefix)
    }

    /// Deliveries to send: `peal.<r>.work.<channel>.<priority>.<app>`.
    #[must_use]
    pub fn work(&self, channel: Channel, priority: Priority, app: &str) -> String {
        format!("{}.work.{channel}.{priority}.{}", self.prefix, token(app))
    }

    /// One lane of a channel: `peal.<r>.work.<channel>.<priority>.>`.
    #[must_use]
    pub fn work_lane(&self, channel: Channel, priority: Priority) -> String {
        format!("{}.work.{channel}.{priority}.>", self.prefix)
    }

    /// One channel: `peal.<r>.work.<channel>.>`.
    #[must_use]
    pub fn work_channel(&self, channel: Channel) -> String {
        format!("{}.work.{channel}.>", self.prefix)
    }

    /// What happened: `peal.<r>.event.<type>.<channel>.<app>`, with [`NO_CHANNEL`] where there is no channel.
    #[must_use]
    pub fn event(&self, event_type: &str, channel: Option<Channel>, app: &str) -> String {
        let channel = channel.map_or(NO_CHANNEL, Channel::as_str);
        format!("{}.event.{}.{channel}.{}", self.prefix, token(event_type), token(app))
    }

    /// Where an event belongs.
    #[must_use]
    pub fn of_event(&self, event: &Event) -> String {
        Subjects::pin(self.event(event.kind.as_str(), event.channel, event.app.as_str()), event.pinned)
    }

    /// All of one type that happened: `peal.<r>.event.<type>.>`.
    #[must_use]
    pub fn event_of_type(&self, event_type: &str) -> String {
        format!("{}.event.{event_type}.>", self.prefix)
    }

    /// Those of one type on one channel: `peal.<r>.event.<type>.<channel>.>`.
    #[must_use]
    pub fn event_on(&self, event_type: &str, channel: Channel) -> String {
        format!("{}.event.{event_type}.{channel}.>", self.prefix)
    }

    /// What may leave the region of what happened: `peal.<r>.event.*.*.*`.
    #[must_use]
    pub fn event_unpinned(&self) -> String {
        format!("{}.event.*.*.*", self.prefix)
    }

    /// `peal.<r>.event.>`.
    #[must_use]
    pub fn event_all(&self) -> String {
        format!("{}.event.>", self.prefix)
    }

    /// Deliveries that were given up: `peal.<r>.dead.<channel>.<app>`, with [`NO_CHANNEL`] for a notification that
    /// failed before it had a channel.
    #[must_use]
    pub fn dead(&self, channel: Option<Channel>, app: &str) -> String {
        format!("{}.dead.{}.{}", self.prefix, channel.map_or(NO_CHANNEL, Channel::as_str), token(app))
    }

    /// What was given up of one application: `peal.<r>.dead.*.<app>`.
    #[must_use]
    pub fn dead_of(&self, app: &str) -> String {
        format!("{}.dead.*.{}", self.prefix, token(app))
    }

    /// `peal.<r>.dead.>`.
    #[must_use]
    pub fn dead_all(&self) -> String {
        format!("{}.dead.>", self.prefix)
    }

    /// The intent to call a provider: `peal.<r>.attempt.<channel>.<delivery>`.
    #[must_use]
    pub fn attempt(&self, channel: Channel, delivery: &str) -> String {
        format!("{}.attempt.{channel}.{}", self.prefix, token(delivery))
    }

    /// `peal.<r>.attempt.>`.
    #[must_use]
    pub fn attempt_all(&self) -> String {
        format!("{}.attempt.>", self.prefix)
    }

    /// A recipient's in-app inbox: `peal.<r>.inbox.<app>.<recipient>.item` or `….mark`.
    #[must_use]
    pub fn inbox(&self, app: &str, recipient: &str, entry: InboxEntry) -> String {
        format!("{}.inbox.{}.{}.{}", self.prefix, token(app), token(recipient), entry.as_str())
    }

    /// Everything in one recipient's inbox: `peal.<r>.inbox.<app>.<recipient>.*`.
    #[must_use]
    pub fn inbox_of(&self, app: &str, recipient: &str) -> String {
        format!("{}.inbox.{}.{}.*", self.prefix, token(app), token(recipient))
    }

    /// `peal.<r>.inbox.>`.
    #[must_use]
    pub fn inbox_all(&self) -> String {
        format!("{}.inbox.>", self.prefix)
    }

    /// The bucket of a rate limit: `peal.<r>.limit.<name>`.
    #[must_use]
    pub fn limit(&self, name: &str) -> String {
        format!("{}.limit.{name}", self.prefix)
    }

    /// `peal.<r>.limit.>`.
    #[must_use]
    pub fn limit_all(&self) -> String {
        format!("{}.limit.>", self.prefix)
    }

    /// What the sandbox provider recorded: `peal.<r>.sandbox.<channel>`.
    #[must_use]
    pub fn sandbox(&self, channel: Channel) -> String {
        format!("{}.sandbox.{channel}", self.prefix)
    }

    /// `peal.<r>.sandbox.*`.
    #[must_use]
    pub fn sandbox_all(&self) -> String {
        format!("{}.sandbox.*", self.prefix)
    }

    /// Where services hand in notifications over NATS: `peal.<r>.api.<door>`.
    #[must_use]
    pub fn api(&self, door: &str) -> String {
        format!("{}.api.{}", self.prefix, token(door))
    }

    /// Where gateways tell each other which signatures were used: `peal.<r>.nonces`. No stream keeps it.
    #[must_use]
    pub fn nonces(&self) -> String {
        format!("{}.nonces", self.prefix)
    }

    /// The same of all regions, for keys are good in all of them: `peal.*.nonces`.
    #[must_use]
    pub fn nonces_everywhere() -> String {
        "peal.*.nonces".to_owned()
    }

    /// Where a stream of this region or hub hands its messages to the domain `to`, which sources them:
    /// `peal.<r>.link.<stream>.<to>`.
    #[must_use]
    pub fn link(&self, stream: &str, to: &Region) -> String {
        format!("{}.link.{}.{to}", self.prefix, token(stream))
    }

    /// Where a record of any region's state is brought to this region or hub, past what the servers hand on:
    /// `peal.<r>.brought.state_<of>.<key>`, from the record's subject. `None` for another subject.
    #[must_use]
    pub fn brought(&self, record: &str) -> Option<String> {
        Some(format!("{}.brought.{}", self.prefix, record.strip_prefix(BUCKETS)?))
    }

    /// `peal.<r>.brought.>`.
    #[must_use]
    pub fn brought_all(&self) -> String {
        format!("{}.brought.>", self.prefix)
    }

    /// How the stream to which a record is brought gives it its own subject back: the source and the destination of a
    /// subject transform.
    #[must_use]
    pub fn brought_back(&self) -> (String, String) {
        (format!("{}.brought.*.>", self.prefix), format!("{BUCKETS}{{{{wildcard(1)}}}}.>"))
    }

    /// The key-value bucket with what this region wrote: `state_<r>`.
    #[must_use]
    pub fn state_bucket(&self) -> String {
        format!("state_{}", self.region)
    }

    /// The key that a subject of any region's state names: the inverse of [`state`](Self::state).
    #[must_use]
    pub fn state_key(subject: &str) -> Option<&str> {
        Some(subject.strip_prefix("$KV.state_")?.split_once('.')?.1)
    }

    /// The stream behind the bucket: `KV_state_<r>`.
    #[must_use]
    pub fn state_stream(&self) -> String {
        format!("KV_state_{}", self.region)
    }

    /// The subject of one key: `$KV.state_<r>.<key>`. The key is that of a `peal_common::state::RecordKey`, whose parts
    /// are encoded more strictly than subject tokens: key-value clients refuse a colon.
    #[must_use]
    pub fn state(&self, key: &str) -> String {
        format!("$KV.state_{}.{key}", self.region)
    }

    /// The records that may leave the region: `$KV.state_<r>.<kind>.>`, for each such kind.
    #[must_use]
    pub fn state_unpinned(&self) -> Vec<String> {
        let kinds = Kind::ALL.into_iter().filter(|kind| !kind.is_pinned());
        kinds.map(|kind| self.state(&format!("{}.>", kind.as_str()))).collect()
    }

    /// `$KV.state_<r>.>`.
    #[must_use]
    pub fn state_all(&self) -> String {
        format!("$KV.state_{}.>", self.region)
    }
}

fn joined(parts: &[&str]) -> String {
    parts.iter().map(|part| token(part)).collect::<Vec<_>>().join(".")
}

/// What [`token`] makes of the empty text, since a subject token can't be empty. No other text encodes to it: `=` is
/// otherwise always followed by two digits.
const EMPTY: &str = "=";

/// Encodes any text as one subject token, readably and injectively: `A-Z a-z 0-9 _ : -` stay, every other byte of the
/// UTF-8 form becomes `=XX` in upper-case hexadecimal, and the empty text becomes `=`. [`untoken`] is the inverse.
#[must_use]
pub fn token(text: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if text.is_empty() {
        return EMPTY.to_owned();
    }
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-') {
            encoded.push(char::from(byte));
        } else {
            encoded.push('=');
            encoded.push(char::from(HEX[usize::from(byte >> 4)]));
            encoded.push(char::from(HEX[usize::from(byte & 0x0f)]));
        }
    }
    encoded
}

/// A subject token that [`token`] can't have made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the subject token is not an encoded text: expected A-Z a-z 0-9 _ : - and =XX")]
pub struct InvalidToken;

/// The text that [`token`] encoded.
///
/// # Errors
/// [`InvalidToken`] for anything that it doesn't produce, so that one text never has two encodings in use.
pub fn untoken(encoded: &str) -> Result<String, InvalidToken> {
    if encoded == EMPTY {
        return Ok(String::new());
    }
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'=' => {
                let high = hex_digit(rest.next())?;
                let low = hex_digit(rest.next())?;
                bytes.push(high << 4 | low);
            }
            _ => bytes.push(byte),
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| InvalidToken)?;
    if token(&text) == encoded { Ok(text) } else { Err(InvalidToken) }
}

fn hex_digit(byte: Option<u8>) -> Result<u8, InvalidToken> {
    match byte {
        Some(digit @ b'0'..=b'9') => Ok(digit - b'0'),
        Some(digit @ b'A'..=b'F') => Ok(digit - b'A' + 10),
        _ => Err(InvalidToken),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seoul() -> Subjects {
        Subjects::new(&"seoul-1".parse().unwrap())
    }

    #[test]
    fn every_subject_is_spelled_as_documented() {
        let s = seoul();
        let (channel, priority) = (Channel::Sms, Priority::High);
        let expected = [
            (s.intake(priority, "shop"), "peal.seoul-1.intake.high.shop"),
            (s.intake_lane(priority), "peal.seoul-1.intake.high.>"),
            (s.intake_all(), "peal.seoul-1.intake.>"),
            (s.schedule(&["retry", "a.b"]), "peal.seoul-1.schedule.retry.a=2Eb"),
            (s.schedule_all(), "peal.seoul-1.schedule.>"),
            (s.due(&["retry", "x"]), "peal.seoul-1.due.retry.x"),
            (s.due_all(), "peal.seoul-1.due.>"),
            (s.work(channel, priority, "shop"), "peal.seoul-1.work.sms.high.shop"),
            (s.work_lane(channel, priority), "peal.seoul-1.work.sms.high.>"),
            (s.work_channel(channel), "peal.seoul-1.work.sms.>"),
            (s.event("sent", Some(channel), "shop"), "peal.seoul-1.event.sent.sms.shop"),
            (s.event("accepted", None, "shop"), "peal.seoul-1.event.accepted.none.shop"),
            (s.event_all(), "peal.seoul-1.event.>"),
            (s.intake_unpinned(), "peal.seoul-1.intake.*.*"),
            (Subjects::pin(s.intake(priority, "shop"), true), "peal.seoul-1.intake.high.shop.pinned"),
            (s.event_unpinned(), "peal.seoul-1.event.*.*.*"),
            (s.dead(Some(channel), "shop"), "peal.seoul-1.dead.sms.shop"),
            (s.dead_of("shop"), "peal.seoul-1.dead.*.shop"),
            (s.dead_all(), "peal.seoul-1.dead.>"),
            (s.attempt(channel, "node.1"), "peal.seoul-1.attempt.sms.node=2E1"),
            (s.attempt_all(), "peal.seoul-1.attempt.>"),
            (s.inbox("shop", "u@x", InboxEntry::Item), "peal.seoul-1.inbox.shop.u=40x.item"),
            (s.inbox("shop", "u@x", InboxEntry::Mark), "peal.seoul-1.inbox.shop.u=40x.mark"),
            (s.inbox_of("shop", "u@x"), "peal.seoul-1.inbox.shop.u=40x.*"),
            (s.inbox_all(), "peal.seoul-1.inbox.>"),
            (s.sandbox(channel), "peal.seoul-1.sandbox.sms"),
            (s.sandbox_all(), "peal.seoul-1.sandbox.*"),
            (s.nonces(), "peal.seoul-1.nonces"),
            (s.link("EVENTS", s.region()), "peal.seoul-1.link.EVENTS.seoul-1"),
            (s.state_bucket(), "state_seoul-1"),
            (s.state_stream(), "KV_state_seoul-1"),
            (s.state("recipient.shop.a=3Ab"), "$KV.state_seoul-1.recipient.shop.a=3Ab"),
            (s.state_all(), "$KV.state_seoul-1.>"),
            (
                s.brought("$KV.state_eu.recipient.shop.a").unwrap(),
                "peal.seoul-1.brought.state_eu.recipient.shop.a",
            ),
            (s.brought_all(), "peal.seoul-1.brought.>"),
        ];
        for (found, expected) in expected {
            assert_eq!(found, expected);
        }
        assert_eq!(Subjects::region_of(&s.intake_all()), Some(s.region().clone()));
        assert_eq!(Subjects::region_of("peal.E U.intake"), None);
        assert_eq!(Subjects::state_key(&s.state("key.-.pk")), Some("key.-.pk"));
    }

    #[test]
    fn a_token_has_one_spelling() {
        assert_eq!(token(""), "=");
        for wrong in ["", "=4", "=4g", "=2e", "=41", "a.b", "==", "=FF"] {
            assert_eq!(untoken(wrong), Err(InvalidToken), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn tokens_come_back_and_are_single_tokens(text in any::<String>()) {
            let encoded = token(&text);
            prop_assert!(!encoded.is_empty());
            prop_assert!(!encoded.contains(['.', '*', '>', ' ', '\t', '\r', '\n', '\0']));
            prop_assert!(encoded.is_ascii());
            prop_assert_eq!(untoken(&encoded), Ok(text));
        }

        #[test]
        fn what_decodes_was_encoded(encoded in "[A-Za-z0-9_:=.-]{0,12}") {
            if let Ok(text) = untoken(&encoded) {
                prop_assert_eq!(token(&text), encoded);
            }
        }
    }
}
