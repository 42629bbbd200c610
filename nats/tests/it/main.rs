//! Tests against real nats-server processes, each with its own folder and port.

mod config;
mod connect;
mod server;
mod support;
mod topology;
