//! Bodies: JSON that is checked before it becomes a type, with errors that name the field and never repeat the value.

use std::fmt::Write as _;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use peal_common::notification::{MAX_BATCH_BYTES, MAX_REQUEST_BYTES};
use peal_common::problem::FieldError;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// The one route whose bodies may be large.
pub const BATCH_PATH: &str = "/v1/notifications/batch";
/// The deepest nesting of arrays and objects; serde_json itself ends at 128.
pub const MAX_DEPTH: usize = 64;

/// A body of type `T`: taken from a request, or given as an answer.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let bytes = json_bytes(request).await?;
        parse_object(&bytes).map(Json)
    }
}

impl<T: serde::Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// Reads a body that is declared to be JSON, up to the size that its route allows.
///
/// # Errors
/// A [`Problem`] when it is declared to be something else, is too large, or breaks off.
pub async fn json_bytes(request: Request) -> Result<Bytes, Problem> {
    if !is_json(&request) {
        return Err(Problem::not_json());
    }
    let limit = limit_of(request.uri().path());
    body_bytes(request, limit).await
}

/// The largest body that a path takes, in bytes.
#[must_use]
pub fn limit_of(path: &str) -> usize {
    if path == BATCH_PATH { MAX_BATCH_BYTES } else { MAX_REQUEST_BYTES }
}

/// Reads a whole body of at most `limit` bytes.
///
/// # Errors
/// A [`Problem`] when it is larger or breaks off.
pub async fn body_bytes(request: Request<Body>, limit: usize) -> Result<Bytes, Problem> {
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > limit as u64) {
        return Err(Problem::too_large(limit));
    }
    to_bytes(request.into_body(), limit).await.map_err(|error| {
        let source = std::error::Error::source(&error);
        if source.is_some_and(|source| source.is::<http_body_util::LengthLimitError>()) {
            Problem::too_large(limit)
        } else {
            Problem::malformed("incomplete", "the body ended before its announced length")
        }
    })
}

fn is_json(request: &Request) -> bool {
    let Some(value) = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// Turns a JSON text into a `T`.
///
/// # Errors
/// A [`Problem`]: malformed when it is no JSON text, is nested too deeply, or holds NUL or half a surrogate pair;
/// invalid when it does not fit `T`.
pub fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Problem> {
    let text = text(bytes)?;
    check_text(text)?;
    serde_json::from_str(text).map_err(|_| locate::<T>(text))
}

fn text(bytes: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(bytes)
        .map_err(|_| Problem::malformed("invalid_utf8", "JSON is written in UTF-8; the body is not"))
}

/// Says what is wrong with a text that is no `T`. It is parsed once more, because to keep track of where the parser
/// stands costs more than to parse.
fn locate<'a, T: Deserialize<'a>>(text: &'a str) -> Problem {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Err(error) => describe(&field_path(error.path()), error.inner()),
        Ok(_) => match deserializer.end() {
            Err(error) => describe("", &error),
            Ok(()) => {
                tracing::error!("a text was refused in which nothing is wrong");
                Problem::internal()
            }
        },
    }
}

/// Turns a JSON object into a `T`, which serde would also make of a list of its fields' values.
///
/// # Errors
/// As [`parse`]; invalid when the text is no object.
pub fn parse_object<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Problem> {
    expect_object(bytes)?;
    parse(bytes)
}

/// Turns a JSON object into a `T` that keeps what is in it as texts. What no string may hold, and what is nested too deeply,
/// is found where each of them is parsed: one that is bad fails alone.
///
/// # Errors
/// As [`parse_object`], but for that.
pub fn parse_around<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Problem> {
    expect_object(bytes)?;
    let text = text(bytes)?;
    serde_json::from_str(text).map_err(|_| locate::<T>(text))
}

fn expect_object(bytes: &[u8]) -> Result<(), Problem> {
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => Ok(()),
        _ => {
            parse::<serde_json::Value>(bytes)?;
            Err(Problem::invalid_field("", "wrong_type", "expected an object"))
        }
    }
}

/// Refuses what no string may hold and what is nested too deeply, without building anything. What else is wrong with
/// the text is left for the parser to find.
///
/// # Errors
/// A malformed [`Problem`].
pub fn check_text(text: &str) -> Result<(), Problem> {
    let bytes = text.as_bytes();
    // Most texts can hold nothing of that: they have no escapes, and too few brackets to be deep.
    let opening = bytes.iter().filter(|byte| matches!(byte, b'[' | b'{')).count();
    if opening <= MAX_DEPTH && !bytes.contains(&b'\\') {
        return Ok(());
    }
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        if in_string {
            match byte {
                b'"' => in_string = false,
                b'\\' => {
                    if bytes.get(at) == Some(&b'u') {
                        at += 1 + unicode_escape(&bytes[at + 1..])?;
                    } else {
                        at += 1;
                    }
                }
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    let detail = format!("arrays and objects may be nested {MAX_DEPTH} deep");
                    return Err(Problem::malformed("too_deep", detail));
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Looks at what follows `\u`; returns how many bytes belong to it.
fn unicode_escape(rest: &[u8]) -> Result<usize, Problem> {
    let lone = || {
        Problem::malformed("lone_surrogate", "a string holds half of a surrogate pair, which is no character")
    };
    match code_unit(rest) {
        Some(0) => Err(Problem::malformed("nul_character", "a string holds the character NUL")),
        Some(0xD800..=0xDBFF) => match rest.get(4..6) {
            Some(b"\\u") if matches!(code_unit(&rest[6..]), Some(0xDC00..=0xDFFF)) => Ok(10),
            _ => Err(lone()),
        },
        Some(0xDC00..=0xDFFF) => Err(lone()),
        Some(_) => Ok(4),
        None => Ok(0),
    }
}

fn code_unit(digits: &[u8]) -> Option<u16> {
    let digits = std::str::from_utf8(digits.get(..4)?).ok()?;
    // `from_str_radix` would take a sign.
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u16::from_str_radix(digits, 16).ok()
}

/// Writes a path the way the documentation does: `to[0].email`; the whole body is the empty text.
fn field_path(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut out = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => {
                // Writing to a String does not fail.
                let _ = write!(out, "[{index}]");
            }
            Segment::Map { key } | Segment::Enum { variant: key } => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.extend(key.chars().take(MAX_NAME_CHARS).filter(|c| !c.is_control()));
            }
            Segment::Unknown => {}
        }
    }
    out
}

/// How much of a field's name is repeated in an error.
const MAX_NAME_CHARS: usize = 64;

/// Says what is wrong in our own words: serde's messages repeat values.
fn describe(path: &str, error: &serde_json::Error) -> Problem {
    use serde_json::error::Category;
    match error.classify() {
        Category::Data => Problem::invalid(vec![data_error(path, &error.to_string())]),
        Category::Syntax | Category::Eof | Category::Io => {
            let detail = format!("this is no JSON text: line {}, column {}", error.line(), error.column());
            Problem::malformed("invalid_json", detail)
        }
    }
}

/// Reads one of serde's messages: which mistake it is, and what was expected.
pub(super) fn data_error(path: &str, message: &str) -> FieldError {
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    let named = |prefix: &str| {
        let (name, rest) = message.strip_prefix(prefix)?.split_once('`')?;
        let name: String = name.chars().take(MAX_NAME_CHARS).filter(|c| !c.is_control()).collect();
        Some((name, rest.strip_prefix(", ").unwrap_or_default().to_owned()))
    };
    let within = |name: &str| match path {
        "" => name.to_owned(),
        path if path == name || path.ends_with(&format!(".{name}")) => path.to_owned(),
        path => format!("{path}.{name}"),
    };
    if let Some((name, expected)) = named("unknown field `") {
        let detail = if expected.is_empty() {
            "there is no such field".to_owned()
        } else {
            format!("there is no such field; {expected}")
        };
        return FieldError::new(within(&name), "unknown_field", detail);
    }
    if let Some((name, _)) = named("missing field `") {
        return FieldError::new(within(&name), "missing_field", "this field is required");
    }
    if let Some((name, _)) = named("duplicate field `") {
        return FieldError::new(within(&name), "duplicate_field", "this field stands here twice");
    }
    if let Some((_, expected)) = named("unknown variant `") {
        return FieldError::new(path, "unknown_value", expected);
    }
    let expected = message.rsplit_once(", expected ").map(|(_, expected)| format!("expected {expected}"));
    match expected {
        Some(expected) if message.starts_with("invalid type: ") => {
            FieldError::new(path, "wrong_type", expected)
        }
        Some(expected) if message.starts_with("invalid ") => FieldError::new(path, "invalid_value", expected),
        _ if OURS.iter().any(|start| message.starts_with(start)) => {
            FieldError::new(path, "invalid_value", message)
        }
        _ => FieldError::new(
            path,
            "invalid_value",
            "this value is not of the form that the documentation describes",
        ),
    }
}

/// How the messages of our own types begin; they say what to write and repeat nothing.
const OURS: [&str; 3] = ["must be ", "write ", "unknown channel; known are "];

#[cfg(test)]
mod tests {
    use peal_common::notification::Notification;
    use peal_common::recipient::RecipientBody;
    use proptest::prelude::*;

    use super::*;

    fn malformed(text: &str) -> &'static str {
        parse::<serde_json::Value>(text.as_bytes()).unwrap_err().code()
    }

    #[test]
    fn what_is_no_text_is_refused_by_name() {
        assert_eq!(malformed("{\"a\":"), "invalid_json");
        assert_eq!(malformed("{} x"), "invalid_json");
        assert_eq!(malformed("{\"a\":\"\\u0000\"}"), "nul_character");
        assert_eq!(malformed("{\"a\":\"\u{0}\"}"), "invalid_json");
        for lone in [
            "\"\\ud800\"",
            "\"\\udc00\"",
            "\"\\ud800\\u0041\"",
            "\"\\ud800\\\\udc00\"",
            "\"\\uD83D \\uDE00\"",
        ] {
            assert_eq!(malformed(lone), "lone_surrogate", "{lone}");
        }
        assert_eq!(malformed(&"[".repeat(10_000)), "too_deep");
        assert_eq!(malformed(&"{\"a\":".repeat(10_000)), "too_deep");
        assert_eq!(parse::<serde_json::Value>(b"\"\xff\"").unwrap_err().code(), "invalid_utf8");
        assert_eq!(parse::<String>(b"\"\\uD83D\\uDE00\"").unwrap(), "\u{1F600}");
        assert_eq!(parse::<String>(b"\"\\\\u0000 [[[\"").unwrap(), "\\u0000 [[[");
    }

    fn errors<T: DeserializeOwned + std::fmt::Debug>(text: &str) -> (String, String) {
        let problem = parse_object::<T>(text.as_bytes()).unwrap_err();
        let [error] = problem.errors() else { panic!("{problem:?}") };
        assert!(!error.detail.contains("secret"), "the value shows: {error:?}");
        (error.field.clone(), error.code.clone())
    }

    fn at(field: &str, code: &str) -> (String, String) {
        (field.to_owned(), code.to_owned())
    }

    #[test]
    fn fields_are_named_and_values_are_not() {
        let recipient = errors::<RecipientBody>;
        assert_eq!(recipient(r#"{"lokale":"secret"}"#), at("lokale", "unknown_field"));
        assert_eq!(
            recipient(r#"{"contacts":[{"channel":"email","adress":"secret"}]}"#),
            at("contacts[0].adress", "unknown_field")
        );
        assert_eq!(
            recipient(r#"{"contacts":[{"address":"secret"}]}"#),
            at("contacts[0].channel", "missing_field")
        );
        assert_eq!(
            recipient(r#"{"contacts":[{"channel":"secret"}]}"#),
            at("contacts[0].channel", "unknown_value")
        );
        assert_eq!(recipient(r#"{"locale":5}"#), at("locale", "wrong_type"));
        assert_eq!(recipient(r#"{"contacts":"secret"}"#), at("contacts", "wrong_type"));
        assert_eq!(recipient(r#"{"contacts":"secret, expected secret"}"#), at("contacts", "wrong_type"));
        assert_eq!(recipient(r#"{"groups":["secret group"]}"#), at("groups[0]", "invalid_value"));
        assert_eq!(recipient(r#"{"locale":"a","locale":"b"}"#), at("locale", "duplicate_field"));
        assert_eq!(recipient("[]"), at("", "wrong_type"));
        let notification = errors::<Notification>;
        assert_eq!(notification(r#"{"to":[]}"#), at("category", "missing_field"));
        let text = r#"{"category":"c","to":[],"send_at":"secret"}"#;
        assert_eq!(notification(text), at("send_at", "invalid_value"));
        let text = r#"{"category":"c","to":[{"sms":"secret"}]}"#;
        assert_eq!(notification(text).1, "unknown_value");
    }

    proptest! {
        #[test]
        fn no_text_brings_the_parser_down(text in any::<String>()) {
            let _ = parse::<Notification>(text.as_bytes());
        }

        #[test]
        fn strings_of_every_kind_come_through(text in "[^\\x00]*") {
            let json = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(parse::<String>(json.as_bytes()).unwrap(), text);
        }
    }
}
