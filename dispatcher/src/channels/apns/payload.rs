//! What a device gets (Apple, "Generating a remote notification").

use peal_common::channel::Priority;
use peal_common::push::apns::{InterruptionLevel, Overrides, PushType, Sound};
use peal_common::template::Button;
use peal_common::template::size::MAX_APNS_BYTES;

use crate::channels::Message;
use crate::channels::metadata::ForApp;

/// Why there is no payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// An alert with nothing to show, to hear or to put on the icon.
    Empty,
    /// It takes so many bytes.
    TooLarge(usize),
    /// Never happens with data that came from JSON.
    Unwritable,
}

/// The message as JSON, and what it is.
#[derive(Debug)]
pub(super) struct Payload {
    pub(super) push_type: PushType,
    pub(super) bytes: Vec<u8>,
}

/// The top of the JSON: what the system reads, and beside it what the app finds in `userInfo`.
#[derive(serde::Serialize)]
struct Top<'a> {
    aps: Aps<'a>,
    /// The delivery: the same when a message comes twice.
    id: &'a str,
    notification: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    actions: Vec<Action<'a>>,
    #[serde(skip_serializing_if = "ForApp::is_empty")]
    metadata: ForApp<'a>,
}

/// What the system of a device reads.
#[derive(Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::channels) struct Aps<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    alert: Option<Alert<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    badge: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sound: Option<Sounding<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interruption_level: Option<InterruptionLevel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    category: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_available: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mutable_content: Option<u8>,
}

#[derive(serde::Serialize)]
struct Alert<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    body: &'a str,
}

/// A sound is a name, or an object that says that it is heard also when the device is muted.
#[derive(serde::Serialize)]
#[serde(untagged)]
enum Sounding<'a> {
    Usual(&'a str),
    Critical { critical: u8, name: &'a str, volume: f32 },
}

#[derive(serde::Serialize)]
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

impl Payload {
    /// Writes the payload of a message.
    pub(super) fn of(message: &Message<'_>, overrides: &Overrides<'_>) -> Result<Self, Refused> {
        let rendered = message.rendered;
        let (push_type, aps) = aps(message, overrides).ok_or(Refused::Empty)?;
        let top = Top {
            aps,
            id: message.delivery.as_str(),
            notification: message.notification.as_str(),
            url: rendered.url.as_deref(),
            actions: rendered.buttons.iter().map(Action::of).collect(),
            metadata: ForApp(message.metadata),
        };
        let mut bytes = Vec::with_capacity(rendered.text.len() + 512);
        serde_json::to_writer(&mut bytes, &top).map_err(|_| Refused::Unwritable)?;
        if bytes.len() > MAX_APNS_BYTES {
            return Err(Refused::TooLarge(bytes.len()));
        }
        Ok(Payload { push_type, bytes })
    }
}

/// What the system reads. A push that has nothing for people wakes the app; `None` when an alert was asked for.
fn aps<'a>(message: &Message<'a>, overrides: &Overrides<'a>) -> Option<(PushType, Aps<'a>)> {
    let title = message.rendered.title.as_deref().filter(|title| !title.trim().is_empty());
    let body = message.rendered.text.as_str();
    let is_shown = title.is_some() || !body.trim().is_empty();
    let is_noticed = is_shown || is_noticed_alone(overrides);
    let push_type =
        overrides.push_type.unwrap_or(if is_noticed { PushType::Alert } else { PushType::Background });
    if push_type == PushType::Background {
        return Some((push_type, Aps::waking()));
    }
    if !is_noticed {
        return None;
    }
    let alert = is_shown.then_some(Alert { title, body });
    let sound = is_shown.then_some("default");
    Some((push_type, Aps { alert, ..Aps::noticed(message.priority, overrides, sound) }))
}

/// Whether people notice a push that has no text.
pub(in crate::channels) const fn is_noticed_alone(overrides: &Overrides<'_>) -> bool {
    overrides.badge.is_some() || matches!(overrides.sound, Sound::Named(_))
}

impl<'a> Aps<'a> {
    /// What only wakes the app.
    pub(in crate::channels) fn waking() -> Self {
        Aps { content_available: Some(1), ..Aps::default() }
    }

    /// What people notice, but for the text. `sound` is heard where the sender says nothing of one.
    pub(in crate::channels) fn noticed(
        priority: Priority,
        overrides: &Overrides<'a>,
        sound: Option<&'a str>,
    ) -> Self {
        let level = overrides.interruption_level.or(match priority {
            Priority::Critical => Some(InterruptionLevel::TimeSensitive),
            Priority::High | Priority::Normal => None,
            Priority::Bulk => Some(InterruptionLevel::Passive),
        });
        let sound = match overrides.sound {
            Sound::Named(name) => Some(name),
            Sound::Unsaid => sound,
            Sound::Silent => None,
        };
        Aps {
            alert: None,
            badge: overrides.badge,
            sound: sound.map(|name| match level {
                Some(InterruptionLevel::Critical) => Sounding::Critical { critical: 1, name, volume: 1.0 },
                _ => Sounding::Usual(name),
            }),
            interruption_level: level,
            category: overrides.category,
            thread_id: overrides.thread_id,
            content_available: overrides.content_available.filter(|is| *is).map(u8::from),
            mutable_content: overrides.mutable_content.filter(|is| *is).map(u8::from),
        }
    }

    /// Has the app woken too.
    pub(in crate::channels) fn and_waking(self) -> Self {
        Aps { content_available: Some(1), ..self }
    }

    /// Lets an extension of the app change it before it is shown.
    pub(in crate::channels) fn changeable(self) -> Self {
        Aps { mutable_content: Some(1), ..self }
    }
}
