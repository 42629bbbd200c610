//! E-mail through SendGrid (v3 API, `mail/send`).

mod client;
mod options;
mod outcome;
mod request;

pub use client::Client;
pub use options::Options;
