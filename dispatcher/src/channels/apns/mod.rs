//! Pushes to Apple's devices through APNs, the Apple Push Notification service (Apple, "Sending notification requests
//! to APNs"), over HTTP/2 and signed with a provider token.
//!
//! The client is our own: a2's knows Apple's two servers alone, is bound to a rustls with open advisories, limits the
//! wait for the headers but not for the body, and lacks several of the documented reasons.

mod client;
mod options;
mod outcome;
mod payload;
mod provider_token;
mod request;

pub use client::Client;
pub use options::Options;
pub(in crate::channels) use payload::{Aps, is_noticed_alone};
