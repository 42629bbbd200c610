//! The data of a notification against the variables that its template declares.

use std::collections::BTreeMap;

use minijinja::Value as EngineValue;
use serde_json::{Map, Value};

use crate::problem::FieldError;

use super::compiled::RenderError;
use super::{Variable, escape};

/// Most bytes of names and strings in the data of a notification.
pub const MAX_DATA_BYTES: usize = 64 * 1024;
/// Most values in the data of a notification, counting those inside lists and objects.
pub const MAX_DATA_VALUES: usize = 2048;
/// Deepest nesting of the data of a notification.
pub const MAX_DATA_DEPTH: usize = 16;

/// Whether `data` is small enough to render.
#[must_use]
pub fn is_bounded(data: &Map<String, Value>) -> bool {
    let (mut bytes, mut values) = (0, 0);
    data.iter().all(|(name, value)| {
        bytes += name.len();
        measure(value, 1, &mut bytes, &mut values)
    })
}

/// Adds a value to the sums; false as soon as a limit is passed.
fn measure(value: &Value, depth: usize, bytes: &mut usize, values: &mut usize) -> bool {
    *values += 1;
    if let Value::String(text) = value {
        *bytes += text.len();
    }
    if *bytes > MAX_DATA_BYTES || *values > MAX_DATA_VALUES || depth > MAX_DATA_DEPTH {
        return false;
    }
    match value {
        Value::Array(items) => items.iter().all(|item| measure(item, depth + 1, bytes, values)),
        Value::Object(members) => members.iter().all(|(name, member)| {
            *bytes += name.len();
            measure(member, depth + 1, bytes, values)
        }),
        _ => true,
    }
}

/// See [`super::Template::check_data`].
pub(super) fn check(
    variables: &BTreeMap<String, Variable>,
    data: &Map<String, Value>,
) -> Result<(), Vec<FieldError>> {
    if !is_bounded(data) {
        let limit = format!(
            "send at most {MAX_DATA_VALUES} values with {MAX_DATA_BYTES} bytes of text, {MAX_DATA_DEPTH} levels deep"
        );
        return Err(vec![FieldError::new("data", "too_large", limit)]);
    }
    let mut errors = Vec::new();
    for (name, variable) in variables {
        let kind = variable.kind.as_str();
        match data.get(name) {
            None | Some(Value::Null) if !variable.required || variable.default.is_some() => {}
            None => errors.push(FieldError::new(
                format!("data.{name}"),
                "missing",
                format!("the template needs this variable; send a value of type {kind}"),
            )),
            Some(value) if variable.kind.admits(value) => {}
            Some(_) => errors.push(FieldError::new(
                format!("data.{name}"),
                "wrong_type",
                format!("send a value of type {kind}"),
            )),
        }
    }
    for name in data.keys().filter(|name| !variables.contains_key(*name)) {
        // The name is the caller's and may be anything, so only a harmless start of it is repeated.
        let shown = escape::line(escape::prefix(name, 64));
        errors.push(FieldError::new(
            format!("data.{shown}"),
            "unknown_variable",
            "the template declares no such variable; remove it or declare it",
        ));
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// What a template sees: its declared variables and nothing else. One that is left out has its default or is none.
pub(super) fn context(
    variables: &BTreeMap<String, Variable>,
    data: &Map<String, Value>,
) -> Result<BTreeMap<String, EngineValue>, RenderError> {
    if !is_bounded(data) {
        return Err(RenderError::DataTooLarge);
    }
    variables
        .iter()
        .map(|(name, variable)| {
            let given = data.get(name).filter(|value| !value.is_null());
            match given.or(variable.default.as_ref()) {
                Some(value) => Ok((name.clone(), engine_value(value))),
                None if variable.required => Err(RenderError::MissingVariable { name: name.clone() }),
                None => Ok((name.clone(), EngineValue::from(()))),
            }
        })
        .collect()
}

/// A value as the engine sees it.
fn engine_value(value: &Value) -> EngineValue {
    match value {
        Value::Null => EngineValue::from(()),
        Value::Bool(truth) => EngineValue::from(*truth),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => EngineValue::from(integer),
            (_, Some(integer)) => EngineValue::from(integer),
            _ => EngineValue::from(number.as_f64().unwrap_or(0.0)),
        },
        Value::String(text) => EngineValue::from(text.as_str()),
        Value::Array(items) => EngineValue::from(items.iter().map(engine_value).collect::<Vec<_>>()),
        Value::Object(members) => EngineValue::from_pairs(
            members.iter().map(|(name, member)| (name.as_str(), engine_value(member))),
        ),
    }
}
