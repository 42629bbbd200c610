//! What the stream EVENTS says became of every delivery, and ATTEMPTS of calls that were to be made: read while it is written, from the beginning.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use peal_common::envelope::Envelope as _;
use peal_common::event::{Event, Status};
use peal_nats::follow::{Followed, Follower, Stored};
use peal_nats::topology::{ATTEMPTS, EVENTS};
use peal_nats::{Connection, Subjects};
use tokio::task::AbortHandle;

/// How a delivery was settled.
#[derive(Debug, Clone, Default)]
pub struct Settlement {
    /// The notification.
    pub notification: String,
    /// Every status that ends a delivery, with the time at which the stream took it.
    pub statuses: Vec<(Status, i64)>,
    /// Why, where the last one says so.
    pub reason: Option<String>,
}

impl Settlement {
    /// Whether it ended so, among others.
    pub fn is(&self, status: Status) -> bool {
        self.statuses.iter().any(|(it, _)| *it == status)
    }
}

/// What is known so far.
#[derive(Debug, Default)]
pub struct Entries {
    /// By delivery. What concerns a notification as a whole stands under its own id.
    pub settled: HashMap<String, Settlement>,
    /// The notifications among them.
    pub notifications: HashSet<String>,
    /// How many events there were.
    pub events: u64,
    /// By delivery, when each intent to call was stored. What nobody asks for may be gone before it is read.
    pub intents: HashMap<String, Vec<i64>>,
    /// What the stream looked like when it had lost what it had shown before.
    pub losses: Vec<String>,
}

/// Reads along until it is dropped.
pub struct Journal {
    entries: Arc<Mutex<Entries>>,
    tasks: [AbortHandle; 2],
}

impl Journal {
    /// Begins to read.
    pub fn start(connection: &Connection) -> Self {
        let entries = Arc::new(Mutex::new(Entries::default()));
        let mut follower = Follower::new(connection.clone(), EVENTS, "", None, 0);
        let written = Arc::clone(&entries);
        let task = tokio::spawn(async move {
            loop {
                match follower.next().await {
                    Followed::Messages(messages) => {
                        let mut entries = lock(&written);
                        messages.iter().for_each(|message| entries.note(message));
                    }
                    Followed::Quiet(_) => {}
                    Followed::Replaced(state) => {
                        let mut entries = lock(&written);
                        let loss = format!("after {} events it was {state:?}", entries.events);
                        entries.losses.push(loss);
                        follower.restart(&state);
                    }
                }
            }
        });
        let mut follower = Follower::new(connection.clone(), ATTEMPTS, "", None, 0);
        let written = Arc::clone(&entries);
        let intents = tokio::spawn(async move {
            loop {
                match follower.next().await {
                    Followed::Messages(messages) => {
                        let mut entries = lock(&written);
                        messages.iter().for_each(|message| entries.note_intent(message));
                    }
                    Followed::Quiet(_) => {}
                    Followed::Replaced(state) => follower.restart(&state),
                }
            }
        });
        Journal { entries, tasks: [task.abort_handle(), intents.abort_handle()] }
    }

    /// What is known so far. Must not be held across an await.
    pub fn entries(&self) -> MutexGuard<'_, Entries> {
        lock(&self.entries)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

fn lock(entries: &Mutex<Entries>) -> MutexGuard<'_, Entries> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entries {
    fn note(&mut self, message: &Stored) {
        // It has been told before, and is there for the hub.
        if Subjects::is_again(&message.subject) {
            return;
        }
        self.events += 1;
        let event = Event::decode(&message.payload).expect("EVENTS holds events only");
        let Some(status) = event.kind.status().filter(|status| status.is_settled()) else { return };
        let notification = event.notification.to_string();
        let delivery = event.delivery.map_or_else(|| notification.clone(), |delivery| delivery.to_string());
        self.notifications.insert(notification.clone());
        let settlement = self.settled.entry(delivery).or_default();
        settlement.notification = notification;
        settlement.reason = event.reason;
        settlement.statuses.push((status, message.at_ms));
    }

    fn note_intent(&mut self, message: &Stored) {
        // What says that one is settled is not one.
        if *message.payload != *b"-"
            && let Some(delivery) = message.subject.rsplit('.').next()
        {
            self.intents.entry(delivery.to_owned()).or_default().push(message.at_ms);
        }
    }

    /// How many deliveries ended so that nobody knows whether they were made: each is a dead letter, too.
    pub fn ambiguous(&self) -> u64 {
        self.settled.values().filter(|end| end.is(Status::Ambiguous)).count() as u64
    }
}
