//! The measured processes: started beside this one, watched through /proc, gone when dropped.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use serde::Serialize;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::machine::kilobytes;

/// How many lines of a process's log an error carries.
const LOG_LINES: usize = 12;
/// Processor time in /proc is counted in hundredths of a second (`USER_HZ`, the same on every Linux).
const TICKS_PER_SECOND: f64 = 100.0;

/// A program from the folder of this executable.
///
/// # Errors
/// When it is not there.
pub fn beside(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this executable")?;
    let path = own.with_file_name(name);
    anyhow::ensure!(
        path.is_file(),
        "{} is missing: build it with `cargo build --release --workspace --bins`",
        path.display()
    );
    Ok(path)
}

/// A command that may open as many files as the system lets it: the usual soft limit of 1,024 is below what a thousand
/// connections need.
#[must_use]
pub fn command(program: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -n \"$(ulimit -H -n)\" 2>/dev/null; exec \"$@\"", "sh"])
        .arg(program)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// A gateway or dispatcher.
#[derive(Debug)]
pub struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts a program with a settings file; what it logs goes to `log`.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(program: &Path, settings: &Path, log: PathBuf) -> anyhow::Result<Self> {
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command(program)
            .arg("--config")
            .arg(settings)
            .env("PEAL_LOG", "warn")
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Program { child, log })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Fails when the process has ended.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => anyhow::bail!("it ended ({status}); the end of its log:\n{}", self.log_tail()),
        }
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Ends the process at once and waits until it is gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// The memory of a process.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Memory {
    /// What is in memory now (`VmRSS`), in bytes.
    pub resident_bytes: u64,
    /// The most that was (`VmHWM`), in bytes.
    pub peak_bytes: u64,
}

impl Memory {
    /// The memory of a process; `None` when it is gone or the system has no /proc.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(Memory {
            resident_bytes: kilobytes(&status, "VmRSS")?,
            peak_bytes: kilobytes(&status, "VmHWM")?,
        })
    }
}

/// The processor time that a process has taken, in seconds; 0 when it is gone or the system has no /proc.
#[must_use]
pub fn processor_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything: fields count from behind it. utime and stime are the 14th and 15th.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / TICKS_PER_SECOND
}

/// The processor time of some processes since a moment.
#[derive(Debug)]
pub struct Busy {
    pids: BTreeMap<String, u32>,
    before: BTreeMap<String, f64>,
    since: Instant,
}

impl Busy {
    /// Begins to count.
    #[must_use]
    pub fn start(pids: BTreeMap<String, u32>) -> Self {
        let before = times(&pids);
        Busy { pids, before, since: Instant::now() }
    }

    /// How many processors each process has kept busy since then, on average.
    #[must_use]
    pub fn processors(&self) -> BTreeMap<String, f64> {
        let seconds = self.since.elapsed().as_secs_f64();
        let share = |(name, after): (String, f64)| {
            let before = self.before.get(&name).copied().unwrap_or_default();
            (name, (after - before) / seconds)
        };
        times(&self.pids).into_iter().map(share).collect()
    }
}

fn times(pids: &BTreeMap<String, u32>) -> BTreeMap<String, f64> {
    pids.iter().map(|(name, pid)| (name.clone(), processor_seconds(*pid))).collect()
}

/// Processors that each process kept busy, in words.
#[must_use]
pub fn busy_words(processors: &BTreeMap<String, f64>) -> String {
    processors.iter().map(|(name, share)| format!("{name} {share:.2}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_shows_its_memory_and_its_time() {
        let own = std::process::id();
        let memory = Memory::of(own).unwrap();
        assert!(memory.resident_bytes > 100_000 && memory.peak_bytes >= memory.resident_bytes);
        let before = processor_seconds(own);
        let mut sum = 0_u64;
        while processor_seconds(own) < before + 0.02 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(Memory::of(u32::MAX).is_none());
    }
}
