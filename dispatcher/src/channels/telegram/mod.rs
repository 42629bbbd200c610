//! Messages of a Telegram bot (Bot API, `sendMessage`).
//!
//! Requests are built from teloxide's types and sent over our own HTTP client. teloxide's own call sleeps ten seconds
//! on a server error, hides the status, reads answers without a limit, and reports a message as failed when the answer
//! has a shape that it does not know, although the message is out.

mod client;
mod limits;
mod options;
mod outcome;
mod request;

pub use client::Client;
pub use options::Options;
