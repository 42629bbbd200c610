//! Watching a process: one that dies is started again, after a pause that grows; one that dies again and again is given
//! up. A nats-server that says that it is unwell is started again once there is room on its disk. While there is none,
//! nothing is started and nothing given up.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::health::{self, Probe};
use super::process::{Process, note_pid};

/// A process that lived this long did not die of how it was started.
const STABLE: Duration = Duration::from_secs(20);
/// How many quick deaths in a row are enough.
const QUICK_DEATHS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The pause before an unwell server is started again that was started again for that before; it doubles each time.
const FIRST_REST: Duration = Duration::from_secs(5);
/// Each such start costs every client its connection, so one that does not help is repeated rarely.
const LONGEST_REST: Duration = Duration::from_secs(5 * 60);
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
    /// There is no room on its disk; it is started once there is some.
    NoRoom {
        /// Which.
        name: &'static str,
    },
    /// It runs and says that it is unwell; it is started again once there is room on its disk.
    Unwell {
        /// Which.
        name: &'static str,
        /// What it says.
        why: String,
        /// The pause before that, since starting it again did not help lately.
        pause: Duration,
    },
    /// There is room on its disk: it is stopped and started again now.
    Restarting {
        /// Which.
        name: &'static str,
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
        let watch = Watch { process, pids, notices, stop: stop.clone(), deaths: 0, cures: 0 };
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
    /// How often it was started again because it was unwell, and was unwell again soon after.
    cures: u32,
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
            let probe = self.process.probe();
            let ended = tokio::select! {
                // Both only wait, so the other one can be dropped.
                ended = self.process.wait() => Some(ended),
                () = must_restart(probe, &mut self.cures, started, name, &self.notices) => None,
            };
            let mut how = match ended {
                Some(Ok(Some(status))) => status.to_string(),
                Some(Ok(None)) => "it ended".to_owned(),
                Some(Err(error)) => format!("{error:#}"),
                None => match self.process.start().await {
                    Ok(()) => {
                        self.tell(Notice::Back { name }).await;
                        continue;
                    }
                    Err(error) => format!("{error:#}"),
                },
            };
            if started.elapsed() >= STABLE {
                self.deaths = 0;
            }
            loop {
                // Without room it would die of that, however often it is started.
                let folder = self.process.folder();
                if !health::has_room(&folder).await {
                    self.tell(Notice::NoRoom { name }).await;
                    health::room(&folder).await;
                    self.deaths = 0;
                }
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
        tell(&self.notices, notice).await;
    }
}

async fn tell(notices: &mpsc::Sender<Notice>, notice: Notice) {
    // Nobody listens any more when everything is being stopped.
    let _ = notices.send(notice).await;
}

/// Waits until a process that runs has to be stopped and started again, and counts that in `cures`. Never ends for a
/// process that can't be asked.
async fn must_restart(
    probe: Option<Probe>,
    cures: &mut u32,
    started: Instant,
    name: &'static str,
    notices: &mpsc::Sender<Notice>,
) {
    let Some(probe) = probe else { return std::future::pending().await };
    loop {
        let why = probe.unwell().await;
        if started.elapsed() >= LONGEST_REST {
            *cures = 0;
        }
        let pause = rest(*cures);
        tell(notices, Notice::Unwell { name, why, pause }).await;
        sleep(pause).await;
        if probe.curable().await {
            *cures = cures.saturating_add(1);
            return tell(notices, Notice::Restarting { name }).await;
        }
    }
}

/// The pause before an unwell server is started again, after `cures` times that did not help for long.
fn rest(cures: u32) -> Duration {
    match cures {
        0 => Duration::ZERO,
        _ => FIRST_REST.saturating_mul(1 << (cures - 1).min(10)).min(LONGEST_REST),
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

    #[test]
    fn the_first_cure_comes_at_once_and_later_ones_ever_more_rarely() {
        assert_eq!([rest(0), rest(1), rest(2)], [Duration::ZERO, FIRST_REST, FIRST_REST * 2]);
        assert_eq!((rest(7), rest(u32::MAX)), (LONGEST_REST, LONGEST_REST));
    }
}
