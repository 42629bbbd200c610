//! Texts that a notification brings along instead of naming a template. Nothing in them is a template.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::channel::Channel;
use crate::problem::FieldError;

use super::{Body, BodyKey, Rendered, escape, key_name, pick, validate};

/// Longest subject taken from the first line of a text, in characters: the line length of RFC 5322 section 2.1.1.
const MAX_DERIVED_SUBJECT_CHARS: usize = 78;

/// The text of a notification: one for all channels, with exceptions per channel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// The headline; one line. An e-mail's subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The main text, plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// What a tap opens; `http` or `https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What a channel gets instead; fields left out come from above. An e-mail's `html` and Telegram's `text` are
    /// HTML and are sent as they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by_channel: BTreeMap<BodyKey, Body>,
}

impl Content {
    /// Whether the content can be accepted.
    ///
    /// # Errors
    /// Every finding, each with its path below the content (`by_channel.email.subject`).
    pub fn validate(&self) -> Result<(), Vec<FieldError>> {
        let mut errors = Vec::new();
        let empty = |text: &Option<String>| text.as_deref().is_none_or(|text| text.trim().is_empty());
        if empty(&self.title) && empty(&self.body) && self.by_channel.is_empty() {
            errors.push(FieldError::new(
                "body",
                "missing",
                "write a title, a body, or a text under by_channel",
            ));
        }
        validate::line("title", self.title.as_deref(), &mut errors);
        validate::text("body", self.body.as_deref(), &mut errors);
        validate::link("url", self.url.as_deref(), false, &mut errors);
        for (key, body) in &self.by_channel {
            let path = format!("by_channel.{}", key_name(*key));
            validate::fields(&path, *key, body, false, &mut errors);
            self.validate_required(&path, *key, body, &mut errors);
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Checks that a channel's exception and the common text together are enough.
    fn validate_required(&self, path: &str, key: BodyKey, body: &Body, errors: &mut Vec<FieldError>) {
        let mut need = |there: bool, name: &str, detail: &str| {
            if !there {
                errors.push(FieldError::new(format!("{path}.{name}"), "missing", detail));
            }
        };
        let has_text = body.main_text().is_some() || self.body.is_some();
        match key {
            BodyKey::Email => {
                need(
                    has_text || self.title.is_some() || body.html.is_some(),
                    "text",
                    "write text, html or both",
                );
                need(
                    has_text || self.title.is_some() || body.subject.is_some(),
                    "subject",
                    "an e-mail needs a subject: write one, or a title for all channels",
                );
            }
            BodyKey::Alimtalk => {
                need(has_text, "text", "write the text as it is registered with Kakao");
                need(
                    body.template_code.is_some(),
                    "template_code",
                    "write the code that Kakao gave the template",
                );
            }
            _ => need(has_text || body.title.is_some() || self.title.is_some(), "text", "write a text"),
        }
    }

    /// Whether there is a text for `channel`. Alimtalk sends registered texts alone, so it needs one of its own.
    #[must_use]
    pub fn has_body(&self, channel: Channel) -> bool {
        let parts = self.parts(channel);
        let has_text = parts.own_text().or(parts.body).is_some();
        match channel {
            Channel::Email => parts.email().is_some(),
            Channel::Alimtalk => parts.own.is_some() && has_text,
            _ => has_text || parts.title.is_some(),
        }
    }

    /// The text for `channel`, if there is one, see [`Content::has_body`].
    #[must_use]
    pub fn render(&self, channel: Channel) -> Option<Rendered> {
        let parts = self.parts(channel);
        let mut rendered = match channel {
            Channel::Email => parts.email()?,
            Channel::Telegram => parts.telegram()?,
            Channel::Sms => parts.sms()?,
            Channel::Alimtalk => parts.alimtalk()?,
            Channel::Apns | Channel::Fcm | Channel::Webpush | Channel::Webhook | Channel::Inbox => {
                parts.card()?
            }
        };
        rendered.buttons = parts.own.map(|own| own.buttons.clone()).unwrap_or_default();
        Some(rendered)
    }

    fn parts(&self, channel: Channel) -> Parts<'_> {
        let own = pick(&self.by_channel, channel);
        Parts {
            title: own.and_then(|own| own.title.as_deref()).or(self.title.as_deref()).and_then(filled),
            body: self.body.as_deref().and_then(filled),
            url: own
                .and_then(|own| own.url.as_deref())
                .or(self.url.as_deref())
                .map(str::trim)
                .and_then(filled),
            own,
        }
    }
}

/// Nothing for an empty text.
fn filled(text: &str) -> Option<&str> {
    (!text.trim().is_empty()).then_some(text)
}

/// What a channel has to work with.
struct Parts<'a> {
    title: Option<&'a str>,
    /// The common text.
    body: Option<&'a str>,
    url: Option<&'a str>,
    own: Option<&'a Body>,
}

impl Parts<'_> {
    fn own_text(&self) -> Option<&str> {
        self.own.and_then(Body::main_text).and_then(filled)
    }

    fn own_line(&self) -> Option<String> {
        self.title.map(|title| escape::line(title).into_owned())
    }

    /// A text followed by the link on a line of its own.
    fn with_link(&self, text: &str) -> String {
        match self.url {
            Some(url) => format!("{text}\n{url}"),
            None => text.to_owned(),
        }
    }

    fn email(&self) -> Option<Rendered> {
        let html = self.own.and_then(|own| own.html.clone());
        let text = match (self.own_text(), self.body.or(self.title)) {
            (Some(text), _) => escape::plain(text).into_owned(),
            // With HTML of its own, the title alone is no text.
            (None, _) if html.is_some() && self.body.is_none() => String::new(),
            (None, Some(text)) => self.with_link(&escape::plain(text)),
            (None, None) => String::new(),
        };
        if text.is_empty() && html.is_none() {
            return None;
        }
        let subject = match self.own.and_then(|own| own.subject.as_deref()).and_then(filled).or(self.title) {
            Some(subject) => subject.to_owned(),
            None => first_line(&text),
        };
        Some(Rendered {
            subject: Some(escape::line(&subject).into_owned()),
            text,
            html,
            ..Rendered::default()
        })
    }

    fn telegram(&self) -> Option<Rendered> {
        let text = match self.own_text() {
            Some(html) => html.to_owned(),
            None => {
                let title = self.title.map(|title| format!("<b>{}</b>", escape::html(title)));
                let body = self.body.map(|body| escape::html(body).into_owned());
                let url = self.url.map(|url| escape::html(url).into_owned());
                if title.is_none() && body.is_none() {
                    return None;
                }
                [title, body, url].into_iter().flatten().collect::<Vec<_>>().join("\n")
            }
        };
        Some(Rendered { text, ..Rendered::default() })
    }

    fn sms(&self) -> Option<Rendered> {
        let text = match (self.own_text(), self.own_line(), self.body) {
            (Some(text), _, _) => text.to_owned(),
            (None, Some(title), Some(body)) => format!("{title}: {body}"),
            (None, Some(text), None) => text,
            (None, None, Some(text)) => text.to_owned(),
            (None, None, None) => return None,
        };
        let text = match self.url {
            Some(url) if self.own_text().is_none() => format!("{text} {url}"),
            _ => text,
        };
        Some(Rendered { text: escape::plain(&text).into_owned(), ..Rendered::default() })
    }

    fn alimtalk(&self) -> Option<Rendered> {
        let own = self.own?;
        let text = self.own_text().or(self.body)?;
        Some(Rendered {
            title: own.title.as_deref().map(|title| escape::line(title).into_owned()),
            text: escape::plain(text).into_owned(),
            template_code: own.template_code.clone(),
            ..Rendered::default()
        })
    }

    /// Title, text and link, each in its place: push, inbox and webhook.
    fn card(&self) -> Option<Rendered> {
        let text = self.own_text().or(self.body);
        if text.is_none() && self.title.is_none() {
            return None;
        }
        Some(Rendered {
            title: self.own_line(),
            text: escape::plain(text.unwrap_or_default()).into_owned(),
            url: self.url.map(str::to_owned),
            ..Rendered::default()
        })
    }
}

/// The first line of a text, cut to the length of a subject.
fn first_line(text: &str) -> String {
    let line = text.trim_start().lines().next().unwrap_or_default().trim_end();
    if line.chars().count() <= MAX_DERIVED_SUBJECT_CHARS {
        return line.to_owned();
    }
    line.chars().take(MAX_DERIVED_SUBJECT_CHARS - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use proptest::option;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn content(json: serde_json::Value) -> Content {
        serde_json::from_value(json).unwrap()
    }

    fn codes(content: &Content) -> Vec<(String, String)> {
        content
            .validate()
            .err()
            .unwrap_or_default()
            .into_iter()
            .map(|error| (error.field, error.code))
            .collect()
    }

    #[test]
    fn one_text_serves_every_channel_but_alimtalk() {
        let content =
            content(json!({"title": "Shipped <1>", "body": "Order & more", "url": "https://e.com/?a=1&b=2"}));
        assert!(content.validate().is_ok());
        let email = content.render(Channel::Email).unwrap();
        assert_eq!(email.subject.as_deref(), Some("Shipped <1>"));
        assert_eq!(email.text, "Order & more\nhttps://e.com/?a=1&b=2");
        assert_eq!(email.html, None);
        assert_eq!(
            content.render(Channel::Telegram).unwrap().text,
            "<b>Shipped &lt;1&gt;</b>\nOrder &amp; more\nhttps://e.com/?a=1&amp;b=2"
        );
        assert_eq!(
            content.render(Channel::Sms).unwrap().text,
            "Shipped <1>: Order & more https://e.com/?a=1&b=2"
        );
        for channel in [Channel::Apns, Channel::Fcm, Channel::Webpush, Channel::Inbox, Channel::Webhook] {
            let card = content.render(channel).unwrap();
            assert_eq!(card.title.as_deref(), Some("Shipped <1>"));
            assert_eq!(card.text, "Order & more");
            assert_eq!(card.url.as_deref(), Some("https://e.com/?a=1&b=2"));
        }
        assert_eq!(content.render(Channel::Alimtalk), None);
    }

    #[test]
    fn a_channel_of_its_own_beats_push_and_the_common_text() {
        let content = content(json!({
            "title": "T", "body": "B",
            "by_channel": {
                "push": {"body": "P"}, "apns": {"title": "A"}, "sms": {"text": "S"},
                "telegram": {"text": "<i>x</i>", "buttons": [{"name": "Open", "url": "https://e.com"}]},
                "email": {"subject": "S", "html": "<p>x</p>"},
                "alimtalk": {"template_code": "C1", "text": "done"}
            }
        }));
        assert_eq!(content.validate(), Ok(()));
        assert_eq!(content.render(Channel::Fcm).unwrap().text, "P");
        let apns = content.render(Channel::Apns).unwrap();
        assert_eq!((apns.title.as_deref(), apns.text.as_str()), (Some("A"), "B"));
        assert_eq!(content.render(Channel::Sms).unwrap().text, "S");
        let telegram = content.render(Channel::Telegram).unwrap();
        assert_eq!((telegram.text.as_str(), telegram.buttons.len()), ("<i>x</i>", 1));
        let email = content.render(Channel::Email).unwrap();
        assert_eq!((email.subject.as_deref(), email.html.as_deref()), (Some("S"), Some("<p>x</p>")));
        assert_eq!(email.text, "B");
        assert_eq!(content.render(Channel::Alimtalk).unwrap().template_code.as_deref(), Some("C1"));
    }

    #[test]
    fn without_a_title_the_first_line_is_the_subject() {
        let content = content(json!({"body": format!("\n{}\nmore", "가".repeat(100))}));
        let subject = content.render(Channel::Email).unwrap().subject.unwrap();
        assert_eq!(subject.chars().count(), MAX_DERIVED_SUBJECT_CHARS);
        assert!(subject.ends_with('…'));
    }

    #[test]
    fn what_no_channel_can_send_is_refused() {
        let is = |field: &str, code: &str| vec![(field.to_owned(), code.to_owned())];
        assert_eq!(codes(&content(json!({}))), is("body", "missing"));
        assert_eq!(codes(&content(json!({"title": " ", "body": "\n"}))), is("body", "missing"));
        assert_eq!(codes(&content(json!({"title": "a\r\nBcc: b"}))), is("title", "invalid"));
        assert_eq!(codes(&content(json!({"body": "x\u{0}"}))), is("body", "invalid"));
        assert_eq!(codes(&content(json!({"body": "x", "url": "javascript:alert(1)"}))), is("url", "invalid"));
        assert_eq!(codes(&content(json!({"body": "x", "url": "https://e.com/{{x}}"}))), vec![]);
        assert_eq!(
            codes(&content(json!({"body": "x", "by_channel": {"email": {"subject": "a\nb"}}}))),
            is("by_channel.email.subject", "invalid")
        );
        assert_eq!(
            codes(&content(json!({"body": "x", "by_channel": {"sms": {"html": "a"}}}))),
            is("by_channel.sms.html", "not_allowed")
        );
        assert_eq!(
            codes(&content(json!({"by_channel": {"email": {"html": "<p>"}}}))),
            is("by_channel.email.subject", "missing")
        );
        assert_eq!(
            codes(&content(json!({"body": "x", "by_channel": {"alimtalk": {}}}))),
            is("by_channel.alimtalk.template_code", "missing")
        );
        assert!(serde_json::from_value::<Content>(json!({"body": "x", "colour": "red"})).is_err());
        assert!(serde_json::from_value::<Content>(json!({"by_channel": {"fax": {}}})).is_err());
    }

    proptest! {
        #[test]
        fn no_text_escapes_its_place(title in "\\PC{1,40}|[<>&\"'\r\n\0a]{1,20}", body in "(?s).{0,80}") {
            let content = Content { title: Some(title), body: Some(body), ..Content::default() };
            for channel in Channel::ALL {
                let Some(rendered) = content.render(channel) else { continue };
                for line in [&rendered.title, &rendered.subject].into_iter().flatten() {
                    prop_assert!(!line.contains(char::is_control));
                }
                if channel == Channel::Telegram {
                    let bare = rendered.text.replacen("<b>", "", 1).replacen("</b>", "", 1);
                    prop_assert!(!bare.contains(['<', '>']));
                }
                prop_assert!(!rendered.text.contains('\0'));
            }
        }

        #[test]
        fn a_channel_has_a_body_when_one_can_be_rendered(
            title in option::of("[a\0 ]{0,2}"),
            body in option::of("[a\0 ]{0,2}"),
            url in option::of("[a ]{0,2}"),
            own in option::of((option::of("[a\0 ]{0,2}"), option::of("[a ]{0,2}"), option::of("[a ]{0,2}"))),
        ) {
            for channel in Channel::ALL {
                let by_channel = own.clone().map(|(text, title, html)| {
                    (super::super::own_key(channel), Body { text, title, html, ..Body::default() })
                });
                let by_channel = by_channel.into_iter().collect();
                let content = Content { title: title.clone(), body: body.clone(), url: url.clone(), by_channel };
                prop_assert_eq!(content.has_body(channel), content.render(channel).is_some());
            }
        }
    }
}
