//! The deliveries that this process is making right now, so that a server that hands one out twice does not get it sent
//! twice.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use peal_common::id::DeliveryId;
use tokio::sync::Notify;

/// The deliveries in hand. A replay is another one.
#[derive(Debug, Default)]
pub struct InHand {
    deliveries: Mutex<HashSet<(DeliveryId, u32)>>,
    freed: Notify,
}

impl InHand {
    /// Takes a delivery in hand until the guard is dropped. Whoever comes second waits for the first: given back to the
    /// server, it would be handed to another process, which knows of neither.
    pub async fn take(&self, delivery: &DeliveryId, replays: u32) -> Guard<'_> {
        let entry = (delivery.clone(), replays);
        if self.insert(&entry) {
            return Guard { in_hand: self, entry, is_repeated: false };
        }
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // From here on nothing is missed.
            freed.as_mut().enable();
            if self.insert(&entry) {
                return Guard { in_hand: self, entry, is_repeated: true };
            }
            freed.await;
        }
    }

    fn insert(&self, entry: &(DeliveryId, u32)) -> bool {
        self.lock().insert(entry.clone())
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
    /// Whether it was in hand before, so that it may be settled by now.
    pub is_repeated: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.in_hand.lock().remove(&self.entry);
        self.in_hand.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use peal_common::channel::Channel;

    use super::*;

    #[test]
    fn a_delivery_is_in_hand_once() {
        let (app, id, recipient) = ("shop".parse().unwrap(), "n".parse().unwrap(), "u".parse().unwrap());
        let delivery = DeliveryId::derive(&app, &id, &recipient, Channel::Webhook, "x", 0);
        let in_hand = InHand::default();
        let first = in_hand.take(&delivery, 0).now_or_never().unwrap();
        let mut second = Box::pin(in_hand.take(&delivery, 0));
        assert!(!first.is_repeated && second.as_mut().now_or_never().is_none());
        assert!(in_hand.take(&delivery, 1).now_or_never().is_some());
        assert!(second.as_mut().now_or_never().is_none(), "another one was freed");
        drop(first);
        assert!(second.now_or_never().unwrap().is_repeated);
        assert!(!in_hand.take(&delivery, 0).now_or_never().unwrap().is_repeated);
    }
}
