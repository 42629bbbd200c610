//! The ids that are being handled right now, so that two requests with the same id don't race.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use peal_common::id::{AppId, NotificationId};

type Ids = HashSet<(AppId, NotificationId)>;

/// The ids in flight at this gateway.
#[derive(Debug, Clone, Default)]
pub(super) struct InFlight {
    ids: Arc<Mutex<Ids>>,
}

impl InFlight {
    /// Enters an id. `None` when it is in flight already; it leaves when the guard is dropped.
    pub(super) fn enter(&self, app: &AppId, id: &NotificationId) -> Option<Guard> {
        let entry = (app.clone(), id.clone());
        let entered = self.ids.lock().unwrap_or_else(PoisonError::into_inner).insert(entry.clone());
        entered.then(|| Guard { ids: Arc::clone(&self.ids), entry })
    }
}

/// Keeps an id in flight.
#[derive(Debug)]
pub(super) struct Guard {
    ids: Arc<Mutex<Ids>>,
    entry: (AppId, NotificationId),
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
        let (app, id) = ("shop".parse().unwrap(), "n-1".parse().unwrap());
        let guard = flight.enter(&app, &id);
        assert!(guard.is_some());
        assert!(flight.enter(&app, &id).is_none());
        assert!(flight.enter(&"bank".parse().unwrap(), &id).is_some());
        drop(guard);
        assert!(flight.enter(&app, &id).is_some());
    }
}
