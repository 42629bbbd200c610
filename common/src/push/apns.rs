//! What a sender may say about a push on its own: the object `apns` in a notification's metadata.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// Where the object stands in the metadata. It is not passed on to the app.
pub const KEY: &str = "apns";
/// What it may hold, for people.
pub(super) const ALLOWED: &str = "write an object with any of badge (a whole number), sound (a text, or null for none), \
    interruption_level (passive, active, time-sensitive or critical), category, thread_id, content_available, \
    mutable_content (true or false) and push_type (alert or background, which only wakes the app)";

/// The object, with Apple's words (Apple, "Generating a remote notification").
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overrides<'a> {
    /// The number on the app's icon; 0 takes it away.
    pub badge: Option<u32>,
    /// The name of a sound file of the app, or null for none.
    #[serde(borrow, default)]
    pub sound: Sound<'a>,
    /// How much it may disturb.
    pub interruption_level: Option<InterruptionLevel>,
    /// The kind of notification, which has its buttons in the app.
    pub category: Option<&'a str>,
    /// What notifications are grouped by.
    pub thread_id: Option<&'a str>,
    /// Whether the app is woken too.
    pub content_available: Option<bool>,
    /// Whether an extension of the app may change the notification before it is shown.
    pub mutable_content: Option<bool>,
    /// Whether anything is to be seen; an alert unless said otherwise.
    pub push_type: Option<PushType>,
}

/// The sound that a push makes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sound<'a> {
    /// Nothing was said: the default one.
    #[default]
    Unsaid,
    /// None.
    Silent,
    /// A file of the app.
    Named(&'a str),
}

impl<'de: 'a, 'a> Deserialize<'de> for Sound<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::<&str>::deserialize(deserializer)?.map_or(Sound::Silent, Sound::Named))
    }
}

/// How much a push may disturb.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InterruptionLevel {
    /// It waits in the list without a sound.
    Passive,
    /// The usual.
    Active,
    /// It is shown at once, also in a focus.
    TimeSensitive,
    /// Is heard also when the device is muted; apps need Apple's permission for it.
    Critical,
}

/// What a push is, as `apns-push-type` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PushType {
    /// Something is shown, heard or put on the icon.
    Alert,
    /// The app is woken, and nobody sees it.
    Background,
}

impl<'a> Overrides<'a> {
    /// Reads the object. `None` when a key is unknown, a value is of another type, or a background push is to do what
    /// only an alert can.
    #[must_use]
    pub fn of(metadata: &'a Map<String, Value>) -> Option<Self> {
        let Some(object) = metadata.get(KEY) else { return Some(Overrides::default()) };
        if !object.is_object() {
            return None;
        }
        let overrides = Overrides::deserialize(object).ok()?;
        let is_alert = overrides.badge.is_some()
            || overrides.sound != Sound::Unsaid
            || overrides.interruption_level.is_some()
            || overrides.mutable_content == Some(true)
            || overrides.content_available == Some(false);
        (overrides.push_type != Some(PushType::Background) || !is_alert).then_some(overrides)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_known_is_read() {
        let metadata = json!({"order": 7, "apns": {
            "badge": 3, "sound": "bell.caf", "interruption_level": "time-sensitive", "category": "ORDER",
            "thread_id": "orders", "content_available": true, "mutable_content": false, "push_type": "alert",
        }});
        let expected = Overrides {
            badge: Some(3),
            sound: Sound::Named("bell.caf"),
            interruption_level: Some(InterruptionLevel::TimeSensitive),
            category: Some("ORDER"),
            thread_id: Some("orders"),
            content_available: Some(true),
            mutable_content: Some(false),
            push_type: Some(PushType::Alert),
        };
        assert_eq!(Overrides::of(metadata.as_object().unwrap()), Some(expected));
        let silent = json!({"apns": {"sound": null}});
        assert_eq!(Overrides::of(silent.as_object().unwrap()).unwrap().sound, Sound::Silent);
        for nothing in [json!({}), json!({"order": 7}), json!({"apns": {}})] {
            assert_eq!(Overrides::of(nothing.as_object().unwrap()), Some(Overrides::default()));
        }
    }

    #[test]
    fn what_can_not_be_meant_is_refused() {
        let bad = [
            json!(null),
            json!("alert"),
            json!([]),
            json!({"bagde": 1}),
            json!({"badge": -1}),
            json!({"badge": 1.5}),
            json!({"badge": "1"}),
            json!({"sound": false}),
            json!({"sound": {"name": "bell.caf"}}),
            json!({"interruption_level": "loud"}),
            json!({"category": 1}),
            json!({"thread_id": ["a"]}),
            json!({"content_available": 1}),
            json!({"mutable_content": "true"}),
            json!({"push_type": "voip"}),
            json!({"push_type": "background", "badge": 1}),
            json!({"push_type": "background", "sound": "bell.caf"}),
            json!({"push_type": "background", "interruption_level": "passive"}),
            json!({"push_type": "background", "mutable_content": true}),
            json!({"push_type": "background", "content_available": false}),
        ];
        for object in bad {
            let metadata = json!({"apns": object});
            assert_eq!(Overrides::of(metadata.as_object().unwrap()), None, "{object}");
        }
    }
}
