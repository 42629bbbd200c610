//! The filters and tests that a template may use: a fixed list, each bounded in what it builds.
//!
//! Filters that can make a long text of a short one (`format`, `indent`, `center`, `batch`), that reach into values
//! by computed names (`attr`, `map`) or that switch escaping off (`safe`) are left out.

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, State, Value, filters, tests};

use super::{MAX_FIELD_BYTES, escape};

/// The filters, by name.
pub(super) const FILTERS: [&str; 22] = [
    "abs",
    "capitalize",
    "count",
    "d",
    "default",
    "first",
    "fixed",
    "int",
    "items",
    "join",
    "last",
    "length",
    "lower",
    "replace",
    "round",
    "thousands",
    "title",
    "tojson",
    "trim",
    "truncate",
    "upper",
    "urlencode",
];
/// The tests of `is`, by name.
pub(super) const TESTS: [&str; 15] = [
    "boolean",
    "defined",
    "divisibleby",
    "endingwith",
    "even",
    "false",
    "integer",
    "mapping",
    "none",
    "number",
    "odd",
    "sequence",
    "startingwith",
    "string",
    "true",
];

/// Bytes that the filters of one field may read and build together. A filter is a single step to the engine, however
/// long its text is.
const MAX_FILTER_BYTES: usize = 4 * 1024 * 1024;
/// Most decimals that `fixed` and `thousands` write.
const MAX_DECIMALS: usize = 6;

/// Adds the filters and tests to an empty environment.
pub(super) fn add(env: &mut Environment<'static>) {
    env.add_filter("abs", filters::abs);
    env.add_filter("capitalize", |state: &mut State, value: &Value| {
        let text = text_of(state, value)?;
        let mut characters = text.chars();
        Ok::<_, Error>(match characters.next() {
            Some(first) => first.to_uppercase().chain(characters.as_str().to_lowercase().chars()).collect(),
            None => String::new(),
        })
    });
    env.add_filter("count", filters::length);
    env.add_filter("d", default);
    env.add_filter("default", default);
    env.add_filter("first", filters::first);
    env.add_filter("fixed", fixed);
    env.add_filter("int", |value: &Value| number_of(value).map(|number| number as i64));
    env.add_filter("items", filters::items);
    env.add_filter("join", join);
    env.add_filter("last", last);
    env.add_filter("length", filters::length);
    env.add_filter("lower", |state: &mut State, value: &Value| {
        text_of(state, value).map(|text| text.to_lowercase())
    });
    env.add_filter("replace", replace);
    env.add_filter("round", |value: &Value, decimals: Option<usize>| {
        let factor = 10f64.powi(decimals.unwrap_or(0).min(MAX_DECIMALS) as i32);
        number_of(value).map(|number| (number * factor).round() / factor)
    });
    env.add_filter("thousands", thousands);
    env.add_filter("title", title);
    env.add_filter("tojson", |state: &mut State, value: &Value| {
        let json = json(value)?;
        charge(state, json.len())?;
        Ok::<_, Error>(json)
    });
    env.add_filter("trim", |state: &mut State, value: &Value| {
        text_of(state, value).map(|text| text.trim().to_owned())
    });
    env.add_filter("truncate", truncate);
    env.add_filter("upper", |state: &mut State, value: &Value| {
        text_of(state, value).map(|text| text.to_uppercase())
    });
    env.add_filter("urlencode", urlencode);

    env.add_test("boolean", tests::is_boolean);
    // A variable that was left out is none here, and `defined` asks whether there is a value.
    env.add_test("defined", |value: &Value| !value.is_undefined() && !value.is_none());
    env.add_test("divisibleby", |value: &Value, by: &Value| {
        by.as_i64().filter(|by| *by != 0).is_some() && tests::is_divisibleby(value, by)
    });
    env.add_test("endingwith", tests::is_endingwith);
    env.add_test("even", tests::is_even);
    env.add_test("false", tests::is_false);
    env.add_test("integer", tests::is_integer);
    env.add_test("mapping", tests::is_mapping);
    env.add_test("none", tests::is_none);
    env.add_test("number", tests::is_number);
    env.add_test("odd", tests::is_odd);
    env.add_test("sequence", tests::is_sequence);
    env.add_test("startingwith", tests::is_startingwith);
    env.add_test("string", tests::is_string);
    env.add_test("true", tests::is_true);
}

/// Bytes that the filters of this field have handled.
#[derive(Default)]
struct Handled(usize);

/// Counts `bytes` against the limit of this field.
fn charge(state: &mut State, bytes: usize) -> Result<(), Error> {
    let handled = state.get_or_insert_extension(Handled::default());
    handled.0 = handled.0.saturating_add(bytes.max(16));
    if handled.0 > MAX_FILTER_BYTES { Err(Error::from(ErrorKind::OutOfFuel)) } else { Ok(()) }
}

/// The text of a value as it would be shown, counted.
fn text_of(state: &mut State, value: &Value) -> Result<String, Error> {
    let text = show(value)?;
    charge(state, text.len())?;
    Ok(text)
}

/// A value as it is shown: nothing for none, JSON's words for booleans, JSON for lists and objects.
pub(super) fn show(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::None => Ok(String::new()),
        ValueKind::Undefined => Err(Error::from(ErrorKind::UndefinedError)),
        ValueKind::Bool => Ok(if value.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_owned()),
        ValueKind::Number => Ok(value.to_string()),
        _ => json(value),
    }
}

fn json(value: &Value) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|_| Error::from(ErrorKind::BadSerialization))
}

fn number_of(value: &Value) -> Result<f64, Error> {
    let number = match value.as_str() {
        Some(text) => text.trim().parse().ok(),
        None => f64::try_from(value.clone()).ok(),
    };
    number
        .filter(|number| number.is_finite())
        .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "not a number"))
}

fn default(value: &Value, other: Option<Value>, also_if_false: Option<bool>) -> Value {
    let missing = value.is_undefined() || value.is_none();
    if missing || (also_if_false.unwrap_or(false) && !value.is_true()) {
        other.unwrap_or_else(|| Value::from(""))
    } else {
        value.clone()
    }
}

fn last(state: &mut State, value: &Value) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        charge(state, text.len())?;
        return Ok(text.chars().next_back().map_or(Value::UNDEFINED, Value::from));
    }
    charge(state, value.len().unwrap_or(0))?;
    Ok(value.try_iter()?.last().unwrap_or(Value::UNDEFINED))
}

fn fixed(value: &Value, decimals: Option<usize>) -> Result<String, Error> {
    let decimals = decimals.unwrap_or(2).min(MAX_DECIMALS);
    number_of(value).map(|number| format!("{number:.decimals$}"))
}

fn thousands(value: &Value, decimals: Option<usize>) -> Result<String, Error> {
    let number = fixed(value, Some(decimals.unwrap_or(0)))?;
    let (sign, digits) = number.strip_prefix('-').map_or(("", number.as_str()), |digits| ("-", digits));
    let (whole, fraction) =
        digits.split_once('.').map_or((digits, None), |(whole, part)| (whole, Some(part)));
    let mut grouped = String::from(sign);
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if let Some(fraction) = fraction {
        grouped.push('.');
        grouped.push_str(fraction);
    }
    Ok(grouped)
}

fn title(state: &mut State, value: &Value) -> Result<String, Error> {
    let text = text_of(state, value)?;
    let mut titled = String::with_capacity(text.len());
    let mut inside_word = false;
    for character in text.chars() {
        if inside_word {
            titled.extend(character.to_lowercase());
        } else {
            titled.extend(character.to_uppercase());
        }
        inside_word = character.is_alphanumeric() || character == '\'';
    }
    Ok(titled)
}

fn truncate(
    state: &mut State,
    value: &Value,
    length: Option<usize>,
    end: Option<String>,
) -> Result<String, Error> {
    let text = text_of(state, value)?;
    let (length, end) = (length.unwrap_or(100), end.unwrap_or_else(|| "…".to_owned()));
    if text.chars().count() <= length {
        return Ok(text);
    }
    let kept = length.saturating_sub(end.chars().count());
    Ok(text.chars().take(kept).chain(end.chars()).take(length).collect())
}

/// Appends to a text that must not outgrow a field.
fn append(state: &mut State, text: &mut String, more: &str) -> Result<(), Error> {
    charge(state, more.len())?;
    if text.len() + more.len() > MAX_FIELD_BYTES {
        return Err(Error::from(ErrorKind::WriteFailure));
    }
    text.push_str(more);
    Ok(())
}

fn join(state: &mut State, value: &Value, separator: Option<String>) -> Result<String, Error> {
    let separator = separator.unwrap_or_default();
    let mut joined = String::new();
    if value.is_none() {
        return Ok(joined);
    }
    for (at, item) in value.try_iter()?.enumerate() {
        if at > 0 {
            append(state, &mut joined, &separator)?;
        }
        let item = show(&item)?;
        append(state, &mut joined, &item)?;
    }
    Ok(joined)
}

fn replace(state: &mut State, value: &Value, from: String, to: String) -> Result<String, Error> {
    let text = text_of(state, value)?;
    if from.is_empty() {
        return Ok(text);
    }
    let mut replaced = String::new();
    for (at, piece) in text.split(from.as_str()).enumerate() {
        if at > 0 {
            append(state, &mut replaced, &to)?;
        }
        append(state, &mut replaced, piece)?;
    }
    Ok(replaced)
}

/// Percent-encodes all but the unreserved characters of RFC 3986 section 2.3.
fn urlencode(state: &mut State, value: &Value) -> Result<String, Error> {
    let text = text_of(state, value)?;
    let text = escape::plain(&text);
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    Ok(encoded)
}
