//! Twilio's Programmable Messaging (REST API 2010-04-01, Messages resource).

mod client;
mod found;
mod options;
mod outcome;
mod request;

pub use client::Client;
pub use options::Options;
