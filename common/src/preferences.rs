//! Preferences: what a recipient wants to be sent, on which channels, and when.

use std::collections::BTreeMap;

use jiff::civil::Time;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::channel::{Channel, ChannelChoice, Priority};
use crate::clock::Stamp;
use crate::id::CategoryId;
use crate::problem::FieldError;
use crate::state::Record;

/// The facet that holds what preferences say beside permissions.
pub const PREFERENCES_FACET: &str = "preferences";
const MAX_CATEGORIES: usize = 200;

/// What a recipient decides. Everything that matches must allow; a more specific rule beats a more general one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Preferences {
    /// By category.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, CategoryPreference>)]
    pub categories: BTreeMap<CategoryId, CategoryPreference>,
    /// By channel, over all categories.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, bool>)]
    pub channels: BTreeMap<ChannelChoice, bool>,
    /// When to be left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet_hours: Option<QuietHours>,
    /// Which channel first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channel_order: Vec<ChannelChoice>,
    /// Whether anything of the marketing class may come at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marketing: Option<bool>,
}

/// What a recipient decides about one category.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CategoryPreference {
    /// By channel, within this category.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, bool>)]
    pub channels: BTreeMap<ChannelChoice, bool>,
    /// Whether the category may come at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// How often to gather messages of this category into one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// Hours in the recipient's time zone in which only urgent messages come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuietHours {
    /// First minute, `HH:MM`.
    #[serde(with = "minute")]
    #[schema(value_type = String, example = "22:00")]
    pub from: Time,
    /// First minute after, `HH:MM`; before `from` when the hours go over midnight.
    #[serde(with = "minute")]
    #[schema(value_type = String, example = "08:00")]
    pub to: Time,
    /// This priority and more urgent ones come all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub except_priority: Option<Priority>,
}

mod minute {
    use jiff::civil::Time;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(time: &Time, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:02}:{:02}", time.hour(), time.minute()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let parse = || {
            let (hour, minute) = text.split_once(':')?;
            if hour.len() != 2 || minute.len() != 2 {
                return None;
            }
            Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
        };
        parse().ok_or_else(|| de::Error::custom("write a time of day as HH:MM"))
    }
}

/// The part of preferences that is no permission: one last-writer-wins register.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Wishes {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quiet_hours: Option<QuietHours>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    channel_order: Vec<ChannelChoice>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    digests: BTreeMap<CategoryId, String>,
}

const ALLOW: &str = "allow/";
const MARKETING: &str = "allow/marketing";

impl Preferences {
    /// Checks what types can't say.
    ///
    /// # Errors
    /// One entry for each thing that is wrong.
    pub fn validate(&self) -> Result<(), Vec<FieldError>> {
        let mut errors = Vec::new();
        if self.categories.len() > MAX_CATEGORIES {
            errors.push(FieldError::new("categories", "too_many", "preferences name at most 200 categories"));
        }
        if self.channel_order.len() > ALL_CHOICES.len() {
            errors.push(FieldError::new("channel_order", "too_many", "name each channel once"));
        }
        for (category, preference) in &self.categories {
            if let Some(digest) = &preference.digest
                && !matches!(digest.as_str(), "off" | "hourly" | "daily" | "weekly")
            {
                errors.push(FieldError::new(
                    format!("categories.{category}.digest"),
                    "invalid_value",
                    "write off, hourly, daily or weekly",
                ));
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Reads the preferences of a record.
    #[must_use]
    pub fn read(record: &Record) -> Self {
        let mut out = Preferences::default();
        for name in record.facets.keys() {
            let Some(path) = name.strip_prefix(ALLOW) else { continue };
            let Some(allowed) = record.allowed(name) else { continue };
            let mut parts = path.split('/');
            match (parts.next(), parts.next(), parts.next()) {
                (Some("marketing"), None, None) => out.marketing = Some(allowed),
                (Some("channel"), Some(channel), None) => {
                    if let Some(choice) = choice(channel) {
                        out.channels.insert(choice, allowed);
                    }
                }
                (Some("category"), Some(category), channel) => {
                    let Ok(category) = category.parse() else { continue };
                    let entry = out.categories.entry(category).or_default();
                    match channel {
                        None => entry.enabled = Some(allowed),
                        Some(channel) => {
                            if let Some(choice) = choice(channel) {
                                entry.channels.insert(choice, allowed);
                            }
                        }
                    }
                }
                _ => {}
            }
        }
        if let Some(wishes) = record.get(PREFERENCES_FACET).and_then(|value| Wishes::deserialize(value).ok())
        {
            out.quiet_hours = wishes.quiet_hours;
            out.channel_order = wishes.channel_order;
            for (category, digest) in wishes.digests {
                out.categories.entry(category).or_default().digest = Some(digest);
            }
        }
        out
    }

    /// Replaces the preferences of a record. Each permission is a register of its own, so that an opt-out wins over
    /// whatever another region writes at the same time.
    pub fn write(&self, record: &mut Record, stamp: &Stamp) {
        let mut wanted: BTreeMap<String, bool> = BTreeMap::new();
        if let Some(marketing) = self.marketing {
            wanted.insert(MARKETING.to_owned(), marketing);
        }
        for (choice, allowed) in &self.channels {
            wanted.insert(format!("{ALLOW}channel/{}", choice_name(*choice)), *allowed);
        }
        for (category, preference) in &self.categories {
            if let Some(enabled) = preference.enabled {
                wanted.insert(format!("{ALLOW}category/{category}"), enabled);
            }
            for (choice, allowed) in &preference.channels {
                wanted.insert(format!("{ALLOW}category/{category}/{}", choice_name(*choice)), *allowed);
            }
        }
        let existing: Vec<String> =
            record.facets.keys().filter(|name| name.starts_with(ALLOW)).cloned().collect();
        for name in existing {
            if !wanted.contains_key(&name)
                && record.facets.get(&name).is_some_and(|facet| !facet.value.is_null() || facet.is_denied())
            {
                record.set_guarded(&name, None, stamp);
            }
        }
        for (name, allowed) in wanted {
            // A refusal is said anew each time: who lifts an earlier one elsewhere has not seen this one.
            if !allowed || record.allowed(&name) != Some(allowed) {
                record.set_guarded(&name, Some(allowed), stamp);
            }
        }
        let wishes = Wishes {
            quiet_hours: self.quiet_hours.clone(),
            channel_order: self.channel_order.clone(),
            digests: self
                .categories
                .iter()
                .filter_map(|(id, preference)| Some((id.clone(), preference.digest.clone()?)))
                .collect(),
        };
        if let Ok(value) = serde_json::to_value(wishes) {
            record.set(PREFERENCES_FACET, value, stamp);
        }
    }
}

/// When the switch was written last that refuses a category on a channel; `None` when it does not.
#[must_use]
pub fn refused_at<'r>(record: &'r Record, category: &CategoryId, channel: Channel) -> Option<&'r Stamp> {
    let switch = channel_switch(category, channel);
    let is_refused = record.allowed(&switch) == Some(false);
    record.facets.get(&switch).filter(|_| is_refused).map(|facet| &facet.stamp)
}

/// Refuses a category on a channel, as `categories.<category>.channels.<channel> = false` does: anew each time, since who lifts
/// an earlier refusal elsewhere has not seen this one. Everything else stays as it is, also what another region writes at the
/// same time.
pub fn refuse(record: &mut Record, category: &CategoryId, channel: Channel, stamp: &Stamp) {
    record.set_guarded(&channel_switch(category, channel), Some(false), stamp);
}

fn channel_switch(category: &CategoryId, channel: Channel) -> String {
    format!("{ALLOW}category/{category}/{channel}")
}

const ALL_CHOICES: [ChannelChoice; 10] = [
    ChannelChoice::Push,
    ChannelChoice::Apns,
    ChannelChoice::Fcm,
    ChannelChoice::Webpush,
    ChannelChoice::Sms,
    ChannelChoice::Email,
    ChannelChoice::Telegram,
    ChannelChoice::Alimtalk,
    ChannelChoice::Webhook,
    ChannelChoice::Inbox,
];

fn choice_name(choice: ChannelChoice) -> &'static str {
    match choice {
        ChannelChoice::Push => "push",
        other => other.channels()[0].as_str(),
    }
}

fn choice(name: &str) -> Option<ChannelChoice> {
    ALL_CHOICES.into_iter().find(|choice| choice_name(*choice) == name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stamp(ms: u64) -> Stamp {
        Stamp { ms, counter: 0, region: "eu".parse().unwrap() }
    }

    fn contract_preferences() -> Preferences {
        serde_json::from_value(json!({
            "categories": {"orders": {"channels": {"sms": false}, "enabled": true, "digest": "daily"}},
            "channels": {"email": true},
            "quiet_hours": {"from": "22:00", "to": "08:00", "except_priority": "critical"},
            "channel_order": ["push", "email"],
            "marketing": false
        }))
        .unwrap()
    }

    #[test]
    fn preferences_are_read_back_as_written_and_replaced_as_a_whole() {
        let mut record = Record::default();
        let preferences = contract_preferences();
        preferences.write(&mut record, &stamp(1));
        assert_eq!(Preferences::read(&record), preferences);
        Preferences::default().write(&mut record, &stamp(2));
        assert_eq!(Preferences::read(&record), Preferences::default());
        preferences.write(&mut record, &stamp(3));
        assert_eq!(Preferences::read(&record), preferences);
    }

    #[test]
    fn a_refusal_is_the_same_as_the_preference_and_changes_nothing_else() {
        let news: CategoryId = "news".parse().unwrap();
        let mut record = Record::default();
        contract_preferences().write(&mut record, &stamp(1));
        refuse(&mut record, &news, Channel::Email, &stamp(2));
        assert_eq!(refused_at(&record, &news, Channel::Email), Some(&stamp(2)));
        assert_eq!(refused_at(&record, &news, Channel::Sms), None);
        let mut expected = contract_preferences();
        let own = expected.categories.entry(news.clone()).or_default();
        own.channels.insert(ChannelChoice::Email, false);
        assert_eq!(Preferences::read(&record), expected);
        assert_eq!(record.facets[PREFERENCES_FACET].stamp, stamp(1));
    }

    #[test]
    fn a_refusal_that_is_repeated_outlives_the_lifting_of_the_first() {
        let news: CategoryId = "news".parse().unwrap();
        let of_us = |ms| Stamp { region: "us".parse().unwrap(), ..stamp(ms) };
        let refused = contract_preferences();
        let wanted = Preferences { marketing: Some(true), ..Preferences::default() };
        let mut here = Record::default();
        refused.write(&mut here, &stamp(1));
        refuse(&mut here, &news, Channel::Email, &stamp(1));
        let mut there = here.clone();
        wanted.write(&mut here, &stamp(3));
        refused.write(&mut there, &of_us(2));
        refuse(&mut there, &news, Channel::Email, &of_us(2));
        here.merge(there);
        assert_eq!(Preferences::read(&here).marketing, Some(false));
        assert!(refused_at(&here, &news, Channel::Email).is_some());
    }

    #[test]
    fn what_is_left_out_lifts_a_refusal_that_came_from_elsewhere() {
        let marketing = |wanted| Preferences { marketing: wanted, ..Preferences::default() };
        let (mut here, mut there) = (Record::default(), Record::default());
        marketing(Some(false)).write(&mut there, &Stamp { region: "us".parse().unwrap(), ..stamp(1) });
        marketing(Some(false)).write(&mut here, &stamp(2));
        marketing(None).write(&mut here, &stamp(3));
        here.merge(there);
        assert_eq!(Preferences::read(&here).marketing, Some(false));
        marketing(None).write(&mut here, &stamp(4));
        assert_eq!(Preferences::read(&here).marketing, None);
    }

    #[test]
    fn times_of_day_are_written_with_two_digits() {
        for bad in ["24:00", "8:00", "08:60", "0800", ""] {
            let json = json!({"quiet_hours": {"from": bad, "to": "08:00"}});
            assert!(serde_json::from_value::<Preferences>(json).is_err(), "{bad}");
        }
    }
}
