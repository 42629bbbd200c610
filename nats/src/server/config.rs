//! The configuration file of a server that Peal itself starts.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::subjects::Region;

/// The folder of the streams, in that of the data.
pub(super) const STORE: &str = "jetstream";

/// When the server forces what it wrote to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sync {
    /// As the server does by default (2.15: every 2 minutes). What the machine loses in a power cut may have been
    /// acknowledged before.
    #[default]
    ServerDefault,
    /// Every so often.
    Every(Duration),
    /// Before each acknowledgement: slow, and safe against power loss on one server.
    Always,
}

/// User and password of the only user.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// The password; never shown.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// The part of a server in a cluster on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// The cluster's name, the same on every server.
    pub name: String,
    /// The name of this server, different on every server.
    pub server_name: String,
    /// The port for the other servers; see [`free_port`](super::free_port).
    pub port: u16,
    /// The ports of all servers of the cluster.
    pub routes: Vec<u16>,
    /// Where this server tells others that it can be reached, if not at `port`.
    pub advertise: Option<u16>,
}

/// How a server takes part in linking regions: the hub listens for leaf nodes, a region's server is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leaf {
    /// Servers of regions connect here.
    Listens {
        /// The port on 127.0.0.1.
        port: u16,
        /// Who may: a user for each region.
        regions: Vec<Login>,
    },
    /// This server connects to the hub.
    Connects {
        /// The ports of the hub's servers on 127.0.0.1.
        ports: Vec<u16>,
        /// As whom.
        login: Login,
    },
}

/// What to start.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The region, which becomes the JetStream domain.
    pub region: Region,
    /// The folder for configuration, log and streams. It is created, and what it holds from before is used.
    pub data: PathBuf,
    /// Where it listens for clients: 127.0.0.1 unless other hosts are to reach it.
    pub host: IpAddr,
    /// The port for clients; 0 picks a free one.
    pub port: u16,
    /// When data is forced to disk.
    pub sync: Sync,
    /// The largest message in bytes.
    pub max_payload: u32,
    /// The most that all streams may take on disk, in bytes; `None` leaves it to the server (3/4 of the free space).
    pub max_file_store: Option<u64>,
    /// The most that all streams may take in memory, in bytes; `None` leaves it to the server (3/4 of the memory).
    pub max_memory_store: Option<u64>,
    /// Who may connect; `None` lets every process of this machine in.
    pub login: Option<Login>,
    /// The cluster, if there is one.
    pub cluster: Option<ClusterConfig>,
    /// The link with other regions, if there is one.
    pub leaf: Option<Leaf>,
    /// Further lines of configuration, written at the end.
    pub extra: String,
    /// The nats-server to run; `None` looks for one, see [`find`](super::find).
    pub binary: Option<PathBuf>,
    /// How long the server may take until JetStream answers.
    pub start_limit: Duration,
    /// Whether the server gets a process group of its own, so that Ctrl-C in a terminal does not end it together with
    /// its parent: a parent that wants to finish its work first then calls [`stop`](super::Server::stop).
    pub own_process_group: bool,
}

impl ServerConfig {
    /// The largest message by default, as in the server: 1 MiB, twice the largest request that the gateway takes.
    pub const MAX_PAYLOAD: u32 = 1024 * 1024;

    /// One server without password on a free port of 127.0.0.1.
    #[must_use]
    pub fn new(region: Region, data: impl Into<PathBuf>) -> Self {
        ServerConfig {
            region,
            data: data.into(),
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            sync: Sync::default(),
            max_payload: Self::MAX_PAYLOAD,
            max_file_store: None,
            max_memory_store: None,
            login: None,
            cluster: None,
            leaf: None,
            extra: String::new(),
            binary: None,
            start_limit: Duration::from_secs(20),
            own_process_group: false,
        }
    }

    /// The text of the configuration file.
    pub(super) fn render(&self, port: u16) -> String {
        let mut text = String::from(
            "# Written by Peal at each start: changes here are lost. See nats/config for examples to keep.\n\n",
        );
        let mut line = |content: fmt::Arguments<'_>| {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{content}");
        };
        if self.host.is_loopback() {
            line(format_args!("# Only this machine can connect."));
        }
        line(format_args!("listen: \"{}\"", SocketAddr::from((self.host, port))));
        if let Some(cluster) = &self.cluster {
            line(format_args!("server_name: {}", quoted(&cluster.server_name)));
        }
        line(format_args!("\n# Monitoring over HTTP; a free port, see the .ports file in this folder."));
        line(format_args!("http: \"127.0.0.1:-1\""));
        line(format_args!("\n# The largest message, in bytes."));
        line(format_args!("max_payload: {}", self.max_payload));
        line(format_args!("\njetstream {{"));
        line(format_args!(
            "  # Every region is a domain of its own, so that regions can be linked by leaf nodes."
        ));
        line(format_args!("  domain: {}", quoted(self.region.as_str())));
        line(format_args!("  store_dir: {}", quoted(&self.data.join(STORE).to_string_lossy())));
        if let Some(limit) = self.max_file_store {
            line(format_args!("  max_file_store: {limit}"));
        }
        if let Some(limit) = self.max_memory_store {
            line(format_args!("  max_memory_store: {limit}"));
        }
        match self.sync {
            Sync::ServerDefault => {}
            Sync::Every(interval) => {
                line(format_args!("  # How often data is forced to disk."));
                line(format_args!("  sync_interval: \"{}ms\"", interval.as_millis().max(1)));
            }
            Sync::Always => {
                line(format_args!("  # Data is forced to disk before each acknowledgement."));
                line(format_args!("  sync_interval: always"));
            }
        }
        line(format_args!("}}"));
        line(format_args!("\n{}", FEATURE_FLAGS.trim_end()));
        if let Some(login) = &self.login {
            line(format_args!("\nauthorization {{"));
            line(format_args!("  user: {}", quoted(&login.user)));
            line(format_args!("  password: {}", quoted(&login.password)));
            line(format_args!("}}"));
        }
        if let Some(cluster) = &self.cluster {
            line(format_args!("\ncluster {{"));
            line(format_args!("  name: {}", quoted(&cluster.name)));
            line(format_args!("  listen: \"127.0.0.1:{}\"", cluster.port));
            if let Some(port) = cluster.advertise {
                line(format_args!("  advertise: \"127.0.0.1:{port}\""));
            }
            let routes: Vec<_> =
                cluster.routes.iter().map(|port| format!("\"nats-route://127.0.0.1:{port}\"")).collect();
            line(format_args!("  routes: [{}]", routes.join(", ")));
            line(format_args!("}}"));
        }
        if self.leaf.is_some() {
            line(format_args!("\n{}", LINK_PINGS.trim_end()));
        }
        match &self.leaf {
            None => {}
            Some(Leaf::Listens { port, regions }) => {
                line(format_args!("\nleafnodes {{"));
                line(format_args!("  listen: \"127.0.0.1:{port}\""));
                line(format_args!(
                    "  # Regions use the addresses that they were given: others may not be reachable from them."
                ));
                line(format_args!("  no_advertise: true"));
                line(format_args!("  authorization {{"));
                line(format_args!("    users: ["));
                for Login { user, password } in regions {
                    line(format_args!("      {{ user: {}, password: {} }}", quoted(user), quoted(password)));
                }
                line(format_args!("    ]"));
                line(format_args!("  }}"));
                line(format_args!("}}"));
            }
            Some(Leaf::Connects { ports, login }) => {
                // User and password stand in the address: the server has no other place for them.
                let (user, password) = (in_url(&login.user), in_url(&login.password));
                let urls = ports
                    .iter()
                    .map(|port| quoted(&format!("nats-leaf://{user}:{password}@127.0.0.1:{port}")));
                line(format_args!("\nleafnodes {{"));
                line(format_args!("  # How long to wait before connecting to the hub again."));
                line(format_args!("  reconnect: \"1s\""));
                line(format_args!("  remotes: [ {{ urls: [{}] }} ]", urls.collect::<Vec<_>>().join(", ")));
                line(format_args!("}}"));
            }
        }
        if !self.extra.is_empty() {
            line(format_args!("\n{}", self.extra.trim_end()));
        }
        text
    }
}

/// What the servers of every region and of the hub must have switched on (nats-server 2.14 and later know it).
pub(super) const FEATURE_FLAGS: &str = "\
feature_flags {
  # Acknowledgements name their domain. Without it they cross the links, and one of a region settles the message with the
  # same number in the queue of the same name of another region.
  js_ack_fc_v2: true
}
";

/// How soon a link is given up whose other end does not answer. The server's default is two minutes between pings, so that a
/// link that was lost without a word is made anew after four to six minutes only (nats-server 2.15; links have no setting
/// of their own).
pub(super) const LINK_PINGS: &str = "\
# A network can lose a link without a word. It is given up, and made anew, at the third ping when two were not answered.
ping_interval: \"5s\"
ping_max: 2
";

/// A text as a part of a URL (RFC 3986, section 2.1).
pub(super) fn in_url(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte))
            }
            _ => {
                // Writing to a String does not fail.
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

/// A text in double quotes as the server's configuration language reads it.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_what_was_asked_for() {
        let mut config = ServerConfig::new("seoul".parse().unwrap(), "/data");
        config.sync = Sync::Always;
        config.login = Some(Login { user: "peal".to_owned(), password: "a\"b\\c".to_owned() });
        config.extra = "debug: false".to_owned();
        let login = Login { user: "eu".to_owned(), password: "a@b".to_owned() };
        config.leaf = Some(Leaf::Connects { ports: vec![7422], login });
        let text = config.render(4222);
        for expected in [
            "listen: \"127.0.0.1:4222\"",
            "  domain: \"seoul\"",
            "  store_dir: \"/data/jetstream\"",
            "  sync_interval: always",
            "  password: \"a\\\"b\\\\c\"",
            "ping_interval: \"5s\"",
            "  remotes: [ { urls: [\"nats-leaf://eu:a%40b@127.0.0.1:7422\"] } ]",
            "debug: false",
        ] {
            assert!(text.lines().any(|line| line == expected), "{expected} is not in\n{text}");
        }
        assert!(!format!("{config:?}").contains("a\\\"b"), "the password shows in Debug");
    }
}
