//! What a browser's service worker gets, and what the push service is told with it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{Timestamp, Unit};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use peal_common::channel::Priority;
use peal_common::template::Button;

use crate::channels::Message;
use crate::channels::metadata::ForApp;

/// The longest topic, in characters of base64url (RFC 8030 §5.4).
const MAX_TOPIC: usize = 32;

/// The message as JSON: what `event.data.json()` gives in the service worker.
#[derive(Serialize)]
struct Payload<'a> {
    /// The delivery: the same when a message comes twice.
    id: &'a str,
    notification: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    body: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    actions: Vec<Action<'a>>,
    /// As `showNotification` takes it: a later notification of the same tag replaces the one that is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<&'a str>,
    #[serde(skip_serializing_if = "ForApp::is_empty")]
    metadata: ForApp<'a>,
}

#[derive(Serialize)]
struct Action<'a> {
    title: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
}

impl<'a> Action<'a> {
    fn of(button: &'a Button) -> Self {
        Action { title: &button.name, url: button.url.as_deref() }
    }
}

/// The message before it is encrypted. `None` never happens with data that came from JSON.
pub(super) fn payload(message: &Message<'_>) -> Option<Vec<u8>> {
    let rendered = message.rendered;
    serde_json::to_vec(&Payload {
        id: message.delivery.as_str(),
        notification: message.notification.as_str(),
        title: rendered.title.as_deref(),
        body: &rendered.text,
        url: rendered.url.as_deref(),
        actions: rendered.buttons.iter().map(Action::of).collect(),
        tag: message.collapse_key,
        metadata: ForApp(message.metadata),
    })
    .ok()
}

/// For how many seconds the push service keeps the message while the browser is away (RFC 8030 §5.2).
pub(in crate::channels) fn time_to_live(expires_at: Timestamp, now: Timestamp) -> u64 {
    let left = expires_at.since((Unit::Second, now)).map_or(0, |span| span.get_seconds());
    u64::try_from(left).unwrap_or(0)
}

/// How much of its battery a device should spend on it (RFC 8030 §5.3).
pub(in crate::channels) fn urgency(priority: Priority) -> &'static str {
    match priority {
        Priority::Critical | Priority::High => "high",
        Priority::Normal => "normal",
        Priority::Bulk => "low",
    }
}

/// What makes a message replace one that the browser has not got yet (RFC 8030 §5.4): its collapse key, or its own name,
/// so that one that is sent twice comes once. The push service learns no key.
pub(in crate::channels) fn topic(message: &Message<'_>) -> String {
    let Some(key) = message.collapse_key else {
        return message.delivery.as_str().chars().take(MAX_TOPIC).collect();
    };
    let mut digest = Sha256::new();
    digest.update(message.app.as_str());
    digest.update([0]);
    digest.update(key);
    URL_SAFE_NO_PAD.encode(&digest.finalize()[..MAX_TOPIC / 4 * 3])
}
