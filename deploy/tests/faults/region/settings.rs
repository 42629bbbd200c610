//! The settings of a region's programs.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use peal_common::id::Region as RegionName;
use peal_nats::server::free_port;
use peal_nats::topology::Links;

use super::network::{self, Host};
use super::program::Program;
use crate::clock;

/// How long a linked region is silent before another one may take it over.
const SILENCE_SECONDS: u64 = 3;

/// What the settings of all programs have in common.
#[derive(Clone)]
pub struct Settings<'a> {
    pub name: &'a str,
    pub links: Option<Links>,
    pub folder: &'a Path,
    pub region_key: &'a str,
    pub clocks: Option<&'a Path>,
    pub channels: &'a str,
    pub old_programs: Option<&'a Path>,
}

impl Settings<'_> {
    fn topology(&self) -> String {
        let Some(Links { hub, others }) = &self.links else { return String::new() };
        let own = Some(self.name).filter(|name| *name != hub.as_str());
        let regions = others.iter().map(RegionName::as_str).chain(own);
        let regions: Vec<_> = regions.map(|name| format!("\"{name}\"")).collect();
        format!(
            "[topology]\nhub = \"{hub}\"\nregions = [{}]\nsilence_seconds = {SILENCE_SECONDS}\n\n",
            regions.join(", ")
        )
    }

    /// A program with settings of its own; `section` is the one that says where it listens and keeps its data.
    pub fn program(
        &self,
        section: &str,
        number: usize,
        nats: &[String],
        host: Option<Host>,
    ) -> anyhow::Result<Program> {
        let address = address_on(host.as_ref())?;
        let name = format!("{section}-{number}");
        let data = self.folder.join(&name);
        let text = format!(
            "[region]\nname = \"{}\"\nkey = \"{}\"\n\n[nats]\nurls = [{}]\n\n{}\
             [{section}]\nlisten = \"{address}\"\ndata_dir = \"{}\"\n{}\n\
             [channels.webhook]\nallowed_networks = [\"127.0.0.0/8\", \"{}\"]\n{}",
            self.name,
            self.region_key,
            nats.iter().map(|url| format!("\"{url}\"")).collect::<Vec<_>>().join(", "),
            self.topology(),
            data.display(),
            if section == "dispatcher" { "retry_base_ms = 50\n" } else { "" },
            network::NETWORK,
            self.channels,
        );
        let file = self.folder.join(format!("{name}.toml"));
        std::fs::write(&file, text)?;
        let clock = self.clocks.map(|library| clock::Clock::new(library, data.with_extension("clock")));
        let program = Program::new(&format!("peal-{section}"), &name, file, data, address)?;
        let program = program.on(host).with_clock(clock.transpose()?);
        match self.old_programs {
            Some(folder) => program.in_folder(folder),
            None => Ok(program),
        }
    }
}

/// Where a program can listen: on its host, or on this machine alone.
pub fn address_on(host: Option<&Host>) -> anyhow::Result<SocketAddr> {
    let ip = host.map_or(Ipv4Addr::LOCALHOST, |host| host.address);
    Ok(SocketAddr::from((ip, free_port()?)))
}
