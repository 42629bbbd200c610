//! Hosts of their own on one machine: network namespaces, joined by a bridge. They end with the processes that hold them,
//! so nothing is left over.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use nix::sched::{CloneFlags, unshare};
use peal_nats::server::skipped;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::wait;

/// The address of the host that the test itself runs on.
pub const OWN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Who can be reached here.
pub const NETWORK: &str = "10.77.0.0/24";
const BRIDGE: &str = "hosts";
/// How long making a host may take.
const LIMIT: Duration = Duration::from_secs(10);

/// A network of this test's own.
pub struct Network {
    hosts: u8,
}

/// One host on it. It is gone when this is dropped.
pub struct Host {
    /// Its address.
    pub address: Ipv4Addr,
    cable: String,
    holder: Child,
}

/// Runs something on a host of its own, which the others are added to: with a thread that leaves this machine's network,
/// since a test must not touch that. `None` where nobody may do that: the test is then skipped, unless tools are required.
///
/// # Errors
/// Those of what is run.
pub fn alone<F: Future<Output = anyhow::Result<()>>>(
    run: impl FnOnce(Network) -> F + Send + 'static,
) -> anyhow::Result<()> {
    let inside = std::thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            skipped(format!("hosts: networks can't be made here (run it as root): {error}"));
            return Ok(());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { run(Network::new().await?).await })
    });
    inside.join().map_err(|_| anyhow::anyhow!("the test panicked"))?
}

impl Network {
    async fn new() -> anyhow::Result<Self> {
        ip("link set lo up").await?;
        ip(&format!("link add {BRIDGE} type bridge")).await?;
        ip(&format!("addr add {OWN}/24 dev {BRIDGE}")).await?;
        ip(&format!("link set {BRIDGE} up")).await?;
        Ok(Network { hosts: 1 })
    }

    /// Another host.
    pub async fn host(&mut self) -> anyhow::Result<Host> {
        self.hosts += 1;
        let [a, b, c, _] = OWN.octets();
        let (address, cable) = (Ipv4Addr::new(a, b, c, self.hosts), format!("cable{}", self.hosts));
        let mut holder = Command::new("unshare");
        holder.args(["--net", "sleep", "infinity"]).stdin(Stdio::null()).kill_on_drop(true);
        let holder = holder.spawn().context("unshare is missing; install util-linux")?;
        let id = holder.id().context("the host has ended")?;
        // The thread's own network, which may not be that of its process.
        let own = fs::read_link("/proc/thread-self/ns/net")?;
        wait::until("the host has a network of its own", LIMIT, async || {
            fs::read_link(network_of(id)).ok().filter(|theirs| *theirs != own)
        })
        .await?;
        ip(&format!("link add {cable} type veth peer name eth0 netns {id}")).await?;
        ip(&format!("link set {cable} master {BRIDGE} up")).await?;
        let host = Host { address, cable, holder };
        for arguments in [&format!("addr add {address}/24 dev eth0"), "link set eth0 up", "link set lo up"] {
            let mut inside = host.command("ip")?;
            succeed(inside.args(arguments.split(' '))).await?;
        }
        Ok(host)
    }
}

impl Host {
    /// A command that runs there.
    pub fn command(&self, program: impl Into<PathBuf>) -> anyhow::Result<Command> {
        let id = self.holder.id().context("the host has ended")?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", network_of(id).display())).arg(program.into());
        Ok(command)
    }

    /// Takes it from the network for some time: what it says and what is said to it is lost, and nobody is told.
    pub async fn cut_for(&self, time: Duration) -> anyhow::Result<()> {
        ip(&format!("link set {} nomaster", self.cable)).await?;
        sleep(time).await;
        ip(&format!("link set {} master {BRIDGE}", self.cable)).await
    }
}

fn network_of(process: u32) -> PathBuf {
    format!("/proc/{process}/ns/net").into()
}

async fn ip(arguments: &str) -> anyhow::Result<()> {
    succeed(Command::new("ip").args(arguments.split(' '))).await
}

async fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().await.context("ip is missing; install iproute2")?;
    let told = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{command:?}: {told}");
    Ok(())
}
