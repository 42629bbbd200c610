//! The body of `messages:send` (FCM reference, `Message`).

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Serialize;
use serde::ser::Serializer;

use peal_common::channel::Priority;
use peal_common::outcome::Outcome;
use peal_common::push::apns as apple;
use peal_common::push::fcm::{AndroidPriority, Overrides};
use peal_common::template::Button;
use peal_common::template::size::MAX_FCM_BYTES;

use crate::channels::apns::{Aps, is_noticed_alone};
use crate::channels::metadata::ForApp;
use crate::channels::outcomes::permanent;
use crate::channels::{Message, webpush};

/// The longest time that FCM keeps a message for a device, in seconds: four weeks (FCM reference, `AndroidConfig.ttl`).
const MAX_TTL: u64 = 28 * 24 * 60 * 60;
/// The longest `apns-collapse-id`, in bytes (Apple, "Sending notification requests to APNs").
const MAX_APNS_COLLAPSE_ID: usize = 64;

#[derive(Serialize)]
struct SendRequest<'a> {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    validate_only: bool,
    message: Push<'a>,
}

#[derive(Serialize)]
struct Push<'a> {
    /// A registration token, or the id of an installation (FID), which FCM takes here too.
    token: &'a str,
    #[serde(skip_serializing_if = "Strings::is_empty")]
    notification: Strings<'a>,
    data: Strings<'a>,
    android: Android<'a>,
    webpush: Webpush<'a>,
    apns: Apns<'a>,
    #[serde(skip_serializing_if = "Strings::is_empty")]
    fcm_options: Strings<'a>,
}

#[derive(Serialize)]
struct Android<'a> {
    /// While the device is away FCM keeps the newest message of each of at most four keys: so there is none unless the
    /// sender names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    collapse_key: Option<&'a str>,
    priority: &'static str,
    ttl: String,
    #[serde(skip_serializing_if = "Strings::is_empty")]
    notification: Strings<'a>,
}

#[derive(Serialize)]
struct Webpush<'a> {
    headers: Strings<'a>,
    #[serde(skip_serializing_if = "Strings::is_empty")]
    notification: Strings<'a>,
    #[serde(skip_serializing_if = "Strings::is_empty")]
    fcm_options: Strings<'a>,
}

#[derive(Serialize)]
struct Apns<'a> {
    headers: Strings<'a>,
    payload: ApnsPayload<'a>,
}

#[derive(Serialize)]
struct ApnsPayload<'a> {
    /// FCM puts the text in.
    aps: Aps<'a>,
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

/// An object whose values are strings, in order.
#[derive(Default)]
struct Strings<'a>(Vec<(&'static str, Cow<'a, str>)>);

impl<'a> Strings<'a> {
    fn with(mut self, key: &'static str, value: impl Into<Cow<'a, str>>) -> Self {
        self.0.push((key, value.into()));
        self
    }

    fn with_some(self, key: &'static str, value: Option<impl Into<Cow<'a, str>>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of keys and values.
    fn bytes(&self) -> usize {
        self.0.iter().map(|(key, value)| key.len() + value.len()).sum()
    }
}

impl Serialize for Strings<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// A message and what follows from it for all parts of the body.
struct Draft<'a> {
    message: &'a Message<'a>,
    overrides: Overrides<'a>,
    /// What is said about pushes to Apple's devices, whichever way they go.
    apple: apple::Overrides<'a>,
    /// Whether the system shows something.
    is_shown: bool,
    now: Timestamp,
}

/// Writes the body for the device with `token`.
///
/// # Errors
/// The outcome of a message that can't be sent.
pub(super) fn body(
    message: &Message<'_>,
    token: &str,
    validate_only: bool,
    now: Timestamp,
) -> Result<Vec<u8>, Outcome> {
    let draft = Draft::of(message, now)?;
    let push = draft.push(token).ok_or_else(|| permanent("invalid_request"))?;
    let bytes = push.bytes();
    if bytes > MAX_FCM_BYTES {
        return Err(permanent(format!("payload_too_large: {bytes} of {MAX_FCM_BYTES} bytes")));
    }
    let request = SendRequest { validate_only, message: push };
    let mut body = Vec::with_capacity(bytes + 1024);
    serde_json::to_writer(&mut body, &request).map_err(|_| permanent("invalid_request"))?;
    Ok(body)
}

impl Push<'_> {
    /// What FCM counts: the keys and the values of what the device gets (FCM reference, `ErrorCode`, "Message too
    /// big").
    fn bytes(&self) -> usize {
        self.notification.bytes() + self.android.notification.bytes() + self.data.bytes()
    }
}

impl<'a> Draft<'a> {
    fn of(message: &'a Message<'a>, now: Timestamp) -> Result<Self, Outcome> {
        let invalid = || permanent("invalid_metadata");
        let overrides = Overrides::of(message.metadata).ok_or_else(invalid)?;
        let apple = apple::Overrides::of(message.metadata).ok_or_else(invalid)?;
        let title = message.rendered.title.as_deref().unwrap_or_default();
        let has_text = !title.trim().is_empty() || !message.rendered.text.trim().is_empty();
        // A push that has nothing for people is for the app, unless it was meant to be shown.
        if overrides.data_only == Some(false) && !has_text {
            return Err(permanent("message_empty"));
        }
        let is_shown = has_text && overrides.data_only != Some(true);
        Ok(Draft { message, overrides, apple, is_shown, now })
    }

    /// `None` never happens with data that came from JSON.
    fn push(&self, token: &'a str) -> Option<Push<'a>> {
        let label = self.overrides.analytics_label;
        Some(Push {
            token,
            notification: self.shown(|shown| {
                let (title, body) = self.text();
                shown
                    .with_some("title", title)
                    .with_some("body", body)
                    .with_some("image", self.overrides.image)
            }),
            data: self.data()?,
            android: self.android(),
            webpush: self.webpush(),
            apns: self.apns(),
            fcm_options: Strings::default().with_some("analytics_label", label),
        })
    }

    /// What only a push that is shown has.
    fn shown(&self, fill: impl FnOnce(Strings<'a>) -> Strings<'a>) -> Strings<'a> {
        if self.is_shown { fill(Strings::default()) } else { Strings::default() }
    }

    /// Title and body, where there are any.
    fn text(&self) -> (Option<&'a str>, Option<&'a str>) {
        let rendered = self.message.rendered;
        (rendered.title.as_deref(), Some(rendered.text.as_str()).filter(|text| !text.is_empty()))
    }

    /// What the app gets. None of the keys is one that FCM keeps for itself: `from`, `message_type`, `google.…`,
    /// `gcm…`.
    fn data(&self) -> Option<Strings<'a>> {
        let Message { rendered, delivery, notification, .. } = *self.message;
        let mut data = Strings::default()
            // The same when a message comes twice.
            .with("id", delivery.as_str())
            .with("notification", notification.as_str());
        if !self.is_shown {
            // What the system does not show, the app may.
            let (title, body) = self.text();
            data = data
                .with_some("title", title)
                .with_some("body", body)
                .with_some("tag", self.message.collapse_key);
        }
        data = data.with_some("url", rendered.url.as_deref());
        if !rendered.buttons.is_empty() {
            let actions: Vec<_> = rendered.buttons.iter().map(Action::of).collect();
            data = data.with("actions", serde_json::to_string(&actions).ok()?);
        }
        let metadata = ForApp(self.message.metadata);
        if !metadata.is_empty() {
            data = data.with("metadata", serde_json::to_string(&metadata).ok()?);
        }
        Some(data)
    }

    fn android(&self) -> Android<'a> {
        let Overrides { channel_id, sound, icon, click_action, .. } = self.overrides;
        Android {
            collapse_key: self.message.collapse_key,
            priority: match self.priority() {
                AndroidPriority::High => "HIGH",
                AndroidPriority::Normal => "NORMAL",
            },
            ttl: format!("{}s", self.time_to_live().min(MAX_TTL)),
            notification: self.shown(|shown| {
                shown
                    .with("tag", self.tag())
                    .with_some("channel_id", channel_id)
                    .with_some("sound", sound)
                    .with_some("icon", icon)
                    .with_some("click_action", click_action)
            }),
        }
    }

    /// High priority wakes a sleeping device. Firebase advises it for most of what people see, and takes it from apps
    /// whose messages of high priority show nothing ("Set and manage Android message priority").
    fn priority(&self) -> AndroidPriority {
        let by_urgency = match self.message.priority {
            Priority::Critical => AndroidPriority::High,
            Priority::High | Priority::Normal if self.is_shown => AndroidPriority::High,
            Priority::High | Priority::Normal | Priority::Bulk => AndroidPriority::Normal,
        };
        self.overrides.priority.unwrap_or(by_urgency)
    }

    fn time_to_live(&self) -> u64 {
        webpush::time_to_live(self.message.expires_at, self.now)
    }

    /// A later notification of the same tag takes the place of the one that is shown: so does one that is sent twice.
    fn tag(&self) -> &'a str {
        self.message.collapse_key.unwrap_or(self.message.delivery.as_str())
    }

    /// For browsers: the same as over Web Push.
    fn webpush(&self) -> Webpush<'a> {
        let headers = Strings::default()
            .with("TTL", self.time_to_live().min(MAX_TTL).to_string())
            .with("Urgency", webpush::urgency(self.message.priority))
            .with("Topic", webpush::topic(self.message));
        // FCM takes no other link.
        let link = self.message.rendered.url.as_deref().filter(|url| url.starts_with("https://"));
        Webpush {
            headers,
            notification: self.shown(|shown| shown.with("tag", self.tag())),
            fcm_options: self.shown(|shown| shown.with_some("link", link)),
        }
    }

    /// For Apple's devices whose app registers with Firebase: the same as over APNs.
    fn apns(&self) -> Apns<'a> {
        let aps = self.aps();
        // 10 delivers at once, 5 with regard to the device's battery; for what nobody notices 10 is an error.
        let (push_type, priority) = match (&aps, self.message.priority) {
            (None, _) => ("background", "5"),
            (Some(_), Priority::Bulk) => ("alert", "5"),
            (Some(_), _) => ("alert", "10"),
        };
        // 0 would mean that it is not kept at all.
        let expiration = self.message.expires_at.as_second().max(1);
        let headers = Strings::default()
            .with("apns-push-type", push_type)
            .with("apns-priority", priority)
            .with("apns-expiration", expiration.to_string())
            .with("apns-collapse-id", apns_collapse_id(self.message));
        Apns { headers, payload: ApnsPayload { aps: aps.unwrap_or_else(Aps::waking) } }
    }

    /// What people notice, but for the text. `None` when they are to notice nothing.
    fn aps(&self) -> Option<Aps<'a>> {
        if self.is_shown {
            // With a text it is an alert, whatever is asked for.
            let sound = self.overrides.sound.unwrap_or("default");
            let aps = Aps::noticed(self.message.priority, &self.apple, Some(sound));
            return Some(match self.overrides.image {
                // An extension of the app fetches it.
                Some(_) => aps.changeable(),
                None => aps,
            });
        }
        let is_noticed = self.overrides.data_only != Some(true) && is_noticed_alone(&self.apple);
        // The app is woken all the same, as on Android.
        is_noticed.then(|| Aps::noticed(self.message.priority, &self.apple, None).and_waking())
    }
}

/// The collapse key, hashed where it is too long or no ASCII, or else the delivery.
fn apns_collapse_id<'a>(message: &Message<'a>) -> Cow<'a, str> {
    match message.collapse_key {
        Some(key) if key.len() <= MAX_APNS_COLLAPSE_ID && key.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Cow::Borrowed(key)
        }
        _ => Cow::Owned(webpush::topic(message)),
    }
}
