//! Any gateway with an HTTP API, which the settings describe.

mod client;
mod options;
mod outcome;
mod request;
mod template;

pub use client::Client;
pub use options::Options;
