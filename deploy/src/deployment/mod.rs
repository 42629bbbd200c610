//! The description of a deployment: the hub and its regions, from which server configurations and settings are made.

mod files;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use peal_nats::Region;
use peal_nats::server::node::{Node, Ports};
use peal_nats::topology::{Links, Options, Topology};
use serde::Deserialize;

use crate::output::UsageError;

pub use files::write;

/// The commented example that `peal topology render --example` prints.
pub const EXAMPLE: &str = include_str!("example.toml");

/// How many servers a region may have: one, or a cluster with a majority.
const SIZES: [usize; 3] = [1, 3, 5];

/// A deployment.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    /// Where the files will be on the hosts.
    #[serde(default = "default_install_dir")]
    pub install_dir: PathBuf,
    /// The address on which servers listen.
    #[serde(default = "default_listen")]
    pub listen: IpAddr,
    /// What links the regions.
    pub hub: Site,
    /// The regions.
    #[serde(rename = "region")]
    pub regions: Vec<Site>,
}

/// A region, or the hub.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Its name, which is its JetStream domain too.
    pub name: Region,
    /// Its servers: one, three or five.
    pub servers: Vec<ServerEntry>,
    /// Tags of its servers.
    #[serde(default)]
    pub tags: Vec<String>,
    /// The folder of the streams on its servers.
    #[serde(default = "default_store_dir")]
    pub store_dir: String,
    /// What its streams may take on disk, in GiB; enough for what they reserve unless it is said.
    pub max_file_store_gib: Option<u64>,
    /// Whether nothing of what it accepts leaves it.
    #[serde(default)]
    pub pinned: bool,
    /// How long events can be looked up.
    #[serde(default = "default_events_max_age")]
    pub events_max_age_days: u64,
}

/// A server: its host, or host and ports.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum ServerEntry {
    /// With the usual ports.
    Host(String),
    /// With ports of its own.
    Table(ServerTable),
}

/// A server with ports of its own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerTable {
    host: String,
    client: Option<u16>,
    cluster: Option<u16>,
    leaf: Option<u16>,
    monitor: Option<u16>,
    store_dir: Option<String>,
}

fn default_install_dir() -> PathBuf {
    PathBuf::from("/etc/peal")
}

/// All addresses of the host.
const fn default_listen() -> IpAddr {
    IpAddr::V4(Ipv4Addr::UNSPECIFIED)
}

fn default_store_dir() -> String {
    "/var/lib/nats".to_owned()
}

const fn default_events_max_age() -> u64 {
    30
}

impl Site {
    /// Its servers with names and ports.
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        let usual = Ports::default();
        let node = |(index, entry): (usize, &ServerEntry)| {
            let (host, ports, store_dir) = match entry {
                ServerEntry::Host(host) => (host, usual, None),
                ServerEntry::Table(table) => {
                    let ports = Ports {
                        client: table.client.unwrap_or(usual.client),
                        cluster: table.cluster.unwrap_or(usual.cluster),
                        leaf: table.leaf.unwrap_or(usual.leaf),
                        monitor: table.monitor.unwrap_or(usual.monitor),
                    };
                    (&table.host, ports, table.store_dir.as_ref())
                }
            };
            Node {
                name: format!("{}-{}", self.name, index + 1),
                host: host.clone(),
                ports,
                store_dir: store_dir.unwrap_or(&self.store_dir).clone(),
            }
        };
        self.servers.iter().enumerate().map(node).collect()
    }
}

impl Deployment {
    /// Reads a description.
    ///
    /// # Errors
    /// [`UsageError`] with what to write.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Deployment::parse(&text).map_err(|error| UsageError(format!("{}: {error}", path.display())).into())
    }

    /// Reads the text of a description.
    ///
    /// # Errors
    /// What to write, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let deployment: Deployment = toml::from_str(text).map_err(|error| error.to_string())?;
        deployment.check()?;
        Ok(deployment)
    }

    /// What the streams of a region or of the hub reserve, and a tenth more for what has no limit.
    fn needed_gib(&self, site: &Site) -> u64 {
        let names: Vec<Region> = self.regions.iter().map(|region| region.name.clone()).collect();
        let topology = if site.name == self.hub.name {
            Topology::for_hub(&site.name, &names, &Options::default())
        } else {
            let others = names.into_iter().filter(|name| *name != site.name).collect();
            let links = Some(Links { hub: self.hub.name.clone(), others });
            Topology::for_region(&site.name, &Options { links, ..Options::default() })
        };
        let bytes = topology.reserved_bytes();
        (bytes + bytes / 10).div_ceil(1024 * 1024 * 1024)
    }

    fn check(&self) -> Result<(), String> {
        if self.regions.is_empty() {
            return Err("write at least one [[region]]".to_owned());
        }
        let mut names = BTreeSet::new();
        for site in std::iter::once(&self.hub).chain(&self.regions) {
            let name = &site.name;
            if !names.insert(name) {
                return Err(format!("{name} stands there twice: hub and regions have names of their own"));
            }
            if !SIZES.contains(&site.servers.len()) {
                return Err(format!("{name}: write 1, 3 or 5 servers, each in a failure domain of its own"));
            }
            if !(1..=3650).contains(&site.events_max_age_days) {
                return Err(format!("{name}: events_max_age_days: write 1 to 3650"));
            }
            for node in site.nodes() {
                let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:[]".contains(c);
                if node.host.is_empty() || !node.host.chars().all(plain) {
                    return Err(format!("{name}: '{}' is no host: write a name or an address", node.host));
                }
            }
            let needed = self.needed_gib(site);
            if site.max_file_store_gib.is_some_and(|given| given < needed) {
                return Err(format!(
                    "{name}: max_file_store_gib: its streams need {needed}; write that or more"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_a_description() {
        let example = Deployment::parse(EXAMPLE).unwrap();
        assert_eq!(example.hub.name.as_str(), "hub");
        assert_eq!(example.regions[0].nodes()[2].name, "eu-3");
        assert_eq!(example.regions[0].nodes()[0].ports, Ports::default());
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_to_write() {
        let site = |name: &str, servers: &str| format!("name = \"{name}\"\nservers = [{servers}]\n");
        let refused = |hub: &str, region: &str| {
            Deployment::parse(&format!("[hub]\n{hub}[[region]]\n{region}")).unwrap_err()
        };
        let hub = site("hub", "\"h\"");
        assert!(refused(&hub, &site("hub", "\"a\"")).contains("twice"));
        assert!(refused(&hub, &site("eu", "\"a\", \"b\"")).contains("1, 3 or 5"));
        assert!(refused(&hub, &site("eu", "\"a b\"")).contains("is no host"));
        assert!(refused(&hub, &(site("eu", "\"a\"") + "max_file_store_gib = 1\n")).contains("need"));
        assert!(refused(&hub, &(site("eu", "\"a\"") + "colour = 1\n")).contains("colour"));
        assert!(Deployment::parse("[hub]\nname = \"h\"\nservers = [\"h\"]\nregion = []\n").is_err());
    }
}
