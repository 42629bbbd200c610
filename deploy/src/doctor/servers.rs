//! The servers of the region, each by itself: whether it answers, its version and its clock.

use peal_nats::server::version::{OLDEST, Version};

use super::Check;
use super::region::clock;
use super::server_page::{ServerPage, ServerPages};

/// Looks at what each server's page tells.
pub fn servers(pages: &ServerPages) -> Vec<Check> {
    let mut checks = vec![versions(pages)];
    let off = |page: &&ServerPage| page.clock.map(|skew| skew.ahead_ms.abs() - skew.uncertainty_ms);
    if let Some(page) = pages.pages.iter().max_by_key(off)
        && let Some(skew) = page.clock
    {
        checks.push(clock(&page.server_name, skew));
    }
    checks
}

fn versions(pages: &ServerPages) -> Check {
    let name = "servers";
    let told: Vec<_> =
        pages.pages.iter().map(|page| format!("{} {}", page.server_name, page.version)).collect();
    let found = match told.len() {
        0 => "none told of itself".to_owned(),
        count => format!("{count} told of themselves: {}", told.join(", ")),
    };
    if told.is_empty() && pages.silent.is_empty() {
        let advice = "name the monitoring page of each with --monitor http://host:8222";
        return Check::warn(name, "none of their pages is known", advice);
    }
    let is_old = |text: &str| Version::parse(text).is_none_or(|version| version < OLDEST);
    if pages.pages.iter().any(|page| is_old(&page.version)) {
        return Check::fail(name, found, format!("upgrade the old ones to {OLDEST} or later"));
    }
    if !pages.silent.is_empty() {
        let found = format!("{found}; nothing was heard at {}", pages.silent.join(", "));
        let advice = "start those servers; where their pages answer on the loopback alone, run `peal doctor` on their hosts, too, \
                      or open the pages and name each with --monitor http://host:8222";
        return Check::warn(name, found, advice);
    }
    if pages.pages.windows(2).any(|pair| pair[0].version != pair[1].version) {
        return Check::warn(name, found, "bring them to one version: an upgrade may have stopped half-way");
    }
    Check::ok(name, found)
}

#[cfg(test)]
mod tests {
    use peal_nats::inspect::ClockSkew;

    use super::super::Status;
    use super::super::server_page::tests::pages;
    use super::*;

    const NEW: &str = r#"{"server_name":"eu-1","version":"2.15.1"}"#;
    const OTHER: &str = r#"{"server_name":"eu-2","version":"2.15.0"}"#;
    const OLD: &str = r#"{"server_name":"eu-3","version":"2.10.4"}"#;

    #[test]
    fn each_server_is_looked_at() {
        assert_eq!(versions(&pages(&[NEW, NEW])).status, Status::Ok);
        assert_eq!(versions(&pages(&[NEW, OTHER])).status, Status::Warn);
        let old = versions(&pages(&[NEW, OLD]));
        assert!(old.status == Status::Fail && old.found.contains("eu-3 2.10.4"), "{old:?}");
        assert_eq!(versions(&pages(&[])).status, Status::Warn);
        let mut silent = pages(&[NEW]);
        silent.silent.push("http://10.0.0.3:8222".to_owned());
        let silent = versions(&silent);
        assert!(silent.status == Status::Warn && silent.found.contains("1 told"), "{silent:?}");
        assert!(silent.found.contains("10.0.0.3"), "{silent:?}");
    }

    #[test]
    fn the_clock_that_is_off_most_is_told() {
        let mut found = pages(&[NEW, OTHER, NEW]);
        for (page, ahead_ms) in found.pages.iter_mut().zip([3, -90_000, 700]) {
            page.clock = Some(ClockSkew { ahead_ms, uncertainty_ms: 1 });
        }
        let [_, clock] = servers(&found).try_into().unwrap();
        assert!(clock.status == Status::Fail && clock.found.contains("eu-2"), "{clock:?}");
        assert_eq!(servers(&pages(&[NEW])).len(), 1);
    }
}
