//! The deliveries that this process is making right now, so that a server that hands one out twice does not get it sent
//! twice.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use peal_common::id::DeliveryId;

/// The deliveries in hand. A replay is another one.
#[derive(Debug, Default)]
pub struct InHand {
    deliveries: Mutex<HashSet<(DeliveryId, u32)>>,
}

impl InHand {
    /// Takes a delivery in hand until the guard is dropped. `None` when it is in hand already.
    pub fn take(&self, delivery: &DeliveryId, replays: u32) -> Option<Guard<'_>> {
        let entry = (delivery.clone(), replays);
        // The guard is made only after the lock is free, and only for whoever took it: dropping one locks, too.
        let taken = self.lock().insert(entry.clone());
        taken.then(|| Guard { in_hand: self, entry })
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<(DeliveryId, u32)>> {
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a delivery in hand.
#[derive(Debug)]
pub struct Guard<'a> {
    in_hand: &'a InHand,
    entry: (DeliveryId, u32),
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.in_hand.lock().remove(&self.entry);
    }
}

#[cfg(test)]
mod tests {
    use peal_common::channel::Channel;

    use super::*;

    #[test]
    fn a_delivery_is_in_hand_once() {
        let (app, id, recipient) = ("shop".parse().unwrap(), "n".parse().unwrap(), "u".parse().unwrap());
        let delivery = DeliveryId::derive(&app, &id, &recipient, Channel::Webhook, "x", 0);
        let in_hand = InHand::default();
        let guard = in_hand.take(&delivery, 0);
        assert!(guard.is_some() && in_hand.take(&delivery, 0).is_none());
        assert!(in_hand.take(&delivery, 1).is_some());
        drop(guard);
        assert!(in_hand.take(&delivery, 0).is_some());
    }
}
