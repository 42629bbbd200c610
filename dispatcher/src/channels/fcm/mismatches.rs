//! Tells a device's token of another Firebase project from a project of ours that is the wrong one.

use std::sync::atomic::{AtomicU32, Ordering};

use peal_common::outcome::Outcome;

use super::outcome::SENDER_ID_MISMATCH;
use crate::channels::outcomes::unavailable;

/// From so many in a row on it is no longer taken for the tokens' fault.
const SPIKE: u32 = 10;

/// How many tokens in a row belonged to another project.
#[derive(Debug, Default)]
pub(super) struct Mismatches(AtomicU32);

impl Mismatches {
    /// Looks at the outcome of a send. Once mismatches come one after the other, no message is given up for another
    /// one.
    pub(super) fn judge(&self, outcome: Outcome) -> Outcome {
        match &outcome {
            Outcome::Permanent { reason } if reason == SENDER_ID_MISMATCH => {
                let before = self.0.fetch_add(1, Ordering::Relaxed);
                if before.saturating_add(1) < SPIKE { outcome } else { unavailable(SENDER_ID_MISMATCH) }
            }
            // A project that sends to one device, or has sent, is the right one.
            Outcome::Sent { .. } | Outcome::AddressDead { .. } => {
                if self.0.load(Ordering::Relaxed) != 0 {
                    self.0.store(0, Ordering::Relaxed);
                }
                outcome
            }
            _ => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channels::outcomes::{address_dead, permanent, retry};

    #[test]
    fn a_spike_is_the_accounts_fault_and_a_few_are_the_tokens() {
        let mismatches = Mismatches::default();
        let mismatch = || mismatches.judge(permanent(SENDER_ID_MISMATCH));
        let sent = Outcome::Sent { provider_id: None };
        for end in [sent, address_dead("unregistered")] {
            for _ in 1..SPIKE {
                assert_eq!(mismatch(), permanent(SENDER_ID_MISMATCH));
                // Says nothing about the project.
                mismatches.judge(retry("http_503", None));
                mismatches.judge(permanent("invalid_argument"));
            }
            for _ in 0..3 {
                assert_eq!(mismatch(), unavailable(SENDER_ID_MISMATCH));
            }
            assert_eq!(mismatches.judge(end.clone()), end);
        }
        assert_eq!(mismatch(), permanent(SENDER_ID_MISMATCH));
    }
}
