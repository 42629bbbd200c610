//! What the measurement runs on: the figures mean nothing without it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// The machine.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub cores: usize,
    /// Their name, where the system tells it.
    pub processor: Option<String>,
    /// Memory in bytes, where the system tells it.
    pub memory_bytes: Option<u64>,
    /// The kernel's version, where the system tells it.
    pub kernel: Option<String>,
}

impl Machine {
    /// Looks at this machine.
    #[must_use]
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).ok();
        Machine {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: read("/proc/cpuinfo").and_then(|text| field(&text, "model name")),
            memory_bytes: read("/proc/meminfo").and_then(|text| kilobytes(&text, "MemTotal")),
            kernel: read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
        }
    }
}

/// The value of the first line `<name> : <value>`.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|found| found.trim() == name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The bytes of a line `<name>: <number> kB`, as /proc writes them.
#[must_use]
pub fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let value = field(text, name)?;
    value.trim_end_matches("kB").trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// Where the streams and local indexes lie during the measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Disk {
    /// The kind of file system, such as `ext4`.
    pub file_system: String,
    /// The device that it is on.
    pub device: String,
}

impl Disk {
    /// The file system of a folder that exists.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        let unknown = || Disk { file_system: "unknown".to_owned(), device: "unknown".to_owned() };
        let Ok(folder) = folder.canonicalize() else { return unknown() };
        let Ok(mounts) = fs::read_to_string("/proc/self/mounts") else { return unknown() };
        Disk::find(&mounts, &folder).unwrap_or_else(unknown)
    }

    /// Looks in the lines `<device> <folder> <type> …` for the longest folder that holds `folder`.
    fn find(mounts: &str, folder: &Path) -> Option<Self> {
        let holding = mounts.lines().filter_map(|line| {
            let mut parts = line.split(' ');
            let (device, at, kind) = (parts.next()?, parts.next()?, parts.next()?);
            folder.starts_with(at).then(|| (PathBuf::from(at).components().count(), device, kind))
        });
        let (_, device, kind) = holding.max_by_key(|(depth, ..)| *depth)?;
        Some(Disk { file_system: kind.to_owned(), device: device.to_owned() })
    }

    /// Whether it is memory rather than a disk: forcing data to it costs nothing.
    #[must_use]
    pub fn is_memory(&self) -> bool {
        matches!(self.file_system.as_str(), "tmpfs" | "ramfs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_file_system_counts() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmp/x xfs rw 0 0\n";
        let kind = |folder: &str| Disk::find(mounts, Path::new(folder)).unwrap().file_system;
        assert_eq!(
            (kind("/home"), kind("/tmp/y"), kind("/tmp/x/y")),
            ("ext4".into(), "tmpfs".into(), "xfs".into())
        );
    }

    #[test]
    fn lines_of_proc_are_read() {
        let text = "MemTotal:       24684112 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(kilobytes(text, "MemTotal"), Some(24_684_112 * 1024));
        assert_eq!(kilobytes(text, "VmRSS"), Some(1024 * 1024));
        assert_eq!(kilobytes(text, "VmHWM"), None);
    }
}
