//! What all three have in common: how an account is called, and what an answer says about the account as a whole.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use ::http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use rustls::RootCertStore;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use url::Url;

use peal_common::clock::Clock;
use peal_common::outcome::Outcome;
use peal_nats::turns::{Rate, Turns};

use crate::channels::http::{self as shared, Answer};
use crate::channels::outcomes::{ambiguous, no_turn, permanent, retry, unavailable};
use crate::channels::probe::Probe;
use crate::channels::{ConfigError, retry_after};

/// The longest answer that is read.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a message may wait for its turn under the rate limit; with the 20 s that a call may take it stays below
/// [`crate::channels::CALL_LIMIT`].
const MAX_WAIT: Duration = Duration::from_secs(4);

/// How an account is called.
#[derive(Clone)]
pub(super) struct Calls {
    /// Trusted beside the usual authorities.
    authorities: RootCertStore,
    timeout: Duration,
    rate: Option<Rate>,
}

impl Calls {
    /// Takes the settings of a section; `key` is that of the authority's file.
    pub(super) fn new(
        key: &'static str,
        tls_ca_file: Option<&Path>,
        timeout_seconds: u64,
        rate_per_second: Option<u32>,
    ) -> Result<Self, ConfigError> {
        Ok(Calls {
            authorities: shared::authorities(key, tls_ca_file)?,
            timeout: Duration::from_secs(timeout_seconds),
            rate: rate_per_second.map(Rate::per_second),
        })
    }
}

/// The connections to an account, its rate limit and its time limit.
pub(super) struct Line {
    http: reqwest::Client,
    /// The limit, and the name of its bucket.
    rate: Option<(Rate, String)>,
    turns: Turns,
    timeout: Duration,
    pub(super) clock: Clock,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Line {
    /// `account` is what tells the account from others, such as its URL. Its rate is that of all dispatchers together.
    pub(super) fn new(calls: Calls, account: &str, turns: Turns, clock: Clock) -> Result<Self, ConfigError> {
        let http = shared::client_builder_trusting(calls.authorities)?
            .connect_timeout(CONNECT_LIMIT.min(calls.timeout))
            .build()
            .map_err(ConfigError::Http)?;
        // A digest: what names an account may hold a secret.
        let digest = Sha256::digest(account.as_bytes());
        let name: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let rate = calls.rate.map(|rate| (rate, format!("sms.{name}")));
        Ok(Line { http, rate, turns, timeout: calls.timeout, clock })
    }

    /// Asks without a message, and without a turn.
    pub(super) async fn probe(&self, request: reqwest::Request) -> Probe {
        Probe::of_call(&self.http, request, Instant::now() + self.timeout).await
    }

    /// Waits for a message's turn, calls, and reads the answer.
    ///
    /// # Errors
    /// The outcome, when there is no answer.
    pub(super) async fn call(&self, request: reqwest::Request) -> Result<Answer, Outcome> {
        if let Some((rate, name)) = &self.rate {
            let wait = self.turns.take(name, *rate, MAX_WAIT).await.map_err(no_turn)?;
            tokio::time::sleep(wait).await;
        }
        let deadline = Instant::now() + self.timeout;
        // Nobody can be asked whether a message was taken whose answer got lost.
        shared::call(&self.http, request, deadline, MAX_BODY_BYTES).await.map_err(shared::NoAnswer::ambiguous)
    }
}

/// The outcome of a status that is no success, where nothing more is known.
///
/// 429 and a 503 with Retry-After (RFC 9110 §15.6.4) say that nothing was done. Behind any other 5xx a gateway may have
/// given up on a server that has taken the message. Redirections and 404 tell of a base URL that is wrong for everybody.
pub(super) fn of_status(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> Outcome {
    let reason = format!("http_{}", status.as_u16());
    let after = retry_after::parse(headers, now);
    match status.as_u16() {
        429 => retry(reason, after),
        503 if after.is_some() => retry(reason, after),
        500.. => ambiguous(reason),
        300..=399 | 401 | 403 | 404 | 407 => unavailable(reason),
        _ => permanent(reason),
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
    fn statuses_are_told_apart_by_whether_something_may_have_been_sent() {
        let outcome = |status: u16, wait: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(wait) = wait {
                headers.insert("retry-after", wait.parse().unwrap());
            }
            let now = "1994-11-06T08:49:00Z".parse().unwrap();
            of_status(StatusCode::from_u16(status).unwrap(), &headers, now)
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let cases = [
            (429, None, retry("http_429", None)),
            (429, Some("7"), retry("http_429", seconds(7))),
            (429, Some("soon"), retry("http_429", None)),
            (429, Some("1000000000"), retry("http_429", seconds(1_000_000_000))),
            (503, Some("Sun, 06 Nov 1994 08:49:37 GMT"), retry("http_503", seconds(37))),
            (503, Some("soon"), ambiguous("http_503")),
            (503, None, ambiguous("http_503")),
            (500, Some("7"), ambiguous("http_500")),
            (502, None, ambiguous("http_502")),
            (504, None, ambiguous("http_504")),
            (301, None, unavailable("http_301")),
            (401, None, unavailable("http_401")),
            (403, None, unavailable("http_403")),
            (404, None, unavailable("http_404")),
            (407, None, unavailable("http_407")),
            (400, None, permanent("http_400")),
            (413, None, permanent("http_413")),
        ];
        for (status, wait, expected) in cases {
            assert_eq!(outcome(status, wait), expected, "{status} {wait:?}");
        }
    }

    #[test]
    fn what_can_be_no_name_of_a_message_is_dropped() {
        assert_eq!(provider_id("SM1"), Some("SM1".to_owned()));
        for bad in ["", "a b", "a\nb", &"x".repeat(129)] {
            assert_eq!(provider_id(bad), None, "{bad:?}");
        }
    }
}
