//! What a service hands in: one notification.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::address;
use crate::attachment::{Attachment, Attachments, MAX_TARGETS_WITH_ATTACHMENTS};
use crate::category::check_choices;
use crate::channel::{Channel, ChannelChoice, Priority};
use crate::fallback::Fallback;
use crate::id::{CategoryId, GroupId, NotificationId, PolicyId, RecipientId, Region, TemplateId};
use crate::problem::FieldError;
use crate::push;
use crate::template::Content;

/// The most targets of one notification.
pub const MAX_TARGETS: usize = 1_000;
/// The most notifications of one batch.
pub const MAX_BATCH: usize = 1_000;
/// The largest request with one notification, in bytes.
pub const MAX_REQUEST_BYTES: usize = 512 * 1024;
/// The largest request with a batch, in bytes.
pub const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;
/// The longest time to live: 7 days. INTAKE keeps messages longer than that.
pub const MAX_TTL_SECONDS: u32 = 7 * 24 * 3600;
/// The time to live of notifications that name none: 3 days.
pub const DEFAULT_TTL_SECONDS: u32 = 3 * 24 * 3600;
/// The furthest `send_at`: a year.
const MAX_AHEAD_SECONDS: i64 = 366 * 24 * 3600;
/// How far in the past `send_at` may lie: clocks differ and requests take time.
const PAST_TOLERANCE_SECONDS: i64 = 300;
const MAX_KEY_BYTES: usize = 256;
const MAX_METADATA_BYTES: usize = 16 * 1024;

/// Who is to get it: exactly one of the fields.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Target {
    /// A recipient that was registered.
    Recipient(RecipientId),
    /// The members of a group.
    Group(GroupId),
    /// An e-mail address.
    Email(String),
    /// A phone number.
    Phone(String),
    /// A Telegram chat.
    Telegram(String),
    /// A webhook's URL.
    Webhook(String),
    /// Whoever is on call.
    OnCall(PolicyId),
}

impl Target {
    /// The channel and address of an inline target.
    #[must_use]
    pub fn inline(&self) -> Option<(Channel, &str)> {
        match self {
            Target::Email(address) => Some((Channel::Email, address)),
            Target::Phone(address) => Some((Channel::Sms, address)),
            Target::Telegram(address) => Some((Channel::Telegram, address)),
            Target::Webhook(address) => Some((Channel::Webhook, address)),
            Target::Recipient(_) | Target::Group(_) | Target::OnCall(_) => None,
        }
    }

    /// The target's name in JSON.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Target::Recipient(_) => "recipient",
            Target::Group(_) => "group",
            Target::Email(_) => "email",
            Target::Phone(_) => "phone",
            Target::Telegram(_) => "telegram",
            Target::Webhook(_) => "webhook",
            Target::OnCall(_) => "on_call",
        }
    }
}

/// When to send: at a moment, or at a time of day where the recipient is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum SendAt {
    /// A moment, RFC 3339.
    Moment(Timestamp),
    /// A time of day in each recipient's time zone.
    Local {
        /// `HH:MM`.
        local_time: String,
    },
}

/// A notification as a service writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Notification {
    /// Unique within the app; repeating it within 24 hours is recognised. Without it the answer brings one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<NotificationId>,
    /// The category.
    pub category: CategoryId,
    /// Who is to get it, 1 to 1,000 targets.
    pub to: Vec<Target>,
    /// The template, unless `content` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateId>,
    /// The template's variables.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub data: Map<String, Value>,
    /// The text, unless `template` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// Files for its e-mails, at most 10 and 256 KiB together; other channels are sent without them. A notification with
    /// attachments has at most 100 targets.
    #[serde(default, skip_serializing_if = "Attachments::is_empty")]
    #[schema(value_type = Vec<Attachment>, max_items = 10)]
    pub attachments: Attachments,
    /// How urgent it is; by default what the category says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Overrides the category's channels and the recipient's order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<Vec<ChannelChoice>>,
    /// When to send it; by default now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_at: Option<SendAt>,
    /// After how many seconds it is of no use any more, counted from `send_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u32>,
    /// A later message with the same key replaces the earlier one on the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collapse_key: Option<String>,
    /// A recipient never sees an older message of this key after a newer one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordering_key: Option<String>,
    /// Messages with this key are gathered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest_key: Option<String>,
    /// Another channel when one failed or nobody reacted in time; by default what the category says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// The escalation policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalation: Option<PolicyId>,
    /// Anything the service wants to find again; at most 16 KiB.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    /// The only region that may know the notification: the one that is asked to accept it. Notifications to pinned
    /// recipients are pinned without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "eu")]
    pub pinned_to: Option<Region>,
}

impl Notification {
    /// Checks what can be checked without state, and brings inline addresses into normal form.
    ///
    /// # Errors
    /// One entry for each thing that is wrong.
    pub fn normalize(mut self, now: Timestamp) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        self.check_targets(&mut errors);
        self.check_text(&mut errors);
        errors.extend(self.attachments.check());
        self.check_times(now, &mut errors);
        if let Some(channels) = &self.channels {
            if channels.is_empty() {
                errors.push(FieldError::new(
                    "channels",
                    "empty",
                    "name at least one channel or leave the field out",
                ));
            }
            errors.extend(check_choices("channels", channels).err().into_iter().flatten());
        }
        if let Some(key) = &self.collapse_key
            && (key.is_empty() || key.len() > MAX_KEY_BYTES || key.chars().any(char::is_control))
        {
            errors.push(FieldError::new(
                "collapse_key",
                "invalid_value",
                "write 1 to 256 bytes without control characters",
            ));
        }
        if !self.metadata.is_empty()
            && serde_json::to_string(&self.metadata).is_ok_and(|text| text.len() > MAX_METADATA_BYTES)
        {
            errors.push(FieldError::new("metadata", "too_large", "metadata holds at most 16 KiB of JSON"));
        }
        errors.extend(push::check(&self.metadata));
        errors.extend(self.fallback.and_then(|fallback| fallback.check().err()));
        self.check_available(&mut errors);
        if errors.is_empty() { Ok(self) } else { Err(errors) }
    }

    fn check_targets(&mut self, errors: &mut Vec<FieldError>) {
        if self.to.is_empty() {
            errors.push(FieldError::new("to", "required", "name at least one target"));
        }
        if self.to.len() > MAX_TARGETS {
            errors.push(FieldError::new(
                "to",
                "too_many",
                "a notification has at most 1,000 targets; use a group",
            ));
            return;
        }
        if !self.attachments.is_empty() && self.to.len() > MAX_TARGETS_WITH_ATTACHMENTS {
            errors.push(FieldError::new(
                "to",
                "too_many",
                "a notification with attachments has at most 100 targets; send several, or a link",
            ));
        }
        for (index, target) in self.to.iter_mut().enumerate() {
            let Some((channel, address)) = target.inline() else { continue };
            match address::normalize(channel, address) {
                Ok(normal) => match target {
                    Target::Email(own)
                    | Target::Phone(own)
                    | Target::Telegram(own)
                    | Target::Webhook(own) => *own = normal,
                    Target::Recipient(_) | Target::Group(_) | Target::OnCall(_) => {}
                },
                Err(error) => {
                    errors.push(FieldError::new(
                        format!("to[{index}].{}", target.field()),
                        error.code(),
                        error.to_string(),
                    ));
                }
            }
        }
    }

    fn check_text(&self, errors: &mut Vec<FieldError>) {
        match (&self.template, &self.content) {
            (None, None) => {
                errors.push(FieldError::new("content", "required", "give either template or content"))
            }
            (Some(_), Some(_)) => {
                errors.push(FieldError::new(
                    "content",
                    "conflict",
                    "give either template or content, not both",
                ));
            }
            (None, Some(content)) => {
                if let Err(inner) = content.validate() {
                    errors.extend(inner.into_iter().map(|mut error| {
                        error.field = format!("content.{}", error.field);
                        error
                    }));
                }
                if !self.data.is_empty() {
                    errors.push(FieldError::new(
                        "data",
                        "unexpected_field",
                        "data belongs to a template; content is sent as it is",
                    ));
                }
            }
            (Some(_), None) => {}
        }
    }

    fn check_times(&self, now: Timestamp, errors: &mut Vec<FieldError>) {
        if let Some(ttl) = self.ttl_seconds
            && !(1..=MAX_TTL_SECONDS).contains(&ttl)
        {
            errors.push(FieldError::new("ttl_seconds", "out_of_range", "write 1 to 604800 (7 days)"));
        }
        if let Some(SendAt::Moment(at)) = self.send_at {
            let ahead = at.as_second() - now.as_second();
            if ahead < -PAST_TOLERANCE_SECONDS {
                errors.push(FieldError::new(
                    "send_at",
                    "in_the_past",
                    "write a time that is not more than 5 minutes past",
                ));
            } else if ahead > MAX_AHEAD_SECONDS {
                errors.push(FieldError::new("send_at", "too_far_ahead", "write a time within the next year"));
            }
        }
    }

    /// Refuses what this version does not do yet, rather than take it and leave it undone.
    fn check_available(&self, errors: &mut Vec<FieldError>) {
        let mut refuse = |field: String, what: &str| {
            errors.push(FieldError::new(
                field,
                "not_available",
                format!("{what} are not available in this version"),
            ));
        };
        for (index, target) in self.to.iter().enumerate() {
            match target {
                Target::Group(_) => refuse(format!("to[{index}].group"), "groups"),
                Target::OnCall(_) => refuse(format!("to[{index}].on_call"), "on-call targets"),
                _ => {}
            }
        }
        if matches!(self.send_at, Some(SendAt::Local { .. })) {
            refuse("send_at.local_time".into(), "sends at a local time");
        }
        for (present, field, what) in [
            (self.ordering_key.is_some(), "ordering_key", "ordering keys"),
            (self.digest_key.is_some(), "digest_key", "digests"),
            (self.escalation.is_some(), "escalation", "escalations"),
        ] {
            if present {
                refuse(field.into(), what);
            }
        }
    }

    /// When it is to be sent.
    #[must_use]
    pub fn send_at(&self, now: Timestamp) -> Timestamp {
        match self.send_at {
            Some(SendAt::Moment(at)) => at.max(now),
            _ => now,
        }
    }

    /// When it is of no use any more.
    #[must_use]
    pub fn expires_at(&self, now: Timestamp) -> Timestamp {
        let ttl = i64::from(self.ttl_seconds.unwrap_or(DEFAULT_TTL_SECONDS));
        self.send_at(now) + jiff::SignedDuration::from_secs(ttl)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-12-01T00:00:00Z".parse().unwrap()
    }

    fn codes(value: Value) -> Vec<(String, String)> {
        let notification: Notification = serde_json::from_value(value).unwrap();
        let errors = notification.normalize(now()).err().unwrap_or_default();
        errors.into_iter().map(|error| (error.field, error.code)).collect()
    }

    fn with(field: &str, value: Value) -> Value {
        let mut base = json!({"category": "orders", "to": [{"recipient": "u-42"}], "content": {"title": "t", "body": "b"}});
        base[field] = value;
        base
    }

    #[test]
    fn a_plain_notification_passes() {
        assert_eq!(codes(with("metadata", json!({"a": 1}))), []);
    }

    #[test]
    fn each_mistake_names_its_field() {
        let check = |field: &str, value: Value, at: &str, code: &str| {
            assert_eq!(codes(with(field, value)), [(at.to_owned(), code.to_owned())]);
        };
        check("to", json!([]), "to", "required");
        check("to", json!([{"email": "x"}]), "to[0].email", "invalid_email");
        check("to", json!([{"recipient": "u"}, {"group": "vip"}]), "to[1].group", "not_available");
        check("template", json!("t"), "content", "conflict");
        check("metadata", json!({"apns": {"bagde": 1}}), "metadata.apns", "invalid_value");
        check("metadata", json!({"apns": {"badge": 1}, "fcm": "high"}), "metadata.fcm", "invalid_value");
        check("send_at", json!("2026-11-30T00:00:00Z"), "send_at", "in_the_past");
        check("send_at", json!("2028-11-30T00:00:00Z"), "send_at", "too_far_ahead");
        check("ttl_seconds", json!(0), "ttl_seconds", "out_of_range");
        check("channels", json!(["email", "email"]), "channels[1]", "repeated");
        check("collapse_key", json!("a\r\n"), "collapse_key", "invalid_value");
        check("data", json!({"a": 1}), "data", "unexpected_field");
        let fallback = json!({"after_seconds": 0, "until": "seen"});
        check("fallback", fallback, "fallback.after_seconds", "out_of_range");
        let attachments = json!([{"filename": "a/b", "content_type": "text/plain", "content": "AAAA"}]);
        check("attachments", attachments, "attachments[0].filename", "invalid_filename");
    }

    #[test]
    fn attachments_go_to_a_hundred_targets_at_most() {
        let attachment = json!({"filename": "a.txt", "content_type": "text/plain", "content": "AAAA"});
        let to = |count: usize| {
            let targets: Vec<_> = (0..count).map(|n| json!({"recipient": format!("u-{n}")})).collect();
            with("to", json!(targets))
        };
        let attached = |count: usize| {
            let mut body = to(count);
            body["attachments"] = json!([attachment]);
            codes(body)
        };
        assert_eq!(attached(MAX_TARGETS_WITH_ATTACHMENTS), []);
        assert_eq!(attached(MAX_TARGETS_WITH_ATTACHMENTS + 1), [("to".to_owned(), "too_many".to_owned())]);
        assert_eq!(codes(to(MAX_TARGETS_WITH_ATTACHMENTS + 1)), []);
    }

    #[test]
    fn a_target_is_exactly_one_thing() {
        for bad in [
            json!({}),
            json!({"recipient": "a", "email": "b@x.de"}),
            json!({"sms": "+1"}),
            json!("u"),
            json!({"recipient": "a b"}),
        ] {
            assert!(serde_json::from_value::<Target>(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn unknown_fields_are_refused() {
        assert!(serde_json::from_value::<Notification>(with("prioritty", json!("high"))).is_err());
    }
}
