//! Templates in their simple form: per channel and locale a few texts, and the variables they may use.
//!
//! A template is written in a small part of the Jinja language: `{{ value }}`, `{% if %}`, `{% for %}`, comments and
//! a fixed list of filters. Alimtalk alone keeps the placeholders `#{name}` of its registered text. Rendering is
//! bounded in steps, memory and output, and sees nothing but the declared variables.
//!
//! [`Template::validate`] when a template is stored, [`Template::check_data`] when a notification names it,
//! [`CompiledTemplate::render`] when a delivery needs its text. A notification that brings its text along is a
//! [`Content`].

pub mod alimtalk;
pub mod cache;
pub mod compiled;
pub mod content;
pub mod data;
mod escape;
mod filters;
mod guard;
pub mod locale;
mod sandbox;
pub mod size;
pub mod sms;
mod validate;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::channel::{Channel, ChannelChoice};
use crate::problem::FieldError;

pub use cache::TemplateCache;
pub use compiled::{CompiledTemplate, RenderError};
pub use content::Content;
pub use size::{MAX_SEGMENTS, MAX_WEBPUSH_BYTES, Size, size_warnings};

/// Largest template, in bytes of its JSON form.
pub const MAX_TEMPLATE_BYTES: usize = 128 * 1024;
/// Largest source of one field, and largest text that one field may render to, in bytes.
pub const MAX_FIELD_BYTES: usize = 64 * 1024;
/// Largest title or subject, as source and as text, in bytes.
pub const MAX_LINE_BYTES: usize = 1024;
/// Longest link, in bytes.
pub const MAX_URL_BYTES: usize = 2048;
/// Most variables that a template may declare.
pub const MAX_VARIABLES: usize = 64;
/// Most locales beside the default texts.
pub const MAX_LOCALES: usize = 50;
/// Most buttons under a message: the limit of Alimtalk, kept for every channel.
pub const MAX_BUTTONS: usize = 5;
/// Longest label of a button, in characters.
pub const MAX_BUTTON_NAME_CHARS: usize = 64;

/// What a text is for: a channel, or `push` for the three push channels together. A specific key beats `push`.
pub type BodyKey = ChannelChoice;

/// The texts of a template, per channel and locale, with the variables they use.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// The texts for recipients whose locale has none of its own.
    #[serde(default)]
    pub channels: BTreeMap<BodyKey, Body>,
    /// The texts per locale (`ko-KR`, `ko`). A locale that lacks a channel falls back to its language, then to
    /// `channels`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub locales: BTreeMap<String, LocaleBodies>,
    /// The variables that the texts may use; names match `[A-Za-z_][A-Za-z0-9_]{0,63}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, Variable>,
}

/// The texts of one locale.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LocaleBodies {
    /// The texts per channel.
    pub channels: BTreeMap<BodyKey, Body>,
}

/// The text of one channel. Which fields a channel takes is checked by [`Template::validate`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// The headline of a push message, an inbox item, a webhook or an Alimtalk message; one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The main text; another name of `text`, customary for push and inbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The main text; another name of `body`, customary for SMS, e-mail and Telegram. Telegram's is HTML.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The subject of an e-mail; one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The HTML part of an e-mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
    /// What a tap opens; `http` or `https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Buttons under the message.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buttons: Vec<Button>,
    /// The code under which an Alimtalk text is registered with Kakao.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_code: Option<String>,
}

impl Body {
    /// The main text, whichever of its two names was used.
    #[must_use]
    pub fn main_text(&self) -> Option<&str> {
        self.text.as_deref().or(self.body.as_deref())
    }
}

/// A button under a message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Button {
    /// Its label.
    pub name: String,
    /// What it does; a link unless said otherwise. Other kinds exist on Alimtalk alone.
    #[serde(default, rename = "type")]
    pub kind: ButtonKind,
    /// What it opens; on Alimtalk the mobile link. Needed by a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Alimtalk: what it opens on a desktop computer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desktop_url: Option<String>,
    /// Alimtalk app link: the iOS scheme.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ios_url: Option<String>,
    /// Alimtalk app link: the Android scheme.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub android_url: Option<String>,
}

/// What a button does, in the two letters of Kakao's Alimtalk.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum ButtonKind {
    /// Opens a web link.
    #[default]
    Wl,
    /// Opens an app.
    Al,
    /// Sends the button's name to a bot.
    Bk,
    /// Sends the message to a consultant.
    Md,
    /// Looks up a parcel.
    Ds,
    /// Adds the channel.
    Ac,
    /// Turns to a bot.
    Bc,
    /// Turns to a consultant.
    Bt,
}

/// A value that the texts of a template may use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Variable {
    /// What it holds.
    #[serde(rename = "type")]
    pub kind: VariableType,
    /// Whether a notification must bring it; yes unless said otherwise. One with a `default` may always be left out.
    /// An optional one that is left out renders as nothing and counts as false.
    #[serde(default = "yes")]
    pub required: bool,
    /// A value for previews.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub example: Option<Value>,
    /// The value used where a notification brings none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
}

const fn yes() -> bool {
    true
}

/// What a variable holds, in the words of JSON Schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VariableType {
    /// A string.
    String,
    /// Any number.
    Number,
    /// A whole number.
    Integer,
    /// True or false.
    Boolean,
    /// An object; its members are reached as `order.total`.
    Object,
    /// A list, for `{% for %}`.
    Array,
}

impl VariableType {
    /// The name used in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            VariableType::String => "string",
            VariableType::Number => "number",
            VariableType::Integer => "integer",
            VariableType::Boolean => "boolean",
            VariableType::Object => "object",
            VariableType::Array => "array",
        }
    }

    /// Whether `value` is of this type. Null is of none.
    #[must_use]
    pub fn admits(self, value: &Value) -> bool {
        match self {
            VariableType::String => value.is_string(),
            VariableType::Number => value.is_number(),
            VariableType::Integer => {
                value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
            }
            VariableType::Boolean => value.is_boolean(),
            VariableType::Object => value.is_object(),
            VariableType::Array => value.is_array(),
        }
    }
}

/// A text that is ready for a channel: one shape for all of them, each takes the fields it knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rendered {
    /// The headline; one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The main text, empty where there is none (a push message with a title alone, an e-mail with HTML alone).
    /// For Telegram it is HTML, for every other channel plain text.
    #[serde(default)]
    pub text: String,
    /// The HTML part of an e-mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
    /// The subject of an e-mail; one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What a tap opens; `http` or `https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Buttons under the message.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buttons: Vec<Button>,
    /// Alimtalk's template code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_code: Option<String>,
}

impl Template {
    /// Whether the template can be stored: sizes, the fields of each channel, syntax, and that every variable used
    /// is declared.
    ///
    /// # Errors
    /// Every finding, each with its path (`locales.ko-KR.channels.sms.text`).
    pub fn validate(&self) -> Result<(), Vec<FieldError>> {
        validate::template(self)
    }

    /// Whether `data` fits the declared variables: none missing, none unknown, each of its type, and all of it small
    /// enough to render.
    ///
    /// # Errors
    /// Every finding, as `data.<variable>`.
    pub fn check_data(&self, data: &Map<String, Value>) -> Result<(), Vec<FieldError>> {
        data::check(&self.variables, data)
    }

    /// The text for `channel` in `locale`: the exact locale, then its shorter forms, then the default; within each
    /// the channel's own key before `push`.
    #[must_use]
    pub fn body(&self, channel: Channel, locale: Option<&str>) -> Option<&Body> {
        locale::chain(locale)
            .iter()
            .filter_map(|wanted| {
                self.locales
                    .iter()
                    .find(|(name, _)| locale::normalize(name) == *wanted)
                    .map(|(_, bodies)| &bodies.channels)
            })
            .chain([&self.channels])
            .find_map(|bodies| pick(bodies, channel))
    }

    /// Whether there is a text for `channel` in `locale`, see [`Template::body`].
    #[must_use]
    pub fn has_body(&self, channel: Channel, locale: Option<&str>) -> bool {
        self.body(channel, locale).is_some()
    }

    /// The channels that have a text in `locale`, in the order of [`Channel::ALL`].
    #[must_use]
    pub fn channels(&self, locale: Option<&str>) -> Vec<Channel> {
        Channel::ALL.into_iter().filter(|channel| self.has_body(*channel, locale)).collect()
    }

    /// Data for a preview: each variable's example, else its default.
    #[must_use]
    pub fn example_data(&self) -> Map<String, Value> {
        self.variables
            .iter()
            .filter_map(|(name, variable)| {
                let value = variable.example.as_ref().or(variable.default.as_ref())?;
                Some((name.clone(), value.clone()))
            })
            .collect()
    }

    /// The text for one recipient. Compiles the template each time: for more than one, keep a [`CompiledTemplate`].
    ///
    /// # Errors
    /// See [`RenderError`].
    pub fn render(
        &self,
        channel: Channel,
        locale: Option<&str>,
        data: &Map<String, Value>,
    ) -> Result<Rendered, RenderError> {
        CompiledTemplate::new(self)
            .map_err(|errors| RenderError::invalid(&errors))?
            .render(channel, locale, data)
    }
}

/// The entry for `channel`: its own key, else `push` where that covers it.
fn pick<T>(bodies: &BTreeMap<BodyKey, T>, channel: Channel) -> Option<&T> {
    bodies.get(&own_key(channel)).or_else(|| bodies.get(&BodyKey::Push).filter(|_| channel.is_push()))
}

/// The key that names `channel` alone.
const fn own_key(channel: Channel) -> BodyKey {
    match channel {
        Channel::Apns => BodyKey::Apns,
        Channel::Fcm => BodyKey::Fcm,
        Channel::Webpush => BodyKey::Webpush,
        Channel::Sms => BodyKey::Sms,
        Channel::Email => BodyKey::Email,
        Channel::Telegram => BodyKey::Telegram,
        Channel::Alimtalk => BodyKey::Alimtalk,
        Channel::Webhook => BodyKey::Webhook,
        Channel::Inbox => BodyKey::Inbox,
    }
}

/// The name of a key in paths.
const fn key_name(key: BodyKey) -> &'static str {
    match key {
        BodyKey::Push => "push",
        BodyKey::Apns => "apns",
        BodyKey::Fcm => "fcm",
        BodyKey::Webpush => "webpush",
        BodyKey::Sms => "sms",
        BodyKey::Email => "email",
        BodyKey::Telegram => "telegram",
        BodyKey::Alimtalk => "alimtalk",
        BodyKey::Webhook => "webhook",
        BodyKey::Inbox => "inbox",
    }
}
