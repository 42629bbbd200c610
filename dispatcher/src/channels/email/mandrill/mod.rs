//! E-mail through Mailchimp Transactional, formerly Mandrill (API 1.0, `messages/send`).

mod client;
mod options;
mod outcome;
mod request;

pub use client::Client;
pub use options::Options;
