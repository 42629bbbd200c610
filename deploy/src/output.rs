//! What a command prints: lines for people, JSON for programs, errors on stderr, and the exit code.

use std::io;
use std::process::ExitCode;

use peal_common::settings::SettingsError;
use serde::Serialize;
use serde_json::json;

use crate::api::ApiError;

/// It failed.
pub const FAILED: u8 = 1;
/// Wrong arguments or settings; clap uses the same code.
pub const USAGE: u8 = 2;

/// Arguments that don't fit together, or lack something. The message says what to write.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Prints in the form that the user asked for.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// Whether programs read it.
    pub json: bool,
}

impl Output {
    /// Output as JSON or for people.
    #[must_use]
    pub fn new(json: bool) -> Self {
        Output { json }
    }

    /// A line on stdout, for people: with `--json` it is left out.
    ///
    /// # Errors
    /// When stdout is gone.
    pub fn line(&self, text: impl AsRef<str>) -> io::Result<()> {
        if self.json { Ok(()) } else { write_line(&mut io::stdout().lock(), text.as_ref()) }
    }

    /// A value as one line of JSON on stdout, for programs: without `--json` it is left out.
    ///
    /// # Errors
    /// When stdout is gone or the value can't be written as JSON.
    pub fn json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        if self.json {
            write_line(&mut io::stdout().lock(), &serde_json::to_string(value)?)?;
        }
        Ok(())
    }

    /// A line on stderr: progress, which is neither result nor error. Nobody to read it is no reason to stop.
    pub fn progress(&self, text: impl AsRef<str>) {
        let _ = write_line(&mut io::stderr().lock(), text.as_ref());
    }

    /// Prints an error with its causes and gives the exit code. A reader of stdout who went away is no error.
    #[must_use]
    pub fn fail(&self, error: &anyhow::Error) -> ExitCode {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        let api = error.downcast_ref::<ApiError>();
        if self.json {
            let problem = api.and_then(ApiError::problem);
            let text = json!({ "error": { "detail": chain(error), "problem": problem } });
            self.progress(text.to_string());
        } else {
            self.progress(format!("error: {}", chain(error)));
        }
        let usage = error.is::<UsageError>() || error.is::<SettingsError>();
        ExitCode::from(if usage { USAGE } else { FAILED })
    }
}

fn write_line(to: &mut impl io::Write, text: &str) -> io::Result<()> {
    writeln!(to, "{text}")?;
    to.flush()
}

/// An error with its causes; a cause that the text above it already says is left out.
#[must_use]
pub fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Rows under a heading, in columns as wide as they have to be.
#[must_use]
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let heading = heading.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    std::iter::once(&heading).chain(rows).map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![vec!["a".to_owned(), "한국".to_owned()], vec!["longer".to_owned(), String::new()]];
        assert_eq!(table(&["KEY", "NAME"], &rows), "KEY     NAME\na       한국\nlonger");
    }

    #[test]
    fn an_error_is_told_with_its_causes_and_nothing_twice() {
        let cause = io::Error::other("disk full");
        let error = Err::<(), _>(cause).context("cannot write").unwrap_err();
        assert_eq!(chain(&error), "cannot write: disk full");
        let error = error.context("cannot write: disk full");
        assert_eq!(chain(&error), "cannot write: disk full");
    }
}
