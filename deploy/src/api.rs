//! The gateway's HTTP API, as `peal send`, `peal dead-letters` and `peal up` use it.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use reqwest::{Client, Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use crate::credentials::{self, Credentials};
use crate::output::UsageError;
use crate::region::DEFAULT_DIR;

/// How long a request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Which gateway, and with which key.
#[derive(Debug, Clone, Args)]
pub struct GatewayArgs {
    /// The gateway's address [default: that of `peal up` in this folder]
    #[arg(long, value_name = "URL", env = "PEAL_URL", hide_env_values = true)]
    url: Option<String>,
    /// The public half of an API key, pk_… [default: the key that `peal up` made]
    #[arg(long, value_name = "KEY", env = "PEAL_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Its secret, sk_…; better as PEAL_SECRET, since others on this machine can see arguments
    #[arg(long, value_name = "SECRET", env = "PEAL_SECRET", hide_env_values = true)]
    secret: Option<String>,
}

impl GatewayArgs {
    /// The gateway that is meant.
    ///
    /// # Errors
    /// [`UsageError`] when address or key are nowhere to be found.
    pub fn gateway(&self) -> anyhow::Result<Gateway> {
        let path = Path::new(DEFAULT_DIR).join(credentials::FILE);
        let stored = Credentials::read(&path)?;
        let missing = |what: &str, argument: &str| {
            UsageError(format!("which {what}? Write {argument}, or run `peal up` in this folder first"))
        };
        let url = self.url.clone().or_else(|| stored.as_ref().map(|stored| stored.url.clone()));
        let url = url.ok_or_else(|| missing("gateway", "--url or PEAL_URL"))?;
        let (key, secret) = match (&self.key, &self.secret, stored) {
            (Some(key), Some(secret), _) => (key.clone(), secret.clone()),
            (None, None, Some(stored)) => (stored.key, stored.secret),
            (Some(_), None, _) => return Err(missing("secret", "--secret or PEAL_SECRET").into()),
            (None, _, _) => {
                return Err(missing("key", "--key and --secret, or PEAL_KEY and PEAL_SECRET").into());
            }
        };
        Gateway::new(&url, &key, &secret)
    }
}

/// What the gateway says of a request that it refuses (RFC 9457).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// The kind of problem, in short.
    pub title: String,
    /// What is wrong with this request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// A stable word for programs.
    pub code: String,
    /// What to quote when asking for help.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// What is wrong with which field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<peal_common::problem::FieldError>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail.as_deref().unwrap_or(&self.title))?;
        if !self.code.is_empty() {
            write!(f, " [{}]", self.code)?;
        }
        for error in &self.errors {
            write!(f, "\n  {}: {} [{}]", error.field, error.detail, error.code)?;
        }
        if let Some(id) = &self.request_id {
            write!(f, "\n  request {id}")?;
        }
        Ok(())
    }
}

/// Why the gateway did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// It can't be reached, or did not answer in time.
    #[error("the gateway at {url} does not answer: is it running, and is the address right?")]
    Unreachable {
        /// Where it should be.
        url: String,
        /// What happened.
        #[source]
        source: reqwest::Error,
    },
    /// It refused.
    #[error("the gateway refused ({status}): {problem}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// What it says.
        problem: Box<Problem>,
    },
    /// It answered something that is not its API.
    #[error("{url} answered {status} without JSON: is that a gateway?")]
    Foreign {
        /// Where.
        url: String,
        /// The HTTP status.
        status: StatusCode,
    },
}

impl ApiError {
    /// What the gateway said, if it did.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            ApiError::Refused { problem, .. } => Some(problem),
            _ => None,
        }
    }

    /// Whether the key is not known, or no longer.
    #[must_use]
    pub fn is_unauthorized(&self) -> bool {
        matches!(self, ApiError::Refused { status: StatusCode::UNAUTHORIZED, .. })
    }

    /// Whether there is no such object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, ApiError::Refused { status: StatusCode::NOT_FOUND, .. })
    }
}

/// A client of one gateway.
#[derive(Debug, Clone)]
pub struct Gateway {
    client: Client,
    base: Url,
    key: String,
    secret: String,
}

/// A client for HTTP(S) requests of this command.
///
/// # Errors
/// When TLS can't be set up.
pub fn client() -> anyhow::Result<Client> {
    // An error means that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(Client::builder().timeout(REQUEST_LIMIT).connect_timeout(CONNECT_LIMIT).no_proxy().build()?)
}

impl Gateway {
    /// A client of the gateway at `url` with a key pair.
    ///
    /// # Errors
    /// [`UsageError`] when that is no address.
    pub fn new(url: &str, key: &str, secret: &str) -> anyhow::Result<Self> {
        let base =
            Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let base = base
            .ok_or_else(|| UsageError("--url: write an address such as http://127.0.0.1:8080".to_owned()))?;
        Ok(Gateway { client: client()?, base, key: key.to_owned(), secret: secret.to_owned() })
    }

    /// `GET path`, with a query.
    ///
    /// # Errors
    /// [`ApiError`]
    pub async fn get(&self, path: &[&str], query: &[(&str, String)]) -> Result<Value, ApiError> {
        self.request(Method::GET, path, query, None).await
    }

    /// `PUT path` with a body.
    ///
    /// # Errors
    /// [`ApiError`]
    pub async fn put(&self, path: &[&str], body: &Value) -> Result<Value, ApiError> {
        self.request(Method::PUT, path, &[], Some(body)).await
    }

    /// `POST path` with a body.
    ///
    /// # Errors
    /// [`ApiError`]
    pub async fn post(&self, path: &[&str], body: &Value) -> Result<Value, ApiError> {
        self.request(Method::POST, path, &[], Some(body)).await
    }

    async fn request(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<Value, ApiError> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let unreachable =
            |source: reqwest::Error| ApiError::Unreachable { url: self.base.to_string(), source };
        let mut request = self.client.request(method, url).basic_auth(&self.key, Some(&self.secret));
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let text = answer.bytes().await.map_err(unreachable)?;
        if status.is_success() && text.is_empty() {
            return Ok(Value::Null);
        }
        let foreign = |_| ApiError::Foreign { url: self.base.to_string(), status };
        if status.is_success() {
            return serde_json::from_slice(&text).map_err(foreign);
        }
        let problem: Problem = serde_json::from_slice(&text).map_err(foreign)?;
        Err(ApiError::Refused { status, problem: Box::new(problem) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_field_by_field() {
        let problem: Problem = serde_json::from_str(
            r#"{"type":"about:blank","title":"Invalid","status":422,"detail":"1 field is wrong","code":"invalid",
                "request_id":"r-1","errors":[{"field":"to[0].email","code":"invalid_email","detail":"write an address"}]}"#,
        )
        .unwrap();
        let text = problem.to_string();
        assert_eq!(
            text,
            "1 field is wrong [invalid]\n  to[0].email: write an address [invalid_email]\n  request r-1"
        );
    }

    #[test]
    fn addresses_that_are_no_gateways_are_refused() {
        for bad in ["", "localhost:8080", "ftp://a", "http://"] {
            assert!(Gateway::new(bad, "k", "s").is_err(), "{bad}");
        }
    }
}
