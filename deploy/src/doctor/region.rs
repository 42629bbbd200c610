//! The server, its streams, and its clock.

use peal_common::clock::Clock;
use peal_common::settings::Settings;
use peal_nats::connect::Connection;
use peal_nats::inspect::ClockSkew;
use peal_nats::server::version::{OLDEST, Version};
use peal_nats::topology::{self, EVENTS};

use super::{Check, size};
use crate::region::topology as wanted;

/// Stamps order writes by the clock; beyond this a write may seem older than one that it follows.
const WARN_SKEW_MS: i64 = 500;
/// Signed requests are refused beyond five minutes; well before that something is wrong.
const FAIL_SKEW_MS: i64 = 60_000;

/// Looks at the server.
pub async fn region(settings: &Settings, connection: &Connection) -> Vec<Check> {
    let facts = match connection.server_facts().await {
        Ok(facts) => facts,
        Err(error) => {
            let advice =
                "enable JetStream in the server's configuration, with `domain` set to the region's name";
            return vec![Check::fail("jetstream", format!("{error}: {}", cause(&error)), advice)];
        }
    };
    let mut checks = vec![version(&facts.version)];
    let place =
        facts.cluster.as_ref().map_or("no cluster".to_owned(), |cluster| format!("cluster {cluster}"));
    let took = facts.round_trip.as_secs_f64() * 1e3;
    checks.push(Check::ok("jetstream", format!("server {}, {place}, answers in {took:.1} ms", facts.name)));
    checks.push(domain(settings.region.name.as_str(), facts.domain.as_deref()));
    checks.push(storage(facts.storage, facts.storage_limit));
    checks.push(topology(settings, connection).await);
    checks.push(match connection.clock_skew(EVENTS, &Clock::System).await {
        Ok(skew) => clock("the server", skew),
        Err(_) => Check::warn("clock", "the server did not tell the time", "run `peal topology apply` first"),
    });
    checks
}

fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(String::new, ToString::to_string)
}

fn version(text: &str) -> Check {
    match Version::parse(text) {
        Some(version) if version >= OLDEST => {
            Check::ok("versions", format!("peal {}, nats-server {text}", env!("CARGO_PKG_VERSION")))
        }
        _ => {
            let found = format!("nats-server {text} lacks features that Peal needs");
            Check::fail("versions", found, format!("upgrade it to {OLDEST} or later"))
        }
    }
}

fn domain(region: &str, domain: Option<&str>) -> Check {
    if domain == Some(region) {
        return Check::ok("domain", format!("JetStream domain and region are both {region}"));
    }
    let found = format!("JetStream domain is {}, the region is {region}", domain.unwrap_or("unset"));
    Check::fail(
        "domain",
        found,
        "connect to a server of this region, or correct region.name or the server's domain",
    )
}

fn storage(used: u64, limit: Option<u64>) -> Check {
    match limit {
        Some(limit) if used > limit / 10 * 9 => Check::fail(
            "storage",
            format!("{} of {} used", size(used), size(limit)),
            "raise the account's or the server's limit: a full server refuses notifications",
        ),
        Some(limit) => Check::ok("storage", format!("{} of {} used", size(used), size(limit))),
        None => Check::ok("storage", format!("{} used, no limit of this account", size(used))),
    }
}

async fn topology(settings: &Settings, connection: &Connection) -> Check {
    let wanted = wanted(settings);
    match topology::check(&connection.jetstream, &wanted).await {
        Ok(report) if report.is_ok() => {
            let copies = match settings.topology.replicas {
                1 => "one copy of each".to_owned(),
                copies => format!("{copies} copies of each"),
            };
            Check::ok("topology", format!("{} streams as they should be, {copies}", wanted.streams.len()))
        }
        Ok(report) => {
            let found = format!("{} findings, the first: {}", report.findings.len(), report.findings[0]);
            let found = found.lines().next().unwrap_or_default().to_owned();
            Check::fail("topology", found, "see `peal topology check`, then run `peal topology apply`")
        }
        Err(error) => Check::fail("topology", error.to_string(), "see the server's log"),
    }
}

pub(super) fn clock(server: &str, skew: ClockSkew) -> Check {
    let found =
        format!("{server} is {} ms ahead of this machine, ± {} ms", skew.ahead_ms, skew.uncertainty_ms);
    let distance = skew.ahead_ms.abs() - skew.uncertainty_ms;
    let advice = "synchronise the clocks (NTP): times of events and signed requests go by them";
    if distance > FAIL_SKEW_MS {
        Check::fail("clock", found, advice)
    } else if distance > WARN_SKEW_MS {
        Check::warn("clock", found, advice)
    } else {
        Check::ok("clock", found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn a_clock_is_judged_by_what_is_certain() {
        let status = |ahead_ms, uncertainty_ms| clock("eu-1", ClockSkew { ahead_ms, uncertainty_ms }).status;
        assert_eq!(status(3, 1), Status::Ok);
        assert_eq!(status(-800, 400), Status::Ok);
        assert_eq!(status(-800, 10), Status::Warn);
        assert_eq!(status(600_000, 10), Status::Fail);
    }

    #[test]
    fn old_servers_foreign_domains_and_full_disks_fail() {
        assert_eq!(version("2.10.4").status, Status::Fail);
        assert_eq!(version("2.15.1").status, Status::Ok);
        assert_eq!(domain("eu", None).status, Status::Fail);
        assert_eq!(domain("eu", Some("eu")).status, Status::Ok);
        assert_eq!(storage(95, Some(100)).status, Status::Fail);
        assert_eq!(storage(95, None).status, Status::Ok);
    }
}
