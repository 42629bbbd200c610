//! What travels in the streams: versioned JSON, readable with the stock `nats` command.
//!
//! Every message carries its version `v`. A reader ignores fields that it does not know and refuses versions that it
//! does not know. Golden files of every version ever shipped are in `common/golden`. Messages name recipients and
//! contacts, never addresses.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::attachment::{AttachmentSummary, Attachments};
use crate::channel::{Channel, ChannelChoice, Priority};
use crate::event::PlannedDelivery;
use crate::fallback::Fallback;
use crate::id::{AppId, CategoryId, DeliveryId, NotificationId, RecipientId, Region, TemplateId};
use crate::template::Content;

/// The version that this code writes, unless a message says what only a later one can say: a process of an older version
/// then leaves it to the newer ones beside it.
pub const ENVELOPE_VERSION: u8 = 1;
/// The version of an [`Intake`] that was taken over from another region, and of whatever belongs to a notification that is
/// pinned: who does not know of these would do the wrong thing.
pub const EXTENDED_VERSION: u8 = 2;
/// The version of a [`Look`] and of a [`FallbackCheck`]: who does not know them would take them for a delivery.
pub const LATER_VERSION: u8 = 3;
/// The version of whatever holds attachments: who does not know of them would send the e-mail without.
pub const ATTACHED_VERSION: u8 = 4;
/// What a message usually takes, give or take a few.
const USUAL_BYTES: usize = 768;

/// Why a message is none of ours.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or not of the expected shape.
    #[error("not a message of this stream")]
    Shape(#[source] serde_json::Error),
    /// Written by a newer version of Peal.
    #[error("envelope version {0} is not known to this version of Peal")]
    Version(u8),
}

/// A message that stands in a stream.
pub trait Envelope: Serialize + serde::de::DeserializeOwned {
    /// The versions that are understood. In a stream that holds messages of several types, a version tells which it is.
    const KNOWN: &'static [u8] = &[ENVELOPE_VERSION];

    /// The message's version.
    fn version(&self) -> u8;

    /// The message as bytes.
    ///
    /// # Errors
    /// When a value can't be written as JSON, which no value of these types does.
    fn encode(&self) -> serde_json::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(USUAL_BYTES);
        serde_json::to_writer(&mut bytes, self)?;
        Ok(bytes)
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are no such message, or of a version that is not known.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let message: Self = serde_json::from_slice(bytes).map_err(|error| {
            #[derive(Deserialize)]
            struct Versioned {
                v: u8,
            }
            match serde_json::from_slice::<Versioned>(bytes) {
                Ok(found) if !Self::KNOWN.contains(&found.v) => DecodeError::Version(found.v),
                _ => DecodeError::Shape(error),
            }
        })?;
        match message.version() {
            version if Self::KNOWN.contains(&version) => Ok(message),
            other => Err(DecodeError::Version(other)),
        }
    }
}

/// What a notification says: a version of a template with its data, or the text itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Text {
    /// The version of the template that was current when the notification was accepted.
    Template {
        /// The template.
        id: TemplateId,
        /// Its version.
        version: u32,
        /// Its variables.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        data: Map<String, Value>,
    },
    /// The text itself.
    Content(Content),
}

/// The part of a notification that every delivery of it needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// The app that it belongs to.
    pub app: AppId,
    /// Its id.
    pub id: NotificationId,
    /// Its category.
    pub category: CategoryId,
    /// Its priority, defaults applied.
    pub priority: Priority,
    /// When the gateway took it.
    pub accepted_at: Timestamp,
    /// When it is of no use any more.
    pub expires_at: Timestamp,
    /// What it says.
    pub text: Text,
    /// The channels that the notification asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<Vec<ChannelChoice>>,
    /// Replaces an earlier message of the same key on the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collapse_key: Option<String>,
    /// The service's own words.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// Whether nothing of it may leave the region that accepted it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// Another channel when one failed or nobody reacted in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// The files that its e-mails bring along.
    #[serde(default, skip_serializing_if = "Attachments::is_empty")]
    pub attachments: Attachments,
}

impl Accepted {
    /// The version of messages that hold it.
    #[must_use]
    pub fn version(&self) -> u8 {
        match (self.attachments.is_empty(), self.pinned) {
            (false, _) => ATTACHED_VERSION,
            (true, true) => EXTENDED_VERSION,
            (true, false) => ENVELOPE_VERSION,
        }
    }

    /// What a delivery on `channel` needs of it: attachments are for e-mails alone, and would take room in the other
    /// channels' queues for nothing.
    #[must_use]
    pub fn for_channel(&self, channel: Channel) -> Self {
        match channel {
            Channel::Email => self.clone(),
            _ => Accepted { attachments: Attachments::default(), ..self.clone() },
        }
    }
}

/// One target after the gateway looked it up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedTarget {
    /// The recipient.
    pub recipient: RecipientId,
    /// Only this contact, for an inline address: its channel and blind index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<ContactRef>,
}

/// Names a contact without saying its address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactRef {
    /// The channel.
    pub channel: Channel,
    /// The blind index of its address.
    pub index: String,
}

/// INTAKE: a notification that was accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intake {
    /// The envelope's version.
    pub v: u8,
    /// Where it was accepted.
    pub region: Region,
    /// The position in the region's state stream that the decision must have seen.
    pub state_seq: u64,
    /// SHA-256 of the request's body, hexadecimal: tells a repetition from another request with the same id.
    pub fingerprint: String,
    /// When to send it, if later than at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_at: Option<Timestamp>,
    /// Who is to get it.
    pub targets: Vec<ResolvedTarget>,
    /// What it is.
    pub notification: Accepted,
    /// What was known of it where it comes from, when it was taken over from another region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takeover: Option<Takeover>,
}

/// What was known of a notification in the region that it was taken over from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Takeover {
    /// The region.
    pub from: Region,
    /// The deliveries that were planned there and have not ended. The targets beside them were not decided yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deliveries: Vec<TakenDelivery>,
    /// Whether the targets may have been decided, and delivered to, without a sign of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ambiguous: bool,
    /// What is to be done with deliveries that may have been made.
    pub when_ambiguous: WhenAmbiguous,
}

/// A delivery that another region planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenDelivery {
    /// What was planned.
    #[serde(flatten)]
    pub planned: PlannedDelivery,
    /// How often it was begun anew: replayed from the dead letters, or sent again since it certainly did not arrive.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub replays: u32,
    /// Whether it may have been made without a sign of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ambiguous: bool,
}

/// What is done with a delivery that may have been made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenAmbiguous {
    /// What the channel's policy says: see [`may_repeat`](crate::decide::may_repeat).
    #[default]
    ByChannel,
    /// It is sent.
    Send,
    /// It goes to the dead letters, for somebody to look at.
    PutAside,
}

impl Envelope for Intake {
    const KNOWN: &'static [u8] = &[ENVELOPE_VERSION, EXTENDED_VERSION, ATTACHED_VERSION];

    fn version(&self) -> u8 {
        self.v
    }
}

/// WORK: one delivery.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// The envelope's version.
    pub v: u8,
    /// The delivery.
    pub delivery: DeliveryId,
    /// The recipient.
    pub recipient: RecipientId,
    /// The channel.
    pub channel: Channel,
    /// The contact's blind index; empty for the inbox.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub contact: String,
    /// The position in the region's state stream that the decision must have seen.
    pub state_seq: u64,
    /// Attempts made before this message was written; a retry through the schedule starts above 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempts: u32,
    /// It waits in its queue until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// How often it was put down to wait and taken up again: each time it is another message.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hops: u32,
    /// Whether it may be a repetition: its planning was redelivered.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repeat: bool,
    /// Since when it may have been settled in that case, if that is before this message was queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat_since: Option<Timestamp>,
    /// How often it was begun anew: replayed from the dead letters, or sent again since it certainly did not arrive.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub replays: u32,
    /// What it belongs to.
    pub notification: Accepted,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Work {
    /// The same delivery, to be made once more after `attempts`: as a replay, since what was sent never goes back to its
    /// queue.
    #[must_use]
    pub fn once_more(&self, attempts: u32) -> Self {
        Work {
            v: self.notification.version(),
            attempts,
            not_before: None,
            replays: self.replays.saturating_add(1),
            hops: 0,
            repeat: false,
            repeat_since: None,
            ..self.clone()
        }
    }
}

impl Envelope for Work {
    const KNOWN: &'static [u8] = &[ENVELOPE_VERSION, EXTENDED_VERSION, ATTACHED_VERSION];

    fn version(&self) -> u8 {
        self.v
    }
}

/// SCHEDULE: a notification whose recipients are looked at again, for another channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FallbackCheck {
    /// The envelope's version.
    pub v: u8,
    /// The notification, with the targets that are still looked at.
    pub intake: Intake,
    /// Since when each of them has waited: when it was last sent something, in the order of the targets.
    pub since: Vec<Timestamp>,
}

impl FallbackCheck {
    /// A check of a notification's targets, each with the time since when it has waited.
    #[must_use]
    pub fn new(intake: Intake, since: Vec<Timestamp>) -> Self {
        FallbackCheck { v: intake.notification.version().max(LATER_VERSION), intake, since }
    }
}

impl Envelope for FallbackCheck {
    const KNOWN: &'static [u8] = &[LATER_VERSION, ATTACHED_VERSION];

    fn version(&self) -> u8 {
        self.v
    }
}

/// WORK: a delivery that was sent, and whose provider has to be asked what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// The envelope's version.
    pub v: u8,
    /// What was sent.
    pub work: Work,
    /// The account that it was sent with.
    pub account: String,
    /// What its provider calls it, or the batch that it was in.
    pub provider_id: String,
    /// The attempts that it took.
    pub attempts: u32,
    /// When it was sent.
    pub sent_at: Timestamp,
    /// How often its provider was asked.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub looks: u32,
}

impl Envelope for Look {
    const KNOWN: &'static [u8] = &[LATER_VERSION];

    fn version(&self) -> u8 {
        self.v
    }
}

/// DEAD_LETTERS: a message that could not be handled, with the reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The envelope's version.
    pub v: u8,
    /// When it was given up.
    pub at: Timestamp,
    /// Why: a stable word.
    pub reason: String,
    /// The stream that it came from; of a delivery, its channel's queue.
    pub stream: String,
    /// The subject that it stood under: a replay publishes there again.
    pub subject: String,
    /// Attempts made.
    pub attempts: u32,
    /// The delivery, when the message could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<Box<Work>>,
    /// The message as it stood, in base64, when it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
}

impl DeadLetter {
    /// The version of a dead letter that holds `work`: who does not know of attachments would replay it without.
    #[must_use]
    pub fn version_with(work: &Work) -> u8 {
        match work.notification.attachments.is_empty() {
            true => ENVELOPE_VERSION,
            false => ATTACHED_VERSION,
        }
    }
}

impl Envelope for DeadLetter {
    const KNOWN: &'static [u8] = &[ENVELOPE_VERSION, ATTACHED_VERSION];

    fn version(&self) -> u8 {
        self.v
    }
}

/// INBOX: an item of a recipient's inbox, or a mark on one. The text is sealed with the recipient's data key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InboxEntry {
    /// The envelope's version.
    pub v: u8,
    /// When it happened.
    pub at: Timestamp,
    /// The app.
    pub app: AppId,
    /// The recipient.
    pub recipient: RecipientId,
    /// The item: the id of its delivery.
    pub item: DeliveryId,
    /// The notification.
    pub notification: NotificationId,
    /// What happened.
    pub what: InboxChange,
}

/// What an [`InboxEntry`] says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InboxChange {
    /// A new item.
    Item {
        /// The category.
        category: CategoryId,
        /// When the item is of no use any more.
        expires_at: Timestamp,
        /// The rendered text, sealed.
        sealed: String,
    },
    /// The recipient marked it.
    Mark(InboxMark),
}

/// A mark on an inbox item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InboxMark {
    /// It was on the screen.
    Seen,
    /// It was opened.
    Read,
    /// It was put away.
    Archived,
}

impl Envelope for InboxEntry {
    fn version(&self) -> u8 {
        self.v
    }
}

/// The place that an inbox item's text is sealed for.
#[must_use]
pub fn inbox_place(app: &AppId, recipient: &RecipientId, item: &DeliveryId) -> String {
    format!("inbox.{app}.{recipient}.{item}")
}

/// SANDBOX: a message that the sandbox provider recorded instead of sending. Kept in memory only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxMessage {
    /// The envelope's version.
    pub v: u8,
    /// When it was "sent".
    pub at: Timestamp,
    /// The app.
    pub app: AppId,
    /// The notification.
    pub notification: NotificationId,
    /// The delivery.
    pub delivery: DeliveryId,
    /// The recipient.
    pub recipient: RecipientId,
    /// The channel.
    pub channel: Channel,
    /// The address it would have gone to.
    pub address: String,
    /// The rendered message.
    pub rendered: crate::template::Rendered,
    /// What would have been attached to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<AttachmentSummary>,
}

impl Envelope for SandboxMessage {
    fn version(&self) -> u8 {
        self.v
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden<T: Envelope + PartialEq + std::fmt::Debug>(file: &str) -> T {
        let decoded = T::decode(file.as_bytes()).unwrap();
        let again: Value = serde_json::from_slice(&decoded.encode().unwrap()).unwrap();
        assert_eq!(
            again,
            serde_json::from_str::<Value>(file).unwrap(),
            "what is read must be written the same"
        );
        decoded
    }

    #[test]
    fn golden_files_of_every_version_are_read() {
        let intake: Intake = golden(include_str!("../golden/intake-v1.json"));
        assert_eq!(intake.notification.id.as_str(), "order-1042-shipped");
        let intake: Intake = golden(include_str!("../golden/intake-v2.json"));
        assert_eq!(intake.takeover.unwrap().deliveries.len(), 2);
        let work: Work = golden(include_str!("../golden/work-v1.json"));
        assert_eq!(work.channel, Channel::Email);
        let look: Look = golden(include_str!("../golden/look-v3.json"));
        assert_eq!((look.work, look.looks), (work, 2));
        // Who does not know it must not take it for a delivery.
        let bytes = include_bytes!("../golden/look-v3.json");
        assert!(matches!(Work::decode(bytes), Err(DecodeError::Version(LATER_VERSION))));
        golden::<DeadLetter>(include_str!("../golden/dead-letter-v1.json"));
        let intake: Intake = golden(include_str!("../golden/intake-v4.json"));
        assert_eq!(intake.notification.attachments[0].decode().unwrap(), b"%PDF-1.7\n");
        assert!(intake.takeover.is_some(), "it says what version 2 says, too");
        let work: Work = golden(include_str!("../golden/work-v4.json"));
        assert_eq!((work.notification.attachments.len(), work.v), (2, work.notification.version()));
        let letter: DeadLetter = golden(include_str!("../golden/dead-letter-v4.json"));
        assert_eq!(letter.v, DeadLetter::version_with(letter.work.as_ref().unwrap()));
        let check: FallbackCheck = golden(include_str!("../golden/fallback-check-v3.json"));
        assert_eq!(check, FallbackCheck::new(check.intake.clone(), check.since.clone()));
        let check: FallbackCheck = golden(include_str!("../golden/fallback-check-v4.json"));
        assert_eq!(check, FallbackCheck::new(check.intake.clone(), check.since.clone()));
        golden::<InboxEntry>(include_str!("../golden/inbox-v1.json"));
        golden::<crate::event::Event>(include_str!("../golden/event-v1.json"));
    }

    #[test]
    fn only_e_mails_carry_attachments() {
        let whole = golden::<Work>(include_str!("../golden/work-v4.json")).notification;
        assert_eq!(whole.for_channel(Channel::Email), whole);
        let bare = whole.for_channel(Channel::Webhook);
        assert_eq!((bare.attachments.len(), bare.version()), (0, ENVELOPE_VERSION));
        assert_eq!(
            Accepted { attachments: whole.attachments.clone(), ..bare },
            whole,
            "nothing else is missing"
        );
    }

    #[test]
    fn other_versions_and_foreign_messages_are_told_apart() {
        let newer = include_str!("../golden/work-v1.json").replacen("\"v\": 1", "\"v\": 9", 1);
        assert!(matches!(Work::decode(newer.as_bytes()), Err(DecodeError::Version(9))));
        assert!(matches!(Work::decode(br#"{"v": 7, "shape": "unknown"}"#), Err(DecodeError::Version(7))));
        for foreign in [&b""[..], b"{}", b"hello", b"[]", b"\xff\xfe", br#"{"v":1}"#] {
            assert!(matches!(Work::decode(foreign), Err(DecodeError::Shape(_))));
        }
    }
}
