//! Whether a server keeps what a topology promises: the plan must be empty, and some facts are looked at live.

use std::fmt;

use async_nats::jetstream::context::AccountErrorKind;
use async_nats::jetstream::stream::PersistenceMode;
use async_nats::jetstream::{Context, ErrorCode};
use serde::Serialize;

use super::change::{Change, Plan};
use super::{Current, ReadError, Topology, plan};
use crate::server::version::{OLDEST, Version};

/// One thing that is not as it should be. `Display` says what to do about it.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Finding {
    /// The server lacks features that Peal relies on.
    ServerTooOld {
        /// What the server calls itself.
        version: String,
    },
    /// JetStream is off for this server or this account.
    JetStreamDisabled,
    /// The server belongs to another region.
    WrongDomain {
        /// The region that was expected.
        expected: String,
        /// The JetStream domain of the server, if it has any.
        found: Option<String>,
    },
    /// A stream or consumer differs from the topology.
    Differs {
        /// What would have to be done.
        change: Change,
    },
    /// The stream acknowledges messages before they are stored.
    AcknowledgesBeforeStoring {
        /// The stream's name.
        stream: String,
    },
    /// Fewer replicas are current than the topology promises.
    ReplicasMissing {
        /// The stream's name.
        stream: String,
        /// Copies that the topology promises.
        expected: usize,
        /// Copies that are reachable and current, the leader included.
        current: usize,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::ServerTooOld { version } => {
                write!(f, "nats-server {version} is too old: upgrade to {OLDEST} or later")
            }
            Finding::JetStreamDisabled => write!(
                f,
                "JetStream is not enabled: add a jetstream block to the server's configuration and enable it for this \
                 account"
            ),
            Finding::WrongDomain { expected, found } => write!(
                f,
                "the server's JetStream domain is {}, not {expected}: connect to a server of region {expected} or set \
                 `domain: \"{expected}\"` in its jetstream block",
                found.as_deref().unwrap_or("unset")
            ),
            Finding::Differs { change } => write!(f, "{change}\n    run `peal topology apply`"),
            Finding::AcknowledgesBeforeStoring { stream } => write!(
                f,
                "stream {stream} has persist_mode async: it acknowledges before it stores, so that 202 would promise \
                 nothing; run `peal topology apply` with permission to recreate it"
            ),
            Finding::ReplicasMissing { stream, expected, current } => write!(
                f,
                "stream {stream} has {current} of {expected} copies current: look at the servers of the cluster \
                 (`nats server report jetstream`)"
            ),
        }
    }
}

/// The result of [`check`].
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// What is not as it should be; empty when all is well.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether all is well.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.findings.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_ok() {
            return write!(f, "all streams and consumers are as they should be");
        }
        for (index, finding) in self.findings.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{finding}")?;
        }
        Ok(())
    }
}

/// The check itself could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The server did not answer about this account.
    #[error("the server does not answer JetStream requests in domain {domain}")]
    NoAnswer {
        /// The domain that was asked.
        domain: String,
        /// What async-nats says.
        #[source]
        source: async_nats::Error,
    },
    /// See [`ReadError`].
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Looks at the server, its streams and consumers.
///
/// # Errors
/// [`CheckError`] when the server does not answer; what is merely wrong is a [`Finding`].
pub async fn check(jetstream: &Context, topology: &Topology) -> Result<Report, CheckError> {
    let mut findings = Vec::new();
    let info = jetstream.client().server_info();
    if Version::parse(&info.version).is_none_or(|version| version < OLDEST) {
        findings.push(Finding::ServerTooOld { version: info.version });
    }
    let account = match jetstream.query_account().await {
        Ok(account) => account,
        Err(error) if is_disabled(&error.kind()) => {
            findings.push(Finding::JetStreamDisabled);
            return Ok(Report { findings });
        }
        Err(error) => {
            let domain = topology.region.to_string();
            return Err(CheckError::NoAnswer { domain, source: error.into() });
        }
    };
    if account.domain.as_deref() != Some(topology.region.as_str()) {
        findings.push(Finding::WrongDomain { expected: topology.region.to_string(), found: account.domain });
    }
    let current = Current::read(jetstream, topology).await?;
    let Plan { changes } = plan(&current, topology);
    findings.extend(changes.into_iter().map(|change| Finding::Differs { change }));
    findings.extend(live_facts(&current, topology));
    Ok(Report { findings })
}

fn is_disabled(kind: &AccountErrorKind) -> bool {
    match kind {
        AccountErrorKind::JetStreamUnavailable => true,
        AccountErrorKind::JetStream(error) => {
            [ErrorCode::JETSTREAM_NOT_ENABLED, ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT]
                .contains(&error.error_code())
        }
        _ => false,
    }
}

fn live_facts(current: &Current, topology: &Topology) -> Vec<Finding> {
    let mut findings = Vec::new();
    for spec in &topology.streams {
        let name = &spec.config.name;
        let Some(stream) = current.streams.get(name) else { continue };
        if stream.config.persist_mode == Some(PersistenceMode::Async) {
            findings.push(Finding::AcknowledgesBeforeStoring { stream: name.clone() });
        }
        let expected = spec.config.num_replicas;
        let copies = stream.peers.as_ref().map_or(1, |peers| {
            let leader = usize::from(peers.leader.is_some());
            leader + peers.replicas.iter().filter(|peer| peer.current && !peer.offline).count()
        });
        if copies < expected {
            findings.push(Finding::ReplicasMissing { stream: name.clone(), expected, current: copies });
        }
    }
    findings
}
