//! Web Push (RFC 8030): messages for browsers, encrypted for each subscription (RFC 8291) and sent in the name of the
//! application server's key (RFC 8292, VAPID).
//!
//! The push service's URL comes with the subscription, from a browser: it is called under the rules for webhooks.

mod client;
mod encrypt;
mod options;
mod outcome;
mod request;
mod vapid;

pub use client::Client;
pub use options::Options;
pub(super) use request::{time_to_live, topic, urgency};
