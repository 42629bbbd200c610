//! The gateway against a real nats-server: one binary, a server and a folder for each test.

mod harness;

mod auth;
mod browser;
mod console;
mod dead_letters;
mod erase;
mod inbox;
mod input;
mod keys;
mod lookup;
mod operation;
mod outage;
mod readmodel;
mod resources;
mod templates;
