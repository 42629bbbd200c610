//! Which machines may be called whose addresses apps and recipients name: the check of IP literals and the resolver that
//! checks names.
//!
//! The resolver hands on nothing but checked addresses, and the connection goes to one of them: a name whose addresses
//! change between a check and the call (DNS rebinding) gains nothing.

use std::collections::HashMap;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::Url;

use peal_common::address;
use peal_common::outcome::Outcome;

use super::ConfigError;
use super::outcomes::{permanent, retry};

/// The name leads to private addresses alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the target is not a public address")]
pub(crate) struct PrivateTarget;

/// The name leads nowhere.
#[derive(Debug, thiserror::Error)]
#[error("the name cannot be resolved")]
pub(crate) struct LookupFailed(#[source] Option<std::io::Error>);

/// The outcome of a call that ended at a [`Resolver`].
pub(crate) fn refusal(error: &reqwest::Error) -> Option<Outcome> {
    if is_caused_by::<PrivateTarget>(error) {
        Some(permanent("private_target"))
    } else if is_caused_by::<LookupFailed>(error) {
        Some(retry("dns_failed", None))
    } else {
        None
    }
}

/// Whether `error` or anything that caused it is an `E`.
fn is_caused_by<E: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<E>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A table of names and their addresses that can change at any time. Lower case, without a trailing dot.
#[derive(Debug, Clone, Default)]
pub struct Hosts(Arc<RwLock<HashMap<String, Vec<IpAddr>>>>);

impl PartialEq for Hosts {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.all() == other.all()
    }
}

impl Hosts {
    fn all(&self) -> HashMap<String, Vec<IpAddr>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes `name` lead to `addresses` from now on.
    pub fn set(&self, name: &str, addresses: Vec<IpAddr>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), addresses);
    }

    fn get(&self, name: &str) -> Option<Vec<IpAddr>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

/// The rule: public addresses and the networks that the settings allow.
#[derive(Debug, Clone)]
pub(crate) struct Targets {
    allowed: Arc<[IpNet]>,
}

impl Targets {
    pub(crate) fn new(allowed: Vec<IpNet>) -> Self {
        Targets { allowed: allowed.into() }
    }

    pub(crate) fn allows(&self, ip: IpAddr) -> bool {
        // A mapped address reaches the IPv4 machine inside it, so that is the one to compare.
        let ip = ip.to_canonical();
        address::is_public(ip) || self.allowed.iter().any(|network| network.contains(&ip))
    }

    /// Checks what a URL says by itself. The HTTP client connects to IP literals without asking the resolver.
    pub(crate) fn check_literal(&self, url: &Url) -> Result<(), PrivateTarget> {
        match address::literal_target(url) {
            Some(ip) if !self.allows(ip) => Err(PrivateTarget),
            _ => Ok(()),
        }
    }
}

/// The networks that a setting lists.
///
/// # Errors
/// [`ConfigError::Invalid`] when one is none.
pub(crate) fn networks(key: &'static str, texts: &[String]) -> Result<Vec<IpNet>, ConfigError> {
    let invalid = |_| ConfigError::invalid(key, "write networks such as 10.1.0.0/16 or fd00::/8");
    texts.iter().map(|text| text.trim().parse().map_err(invalid)).collect()
}

/// Resolves names to allowed addresses only.
#[derive(Debug)]
pub(crate) struct Resolver {
    targets: Targets,
    hosts: Hosts,
}

impl Resolver {
    pub(crate) fn new(targets: Targets, hosts: Hosts) -> Self {
        Resolver { targets, hosts }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let targets = self.targets.clone();
        let known = self.hosts.get(name.as_str());
        Box::pin(async move {
            let found: Vec<SocketAddr> = match known {
                Some(addresses) => addresses.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect(),
                // Port 0 stands for the URL's port.
                None => tokio::net::lookup_host((name.as_str(), 0))
                    .await
                    .map_err(|error| LookupFailed(Some(error)))?
                    .collect(),
            };
            if found.is_empty() {
                return Err(LookupFailed(None).into());
            }
            let allowed: Vec<SocketAddr> =
                found.into_iter().filter(|address| targets.allows(address.ip())).collect();
            if allowed.is_empty() {
                return Err(PrivateTarget.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(allowed: &[&str], addresses: &[&str]) -> Result<Vec<String>, bool> {
        let hosts = Hosts::default();
        hosts.set("name.test", addresses.iter().map(|text| text.parse().unwrap()).collect());
        let targets = Targets::new(allowed.iter().map(|text| text.parse().unwrap()).collect());
        let resolving = Resolver::new(targets, hosts).resolve("name.test".parse().unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        match runtime.block_on(resolving) {
            Ok(addresses) => Ok(addresses.map(|address| address.ip().to_string()).collect()),
            Err(error) => Err(is_caused_by::<PrivateTarget>(error.as_ref())),
        }
    }

    #[test]
    fn only_allowed_addresses_of_a_name_are_handed_on() {
        assert_eq!(resolved(&[], &["127.0.0.1", "8.8.8.8", "fd00::1"]), Ok(vec!["8.8.8.8".to_owned()]));
        assert_eq!(resolved(&[], &["127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1"]), Err(true));
        assert_eq!(resolved(&[], &[]), Err(false));
        assert_eq!(resolved(&["10.0.0.0/8"], &["10.1.2.3", "127.0.0.1"]), Ok(vec!["10.1.2.3".to_owned()]));
        assert_eq!(resolved(&["10.0.0.0/8"], &["::ffff:10.1.2.3"]), Ok(vec!["::ffff:10.1.2.3".to_owned()]));
    }

    #[test]
    fn literals_are_checked_in_every_spelling() {
        let none = Targets::new(Vec::new());
        let loopback = Targets::new(vec!["127.0.0.0/8".parse().unwrap()]);
        for url in ["http://127.1/", "http://2130706433/", "http://localhost./", "http://[::ffff:127.0.0.1]/"]
        {
            let url = Url::parse(url).unwrap();
            assert_eq!(none.check_literal(&url), Err(PrivateTarget), "{url}");
            assert_eq!(loopback.check_literal(&url), Ok(()), "{url}");
        }
        assert_eq!(
            loopback.check_literal(&Url::parse("http://[::ffff:10.0.0.1]/").unwrap()),
            Err(PrivateTarget)
        );
        assert_eq!(none.check_literal(&Url::parse("http://8.8.8.8/").unwrap()), Ok(()));
    }
}
