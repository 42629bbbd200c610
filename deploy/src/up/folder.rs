//! The folder of `peal up`: one place for settings, secrets, data and logs, which one `peal up` at a time may use.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use peal_common::seal::Sealer;

use crate::credentials::{make_password, write_private};
use crate::region::SETTINGS_FILE;

/// Only the owner may look into the folder: it holds the region's key.
const FOLDER_MODE: u32 = 0o700;
const LOCK_FILE: &str = "lock";

/// The folder, locked for as long as this value lives. The lock is the system's: it goes with the process, however that
/// ends, so none is ever left over.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    _lock: Arc<File>,
}

impl Folder {
    /// Makes the folder if need be and locks it.
    ///
    /// # Errors
    /// When it can't be made, or another `peal up` uses it.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot use the folder {}", path.display());
        let path = std::path::absolute(path).with_context(cannot)?;
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&path).with_context(cannot)?;
        fs::set_permissions(&path, Permissions::from_mode(FOLDER_MODE)).with_context(cannot)?;
        let lock = lock(&path).with_context(cannot)?;
        let folder = Folder { path, _lock: Arc::new(lock) };
        for inner in [folder.logs(), folder.pids()] {
            fs::create_dir_all(inner).with_context(cannot)?;
        }
        Ok(folder)
    }

    /// The folder itself, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The settings file that people edit.
    #[must_use]
    pub fn settings(&self) -> PathBuf {
        self.path.join(SETTINGS_FILE)
    }

    /// The settings file that results when another one is laid over it.
    #[must_use]
    pub fn merged_settings(&self) -> PathBuf {
        self.path.join("merged.toml")
    }

    /// The region's key.
    #[must_use]
    pub fn region_key(&self) -> PathBuf {
        self.path.join("region.key")
    }

    /// The password of the NATS user.
    #[must_use]
    pub fn nats_password(&self) -> PathBuf {
        self.path.join("nats.password")
    }

    /// A context for the `nats` command: address and credentials.
    #[must_use]
    pub fn nats_context(&self) -> PathBuf {
        self.path.join("nats-context.json")
    }

    /// The folder of nats-server: its configuration, streams and log.
    #[must_use]
    pub fn nats(&self) -> PathBuf {
        self.path.join("nats-server")
    }

    /// The logs of gateway and dispatcher.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// The process ids of what was started.
    #[must_use]
    pub fn pids(&self) -> PathBuf {
        self.path.join("pids")
    }

    /// Makes the region's key and the NATS password unless they are there.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn make_secrets(&self) -> anyhow::Result<()> {
        let mut rng = rand::rng();
        let key = self.region_key();
        if !key.exists() {
            write_private(&key, &Sealer::generate_key(&mut rng)).context("cannot write the region's key")?;
        }
        make_password(&self.nats_password()).context("cannot write the NATS password")?;
        Ok(())
    }

    /// The password with which this region's server signs in at the hub; made unless it is there.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn make_link_password(&self) -> anyhow::Result<String> {
        make_password(&self.path.join("link.password")).context("cannot write the password of the link")
    }
}

fn lock(folder: &Path) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(folder.join(LOCK_FILE))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            let pid = pid.trim();
            let who = if pid.is_empty() { String::new() } else { format!(" (process {pid})") };
            anyhow::bail!(
                "another `peal up`{who} uses it: stop that one, or choose another folder with --dir"
            );
        }
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    file.set_len(0)?;
    file.seek(io::SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_private_and_its_secrets_stay_the_same() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let folder = Folder::open(&path).unwrap();
        folder.make_secrets().unwrap();
        let key = fs::read_to_string(folder.region_key()).unwrap();
        Sealer::from_base64(&key).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode(&path), mode(&folder.region_key()), mode(&folder.nats_password())),
            (0o700, 0o600, 0o600)
        );
        folder.make_secrets().unwrap();
        assert_eq!(fs::read_to_string(folder.region_key()).unwrap(), key);
    }

    #[test]
    fn a_second_one_is_refused_with_the_first_ones_pid_until_that_ends() {
        let parent = tempfile::tempdir().unwrap();
        let first = Folder::open(parent.path()).unwrap();
        let error = format!("{:#}", Folder::open(parent.path()).unwrap_err());
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        Folder::open(parent.path()).unwrap();
    }
}
