//! The files of a deployment: a folder for each region and one for the hub.
//!
//! Secrets are made once and kept: rendering again changes nothing that runs, unless the description changed.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use peal_common::seal::Sealer;
use peal_nats::Region;
use peal_nats::server::node::{LinkSecrets, NodeConfig, SECRETS_FILE, Secrets, USER};
use toml::Value;

use super::{Deployment, Site};
use crate::credentials::{make_password, write_private};

/// The key that all regions share: what one region seals, another one delivers.
const KEY_FILE: &str = "region.key";
const PASSWORD_FILE: &str = "nats.password";
const SYSTEM_PASSWORD_FILE: &str = "system.password";
const LINK_PASSWORD_FILE: &str = "link.password";
const SETTINGS_FILE: &str = "peal.toml";

/// Writes all files below `out`. Returns those that are new or changed, in order.
///
/// # Errors
/// When one can't be written.
pub fn write(deployment: &Deployment, out: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut changed = Vec::new();
    let key = out.join(KEY_FILE);
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    if !key.exists() {
        put(&key, &Sealer::generate_key(&mut rand::rng()), &mut changed)?;
    }
    let key = fs::read_to_string(&key).with_context(|| format!("cannot read {}", key.display()))?;
    let passwords = deployment.regions.iter().map(|site| password(out, &site.name, LINK_PASSWORD_FILE));
    let passwords = passwords.collect::<anyhow::Result<Vec<_>>>()?;
    let names: Vec<_> = deployment.regions.iter().map(|site| &site.name).collect();
    let users = names.iter().copied().zip(passwords.iter().map(String::as_str)).collect();
    site(deployment, &deployment.hub, LinkSecrets::Hub(users), out, &mut changed)?;
    let hub = deployment.hub.nodes();
    for (region, password) in deployment.regions.iter().zip(&passwords) {
        let link = LinkSecrets::Region(password, &region.name, &hub);
        site(deployment, region, link, out, &mut changed)?;
        // The hub's servers never need it.
        put(&out.join(region.name.as_str()).join(KEY_FILE), &key, &mut changed)?;
    }
    Ok(changed)
}

fn site(
    deployment: &Deployment,
    site: &Site,
    link: LinkSecrets<'_>,
    out: &Path,
    changed: &mut Vec<PathBuf>,
) -> anyhow::Result<()> {
    let folder = out.join(site.name.as_str());
    let user = password(out, &site.name, PASSWORD_FILE)?;
    let system = password(out, &site.name, SYSTEM_PASSWORD_FILE)?;
    let is_hub = matches!(link, LinkSecrets::Hub(_));
    let nodes = site.nodes();
    let listen = SocketHost(deployment.listen).to_string();
    for node in &nodes {
        let config = NodeConfig {
            domain: &site.name,
            is_hub,
            nodes: &nodes,
            node,
            tags: &site.tags,
            listen: &listen,
            max_file_store_gib: site.max_file_store_gib.unwrap_or_else(|| deployment.needed_gib(site)),
        };
        put(&folder.join(format!("{}.conf", node.name)), &config.render(), changed)?;
    }
    let secrets = Secrets { password: &user, system: &system, link };
    put(&folder.join(SECRETS_FILE), &secrets.render(), changed)?;
    put(&folder.join(SETTINGS_FILE), &settings(deployment, site), changed)
}

/// A password of a region or the hub, made unless it is there.
fn password(out: &Path, name: &Region, file: &str) -> anyhow::Result<String> {
    let folder = out.join(name.as_str());
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    make_password(&folder.join(file)).with_context(|| format!("cannot write {file} of {name}"))
}

/// The settings of the gateways and dispatchers of a region, and of the commands for it.
fn settings(deployment: &Deployment, site: &Site) -> String {
    let nodes = site.nodes();
    let quoted = |text: &str| Value::from(text).to_string();
    let urls: Vec<_> =
        nodes.iter().map(|node| quoted(&format!("nats://{}:{}", node.host, node.ports.client))).collect();
    let regions: Vec<_> = deployment.regions.iter().map(|site| quoted(site.name.as_str())).collect();
    let installed = |path: &Path| quoted(&deployment.install_dir.join(path).to_string_lossy());
    let own = Path::new(site.name.as_str());
    let (name, password) = (quoted(site.name.as_str()), installed(&own.join(PASSWORD_FILE)));
    let key = format!("key_file = {}\n", installed(&own.join(KEY_FILE)));
    let key = match site.name == deployment.hub.name {
        true => format!(
            "# Only a gateway of the hub needs it, to know the keys of those who ask. Copy it to that host from a region.\n\
             # {key}"
        ),
        false => key,
    };
    format!(
        "# The settings of {name}, for its gateways and dispatchers and for the peal command. Written by `peal topology\n\
         # render`: lay your own over it (`PEAL__SECTION__KEY`), or change the description and render again.\n\n\
         [region]\nname = {name}\n{key}{pinned}\n\
         [nats]\nurls = [{urls}]\nuser = {user}\npassword_file = {password}\n\n\
         [topology]\nhub = {hub}\nregions = [{regions}]\nreplicas = {replicas}\nevents_max_age_days = {days}\n",
        urls = urls.join(", "),
        pinned = if site.pinned { "pinned = true\n" } else { "" },
        user = quoted(USER),
        hub = quoted(deployment.hub.name.as_str()),
        regions = regions.join(", "),
        replicas = nodes.len(),
        days = site.events_max_age_days,
    )
}

/// An address as it stands before a port.
struct SocketHost(IpAddr);

impl fmt::Display for SocketHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => write!(f, "{address}"),
            IpAddr::V6(address) => write!(f, "[{address}]"),
        }
    }
}

fn put(path: &Path, text: &str, changed: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if fs::read_to_string(path).is_ok_and(|before| before == text) {
        return Ok(());
    }
    write_private(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    changed.push(path.to_owned());
    Ok(())
}
