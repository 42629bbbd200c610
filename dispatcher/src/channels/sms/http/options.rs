//! What can be set of a gateway.

use std::fmt;
use std::ops::RangeInclusive;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use url::Url;

use peal_common::settings::{Secret, SmsHttpMethod, SmsHttpSettings, secret};

use super::outcome::Rules;
use super::template::{Escape, Place, Template, Values};
use crate::channels::ConfigError;
use crate::channels::sms::account::Calls;

const URL: &str = "channels.sms.http.url";
const HEADERS: &str = "channels.sms.http.headers";
const TYPE: &str = "channels.sms.http.content_type";
const BODY: &str = "channels.sms.http.body";
const STATUS: &str = "channels.sms.http.success.status";
const POINTER: &str = "channels.sms.http.success.json_pointer";
const ID_POINTER: &str = "channels.sms.http.provider_id.json_pointer";
const RETRY: &str = "channels.sms.http.retry.statuses";

/// How messages are sent.
#[derive(Clone, PartialEq)]
pub struct Options {
    pub(super) method: Method,
    pub(super) url: Template,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Body>,
    pub(super) from: String,
    pub(super) rules: Rules,
    pub(super) calls: Calls,
}

/// What is sent, and how values are written in it.
#[derive(Clone, PartialEq)]
pub(super) struct Body {
    pub(super) template: Template,
    pub(super) escape: Escape,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Options {
    /// Takes the settings.
    ///
    /// # Errors
    /// [`ConfigError`] when something is missing or does not fit, or a file can't be read.
    pub fn from_settings(settings: &SmsHttpSettings) -> Result<Self, ConfigError> {
        let url = url(settings)?;
        let body = body(settings)?;
        let has = |place| url.has(place) || body.as_ref().is_some_and(|body| body.template.has(place));
        if !has(Place::To) || !has(Place::Text) {
            return Err(ConfigError::invalid(BODY, "write {{ to }} and {{ text }} where they belong"));
        }
        if has(Place::From) && settings.from.trim().is_empty() {
            return Err(ConfigError::invalid("channels.sms.http.from", "write what {{ from }} stands for"));
        }
        Ok(Options {
            method: match settings.method {
                SmsHttpMethod::Get => Method::GET,
                SmsHttpMethod::Post => Method::POST,
                SmsHttpMethod::Put => Method::PUT,
                SmsHttpMethod::Patch => Method::PATCH,
            },
            headers: headers(settings, body.is_some())?,
            rules: rules(settings, &url)?,
            url,
            body,
            from: settings.from.trim().to_owned(),
            calls: Calls::new(
                "channels.sms.http.tls_ca_file",
                settings.tls_ca_file.as_deref(),
                settings.timeout_seconds,
            )?,
        })
    }
}

fn url(settings: &SmsHttpSettings) -> Result<Template, ConfigError> {
    let invalid = |advice: &str| ConfigError::invalid(URL, advice);
    let source = secret("channels.sms.http.url_file", settings.url.as_ref(), settings.url_file.as_deref())?;
    let template = Template::parse(URL, source.as_ref().map_or("", Secret::expose))?;
    // Whatever a message brings, it must reach the same server.
    let tried = |value| Url::parse(&template.render(&Values::all(value), Escape::Percent));
    match (tried("1"), tried("2x")) {
        (Ok(one), Ok(other))
            if matches!(one.scheme(), "http" | "https")
                && one.has_host()
                && one.origin() == other.origin()
                && one.fragment().is_none() =>
        {
            if !one.username().is_empty() || one.password().is_some() {
                return Err(invalid("write credentials into channels.sms.http.headers"));
            }
        }
        _ => return Err(invalid("write the URL that takes messages, such as https://sms.example.com/send")),
    }
    // A text such as `..` would lead to another path, escaped or not (WHATWG URL, "double-dot URL path segment").
    if template.has_before(Place::Text, '?') {
        return Err(invalid("write {{ text }} behind the ?, or into the body"));
    }
    Ok(template)
}

fn body(settings: &SmsHttpSettings) -> Result<Option<Body>, ConfigError> {
    let source =
        secret("channels.sms.http.body_file", settings.body.as_ref(), settings.body_file.as_deref())?;
    let source = match (settings.method, source) {
        (SmsHttpMethod::Get, None) => return Ok(None),
        (SmsHttpMethod::Get, Some(_)) => {
            return Err(ConfigError::invalid(
                BODY,
                "GET has no body: write POST, PUT or PATCH as method, or leave the body out",
            ));
        }
        (SmsHttpMethod::Post | SmsHttpMethod::Put | SmsHttpMethod::Patch, source) => source,
    };
    let template = Template::parse(BODY, source.as_ref().map_or("", Secret::expose))?;
    let essence = settings.content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let escape = match essence.as_str() {
        "application/json" => Escape::Json,
        "application/x-www-form-urlencoded" => Escape::Percent,
        "text/plain" => Escape::Plain,
        _ => {
            let advice = "write application/json, application/x-www-form-urlencoded or text/plain";
            return Err(ConfigError::invalid(TYPE, advice));
        }
    };
    if escape == Escape::Json && source.is_some() {
        let tried = template.render(&Values::all("\"\\\n"), escape);
        if serde_json::from_str::<serde_json::Value>(&tried).is_err() {
            let advice = "write JSON, with quotes around each {{ … }}, or another content_type";
            return Err(ConfigError::invalid(BODY, advice));
        }
    }
    Ok(Some(Body { template, escape }))
}

fn headers(settings: &SmsHttpSettings, has_body: bool) -> Result<HeaderMap, ConfigError> {
    let mut headers = HeaderMap::new();
    let mut insert = |name: &str, value: &Secret| {
        let invalid = || ConfigError::invalid(HEADERS, "write names and values of headers");
        let name = HeaderName::try_from(name).map_err(|_| invalid())?;
        if [CONTENT_TYPE, CONTENT_LENGTH, HOST, TRANSFER_ENCODING].contains(&name) {
            let advice =
                "leave out content-type (it is content_type), content-length, host and transfer-encoding";
            return Err(ConfigError::invalid(HEADERS, advice));
        }
        let mut value = HeaderValue::try_from(value.expose()).map_err(|_| invalid())?;
        value.set_sensitive(true);
        headers.insert(name, value);
        Ok(())
    };
    for (name, value) in &settings.headers {
        insert(name, value)?;
    }
    for (name, file) in &settings.header_files {
        if let Some(value) = secret("channels.sms.http.header_files", None, Some(file))? {
            insert(name, &value)?;
        }
    }
    if has_body {
        let value = HeaderValue::try_from(&settings.content_type)
            .map_err(|_| ConfigError::invalid(TYPE, "write a content type"))?;
        headers.insert(CONTENT_TYPE, value);
    }
    Ok(headers)
}

fn rules(settings: &SmsHttpSettings, url: &Template) -> Result<Rules, ConfigError> {
    let statuses: Option<Vec<_>> = settings.success.status.iter().map(|text| statuses(text)).collect();
    let success = statuses
        .filter(|ranges| !ranges.is_empty())
        .ok_or_else(|| ConfigError::invalid(STATUS, "write statuses or ranges of them, such as 200-299"))?;
    let retried = settings.retry.statuses.clone();
    if retried.iter().any(|it| !(400..600).contains(it) || success.iter().any(|range| range.contains(it))) {
        let advice = "write statuses from 400 to 599 that are no success";
        return Err(ConfigError::invalid(RETRY, advice));
    }
    let value = match (pointer(POINTER, &settings.success.json_pointer)?, &settings.success.equals) {
        (Some(pointer), Some(equals)) => Some((pointer, equals.clone())),
        (None, None) => None,
        _ => {
            return Err(ConfigError::invalid(
                POINTER,
                "write it and channels.sms.http.success.equals, or neither",
            ));
        }
    };
    let in_path = |place| url.has_before(place, '?');
    Ok(Rules {
        // The text can't stand there.
        has_fixed_path: ![Place::To, Place::Id, Place::Reference].into_iter().any(in_path),
        success,
        value,
        contains: settings.success.body_contains.clone(),
        id: pointer(ID_POINTER, &settings.provider_id.json_pointer)?,
        retried,
        retries_server_errors: settings.retry.server_errors,
    })
}

/// `200` or `200-299`.
fn statuses(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    ((100..=last).contains(&first) && last < 600).then_some(first..=last)
}

/// RFC 6901.
fn pointer(key: &'static str, text: &Option<String>) -> Result<Option<String>, ConfigError> {
    match text {
        Some(text) if !text.starts_with('/') => {
            Err(ConfigError::invalid(key, "write a JSON pointer such as /message/id"))
        }
        text => Ok(text.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(toml: &str) -> SmsHttpSettings {
        toml::from_str(toml).unwrap()
    }

    const GOOD: &str = r#"
        url = "https://sms.example.com/send?key=s3cret"
        body = '{"to": "{{ to }}", "text": "{{ text }}"}'
        headers = { Authorization = "Bearer s3cret" }
    "#;

    #[test]
    fn good_settings_are_taken() {
        for good in [
            GOOD,
            "method = \"GET\"\nurl = \"http://127.0.0.1:9/{{ to }}/{{ id }}?t={{ text }}\"",
            "url = \"http://x/?to={{ to }}&text={{ text }}\"",
            "method = \"PUT\"\nurl = \"http://x/{{ id }}\"\nbody = '{\"to\": \"{{ to }}\", \"text\": \"{{ text }}\"}'",
            "method = \"PATCH\"\nurl = \"http://x/\"\nbody = '[\"{{ to }}\", \"{{ text }}\"]'",
            "url = \"http://x/\"\nbody = \"{{ to }} {{ text }}\"\ncontent_type = \"text/plain; charset=utf-8\"",
            "url = \"http://x/\"\nbody = \"to={{ to }}&text={{ text }}\"\ncontent_type = \"application/x-www-form-urlencoded\"",
        ] {
            Options::from_settings(&settings(good)).unwrap();
        }
        assert_eq!(statuses("200"), Some(200..=200));
        assert_eq!(statuses("200 - 299"), Some(200..=299));
    }

    #[test]
    fn a_path_is_fixed_when_nothing_of_the_message_stands_in_it() {
        let is_fixed = |url: &str| {
            let settings = GOOD.replace("https://sms.example.com/send?key=s3cret", url);
            Options::from_settings(&self::settings(&settings)).unwrap().rules.has_fixed_path
        };
        assert!(is_fixed("http://x/send") && is_fixed("http://x/send?to={{ to }}&id={{ id }}"));
        for place in ["to", "id", "reference"] {
            assert!(!is_fixed(&format!("http://x/{{{{ {place} }}}}/send")), "{place}");
        }
    }

    #[test]
    fn bad_settings_are_refused_and_no_secret_is_shown() {
        let url = |url: &str| GOOD.replace("https://sms.example.com/send?key=s3cret", url);
        let refused = [
            (url(""), URL),
            (url("sms.example.com/s3cret"), URL),
            (url("ftp://sms.example.com/"), URL),
            (url("https://{{ to }}.example.com/"), URL),
            (url("https://user:s3cret@sms.example.com/"), URL),
            (url("https://sms.example.com/{{ text }}"), URL),
            (url("https://sms.example.com/{{ number }}"), URL),
            (GOOD.replace("{{ to }}", "x"), BODY),
            (GOOD.replace("{{ text }}", "x"), BODY),
            (GOOD.replace("\"{{ text }}\"", "{{ text }}"), BODY),
            (GOOD.replace("{{ text }}", "{{ message }}"), BODY),
            (format!("{GOOD}\nmethod = \"GET\""), BODY),
            (GOOD.replace("{{ text }}", "{{ text }} {{ from }}"), "channels.sms.http.from"),
            (format!("{GOOD}\ncontent_type = \"text/xml\""), TYPE),
            (GOOD.replace("Authorization", "\"Bad Name\""), HEADERS),
            (GOOD.replace("Authorization", "Content-Type"), HEADERS),
            (GOOD.replace("Bearer s3cret", "Bearer\\ns3cret"), HEADERS),
            (format!("{GOOD}\n[header_files]\nx = \"/nonexistent\""), "channels.sms.http.header_files"),
            (
                format!("{GOOD}\nurl_file = \"/nonexistent\"").replace("url = ", "#"),
                "channels.sms.http.url_file",
            ),
            (format!("{GOOD}\n[success]\nstatus = []"), STATUS),
            (format!("{GOOD}\n[success]\nstatus = [\"299-200\"]"), STATUS),
            (format!("{GOOD}\n[success]\nstatus = [\"ok\"]"), STATUS),
            (format!("{GOOD}\n[success]\njson_pointer = \"/a\""), POINTER),
            (format!("{GOOD}\n[success]\nequals = \"a\""), POINTER),
            (format!("{GOOD}\n[success]\njson_pointer = \"a\"\nequals = \"a\""), POINTER),
            (format!("{GOOD}\n[provider_id]\njson_pointer = \"id\""), ID_POINTER),
            (format!("{GOOD}\n[retry]\nstatuses = [200]"), RETRY),
            (format!("{GOOD}\n[success]\nstatus = [\"429\"]"), RETRY),
        ];
        for (toml, key) in refused {
            let error = Options::from_settings(&settings(&toml)).unwrap_err().to_string();
            assert!(error.contains(key), "{toml}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        let options = Options::from_settings(&settings(GOOD)).unwrap();
        let shown = format!("{options:?} {:?} {:?}", options.headers, settings(GOOD));
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
