//! A small disk that a test may fill.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use peal_nats::server::skipped;

/// Room for a region's files and some thousand notifications.
const DISK: &str = "64m";
/// Written when nothing larger fits any more.
const CRUMB: usize = 512;

/// A file system in memory that goes away when it is dropped.
pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// `None` where nobody may mount: the test is then skipped, unless tools are required.
    pub fn mount(folder: PathBuf) -> anyhow::Result<Option<Self>> {
        fs::create_dir_all(&folder)?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={DISK}"), "peal-test"])
            .arg(&folder)
            .output();
        match mounted {
            Ok(output) if output.status.success() => Ok(Some(SmallDisk { folder })),
            other => {
                skipped(format!(
                    "a full disk: a small one can't be mounted here (run it as root): {other:?}"
                ));
                Ok(None)
            }
        }
    }

    /// Where it is mounted.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Takes up all room that is left.
    pub fn fill(&self) -> anyhow::Result<Balloon> {
        let balloon = Balloon { path: self.folder.join("balloon") };
        let mut file = File::create(&balloon.path)?;
        for size in [1 << 20, 1 << 14, CRUMB] {
            let block = vec![0; size];
            loop {
                match file.write_all(&block) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(balloon)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, since the server may still have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
    }
}

/// What takes up the room.
pub struct Balloon {
    path: PathBuf,
}

impl Balloon {
    /// Frees it again.
    pub fn burst(self) -> anyhow::Result<()> {
        Ok(fs::remove_file(self.path)?)
    }
}
