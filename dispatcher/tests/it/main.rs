//! Integration tests of the dispatcher.

#![allow(
    clippy::unwrap_used,
    clippy::large_futures,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test ends at the first thing that fails and says what it skips; the lint exempts only test functions"
)]

mod channels;
mod spine;
