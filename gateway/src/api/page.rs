//! Lists: `?limit=&after=`, answered by `{"data": […], "next": "cursor"|null}`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::http::problem::Problem;

/// How many entries a page has unless the caller says otherwise.
pub const DEFAULT_LIMIT: usize = 50;
/// How many entries a page has at most.
pub const MAX_LIMIT: usize = 500;

/// Which page of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// How many entries, 1 to 500; 50 unless said otherwise.
    pub limit: Option<usize>,
    /// The `next` of the page before.
    pub after: Option<String>,
}

impl PageQuery {
    /// How many entries.
    ///
    /// # Errors
    /// [`Problem::invalid`] outside of 1 to [`MAX_LIMIT`].
    pub fn limit(&self) -> Result<usize, Problem> {
        limit(self.limit)
    }

    /// The id of the entry that the page before ended with.
    ///
    /// # Errors
    /// [`Problem::invalid`] for what is no cursor.
    pub fn after(&self) -> Result<Option<String>, Problem> {
        self.after.as_deref().map(from_cursor).transpose()
    }
}

/// Checks how many entries are asked for.
///
/// # Errors
/// [`Problem::invalid`] outside of 1 to [`MAX_LIMIT`].
pub fn limit(asked: Option<usize>) -> Result<usize, Problem> {
    let limit = asked.unwrap_or(DEFAULT_LIMIT);
    if (1..=MAX_LIMIT).contains(&limit) {
        Ok(limit)
    } else {
        Err(Problem::invalid_field("limit", "out_of_range", format!("write 1 to {MAX_LIMIT}")))
    }
}

/// The cursor that stands for an id. Its form is nobody's business.
#[must_use]
pub fn to_cursor(id: &str) -> String {
    URL_SAFE_NO_PAD.encode(id)
}

/// The id that a cursor stands for.
///
/// # Errors
/// [`Problem::invalid`] for what is no cursor.
pub fn from_cursor(cursor: &str) -> Result<String, Problem> {
    let wrong = || Problem::invalid_field("after", "invalid_cursor", "write the `next` of the page before");
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| wrong())?;
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// The entries.
    pub data: Vec<T>,
    /// What to give as `after` for the next page; null when this is the last one.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// A page of at most `limit` of the entries found, each with its id. One more than `limit` should have been looked
    /// for, so that the last page says that it is the last.
    #[must_use]
    pub fn of(mut found: Vec<(String, T)>, limit: usize) -> Self {
        let more = found.len() > limit;
        found.truncate(limit);
        let next = if more { found.last().map(|(id, _)| to_cursor(id)) } else { None };
        Page { data: found.into_iter().map(|(_, entry)| entry).collect(), next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_page_has_no_next() {
        let found = |count: usize| (0..count).map(|n| (n.to_string(), n)).collect::<Vec<_>>();
        assert_eq!(Page::of(found(2), 2).next, None);
        let page = Page::of(found(3), 2);
        assert_eq!((page.data.as_slice(), page.next.as_deref()), ([0, 1].as_slice(), Some("MQ")));
        assert_eq!(from_cursor("MQ").unwrap(), "1");
        for bad in ["!", "=", "_w"] {
            assert!(from_cursor(bad).is_err(), "{bad}");
        }
    }
}
