//! When what breaks, by a seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::faults::{Fault, Incident};
use crate::region::Region;
use crate::wait::now_ms;

/// The longest time from a moment's sign to the fault.
const MAX_DELAY_MS: u64 = 200;
/// How long nothing may be delivered.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// A fault to come.
struct Moment {
    /// It comes after so many deliveries …
    deliveries: u64,
    /// … and this much later, so that it does not always hit the same step of the work.
    delay: Duration,
    /// What the fault draws from: its own, since some draw as often as a file has bytes.
    seed: u64,
    fault: &'static Fault,
}

/// All faults to come.
pub struct Schedule {
    moments: Vec<Moment>,
}

impl Schedule {
    /// `count` faults spread at random over `deliveries`, each kind equally often.
    pub fn new(seed: u64, faults: &[&'static Fault], count: usize, deliveries: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut kinds: Vec<_> = faults.iter().copied().cycle().take(count).collect();
        kinds.shuffle(&mut rng);
        let moments = kinds.into_iter().map(|fault| Moment {
            deliveries: rng.random_range(deliveries / 50..(deliveries * 19 / 20).max(deliveries / 50 + 1)),
            delay: Duration::from_millis(rng.random_range(0..MAX_DELAY_MS)),
            seed: rng.random(),
            fault,
        });
        let mut moments: Vec<_> = moments.collect();
        moments.sort_by_key(|moment| moment.deliveries);
        Schedule { moments }
    }

    /// Lets everything happen. Faults whose moments lie close together hit what has not yet recovered.
    ///
    /// # Errors
    /// When a process does not come back or ends by itself, or nothing is delivered any more.
    pub async fn run(
        self,
        region: &mut Region,
        delivered: &mut watch::Receiver<u64>,
    ) -> anyhow::Result<Vec<Incident>> {
        let mut incidents = Vec::new();
        for moment in self.moments {
            reach(delivered, moment.deliveries).await?;
            sleep(moment.delay).await;
            region.check()?;
            let at_ms = now_ms();
            (moment.fault.strike)(region, &mut StdRng::seed_from_u64(moment.seed)).await?;
            let Fault { name, resends, .. } = *moment.fault;
            let converged_after = region.copied_after.take();
            incidents.push(Incident { resends, converged_after, ..Incident::repaired(name, at_ms) });
        }
        Ok(incidents)
    }
}

/// Waits until so many deliveries have come.
async fn reach(delivered: &mut watch::Receiver<u64>, wanted: u64) -> anyhow::Result<()> {
    loop {
        let now = *delivered.borrow_and_update();
        if now >= wanted {
            return Ok(());
        }
        let changed = timeout(STALL_LIMIT, delivered.changed()).await;
        anyhow::ensure!(
            changed.is_ok(),
            "nothing was delivered for {STALL_LIMIT:?}; {now} of {wanted} have come"
        );
    }
}
