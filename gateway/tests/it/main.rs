//! The gateway against a real nats-server: one binary, a server and a folder for each test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test ends at the first thing that fails; the lints exempt only test functions"
)]

mod harness;

mod accept;
mod accounts;
mod attachments;
mod auth;
mod browser;
mod callbacks;
mod console;
mod dead_letters;
mod erase;
mod explain;
mod fallback;
mod inbox;
mod input;
mod keys;
mod lookup;
mod operation;
mod outage;
mod readmodel;
mod regions;
mod resources;
mod suppressions;
mod templates;
mod unsubscribe;
