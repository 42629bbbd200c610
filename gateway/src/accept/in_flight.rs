//! The ids that are being handled right now, so that two requests with the same id don't race.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

type Ids = HashSet<Arc<str>>;

/// The message ids in flight at this gateway.
#[derive(Debug, Clone, Default)]
pub(super) struct InFlight {
    ids: Arc<Mutex<Ids>>,
}

impl InFlight {
    /// Enters an id. `None` when it is in flight already; it leaves when the guard is dropped.
    pub(super) fn enter(&self, message_id: &Arc<str>) -> Option<Guard> {
        let entry = Arc::clone(message_id);
        let entered = self.ids.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(&entry));
        entered.then(|| Guard { ids: Arc::clone(&self.ids), entry })
    }
}

/// Keeps an id in flight.
#[derive(Debug)]
pub(super) struct Guard {
    ids: Arc<Mutex<Ids>>,
    entry: Arc<str>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_in_flight_once_and_leaves_with_its_guard() {
        let flight = InFlight::default();
        let id = "shop:n-1".into();
        let guard = flight.enter(&id);
        assert!(guard.is_some());
        assert!(flight.enter(&id).is_none());
        assert!(flight.enter(&"bank:n-1".into()).is_some());
        drop(guard);
        assert!(flight.enter(&id).is_some());
    }
}
