//! What a template must be to be stored.

use serde_json::Value;

use crate::problem::FieldError;

use super::escape;
use super::guard::RESERVED;
use super::{
    Body, BodyKey, Button, ButtonKind, CompiledTemplate, MAX_BUTTON_NAME_CHARS, MAX_BUTTONS, MAX_FIELD_BYTES,
    MAX_LINE_BYTES, MAX_LOCALES, MAX_TEMPLATE_BYTES, MAX_URL_BYTES, MAX_VARIABLES, Template, Variable, guard,
    key_name, locale,
};

/// Longest name of a variable, in bytes.
const MAX_VARIABLE_NAME_BYTES: usize = 64;
/// Longest Alimtalk template code, in bytes.
const MAX_TEMPLATE_CODE_BYTES: usize = 64;

/// See [`Template::validate`].
pub(super) fn template(template: &Template) -> Result<(), Vec<FieldError>> {
    let bytes = serde_json::to_vec(template).map_or(usize::MAX, |json| json.len());
    if bytes > MAX_TEMPLATE_BYTES {
        let limit = format!("a template has at most {MAX_TEMPLATE_BYTES} bytes");
        return Err(vec![FieldError::new("template", "too_large", limit)]);
    }
    let mut errors = Vec::new();
    variables(template, &mut errors);
    locales(template, &mut errors);
    let bodies = std::iter::once(("channels".to_owned(), &template.channels)).chain(
        template.locales.iter().map(|(name, bodies)| (format!("locales.{name}.channels"), &bodies.channels)),
    );
    let mut count = 0;
    for (path, bodies) in bodies {
        for (key, body) in bodies {
            count += 1;
            let path = format!("{path}.{}", key_name(*key));
            fields(&path, *key, body, true, &mut errors);
            required(&path, *key, body, &mut errors);
        }
    }
    if count == 0 {
        errors.push(FieldError::new("channels", "missing", "write a text for at least one channel"));
    }
    if let Err(found) = CompiledTemplate::new(template) {
        errors.extend(found);
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn variables(template: &Template, errors: &mut Vec<FieldError>) {
    if template.variables.len() > MAX_VARIABLES {
        let limit = format!("declare at most {MAX_VARIABLES} variables");
        errors.push(FieldError::new("variables", "too_many", limit));
    }
    for (name, variable) in &template.variables {
        let path = format!("variables.{}", escape::line(escape::prefix(name, MAX_VARIABLE_NAME_BYTES)));
        if !is_variable_name(name) {
            errors.push(FieldError::new(
                path.as_str(),
                "invalid",
                "a name begins with a letter or _ and has at most 64 letters, digits and _; \
                 words of the template language are taken",
            ));
        }
        sample(&path, "example", variable, variable.example.as_ref(), errors);
        sample(&path, "default", variable, variable.default.as_ref(), errors);
    }
}

fn is_variable_name(name: &str) -> bool {
    name.len() <= MAX_VARIABLE_NAME_BYTES
        && name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !RESERVED.contains(&name)
}

fn sample(path: &str, name: &str, variable: &Variable, value: Option<&Value>, errors: &mut Vec<FieldError>) {
    if value.is_some_and(|value| !variable.kind.admits(value)) {
        let detail = format!("write a value of type {}", variable.kind.as_str());
        errors.push(FieldError::new(format!("{path}.{name}"), "wrong_type", detail));
    }
}

fn locales(template: &Template, errors: &mut Vec<FieldError>) {
    if template.locales.len() > MAX_LOCALES {
        errors.push(FieldError::new("locales", "too_many", format!("write at most {MAX_LOCALES} locales")));
    }
    let mut seen = Vec::new();
    for name in template.locales.keys() {
        let path = || format!("locales.{}", escape::line(escape::prefix(name, locale::MAX_LOCALE_BYTES)));
        let normal = locale::normalize(name);
        if !locale::is_valid(name) {
            errors.push(FieldError::new(path(), "invalid", "write a language tag such as ko or ko-KR"));
        } else if seen.contains(&normal) {
            errors.push(FieldError::new(path(), "duplicate", "this locale is there twice, in two spellings"));
        }
        seen.push(normal);
    }
}

/// The fields that a channel takes besides its main text.
const fn allowed(key: BodyKey) -> &'static [&'static str] {
    match key {
        BodyKey::Push | BodyKey::Apns | BodyKey::Fcm | BodyKey::Webpush => &["title", "url"],
        BodyKey::Sms => &[],
        BodyKey::Email => &["subject", "html"],
        BodyKey::Telegram => &["buttons"],
        BodyKey::Alimtalk => &["title", "buttons", "template_code"],
        BodyKey::Webhook | BodyKey::Inbox => &["title", "url", "buttons"],
    }
}

/// Checks which fields a body has and each by itself. With `is_source`, links and labels may have tags and are checked
/// again when they are rendered.
pub(super) fn fields(path: &str, key: BodyKey, body: &Body, is_source: bool, errors: &mut Vec<FieldError>) {
    let present = [
        ("title", body.title.is_some()),
        ("subject", body.subject.is_some()),
        ("html", body.html.is_some()),
        ("url", body.url.is_some()),
        ("buttons", !body.buttons.is_empty()),
        ("template_code", body.template_code.is_some()),
    ];
    for (name, _) in present.iter().filter(|(name, there)| *there && !allowed(key).contains(name)) {
        let detail = format!("{} takes body (or text) and: {}", key_name(key), allowed(key).join(", "));
        errors.push(FieldError::new(format!("{path}.{name}"), "not_allowed", detail));
    }
    if body.text.is_some() && body.body.is_some() {
        let detail = "text and body are two names of the main text; write one of them";
        errors.push(FieldError::new(format!("{path}.body"), "conflict", detail));
    }
    line(&format!("{path}.title"), body.title.as_deref(), errors);
    line(&format!("{path}.subject"), body.subject.as_deref(), errors);
    for (name, value) in [("text", &body.text), ("body", &body.body), ("html", &body.html)] {
        text(&format!("{path}.{name}"), value.as_deref(), errors);
    }
    link(&format!("{path}.url"), body.url.as_deref(), is_source, errors);
    buttons(path, key, &body.buttons, is_source, errors);
    if let Some(code) = &body.template_code
        && (code.is_empty()
            || code.len() > MAX_TEMPLATE_CODE_BYTES
            || !code.bytes().all(|byte| byte.is_ascii_graphic()))
    {
        errors.push(FieldError::new(
            format!("{path}.template_code"),
            "invalid",
            "write the code that Kakao gave the template",
        ));
    }
}

/// Checks that a template's body has what its channel cannot do without.
fn required(path: &str, key: BodyKey, body: &Body, errors: &mut Vec<FieldError>) {
    let has_text = body.main_text().is_some_and(|text| !text.trim().is_empty());
    let mut need = |there: bool, name: &str, detail: &str| {
        if !there {
            errors.push(FieldError::new(format!("{path}.{name}"), "missing", detail));
        }
    };
    match key {
        BodyKey::Email => {
            need(body.subject.is_some(), "subject", "an e-mail needs a subject");
            need(has_text || body.html.is_some(), "text", "an e-mail needs text, html or both");
        }
        BodyKey::Sms | BodyKey::Telegram => need(has_text, "text", "write the text of the message"),
        BodyKey::Alimtalk => {
            need(has_text, "text", "write the text as it is registered with Kakao");
            need(
                body.template_code.is_some(),
                "template_code",
                "write the code that Kakao gave the template",
            );
        }
        _ => need(has_text || body.title.is_some(), "body", "write a title, a body or both"),
    }
}

/// Checks a field that is a single line.
pub(super) fn line(path: &str, value: Option<&str>, errors: &mut Vec<FieldError>) {
    let Some(value) = value else { return };
    if value.len() > MAX_LINE_BYTES {
        errors.push(FieldError::new(path, "too_long", format!("write at most {MAX_LINE_BYTES} bytes")));
    }
    if value.contains(char::is_control) {
        errors.push(FieldError::new(path, "invalid", "write one line, without control characters"));
    }
}

/// Checks a field of several lines.
pub(super) fn text(path: &str, value: Option<&str>, errors: &mut Vec<FieldError>) {
    let Some(value) = value else { return };
    if value.len() > MAX_FIELD_BYTES {
        errors.push(FieldError::new(path, "too_long", format!("write at most {MAX_FIELD_BYTES} bytes")));
    }
    if matches!(escape::plain(value), std::borrow::Cow::Owned(_)) {
        errors.push(FieldError::new(
            path,
            "invalid",
            "remove control characters other than tab and line ends",
        ));
    }
}

/// Checks a link; the source of one only where it has no tags.
pub(super) fn link(path: &str, value: Option<&str>, is_source: bool, errors: &mut Vec<FieldError>) {
    let Some(value) = value else { return };
    let is_open = is_source && (guard::has_tags(value) || value.contains("#{"));
    if value.len() > MAX_URL_BYTES {
        errors.push(FieldError::new(path, "too_long", format!("write at most {MAX_URL_BYTES} bytes")));
    } else if value.contains(char::is_control) || (!is_open && !escape::is_web_url(value.trim())) {
        errors.push(FieldError::new(
            path,
            "invalid",
            "write a whole link that begins with https:// or http://",
        ));
    }
}

fn buttons(path: &str, key: BodyKey, buttons: &[Button], is_source: bool, errors: &mut Vec<FieldError>) {
    if buttons.len() > MAX_BUTTONS {
        let limit = format!("write at most {MAX_BUTTONS} buttons");
        errors.push(FieldError::new(format!("{path}.buttons"), "too_many", limit));
    }
    for (at, button) in buttons.iter().enumerate() {
        let path = format!("{path}.buttons[{at}]");
        let at = |name: &str| format!("{path}.{name}");
        line(&at("name"), Some(&button.name), errors);
        if button.name.trim().is_empty() || button.name.chars().count() > MAX_BUTTON_NAME_CHARS {
            let detail = format!("write a label of at most {MAX_BUTTON_NAME_CHARS} characters");
            errors.push(FieldError::new(at("name"), "invalid", detail));
        }
        link(&at("url"), button.url.as_deref(), is_source, errors);
        link(&at("desktop_url"), button.desktop_url.as_deref(), is_source, errors);
        line(&at("ios_url"), button.ios_url.as_deref(), errors);
        line(&at("android_url"), button.android_url.as_deref(), errors);
        if button.kind == ButtonKind::Wl && button.url.is_none() {
            errors.push(FieldError::new(at("url"), "missing", "a link needs its address"));
        }
        let of_alimtalk = button.kind != ButtonKind::Wl
            || button.desktop_url.is_some()
            || button.ios_url.is_some()
            || button.android_url.is_some();
        if of_alimtalk && key != BodyKey::Alimtalk {
            let detail = "only alimtalk has other buttons than a link with name and url";
            errors.push(FieldError::new(path.as_str(), "not_allowed", detail));
        }
    }
}
