//! Tests, or parts of them, that need a tool which this machine does not have.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write as _;

/// Set to `1` where every tool has to be there, as on the machine that decides about a change.
const REQUIRE_TOOLS: &str = "PEAL_REQUIRE_TOOLS";
/// Names the file in which what was skipped is counted, a line each. `make test` shows it at its end.
const SKIPPED: &str = "PEAL_SKIPPED";

/// Says that something is skipped, and why.
///
/// # Panics
/// Where every tool has to be there, and when the file can't be written.
#[expect(clippy::print_stderr, clippy::expect_used, reason = "only tests call it")]
pub fn skipped(why: impl Display) {
    let required = std::env::var(REQUIRE_TOOLS).is_ok_and(|value| value == "1");
    assert!(!required, "{REQUIRE_TOOLS} is 1: {why}");
    let line = why.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    eprintln!("skipped: {line}");
    if let Some(file) = std::env::var_os(SKIPPED) {
        let file = OpenOptions::new().append(true).create(true).open(file);
        let written = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
        written.expect("the file that counts what is skipped can be written");
    }
}
