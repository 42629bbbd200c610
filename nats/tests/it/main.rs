//! Tests against real nats-server processes, each with its own folder and port.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test ends at the first thing that fails; the lint exempts only test functions"
)]

mod config;
mod connect;
mod follow;
mod group;
mod guide;
mod leave;
mod mirror;
mod pull;
mod regions;
mod server;
mod support;
mod sweep;
mod topology;
mod turns;
mod unfinished;
