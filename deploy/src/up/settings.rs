//! The settings file of `peal up`: written once, then people's own. Later starts touch only the lines that must be true:
//! paths into the folder, and ports that were asked for or had to change.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use peal_common::settings::Settings;
use peal_nats::Region;
use peal_nats::server::free_port;
use toml::{Table, Value};

use super::folder::Folder;
use crate::credentials::write_private;
use crate::output::UsageError;

/// The port of the HTTP API, unless another is asked for.
pub const GATEWAY_PORT: u16 = 8080;
/// The dispatcher's port for health and metrics, unless somebody has it.
const DISPATCHER_PORT: u16 = 8081;
/// The port of NATS, unless somebody has it.
const NATS_PORT: u16 = 4222;
/// How far apart the ports of regions on one machine are: of NATS, and of everything else.
const NATS_STEP: u16 = 1;
const STEP: u16 = 10;
/// The NATS user.
const NATS_USER: &str = "peal";

/// What the arguments ask for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The port of the HTTP API.
    pub port: Option<u16>,
    /// The port of NATS.
    pub nats_port: Option<u16>,
    /// The port of the dispatcher.
    pub dispatcher_port: Option<u16>,
    /// Settings to lay over those of the folder.
    pub config: Option<PathBuf>,
    /// The place among several regions on this machine, if there are several.
    pub linked: Option<Linked>,
}

/// One of several regions on this machine, or their hub.
#[derive(Debug, Clone)]
pub struct Linked {
    /// Its name.
    pub name: Region,
    /// The hub's name.
    pub hub: Region,
    /// All regions.
    pub regions: Vec<Region>,
    /// The key that all of them share: what one region seals, another one delivers.
    pub key: PathBuf,
    /// How many come before it: ports follow from that.
    pub number: u16,
}

impl Wanted {
    /// A usual port, moved on for the second and later regions.
    fn usual(&self, port: u16, step: u16) -> SocketAddr {
        let number = self.linked.as_ref().map_or(0, |linked| linked.number);
        loopback(port.saturating_add(step.saturating_mul(number)))
    }
}

/// The settings that everything runs with.
#[derive(Debug)]
pub struct Prepared {
    /// The file for gateway and dispatcher.
    pub file: PathBuf,
    /// What it says, with the environment's variables.
    pub settings: Settings,
    /// The port of NATS.
    pub nats_port: u16,
    /// What people should know, such as a port that had to change.
    pub notes: Vec<String>,
}

/// Writes the settings file, or brings the one that is there up to date, and reads it.
///
/// # Errors
/// When the settings don't fit, or the port that was asked for is taken.
pub fn prepare(folder: &Folder, wanted: &Wanted) -> anyhow::Result<Prepared> {
    folder.make_secrets()?;
    let path = folder.settings();
    let mut notes = Vec::new();
    let before = match fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).context(format!("cannot read {}", path.display())),
    };
    let text = before.clone().unwrap_or_else(|| generated(folder));
    let text = with_paths(text, folder);
    let text = with_links(text, wanted.linked.as_ref());
    let text = with_ports(text, wanted, &mut notes)?;
    if before.as_deref() != Some(&text) {
        write_private(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let file = match &wanted.config {
        Some(other) if !is_same(other, &path) => {
            let merged = folder.merged_settings();
            write_private(&merged, &laid_over(&text, other)?).context("cannot write the merged settings")?;
            merged
        }
        _ => path,
    };
    let settings = Settings::load(Some(&file))?;
    let nats_port = nats_port(&settings)?;
    for (address, what, argument) in [
        (settings.gateway.listen, "the HTTP API", "peal up --port N"),
        (settings.dispatcher.listen, "the dispatcher", "peal up --dispatcher-port N"),
        (loopback(nats_port), "NATS", "peal up --nats-port N"),
    ] {
        require_free(address, what, argument)?;
    }
    Ok(Prepared { file, settings, nats_port, notes })
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

fn require_free(address: SocketAddr, what: &str, argument: &str) -> anyhow::Result<()> {
    TcpListener::bind(address).map(drop).with_context(|| {
        format!("{what} cannot listen on {address}: stop what listens there, or choose another port with `{argument}`")
    })
}

/// `peal up` runs its own server, so the settings must name exactly that one.
fn nats_port(settings: &Settings) -> anyhow::Result<u16> {
    let port = match settings.nats.urls.as_slice() {
        [url] => url.strip_prefix("nats://127.0.0.1:").and_then(|port| port.parse().ok()),
        _ => None,
    };
    let text =
        "nats.urls: `peal up` runs its own server on nats://127.0.0.1:<port>; leave PEAL__NATS__URLS unset";
    Ok(port.ok_or_else(|| UsageError(text.to_owned()))?)
}

/// A text as TOML writes it.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn generated(folder: &Folder) -> String {
    let mut text = format!(
        "# The settings of `peal up` in {}. It was written once and is yours: change what you like and start\n\
         # again. `peal up` itself keeps only paths into this folder and ports up to date. What else can be set, with\n\
         # its defaults, stands in common/src/settings/default.toml; PEAL__SECTION__KEY overrides any key.\n\n",
        folder.path().display()
    );
    let mut line = |content: &str| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{content}");
    };
    line("[region]");
    line("name = \"local\"");
    line(
        "# The region's key wraps the data keys of all recipients. Without it the data of this folder is lost.",
    );
    line("key_file = \"\"\n");
    line("[nats]");
    line("urls = []");
    line(&format!("user = {}", quoted(NATS_USER)));
    line("password_file = \"\"\n");
    line("[gateway]");
    line("# The HTTP API and the console.");
    line("listen = \"\"");
    line("data_dir = \"\"");
    line("# Only this machine reaches the console. Turn this on before you listen on another address.");
    line("console_requires_key = false\n");
    line("[dispatcher]");
    line("# Health and metrics.");
    line("listen = \"\"");
    line("data_dir = \"\"\n");
    line("[channels.sandbox]");
    line("# Channels without a provider record their messages here, and the console shows them.");
    line("enabled = true\n");
    line("[channels.webhook]");
    line("# Webhooks to private addresses are refused. To try one on this machine, allow its network:");
    line("# allowed_networks = [\"127.0.0.0/8\"]\n");
    line("# With a mail server, e-mail goes out instead of to the sandbox:");
    line("# [channels.email.smtp]");
    line("# host = \"smtp.example.com\"");
    line("# port = 587");
    line("# tls = \"starttls\"");
    line("# user = \"…\"");
    line("# password_file = \"…\"");
    line("# from = \"Shop <no-reply@example.com>\"\n");
    line("# With a bot's token, Telegram does too:");
    line("# [channels.telegram]");
    line("# token_file = \"…\"");
    text
}

/// A folder that was moved still works.
fn with_paths(text: String, folder: &Folder) -> String {
    let paths = [
        ("region", "key_file", folder.region_key()),
        ("nats", "password_file", folder.nats_password()),
        ("gateway", "data_dir", folder.path().join("gateway")),
        ("dispatcher", "data_dir", folder.path().join("dispatcher")),
    ];
    paths.into_iter().fold(text, |text, (section, key, path)| {
        with_key(&text, section, key, &quoted(&path.to_string_lossy()))
    })
}

/// The region's name and what it is linked with.
fn with_links(text: String, linked: Option<&Linked>) -> String {
    let Some(Linked { name, hub, regions, key, .. }) = linked else { return text };
    let regions: Vec<_> = regions.iter().map(|region| quoted(region.as_str())).collect();
    let values = [
        ("region", "name", quoted(name.as_str())),
        ("region", "key_file", quoted(&key.to_string_lossy())),
        ("topology", "hub", quoted(hub.as_str())),
        ("topology", "regions", format!("[{}]", regions.join(", "))),
    ];
    values.into_iter().fold(text, |text, (section, key, value)| with_key(&text, section, key, &value))
}

/// Ports as they were asked for, else as they stand there, else the usual ones. One that nobody asked for and somebody
/// else has is replaced by a free one, save that of the API: people type it, so it must not change by itself.
fn with_ports(text: String, wanted: &Wanted, notes: &mut Vec<String>) -> anyhow::Result<String> {
    let table: Table = text.parse().map_err(|error| UsageError(format!("peal.toml: {error}")))?;
    let stands = |section: &str, key: &str| -> Option<String> {
        let value = table.get(section)?.get(key)?;
        let text = value.as_str().or_else(|| value.as_array()?.first()?.as_str())?;
        Some(text.to_owned()).filter(|text| !text.is_empty())
    };
    let mut text = text;
    if let Some(port) = wanted.port {
        text = with_key(&text, "gateway", "listen", &quoted(&loopback(port).to_string()));
    } else if stands("gateway", "listen").is_none() {
        text = with_key(&text, "gateway", "listen", &quoted(&wanted.usual(GATEWAY_PORT, STEP).to_string()));
    }
    let nats = stands("nats", "urls").and_then(|url| url.strip_prefix("nats://")?.parse::<SocketAddr>().ok());
    let (before, nats) = (nats, nats.unwrap_or(wanted.usual(NATS_PORT, NATS_STEP)));
    let nats = match wanted.nats_port {
        Some(port) => loopback(port),
        None => free_or_other(nats, "NATS", notes)?,
    };
    if before != Some(nats) {
        text = with_key(&text, "nats", "urls", &format!("[{}]", quoted(&format!("nats://{nats}"))));
    }
    let dispatcher = stands("dispatcher", "listen").and_then(|address| address.parse::<SocketAddr>().ok());
    let (before, dispatcher) = (dispatcher, dispatcher.unwrap_or(wanted.usual(DISPATCHER_PORT, STEP)));
    let dispatcher = match wanted.dispatcher_port {
        Some(port) => loopback(port),
        None => free_or_other(dispatcher, "the dispatcher", notes)?,
    };
    if before != Some(dispatcher) {
        text = with_key(&text, "dispatcher", "listen", &quoted(&dispatcher.to_string()));
    }
    Ok(text)
}

fn free_or_other(address: SocketAddr, what: &str, notes: &mut Vec<String>) -> anyhow::Result<SocketAddr> {
    if is_free(address) {
        return Ok(address);
    }
    let other = SocketAddr::new(address.ip(), free_port()?);
    notes.push(format!("{address} is taken: {what} listens on port {} instead", other.port()));
    Ok(other)
}

/// Sets one key of one section in the text of a TOML file and leaves everything else as it stands, comments included.
fn with_key(text: &str, section: &str, key: &str, value: &str) -> String {
    let header = format!("[{section}]");
    let line = format!("{key} = {value}");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let Some(start) = lines.iter().position(|line| line.trim() == header) else {
        lines.extend([String::new(), header, line]);
        return lines.join("\n") + "\n";
    };
    let end = lines[start + 1..].iter().position(|line| line.trim_start().starts_with('['));
    let end = end.map_or(lines.len(), |end| start + 1 + end);
    let is_key = |line: &String| {
        line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    match lines[start + 1..end].iter().position(is_key) {
        Some(index) => lines[start + 1 + index] = line,
        None => lines.insert(start + 1, line),
    }
    lines.join("\n") + "\n"
}

fn is_same(one: &Path, other: &Path) -> bool {
    matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}

/// The settings of the folder with another file's laid over them.
fn laid_over(text: &str, file: &Path) -> anyhow::Result<String> {
    let unreadable = |why: String| UsageError(format!("--config {}: {why}", file.display()));
    let other = fs::read_to_string(file).map_err(|error| unreadable(error.to_string()))?;
    let other: Table = other.parse().map_err(|error: toml::de::Error| unreadable(error.to_string()))?;
    if other.contains_key("nats") {
        let why = "`peal up` runs its own NATS server: leave [nats] out";
        return Err(unreadable(why.to_owned()).into());
    }
    let mut merged: Table = text.parse()?;
    lay(&mut merged, other);
    Ok(format!(
        "# Written by `peal up`: its own settings with those of {} over them.\n\n{merged}",
        file.display()
    ))
}

fn lay(below: &mut Table, above: Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => lay(below, above),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports() -> Wanted {
        Wanted {
            port: Some(free_port().unwrap()),
            nats_port: Some(free_port().unwrap()),
            dispatcher_port: Some(free_port().unwrap()),
            ..Wanted::default()
        }
    }

    fn prepared(folder: &Folder, wanted: &Wanted) -> Settings {
        prepare(folder, wanted).unwrap().settings
    }

    #[test]
    fn the_file_is_written_once_and_then_keeps_what_people_wrote() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::open(parent.path()).unwrap();
        let wanted = ports();
        let settings = prepared(&folder, &wanted);
        assert_eq!(Some(settings.gateway.listen.port()), wanted.port);
        assert!(settings.channels.sandbox.enabled && settings.sealer().is_ok());
        assert!(settings.channels.webhook.allowed_networks.is_empty());

        let text = fs::read_to_string(folder.settings()).unwrap();
        let edited = text.replace("# allowed_networks = ", "allowed_networks = ") + "# mine\n";
        fs::write(folder.settings(), &edited).unwrap();
        let settings = prepared(&folder, &Wanted::default());
        assert_eq!(Some(settings.gateway.listen.port()), wanted.port);
        assert_eq!(settings.channels.webhook.allowed_networks, ["127.0.0.0/8"]);
        assert_eq!(fs::read_to_string(folder.settings()).unwrap(), edited);
    }

    #[test]
    fn a_taken_port_of_the_api_is_an_error_and_others_move() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::open(parent.path()).unwrap();
        let wanted = ports();
        let settings = prepared(&folder, &wanted);
        let _dispatcher = TcpListener::bind(settings.dispatcher.listen).unwrap();
        let _nats = TcpListener::bind(loopback(wanted.nats_port.unwrap())).unwrap();
        let moved = prepare(&folder, &Wanted::default()).unwrap();
        assert_eq!(moved.notes.len(), 2, "{:?}", moved.notes);
        assert_ne!(Some(moved.nats_port), wanted.nats_port);
        let _api = TcpListener::bind(settings.gateway.listen).unwrap();
        let error = format!("{:#}", prepare(&folder, &Wanted::default()).unwrap_err());
        assert!(error.contains("peal up --port"), "{error}");
    }

    #[test]
    fn another_file_is_laid_over_and_must_not_name_servers() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::open(&parent.path().join("d")).unwrap();
        let other = parent.path().join("mine.toml");
        fs::write(&other, "[dispatcher]\nmax_attempts = 3\n").unwrap();
        let wanted = Wanted { config: Some(other.clone()), ..ports() };
        let settings = prepared(&folder, &wanted);
        assert_eq!(settings.dispatcher.max_attempts, 3);
        assert!(settings.channels.sandbox.enabled);
        fs::write(&other, "[nats]\nurls = [\"nats://elsewhere:4222\"]\n").unwrap();
        assert!(prepare(&folder, &wanted).unwrap_err().is::<UsageError>());
        let own = Wanted { config: Some(folder.settings()), ..Wanted::default() };
        assert_eq!(prepare(&folder, &own).unwrap().file, folder.settings());
    }

    #[test]
    fn one_of_several_regions_knows_the_others_and_shares_their_key() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::open(&parent.path().join("us")).unwrap();
        let key = parent.path().join("region.key");
        fs::copy(
            {
                folder.make_secrets().unwrap();
                folder.region_key()
            },
            &key,
        )
        .unwrap();
        let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<Region>>();
        let linked = Linked {
            name: "us".parse().unwrap(),
            hub: "hub".parse().unwrap(),
            regions: names(&["eu", "us"]),
            key: key.clone(),
            number: 1,
        };
        let settings = prepared(&folder, &Wanted { linked: Some(linked), ..ports() });
        assert_eq!(settings.region.name.as_str(), "us");
        assert_eq!(settings.region.key_file, Some(key));
        assert_eq!(settings.other_regions(), names(&["eu"]));
    }

    #[test]
    fn one_key_changes_and_the_rest_stays() {
        let text = "# a\n[x]\nkey_b = 1\nkey = 2 # c\n\n[y]\nkey = 3\n";
        assert_eq!(with_key(text, "x", "key", "9"), text.replace("key = 2 # c", "key = 9"));
        assert_eq!(with_key(text, "y", "new", "1"), text.replace("[y]\n", "[y]\nnew = 1\n"));
        assert_eq!(with_key("a = 1\n", "z", "k", "\"v\""), "a = 1\n\n[z]\nk = \"v\"\n");
    }
}
