//! The sandbox: takes what a channel without a provider would have sent and records it for the console.
//!
//! It is never a silent default: settings turn it on, and its stream is kept in memory only, since it holds addresses.

mod client;

pub use client::Client;
