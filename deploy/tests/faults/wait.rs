//! Waiting for conditions, never for time alone.

use std::fmt::Debug;
use std::time::Duration;

use peal_common::clock::Clock;
use tokio::time::{Instant, sleep};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Now, in milliseconds since the Unix epoch: the clock that the server's timestamps come from, too.
pub fn now_ms() -> i64 {
    Clock::System.now_ms()
}

/// Waits until `condition` gives something.
///
/// # Errors
/// When it does not within `limit`.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let patience = Patience::new(what, limit);
    loop {
        if let Some(found) = condition().await {
            return Ok(found);
        }
        patience.pause().await?;
    }
}

/// Looks again and again, not for ever: for what [`until`] can't say.
pub struct Patience<'a> {
    what: &'a str,
    limit: Duration,
    deadline: Instant,
}

impl<'a> Patience<'a> {
    /// Waits for `what`, at most `limit` from now.
    pub fn new(what: &'a str, limit: Duration) -> Self {
        Patience { what, limit, deadline: Instant::now() + limit }
    }

    /// The pause before the next look.
    ///
    /// # Errors
    /// When the time is over.
    pub async fn pause(&self) -> anyhow::Result<()> {
        anyhow::ensure!(Instant::now() < self.deadline, "not within {:?}: {}", self.limit, self.what);
        sleep(POLL).await;
        Ok(())
    }
}

/// Notices when nothing moves any more.
pub struct Stall<T> {
    limit: Duration,
    last: Option<T>,
    since: Instant,
}

impl<T: PartialEq + Debug> Stall<T> {
    /// Nothing may stand still for longer than `limit`.
    pub fn new(limit: Duration) -> Self {
        Stall { limit, last: None, since: Instant::now() }
    }

    /// Looks at what should move.
    ///
    /// # Errors
    /// When it is the same as it was `limit` ago.
    pub fn look(&mut self, what: &str, state: T) -> anyhow::Result<()> {
        if self.last.as_ref() != Some(&state) {
            self.last = Some(state);
            self.since = Instant::now();
        }
        let stood = self.since.elapsed();
        anyhow::ensure!(
            stood < self.limit,
            "{what}: nothing has moved for {stood:?}; it stands at {:?}",
            self.last
        );
        Ok(())
    }
}
