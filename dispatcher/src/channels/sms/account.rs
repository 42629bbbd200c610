//! What all three have in common: how an account is called.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;
use url::Url;

use peal_common::clock::Clock;
use peal_common::outcome::Outcome;

use crate::channels::ConfigError;
use crate::channels::http::{self as shared, Answer, Authorities};
use crate::channels::probe::Probe;

/// The longest answer that is read.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// The longest list of messages that is read: 50 of them, each with 10 segments at most.
const MAX_LIST_BYTES: usize = 512 * 1024;
/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How an account is called.
#[derive(Clone, PartialEq)]
pub(super) struct Calls {
    /// Trusted beside the usual authorities.
    authorities: Authorities,
    timeout: Duration,
}

impl Calls {
    /// Takes the settings of a section; `key` is that of the authority's file.
    pub(super) fn new(
        key: &'static str,
        tls_ca_file: Option<&Path>,
        timeout_seconds: u64,
    ) -> Result<Self, ConfigError> {
        Ok(Calls {
            authorities: shared::authorities(key, tls_ca_file)?,
            timeout: Duration::from_secs(timeout_seconds),
        })
    }
}

/// The connections to an account, and its time limit.
pub(super) struct Line {
    http: reqwest::Client,
    timeout: Duration,
    pub(super) clock: Clock,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Line {
    /// Connects when the first message is sent.
    pub(super) fn new(calls: Calls, clock: Clock) -> Result<Self, ConfigError> {
        let http = shared::client_builder_trusting(calls.authorities)?
            .connect_timeout(CONNECT_LIMIT.min(calls.timeout))
            .build()
            .map_err(ConfigError::Http)?;
        Ok(Line { http, timeout: calls.timeout, clock })
    }

    /// Asks without a message.
    pub(super) async fn probe(&self, request: reqwest::Request) -> Probe {
        Probe::of_call(&self.http, request, Instant::now() + self.timeout).await
    }

    /// Asks for what the account has.
    ///
    /// # Errors
    /// The outcome of the question, when there is no answer.
    pub(super) async fn ask(&self, request: reqwest::Request) -> Result<Answer, Outcome> {
        let deadline = Instant::now() + self.timeout;
        shared::call(&self.http, request, deadline, MAX_LIST_BYTES)
            .await
            .map_err(shared::NoAnswer::repeatable)
    }

    /// Calls, and reads the answer.
    ///
    /// # Errors
    /// The outcome, when there is no answer.
    pub(super) async fn call(&self, request: reqwest::Request) -> Result<Answer, Outcome> {
        let deadline = Instant::now() + self.timeout;
        // Whether a message was taken whose answer got lost, some providers can be asked later.
        shared::call(&self.http, request, deadline, MAX_BODY_BYTES).await.map_err(shared::NoAnswer::ambiguous)
    }
}

/// Where a provider reports what became of a message.
pub(super) fn receipts_url(key: &'static str, text: Option<&str>) -> Result<Option<Url>, ConfigError> {
    let Some(text) = text else { return Ok(None) };
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() && url.fragment().is_none() => {
            Ok(Some(url))
        }
        _ => Err(ConfigError::invalid(
            key,
            "write the gateway's URL, such as https://peal.example.com/v1/callbacks/…",
        )),
    }
}

/// A provider's name for a message, if it can be one.
pub(super) fn provider_id(text: &str) -> Option<String> {
    let plausible = (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    plausible.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_no_name_of_a_message_is_dropped() {
        assert_eq!(provider_id("SM1"), Some("SM1".to_owned()));
        for bad in ["", "a b", "a\nb", &"x".repeat(129)] {
            assert_eq!(provider_id(bad), None, "{bad:?}");
        }
    }
}
