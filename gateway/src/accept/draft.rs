//! From a checked notification to the message that goes into INTAKE.

use std::sync::Arc;

use jiff::Timestamp;
use peal_common::envelope::{Accepted, Envelope as _, Intake};
use peal_common::id::{AppId, NotificationId, Region};
use peal_common::notification::Notification;
use peal_nats::Subjects;
use sha2::{Digest as _, Sha256};
use uuid::{ContextV7, Uuid};

use super::Refusal;
use super::in_flight::Guard;
use super::resolve::Resolved;

/// What a notification usually takes as JSON, give or take a few.
const USUAL_BYTES: usize = 512;

/// A notification that is ready to be published.
pub(super) struct Draft {
    /// By which INTAKE recognises it.
    pub(super) message_id: Arc<str>,
    pub(super) id: NotificationId,
    pub(super) fingerprint: String,
    pub(super) accepted_at: Timestamp,
    pub(super) subject: String,
    pub(super) payload: Vec<u8>,
    /// Keeps the id in flight until the answer is known.
    _guard: Option<Guard>,
}

impl Draft {
    pub(super) fn new(
        message_id: Arc<str>,
        intake: Intake,
        subjects: &Subjects,
        guard: Option<Guard>,
    ) -> Result<Self, Refusal> {
        let payload =
            intake.encode().map_err(|error| super::unavailable("the message cannot be encoded", error))?;
        let Intake { fingerprint, notification, .. } = intake;
        let subject = subjects.intake(notification.priority, notification.app.as_str());
        let subject = Subjects::pin(subject, notification.pinned);
        Ok(Draft {
            message_id,
            id: notification.id,
            fingerprint,
            accepted_at: notification.accepted_at,
            subject,
            payload,
            _guard: guard,
        })
    }
}

/// Tells a repetition from another notification with the same id: SHA-256 over everything but the id, in one
/// spelling, so that white space and the order of fields don't matter.
pub(super) fn fingerprint(notification: &mut Notification) -> Result<String, Refusal> {
    let id = notification.id.take();
    let mut json = Vec::with_capacity(USUAL_BYTES);
    let written = serde_json::to_writer(&mut json, notification);
    notification.id = id;
    written.map_err(|error| super::unavailable("the message cannot be encoded", error))?;
    Ok(hex(&Sha256::digest(&json)))
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.extend([digit(byte >> 4), digit(byte & 0xf)]);
    }
    text
}

/// An id for a notification that brought none: `n_` and a UUID of version 7 (RFC 9562 §5.7), which grows with time.
pub(super) fn new_id(now: Timestamp) -> NotificationId {
    let seconds = u64::try_from(now.as_second()).unwrap_or(0);
    let nanos = u32::try_from(now.subsec_nanosecond()).unwrap_or(0);
    let uuid = Uuid::new_v7(uuid::Timestamp::from_unix(ContextV7::new(), seconds, nanos));
    match format!("n_{}", uuid.simple()).parse() {
        Ok(id) => id,
        Err(_) => unreachable!("hexadecimal digits are allowed in ids"),
    }
}

pub(super) fn intake(
    region: &Region,
    app: &AppId,
    id: NotificationId,
    fingerprint: String,
    notification: Notification,
    resolved: Resolved,
    now: Timestamp,
) -> Intake {
    let send_at = Some(notification.send_at(now)).filter(|at| *at > now);
    let expires_at = notification.expires_at(now);
    let accepted = Accepted {
        app: app.clone(),
        id,
        category: notification.category,
        priority: notification.priority.unwrap_or(resolved.default_priority),
        accepted_at: now,
        expires_at,
        text: resolved.text,
        channels: notification.channels,
        collapse_key: notification.collapse_key,
        metadata: notification.metadata,
        pinned: resolved.pinned,
        fallback: notification.fallback.or(resolved.fallback),
        attachments: notification.attachments,
    };
    Intake {
        v: accepted.version(),
        region: region.clone(),
        state_seq: resolved.state_seq,
        fingerprint,
        send_at,
        targets: resolved.targets,
        notification: accepted,
        takeover: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn notification(value: serde_json::Value) -> Notification {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_fingerprint_ignores_the_id_and_the_order_of_fields_and_nothing_else() {
        let base = json!({"id": "a", "category": "c", "to": [{"recipient": "u"}], "content": {"body": "b"}, "metadata": {"x": 1, "y": 2}});
        let reordered = r#"{"metadata": {"y": 2, "x": 1}, "content": {"body": "b"}, "to": [{"recipient": "u"}], "category": "c"}"#;
        let first = fingerprint(&mut notification(base.clone())).unwrap();
        assert_eq!(first, fingerprint(&mut serde_json::from_str(reordered).unwrap()).unwrap());
        let mut other = base;
        other["content"]["body"] = json!("c");
        assert_ne!(first, fingerprint(&mut notification(other)).unwrap());
    }

    #[test]
    fn attachments_belong_to_the_fingerprint_and_those_without_keep_theirs() {
        let of = |attachments: serde_json::Value| {
            let base = json!({"category": "c", "to": [{"recipient": "u"}], "content": {"body": "b"}});
            let mut body = base.as_object().unwrap().clone();
            body.extend(attachments.as_object().unwrap().clone());
            fingerprint(&mut notification(body.into())).unwrap()
        };
        let with = |name: &str, kind: &str, content: &str| {
            of(json!({"attachments": [{"filename": name, "content_type": kind, "content": content}]}))
        };
        let all = [
            of(json!({})),
            with("a.txt", "text/plain", "AAAA"),
            with("b.txt", "text/plain", "AAAA"),
            with("a.txt", "text/csv", "AAAA"),
            with("a.txt", "text/plain", "AAAB"),
        ];
        let different: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        assert_eq!(all[1], with("a.txt", "text/plain", "AAAA"));
        // A gateway of an earlier version may have taken the first request: what it computed must still be found.
        assert_eq!(all[0], of(json!({"attachments": []})));
        assert_eq!(all[0], "0e5fe12a46fb31795fb60361cdf9098a9972fd33fea85d8353a9c799edf67317");
    }

    #[test]
    fn new_ids_differ_and_are_ids() {
        let now = "2026-12-01T00:00:00Z".parse().unwrap();
        assert_ne!(new_id(now), new_id(now));
    }
}
