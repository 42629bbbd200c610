//! Vonage (SMS API, `POST /sms/json`).

mod client;
mod options;
mod outcome;
mod request;

pub use client::Client;
pub use options::Options;
