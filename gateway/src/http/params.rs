//! What stands in the address of a request: ids in the path and the query string. Both are fields like those of a body.

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Path};
use http::request::Parts;
use peal_common::problem::FieldError;
use serde::de::DeserializeOwned;

use super::json::data_error;
use super::problem::Problem;

/// The longest query string, in bytes.
const MAX_QUERY_BYTES: usize = 8 * 1024;

/// The one id in a path.
#[derive(Debug)]
pub struct Id<T>(pub T);

/// The two ids in a path, in their order.
#[derive(Debug)]
pub struct Ids<A, B>(pub A, pub B);

impl<S, T> FromRequestParts<S> for Id<T>
where
    S: Send + Sync,
    T: FromStr<Err: Display>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let params = params(parts, state).await?;
        let [first] = params.as_slice() else { return Err(Problem::no_route()) };
        parsed(first).map(Id)
    }
}

impl<S, A, B> FromRequestParts<S> for Ids<A, B>
where
    S: Send + Sync,
    A: FromStr<Err: Display>,
    B: FromStr<Err: Display>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let params = params(parts, state).await?;
        let [first, second] = params.as_slice() else { return Err(Problem::no_route()) };
        Ok(Ids(parsed(first)?, parsed(second)?))
    }
}

async fn params<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<Vec<(String, String)>, Problem> {
    let params = Path::<Vec<(String, String)>>::from_request_parts(parts, state).await;
    let params =
        params.map_err(|_| Problem::malformed("invalid_path", "the path is not written in UTF-8"))?;
    Ok(params.0)
}

fn parsed<T: FromStr<Err: Display>>((name, value): &(String, String)) -> Result<T, Problem> {
    value.parse().map_err(|error: T::Err| Problem::invalid_field(name, "invalid_id", error.to_string()))
}

/// The query string. Parameters that the route does not know are refused.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<S, T> FromRequestParts<S> for Query<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        query(parts.uri.query().unwrap_or_default()).map(Query)
    }
}

fn query<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    if text.len() > MAX_QUERY_BYTES {
        return Err(Problem::malformed("too_large", "the query string may have at most 8 KiB"));
    }
    let pairs = form_urlencoded::parse(text.as_bytes());
    if pairs.clone().any(|(name, value)| name.contains('\0') || value.contains('\0')) {
        return Err(Problem::malformed("nul_character", "a parameter holds the character NUL"));
    }
    let deserializer = serde_urlencoded::Deserializer::new(pairs);
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { "" } else { path.as_str() };
        Problem::invalid(vec![in_words(path, &error.inner().to_string())])
    })
}

/// Numbers are read from text here, and fail with messages of their own.
fn in_words(path: &str, message: &str) -> FieldError {
    const OF_INTEGERS: [&str; 3] = ["invalid digit found in string", "number too ", "cannot parse integer"];
    if OF_INTEGERS.iter().any(|start| message.starts_with(start)) {
        return FieldError::new(path, "wrong_type", "expected a whole number within its range");
    }
    data_error(path, message)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct List {
        limit: Option<u32>,
        after: Option<String>,
    }

    #[test]
    fn parameters_are_checked_like_fields() {
        let list: List = query("limit=5&after=a%20b").unwrap();
        assert_eq!((list.limit, list.after.as_deref()), (Some(5), Some("a b")));
        for (text, field, code) in [
            ("limit=x", "limit", "wrong_type"),
            ("limit=", "limit", "wrong_type"),
            ("limit=-1", "limit", "wrong_type"),
            ("limit=99999999999", "limit", "wrong_type"),
            ("limt=5", "limt", "unknown_field"),
            ("limit=5&limit=6", "limit", "duplicate_field"),
        ] {
            let problem = query::<List>(text).unwrap_err();
            let [error] = problem.errors() else { panic!("{problem:?}") };
            assert_eq!((error.field.as_str(), error.code.as_str()), (field, code), "{text}");
        }
        assert_eq!(query::<List>("after=%00").unwrap_err().code(), "nul_character");
    }
}
