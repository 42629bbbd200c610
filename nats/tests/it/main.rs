//! Tests against real nats-server processes, each with its own folder and port.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that fails; the lint exempts only test functions"
)]

mod config;
mod connect;
mod guide;
mod group;
mod mirror;
mod server;
mod support;
mod topology;
