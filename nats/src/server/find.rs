//! Finding a nats-server, or installing the pinned one with `deploy/install-nats`, whose text is compiled in so that
//! an installed `peal` needs no source tree.

use std::env;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::version::{OLDEST, Version};

/// The variable that names the nats-server to use.
pub const SERVER_VARIABLE: &str = "PEAL_NATS_SERVER";
/// The variable that names the folder for installed tools.
pub const TOOLS_VARIABLE: &str = "PEAL_TOOLS";

/// The script, which also decides the pinned version.
const INSTALL_SCRIPT: &str = include_str!("../../../deploy/install-nats");

/// The script's exit code when it can't build the `nats` command because Go is missing.
const NEEDS_GO: i32 = 3;

/// Why there is no usable nats-server.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The named one is missing or too old.
    #[error("{SERVER_VARIABLE}={path} is no nats-server {OLDEST} or later: correct or unset it", path = .0.display())]
    Unusable(PathBuf),
    /// The script can't be run.
    #[error("cannot run sh to install nats-server: put nats-server {OLDEST} or later on the PATH")]
    Shell(#[source] io::Error),
    /// The script could not install one; its last line says what to do.
    #[error("{0}")]
    Install(String),
    /// The `nats` command has to be built and Go is missing; the script's last line says so.
    #[error("{0}")]
    NeedsGo(String),
}

/// The nats-server to use: `PEAL_NATS_SERVER`, else the first on the `PATH` that is new enough, else the pinned one in
/// the tools folder, which is installed there if need be. Blocks while it downloads; progress goes to stderr.
///
/// # Errors
/// [`FindError`] when there is none and none can be installed.
pub fn nats_server() -> Result<PathBuf, FindError> {
    if let Some(path) = env::var_os(SERVER_VARIABLE).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        return if is_usable(&path) { Ok(path) } else { Err(FindError::Unusable(path)) };
    }
    if let Some(path) = on_path("nats-server").find(|path| is_usable(path)) {
        return Ok(path);
    }
    install(&[])
}

/// The stock `nats` command for operators, or `None` when it is neither on the `PATH` nor in the tools folder and can't
/// be built because Go is missing. Blocks for a minute or two where it is built.
///
/// # Errors
/// [`FindError`] when building it failed.
pub fn nats_command() -> Result<Option<PathBuf>, FindError> {
    match on_path("nats").next() {
        Some(path) => Ok(Some(path)),
        None => match install(&["--cli"]) {
            Err(FindError::NeedsGo(_)) => Ok(None),
            other => other.map(Some),
        },
    }
}

fn on_path(name: &str) -> impl Iterator<Item = PathBuf> {
    let folders =
        env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    folders.into_iter().map(move |folder| folder.join(name)).filter(|path| path.is_file())
}

fn is_usable(path: &Path) -> bool {
    let answer = Command::new(path).arg("--version").stdin(Stdio::null()).output();
    answer
        .ok()
        .filter(|answer| answer.status.success())
        .and_then(|answer| Version::parse(&String::from_utf8_lossy(&answer.stdout)))
        .is_some_and(|version| version >= OLDEST)
}

fn install(arguments: &[&str]) -> Result<PathBuf, FindError> {
    let output = Command::new("sh")
        .args(["-c", INSTALL_SCRIPT, "install-nats"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(FindError::Shell)?;
    let progress = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let reason = progress.lines().last().unwrap_or("installing nats-server failed without a reason");
        let reason = reason.to_owned();
        let needs_go = output.status.code() == Some(NEEDS_GO);
        return Err(if needs_go { FindError::NeedsGo(reason) } else { FindError::Install(reason) });
    }
    // Whoever waits for the download wants to know where it went; a failed write to stderr changes nothing.
    let _ = io::stderr().write_all(progress.as_bytes());
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end()))
}
