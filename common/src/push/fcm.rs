//! What a sender may say about a push on its own: the object `fcm` in a notification's metadata.

use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

/// Where the object stands in the metadata. It is not passed on to the app.
pub const KEY: &str = "fcm";
/// What it may hold, for people.
pub(super) const ALLOWED: &str = "write an object with any of data_only (true or false, and then nothing that is seen), \
    priority (normal or high), channel_id, sound, icon, image (an http or https URL), click_action and analytics_label (at \
    most 50 of A-Z a-z 0-9 - _ . ~ %)";
/// The longest label, in characters (Firebase, "Understanding message delivery", "Adding analytics labels to
/// messages").
const MAX_LABEL: usize = 50;

/// The object, with Firebase's words (FCM reference, `Message`).
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overrides<'a> {
    /// Whether the app alone gets it: nothing is shown by the system.
    pub data_only: Option<bool>,
    /// How soon an Android device is to have it.
    pub priority: Option<AndroidPriority>,
    /// The notification channel on Android.
    pub channel_id: Option<&'a str>,
    /// The name of a sound of the app.
    pub sound: Option<&'a str>,
    /// The name of an icon of the app on Android.
    pub icon: Option<&'a str>,
    /// The URL of an image.
    pub image: Option<&'a str>,
    /// The intent that a tap on Android starts.
    pub click_action: Option<&'a str>,
    /// What Firebase counts the message under.
    pub analytics_label: Option<&'a str>,
}

/// FCM reference, `AndroidMessagePriority`. As it is read, in lower case as in Firebase's texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AndroidPriority {
    /// When the device is awake anyway.
    Normal,
    /// At once.
    High,
}

impl<'a> Overrides<'a> {
    /// Reads the object. `None` when a key is unknown, a value is of another type, or nobody could see what it asks
    /// for.
    #[must_use]
    pub fn of(metadata: &'a Map<String, Value>) -> Option<Self> {
        let Some(object) = metadata.get(KEY) else { return Some(Overrides::default()) };
        if !object.is_object() {
            return None;
        }
        let overrides = Overrides::deserialize(object).ok()?;
        let shown = [overrides.channel_id, overrides.sound, overrides.icon, overrides.image];
        let is_seen = shown.iter().any(Option::is_some) || overrides.click_action.is_some();
        let fits = overrides.image.is_none_or(is_web_url)
            && overrides.analytics_label.is_none_or(is_label)
            && !(overrides.data_only == Some(true) && is_seen);
        fits.then_some(overrides)
    }
}

fn is_web_url(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
}

fn is_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~%".contains(&byte);
    (1..=MAX_LABEL).contains(&text.len()) && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_known_is_read() {
        let metadata = json!({"order": 7, "fcm": {
            "data_only": false, "priority": "high", "channel_id": "orders", "sound": "bell", "icon": "box",
            "image": "https://example.com/i.png", "click_action": "OPEN_ORDER", "analytics_label": "orders-1.0~%",
        }});
        let expected = Overrides {
            data_only: Some(false),
            priority: Some(AndroidPriority::High),
            channel_id: Some("orders"),
            sound: Some("bell"),
            icon: Some("box"),
            image: Some("https://example.com/i.png"),
            click_action: Some("OPEN_ORDER"),
            analytics_label: Some("orders-1.0~%"),
        };
        assert_eq!(Overrides::of(metadata.as_object().unwrap()), Some(expected));
        let data = json!({"fcm": {"data_only": true, "priority": "normal", "analytics_label": "sync"}});
        assert_eq!(Overrides::of(data.as_object().unwrap()).unwrap().data_only, Some(true));
        for nothing in [json!({}), json!({"order": 7}), json!({"fcm": {}})] {
            assert_eq!(Overrides::of(nothing.as_object().unwrap()), Some(Overrides::default()));
        }
    }

    #[test]
    fn what_can_not_be_meant_is_refused() {
        let bad = [
            json!(null),
            json!("high"),
            json!([]),
            json!({"dataonly": true}),
            json!({"token": "another"}),
            json!({"data_only": "true"}),
            json!({"data_only": 1}),
            json!({"priority": "HIGH"}),
            json!({"priority": "urgent"}),
            json!({"channel_id": 7}),
            json!({"sound": false}),
            json!({"icon": ["a"]}),
            json!({"image": "picture"}),
            json!({"image": "file:///etc/passwd"}),
            json!({"click_action": {}}),
            json!({"analytics_label": ""}),
            json!({"analytics_label": "a b"}),
            json!({"analytics_label": "a".repeat(51)}),
            json!({"data_only": true, "channel_id": "orders"}),
            json!({"data_only": true, "sound": "bell"}),
            json!({"data_only": true, "icon": "box"}),
            json!({"data_only": true, "image": "https://example.com/i.png"}),
            json!({"data_only": true, "click_action": "OPEN"}),
        ];
        for object in bad {
            let metadata = json!({"fcm": object});
            assert_eq!(Overrides::of(metadata.as_object().unwrap()), None, "{object}");
        }
    }
}
