//! The body of a webhook.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use peal_common::category::Class;
use peal_common::channel::Priority;
use peal_common::template::Button;

use crate::channels::Message;

/// Room for everything but the texts, so that the buffer grows once at most.
const FRAME_BYTES: usize = 768;

/// The body, as the Standard Webhooks specification lays payloads out (`type`, `timestamp`, `data`). It is the same on
/// every attempt.
#[derive(Serialize)]
struct Payload<'a> {
    r#type: &'static str,
    id: &'a str,
    timestamp: Timestamp,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    notification: &'a str,
    delivery: &'a str,
    app: &'a str,
    category: &'a str,
    class: Class,
    priority: Priority,
    recipient: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    body: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
    #[serde(skip_serializing_if = "<[Button]>::is_empty")]
    buttons: &'a [Button],
    #[serde(skip_serializing_if = "Option::is_none")]
    collapse_key: Option<&'a str>,
    expires_at: Timestamp,
    #[serde(skip_serializing_if = "Map::is_empty")]
    metadata: &'a Map<String, Value>,
}

/// The body as JSON. `None` never happens with data that came from JSON.
pub(super) fn body(message: &Message<'_>) -> Option<Vec<u8>> {
    let rendered = message.rendered;
    let payload = Payload {
        r#type: "notification",
        id: message.delivery.as_str(),
        timestamp: message.accepted_at,
        data: Data {
            notification: message.notification.as_str(),
            delivery: message.delivery.as_str(),
            app: message.app.as_str(),
            category: message.category.as_str(),
            class: message.class,
            priority: message.priority,
            recipient: message.recipient.as_str(),
            title: rendered.title.as_deref(),
            body: &rendered.text,
            url: rendered.url.as_deref(),
            buttons: &rendered.buttons,
            collapse_key: message.collapse_key,
            expires_at: message.expires_at,
            metadata: message.metadata,
        },
    };
    let mut json = Vec::with_capacity(FRAME_BYTES + rendered.text.len());
    serde_json::to_writer(&mut json, &payload).ok()?;
    Some(json)
}
