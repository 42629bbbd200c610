//! One region on this machine, or the hub of several: its folder, its settings, and what runs there.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use peal_common::settings::{self, Settings};
use peal_nats::connect::Connection;
use peal_nats::server::{Leaf, Login, Server, ServerConfig, Sync};
use peal_nats::topology::{self, Current};
use serde_json::json;
use tokio::sync::mpsc;

use super::first;
use super::folder::Folder;
use super::process::{NATS_SERVER, Process, Program, log_end, stop_leftovers};
use super::ready;
use super::settings::{Prepared, Wanted, prepare};
use super::supervise::{Notice, Supervised, notices};
use crate::api::{self, Gateway};
use crate::credentials::{self, Credentials, write_private};
use crate::output::{Output, chain};
use crate::region;

/// How long gateway and dispatcher may take until they are ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long the first notification may take.
const DELIVERY_LIMIT: Duration = Duration::from_secs(30);
/// How long a key may take to come from the region that made it.
const KEY_LIMIT: Duration = Duration::from_secs(30);
/// How often it is asked for.
const POLL: Duration = Duration::from_millis(50);
/// What a power cut can cost on a laptop at most; a crash of a process costs nothing.
const SYNC_INTERVAL: Duration = Duration::from_secs(10);
/// What the server may store beyond what the streams reserve: the one without a limit, and what belongs to consumers.
const MORE_FILE_STORE: u64 = 1024 * 1024 * 1024;
const MAX_MEMORY_STORE: u64 = 64 * 1024 * 1024;

/// What runs, in the order in which it was started.
#[derive(Default)]
pub struct Stack(Vec<Supervised>);

impl Stack {
    /// Stops the last first: the dispatcher finishes what it has in hand while NATS still takes it.
    ///
    /// # Errors
    /// The first one that occurred; the others are stopped all the same.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let mut done = Ok(());
        while let Some(supervised) = self.0.pop() {
            let stopped = supervised.stop().await;
            done = done.and(stopped);
        }
        done
    }
}

/// One region, or the hub.
pub struct Place {
    /// What is in the folder stays when everything ends.
    pub folder: Folder,
    /// The settings that everything runs with.
    pub prepared: Prepared,
    /// What stands before each line about it, where there are several.
    label: String,
    leaf: Option<Leaf>,
    notice: mpsc::Sender<Notice>,
    noticed: mpsc::Receiver<Notice>,
}

impl Place {
    /// Prepares the settings, after what an earlier `peal up` that was killed left running has been stopped.
    ///
    /// # Errors
    /// When that does not end, the settings don't fit, or a port is taken.
    pub async fn prepare(folder: Folder, wanted: &Wanted, output: &Output) -> anyhow::Result<Self> {
        let label = wanted.linked.as_ref().map_or(String::new(), |linked| format!("{}: ", linked.name));
        for leftover in stop_leftovers(&folder).await? {
            let text = format!("{label}stopped {leftover}, left over from a `peal up` that was killed");
            output.progress(text);
        }
        let prepared = prepare(&folder, wanted)?;
        for note in &prepared.notes {
            output.progress(format!("{label}{note}"));
        }
        let (notice, noticed) = notices();
        Ok(Place { folder, prepared, label, leaf: None, notice, noticed })
    }

    /// Links the server with others.
    pub fn link(&mut self, leaf: Leaf) {
        self.leaf = Some(leaf);
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.prepared.settings
    }

    /// Where people reach the gateway.
    #[must_use]
    pub fn url(&self) -> String {
        ready::base_url(self.settings().gateway.listen)
    }

    fn say(&self, output: &Output, text: impl AsRef<str>) {
        output.progress(format!("{}{}", self.label, text.as_ref()));
    }

    /// Starts nats-server.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_nats(&self, stack: &mut Stack, output: &Output) -> anyhow::Result<Connection> {
        let server = self.launch_nats(output).await?;
        let process = Process::Nats(Box::new(server));
        stack.0.push(Supervised::watch(process, self.folder.pids(), self.notice.clone()));
        region::connect(self.settings()).await
    }

    async fn launch_nats(&self, output: &Output) -> anyhow::Result<Server> {
        let settings = self.settings();
        let password = settings::secret(
            "nats.password_file",
            settings.nats.password.as_ref(),
            settings.nats.password_file.as_deref(),
        )?;
        let login = settings.nats.user.clone().zip(password);
        let login = login.map(|(user, password)| Login { user, password: password.expose().to_owned() });
        if let Some(Login { user, password }) = &login {
            let context = json!({
                "description": "Peal, started by `peal up`",
                "url": settings.nats.urls.concat(),
                "user": user,
                "password": password,
            });
            write_private(&self.folder.nats_context(), &format!("{context:#}\n"))
                .context("cannot write the nats context")?;
        }
        let config = ServerConfig {
            port: self.prepared.nats_port,
            sync: Sync::Every(SYNC_INTERVAL),
            max_file_store: Some(region::topology(settings).reserved_bytes() + MORE_FILE_STORE),
            max_memory_store: Some(MAX_MEMORY_STORE),
            login,
            leaf: self.leaf.clone(),
            own_process_group: true,
            ..ServerConfig::new(settings.region.name.clone(), self.folder.nats())
        };
        self.say(output, format!("starting nats-server on port {}", self.prepared.nats_port));
        Ok(Server::start(config).await?)
    }

    /// Sets up streams and consumers. The servers of linked places have to run: what fills a stream is asked for it.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn apply_topology(&self, connection: &Connection, output: &Output) -> anyhow::Result<()> {
        let wanted = region::topology(self.settings());
        let plan = topology::plan(&Current::read(&connection.jetstream, &wanted).await?, &wanted);
        if !plan.is_empty() {
            self.say(output, format!("setting up streams: {} steps", plan.changes.len()));
        }
        Ok(topology::apply(&connection.jetstream, &plan, false).await?)
    }

    /// The key pair of this folder, made in this region unless it is there.
    ///
    /// # Errors
    /// When the state can't be read or written.
    pub async fn key_pair(&self, connection: &Connection) -> anyhow::Result<Credentials> {
        first::key_pair(connection, self.settings(), &self.folder, &self.url()).await
    }

    /// Takes over the key pair that another region made.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn take_key_pair(&self, of: &Credentials) -> anyhow::Result<Credentials> {
        let credentials = Credentials { url: self.url(), ..of.clone() };
        credentials.write(&self.folder.path().join(credentials::FILE))?;
        Ok(credentials)
    }

    /// The programs of a region, or of the hub: looked for before anything is started, so that nothing runs in vain.
    ///
    /// # Errors
    /// When there is none; says how to build it.
    pub fn programs(&self) -> anyhow::Result<Vec<Program>> {
        let names = if self.settings().is_hub() { &["gateway"][..] } else { &["gateway", "dispatcher"] };
        names.iter().map(|name| Program::find(name, &self.folder, &self.prepared.file)).collect()
    }

    /// Starts programs.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn start(
        &self,
        programs: Vec<Program>,
        stack: &mut Stack,
        output: &Output,
    ) -> anyhow::Result<()> {
        for program in programs {
            let mut process = Process::Program(program);
            self.say(output, format!("starting {}", process.name()));
            process.start().await?;
            stack.0.push(Supervised::watch(process, self.folder.pids(), self.notice.clone()));
        }
        Ok(())
    }

    /// Waits until the gateway is ready.
    ///
    /// # Errors
    /// When that takes too long, or it dies meanwhile.
    pub async fn gateway_ready(&mut self) -> anyhow::Result<()> {
        let address = self.prepared.settings.gateway.listen;
        tokio::select! {
            ready = program_ready("gateway", address, &self.label) => ready,
            died = first_death(&mut self.noticed) => Err(died),
        }
    }

    /// Waits until gateway and dispatcher are ready, and delivers a first notification.
    ///
    /// # Errors
    /// When that takes too long, or something dies meanwhile.
    pub async fn deliver_first(
        &mut self,
        credentials: &Credentials,
        output: &Output,
    ) -> anyhow::Result<serde_json::Value> {
        let (prepared, label) = (&self.prepared, &self.label);
        tokio::select! {
            first = deliver_first(&prepared.settings, label, credentials, output) => first,
            died = first_death(&mut self.noticed) => Err(died),
        }
    }

    /// Tells what happens to the processes, until one is given up.
    ///
    /// # Errors
    /// When one dies again and again.
    pub async fn watch(&mut self, output: &Output) -> anyhow::Result<()> {
        while let Some(notice) = self.noticed.recv().await {
            match notice {
                Notice::Died { name, how, pause, .. } => {
                    self.say(output, format!("{name} died ({how}); starting it again in {pause:?}"));
                }
                Notice::NoRoom { name } => {
                    let text = format!("no room on the disk for {name}; it is started once there is some");
                    self.say(output, text);
                }
                Notice::Unwell { name, why, pause } => {
                    let when = match pause {
                        Duration::ZERO => "once there is room on the disk".to_owned(),
                        _ => {
                            format!("once there is room on the disk, not before {pause:?} have passed")
                        }
                    };
                    self.say(output, format!("{name} is unwell ({why}); restarting it {when}"));
                }
                Notice::Restarting { name } => {
                    self.say(output, format!("there is room on the disk: restarting {name}"));
                }
                Notice::Back { name } => {
                    if name == NATS_SERVER {
                        // What the sandbox recorded is kept in memory, so its stream went with the server.
                        if let Err(error) = self.restore_streams(output).await {
                            self.say(output, format!("cannot set up streams again: {}", chain(&error)));
                        }
                    }
                    self.say(output, format!("{name} runs again"));
                }
                Notice::GivenUp { name, log } => {
                    let end = log_end(&log);
                    let label = &self.label;
                    anyhow::bail!("{label}{name} dies again and again; the end of {}:\n{end}", log.display());
                }
            }
        }
        Ok(())
    }

    async fn restore_streams(&self, output: &Output) -> anyhow::Result<()> {
        let connection = region::connect(self.settings()).await?;
        self.apply_topology(&connection, output).await
    }
}

async fn program_ready(name: &str, listen: SocketAddr, label: &str) -> anyhow::Result<()> {
    let ready = ready::wait(&api::client()?, &ready::base_url(listen), READY_LIMIT).await;
    ready
        .map_err(|missing| anyhow::anyhow!("{label}the {name} is not ready after {READY_LIMIT:?}: {missing}"))
}

async fn deliver_first(
    settings: &Settings,
    label: &str,
    credentials: &Credentials,
    output: &Output,
) -> anyhow::Result<serde_json::Value> {
    program_ready("gateway", settings.gateway.listen, label).await?;
    program_ready("dispatcher", settings.dispatcher.listen, label).await?;
    output.progress(format!("{label}gateway and dispatcher are ready; delivering a first notification"));
    let gateway = Gateway::new(&credentials.url, &credentials.key, &credentials.secret)?;
    let known = async {
        // A key that another region made may still be on its way.
        while gateway.get(&["v1", "keys"], &[]).await.is_err_and(|error| error.is_unauthorized()) {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(KEY_LIMIT, known)
        .await
        .with_context(|| format!("{label}the key does not come from the region that made it"))?;
    first::notification(&gateway, settings, DELIVERY_LIMIT).await
}

/// While things start, a death is an error: it is told with what the process said last.
async fn first_death(noticed: &mut mpsc::Receiver<Notice>) -> anyhow::Error {
    loop {
        match noticed.recv().await {
            Some(Notice::Died { name, how, log, .. }) => {
                let told = format!("{name} died while starting ({how}); the end of {}:", log.display());
                return anyhow::anyhow!("{told}\n{}", log_end(&log));
            }
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}
