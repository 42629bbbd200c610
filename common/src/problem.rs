//! What is wrong with an input: field, stable code, and a sentence that says what to do.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One thing that is wrong with one field of a request. The sentence never repeats the value, which may be personal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// Where: a path such as `to[0].email`.
    pub field: String,
    /// A stable word in snake_case, for programs.
    pub code: String,
    /// A sentence for people that says what to write instead.
    pub detail: String,
}

impl FieldError {
    /// A field error from its three parts.
    pub fn new(field: impl Into<String>, code: &str, detail: impl Into<String>) -> Self {
        FieldError { field: field.into(), code: code.to_owned(), detail: detail.into() }
    }
}
