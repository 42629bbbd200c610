//! E-mail through an SMTP server (RFC 5321).
//!
//! The commands are driven one by one over lettre's connection. lettre's own transport hides whether a failure came
//! before or after the end of the text, and its pool takes a connection back whose answer is still under way, so that
//! the next e-mail reads the answer of the one before.

mod client;
mod connection;
mod options;
mod outcome;
mod request;

pub use client::Smtp;
pub use options::Options;
