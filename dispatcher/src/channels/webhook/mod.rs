//! Webhooks: a request to the recipient's own endpoint, signed to the Standard Webhooks specification.
//!
//! The endpoint is somebody else's choice, so it is not trusted: only public addresses are called unless the settings
//! allow a network, redirects are refused, and no answer is waited for or read beyond a limit.

mod client;
mod options;
mod outcome;
mod request;
mod signature;

pub use client::Client;
pub use options::Options;
pub use signature::{Secrets, SigningSecret, SigningSecretError};
