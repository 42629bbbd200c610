//! What all pages share: the frame around them, times, and the page that says what is wrong.

use askama::Template;
use axum::body::Body;
use axum::response::{Html, IntoResponse, Response};
use http::HeaderValue;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use jiff::{SignedDuration, Timestamp};

use crate::app::App;
use crate::http::problem::Problem;

/// The style of all pages.
pub(super) const STYLE: &str = include_str!("../../templates/console/console.css");
/// The script of the overview.
pub(super) const SCRIPT: &str = include_str!("../../templates/console/console.js");

/// Beyond this age a time is shown with its day.
const SAME_DAY: SignedDuration = SignedDuration::from_hours(12);

/// What stands around a page.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    /// The region.
    pub(super) region: String,
    /// Which entry of the navigation is the present one.
    pub(super) here: &'static str,
    /// The app, when the viewer sees only one.
    pub(super) app: Option<String>,
}

impl Frame {
    /// The frame of a page for somebody.
    pub(super) fn new(app: &App, viewer: &super::access::Viewer, here: &'static str) -> Self {
        let of = match viewer {
            super::access::Viewer::Everybody => None,
            super::access::Viewer::App(id) => Some(id.to_string()),
        };
        Frame { region: app.settings.region.name.to_string(), here, app: of }
    }

    /// The style, as its hash is in the policy.
    pub(super) fn style(&self) -> &'static str {
        STYLE
    }

    /// The script, as its hash is in the policy.
    pub(super) fn script(&self) -> &'static str {
        SCRIPT
    }
}

/// A point in time as pages show it, in UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moment {
    /// For people: the time, with the day when it is another one.
    pub(super) short: String,
    /// In full (RFC 3339).
    pub(super) full: String,
}

impl Moment {
    /// `at` as it is shown at `now`.
    pub(super) fn new(at: Timestamp, now: Timestamp) -> Self {
        let far = now.duration_since(at).abs() > SAME_DAY;
        let short = if far { at.strftime("%b %-d %H:%M") } else { at.strftime("%H:%M:%S") };
        Moment { short: short.to_string(), full: at.to_string() }
    }

    /// `at` with its day and its milliseconds.
    pub(super) fn exact(at: Timestamp) -> Self {
        Moment { short: at.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string(), full: at.to_string() }
    }
}

/// Renders a page, or a part of one.
pub(super) fn render(template: &impl Template) -> Result<String, Failure> {
    template.render().map_err(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, "a page cannot be rendered");
        Failure(Problem::internal())
    })
}

/// Renders a page as an answer.
pub(super) fn html(template: &impl Template) -> Result<Html<String>, Failure> {
    render(template).map(Html)
}

/// A problem that is answered with a page.
#[derive(Debug)]
pub(super) struct Failure(Problem);

impl<E> From<E> for Failure
where
    Problem: From<E>,
{
    fn from(error: E) -> Self {
        Failure(error.into())
    }
}

#[derive(Template)]
#[template(path = "console/problem.html")]
struct ProblemPage<'a> {
    frame: Frame,
    detail: &'a str,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let frame = Frame { region: String::new(), here: "", app: None };
        let page = ProblemPage { frame, detail: self.0.detail() }.render();
        let mut response = self.0.into_response();
        // Should the page fail too, the problem as programs read it is better than nothing.
        if let Ok(page) = page {
            *response.body_mut() = Body::from(page);
            response.headers_mut().remove(CONTENT_LENGTH);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_far_off_show_their_day() {
        let now: Timestamp = "2026-03-09T12:00:00Z".parse().unwrap();
        assert_eq!(Moment::new("2026-03-09T11:59:58.5Z".parse().unwrap(), now).short, "11:59:58");
        assert_eq!(Moment::new("2026-03-07T01:02:03Z".parse().unwrap(), now).short, "Mar 7 01:02");
        assert_eq!(Moment::exact(now).short, "2026-03-09 12:00:00.000");
    }
}
