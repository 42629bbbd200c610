//! The configuration file of one server on a host of its own, of a region or of the hub.
//!
//! Secrets stand in a file beside it, `secrets.conf`, so that this one can be kept with everything else.

use std::fmt::Write as _;

use super::config::{FEATURE_FLAGS, LINK_PINGS, ServerConfig, in_url, quoted};
use crate::subjects::Region;

/// The file that each configuration includes. See [`Secrets::render`].
pub const SECRETS_FILE: &str = "secrets.conf";
/// The account that Peal's processes and the links between regions use.
const ACCOUNT: &str = "PEAL";
/// The user of Peal's processes.
pub const USER: &str = "peal";

/// The ports of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// For clients.
    pub client: u16,
    /// For the other servers of its cluster.
    pub cluster: u16,
    /// For leaf nodes; only the hub listens.
    pub leaf: u16,
    /// For monitoring, on the loopback.
    pub monitor: u16,
}

impl Default for Ports {
    /// The ports that NATS itself documents.
    fn default() -> Self {
        Ports { client: 4222, cluster: 6222, leaf: 7422, monitor: 8222 }
    }
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name, different on every server.
    pub name: String,
    /// Under which the others reach it.
    pub host: String,
    /// Where it listens.
    pub ports: Ports,
    /// The folder of its streams.
    pub store_dir: String,
}

/// One server's part in a region or in the hub.
#[derive(Debug, Clone)]
pub struct NodeConfig<'a> {
    /// The region or the hub, which becomes the JetStream domain.
    pub domain: &'a Region,
    /// Whether it is the hub.
    pub is_hub: bool,
    /// All servers of it.
    pub nodes: &'a [Node],
    /// This one among them.
    pub node: &'a Node,
    /// Tags by which streams can be placed.
    pub tags: &'a [String],
    /// The address of the host on which it listens, such as `0.0.0.0` for all of them.
    pub listen: &'a str,
    /// What the streams may take on disk, in GiB.
    pub max_file_store_gib: u64,
}

impl NodeConfig<'_> {
    /// The text of the file.
    #[must_use]
    pub fn render(&self) -> String {
        let Ports { client, cluster, leaf, monitor } = self.node.ports;
        let (domain, listen) = (self.domain, self.listen);
        let what = if self.is_hub { "the hub" } else { "region" };
        let mut text = String::new();
        let mut line = |content: &str| {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{content}");
        };
        line(&format!("# {}: one of {} server(s) of {what} {domain}.", self.node.name, self.nodes.len()));
        line("# Written by `peal topology render`: change the description and render again.\n");
        line(&format!("include {}\n", quoted(&format!("./{SECRETS_FILE}"))));
        line(&format!("server_name: {}", quoted(&self.node.name)));
        if !self.tags.is_empty() {
            line(&format!("server_tags: [{}]", list(self.tags.iter().map(|tag| quoted(tag)))));
        }
        line("\n# Clients: gateways and dispatchers.");
        line(&format!("listen: {}", quoted(&format!("{listen}:{client}"))));
        line("\n# Monitoring over HTTP, for the probes of this host only: /healthz, /jsz, /varz.");
        line(&format!("http: \"127.0.0.1:{monitor}\""));
        line("\n# The largest message, in bytes: twice the largest request that the gateway takes.");
        line(&format!("max_payload: {}", ServerConfig::MAX_PAYLOAD));
        line("\n# On a shutdown, clients are asked to leave over this time instead of all at once.");
        line("lame_duck_duration: \"30s\"");
        line("\njetstream {");
        line(&format!("  domain: {}", quoted(domain.as_str())));
        line(&format!("  store_dir: {}", quoted(&self.node.store_dir)));
        line("  # Streams reserve their `max_bytes` here, so this has to exceed their sum.");
        line(&format!("  max_file_store: {}GB", self.max_file_store_gib));
        line("  max_memory_store: 256MB");
        line(
            "  # How often data is forced to disk. What protects an acknowledged message against the loss of one server",
        );
        line(
            "  # is three copies; a single server keeps it through a power cut only with `always`, which costs a factor",
        );
        line("  # of 6 to 35 in publishing.");
        line("  sync_interval: \"10s\"");
        line("}");
        line(&format!("\n{}", FEATURE_FLAGS.trim_end()));
        if self.nodes.len() > 1 {
            let routes = self
                .nodes
                .iter()
                .map(|node| quoted(&format!("nats-route://{}:{}", node.host, node.ports.cluster)));
            line("\ncluster {");
            line(&format!("  name: {}", quoted(domain.as_str())));
            line(&format!("  listen: {}", quoted(&format!("{listen}:{cluster}"))));
            line(&format!("  advertise: {}", quoted(&format!("{}:{cluster}", self.node.host))));
            line(&format!("  routes: [{}]", list(routes)));
            line("}");
        }
        line(&format!("\n{}", LINK_PINGS.trim_end()));
        line(
            "\n# The link with the other regions. It carries what the topology hands on, and requests between regions.",
        );
        line("leafnodes {");
        if self.is_hub {
            line(&format!("  listen: {}", quoted(&format!("{listen}:{leaf}"))));
            line(
                "  # Regions use the addresses that they were given: others may not be reachable from them.",
            );
            line("  no_advertise: true");
            line("  authorization { users: $LINK_USERS }");
        } else {
            line("  reconnect: \"1s\"");
            line(&format!("  remotes: [ {{ urls: $LINK_URLS, account: {} }} ]", quoted(ACCOUNT)));
        }
        line("}");
        line(
            "\n# TLS for clients. Give each server a certificate for its name. Links and clusters cross networks: they",
        );
        line(
            "# need a block of their own, in `cluster`, in the hub's `leafnodes`, and in each of a region's `remotes`.",
        );
        line("# tls {");
        line("#   cert_file: \"/etc/nats/tls/server.pem\"");
        line("#   key_file:  \"/etc/nats/tls/server-key.pem\"");
        line("#   ca_file:   \"/etc/nats/tls/ca.pem\"");
        line("# }");
        line("\n# Accounts keep Peal apart from whatever else uses these servers; SYS is for operators");
        line("# (`nats server report jetstream`).");
        line("accounts {");
        line(&format!("  {ACCOUNT} {{"));
        line("    jetstream: enabled");
        line(&format!("    users: [ {{ user: {}, password: $PEAL_PASSWORD }} ]", quoted(USER)));
        line("  }");
        line("  SYS { users: [ { user: \"sys\", password: $SYS_PASSWORD } ] }");
        line("}");
        line("system_account: SYS");
        text
    }
}

/// What the servers of one region, or of the hub, keep to themselves.
#[derive(Clone)]
pub struct Secrets<'a> {
    /// The password of Peal's processes.
    pub password: &'a str,
    /// The password of the system account's user.
    pub system: &'a str,
    /// How this one takes part in the link.
    pub link: LinkSecrets<'a>,
}

/// The secrets of the link.
#[derive(Clone)]
pub enum LinkSecrets<'a> {
    /// The hub: the name and the password of each region.
    Hub(Vec<(&'a Region, &'a str)>),
    /// A region: its password, its name, and the servers of the hub.
    Region(&'a str, &'a Region, &'a [Node]),
}

impl Secrets<'_> {
    /// The text of [`SECRETS_FILE`].
    #[must_use]
    pub fn render(&self) -> String {
        let (name, value) = match &self.link {
            LinkSecrets::Hub(regions) => {
                let users = regions.iter().map(|(region, password)| {
                    format!(
                        "{{ user: {}, password: {}, account: {} }}",
                        quoted(region.as_str()),
                        quoted(password),
                        quoted(ACCOUNT)
                    )
                });
                ("LINK_USERS", list(users))
            }
            LinkSecrets::Region(password, region, hub) => {
                let login = format!("{}:{}", in_url(region.as_str()), in_url(password));
                let urls = hub
                    .iter()
                    .map(|node| quoted(&format!("nats-leaf://{login}@{}:{}", node.host, node.ports.leaf)));
                ("LINK_URLS", list(urls))
            }
        };
        format!(
            "# Written by `peal topology render`. Keep it to the servers.\nPEAL_PASSWORD: {}\nSYS_PASSWORD: {}\n{name}: \
             [{value}]\n",
            quoted(self.password),
            quoted(self.system)
        )
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}
