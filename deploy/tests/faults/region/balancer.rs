//! An ordinary TCP load balancer before several gateways: Debian's HAProxy, which asks each whether it is ready.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use tokio::process::{Child, Command};

use super::network::Host;

const PROGRAM: &str = "haproxy";

/// A running load balancer. It ends when it is dropped.
pub struct Balancer {
    _process: Child,
    _host: Option<Host>,
}

/// Whether it is installed.
pub fn is_installed() -> bool {
    std::process::Command::new(PROGRAM).arg("-v").stdout(Stdio::null()).status().is_ok()
}

impl Balancer {
    /// Starts it at `address`, on a host of its own if there is one, before `gateways`.
    pub fn start(
        folder: &Path,
        address: SocketAddr,
        host: Option<Host>,
        gateways: &[SocketAddr],
    ) -> anyhow::Result<Self> {
        let mut text = format!(
            "defaults\n  mode tcp\n  timeout connect 1s\n  timeout client 1m\n  timeout server 1m\n  option redispatch\n\
             listen gateways\n  bind {address}\n  balance leastconn\n  option httpchk GET /readyz\n\
             \x20 default-server check inter 250ms fall 2 rise 1 on-marked-down shutdown-sessions\n"
        );
        for (number, gateway) in gateways.iter().enumerate() {
            writeln!(text, "  server gateway-{number} {gateway}")?;
        }
        let file = folder.join("haproxy.cfg");
        fs::write(&file, text)?;
        let mut command = match &host {
            Some(host) => host.command(PROGRAM)?,
            None => Command::new(PROGRAM),
        };
        command.arg("-db").arg("-f").arg(file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        Ok(Balancer { _process: command.spawn().context("haproxy can't be started")?, _host: host })
    }
}
