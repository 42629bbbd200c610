//! Watching a process: one that dies is started again, after a pause that grows; one that dies again and again is given
//! up.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::process::{Process, note_pid};

/// A process that lived this long did not die of how it was started.
const STABLE: Duration = Duration::from_secs(20);
/// How many quick deaths in a row are enough.
const QUICK_DEATHS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Notices that wait for the screen.
const NOTICES: usize = 64;

/// What happened to a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// It ended by itself, and will be started again.
    Died {
        /// Which.
        name: &'static str,
        /// How, where that is known.
        how: String,
        /// When it is started again.
        pause: Duration,
        /// Its log.
        log: PathBuf,
    },
    /// It runs again.
    Back {
        /// Which.
        name: &'static str,
    },
    /// It died too often.
    GivenUp {
        /// Which.
        name: &'static str,
        /// Its log.
        log: PathBuf,
    },
}

/// A channel for notices.
#[must_use]
pub fn notices() -> (mpsc::Sender<Notice>, mpsc::Receiver<Notice>) {
    mpsc::channel(NOTICES)
}

/// A process that is being watched. Dropping it kills the process.
#[derive(Debug)]
pub struct Supervised {
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // The process goes with the task.
        self.task.abort();
    }
}

impl Supervised {
    /// Watches a process that runs. Its id is noted in the folder `pids` for as long as it does.
    #[must_use]
    pub fn watch(process: Process, pids: PathBuf, notices: mpsc::Sender<Notice>) -> Self {
        let stop = CancellationToken::new();
        let watch = Watch { process, pids, notices, stop: stop.clone(), deaths: 0 };
        Supervised { stop, task: tokio::spawn(watch.run()) }
    }

    /// Ends the process and waits until it is gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        (&mut self.task).await?
    }
}

struct Watch {
    process: Process,
    pids: PathBuf,
    notices: mpsc::Sender<Notice>,
    stop: CancellationToken,
    deaths: u32,
}

impl Watch {
    async fn run(mut self) -> anyhow::Result<()> {
        let stop = self.stop.clone();
        tokio::select! {
            // What is dropped here is a wait or a start; the process itself is ended below.
            () = stop.cancelled() => {}
            () = self.keep_alive() => {}
        }
        self.process.stop().await?;
        note_pid(&self.pids, self.process.name(), None)?;
        Ok(())
    }

    /// Ends when the process is given up.
    async fn keep_alive(&mut self) {
        let name = self.process.name();
        loop {
            self.note();
            let started = Instant::now();
            let mut how = match self.process.wait().await {
                Ok(Some(status)) => status.to_string(),
                Ok(None) => "it ended".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            if started.elapsed() >= STABLE {
                self.deaths = 0;
            }
            loop {
                self.deaths += 1;
                if self.deaths > QUICK_DEATHS {
                    self.tell(Notice::GivenUp { name, log: self.process.log() }).await;
                    return;
                }
                let pause = pause(self.deaths);
                self.tell(Notice::Died { name, how, pause, log: self.process.log() }).await;
                sleep(pause).await;
                match self.process.start().await {
                    Ok(()) => break,
                    Err(error) => how = format!("{error:#}"),
                }
            }
            self.tell(Notice::Back { name }).await;
        }
    }

    fn note(&self) {
        // Without the note the process is only harder to find after a crash of ours.
        if let Err(error) = note_pid(&self.pids, self.process.name(), self.process.pid()) {
            tracing::warn!(%error, "cannot note a process id");
        }
    }

    async fn tell(&self, notice: Notice) {
        // Nobody listens any more when everything is being stopped.
        let _ = self.notices.send(notice).await;
    }
}

/// The pause before the start that follows `deaths` quick deaths.
fn pause(deaths: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << deaths.saturating_sub(1).min(10)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        assert_eq!(pause(1), FIRST_PAUSE);
        assert_eq!(pause(2), FIRST_PAUSE * 2);
        assert_eq!(pause(QUICK_DEATHS), LONGEST_PAUSE);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }
}
