//! Pushes through Firebase Cloud Messaging (HTTP v1 API) to Android, and to whatever else an app registers with
//! Firebase.
//!
//! Every send bears an access token of a service account, which is asked for with a signed word (RFC 7523) and kept.
//! The calls are our own, like those of the other providers: gcp_auth repeats requests by itself and knows no time
//! limit.

mod access_token;
mod client;
mod grant;
mod mismatches;
mod options;
mod outcome;
mod payload;
mod service_account;

pub use client::Client;
pub use options::Options;
