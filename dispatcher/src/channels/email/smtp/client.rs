//! The sending of e-mail: a small pool of connections, each used by one e-mail at a time.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use peal_common::clock::Clock;
use peal_common::outcome::Outcome;

use super::Options;
use super::connection::{Connection, Failed};
use super::outcome::{self, Step};
use super::request::{self, Mail};
use crate::channels::outcomes::{held_back, permanent};
use crate::channels::probe::Probe;
use crate::channels::refusals::Refusals;
use crate::channels::{Message, NO_FREE_CONNECTION};

/// Sends e-mail through one SMTP server.
pub struct Smtp {
    options: Options,
    clock: Clock,
    /// One permit per connection that may be open.
    permits: Semaphore,
    /// The connection used last is taken first, so that the others can grow old and be closed.
    idle: Mutex<Vec<Connection>>,
    refusals: Refusals,
}

impl fmt::Debug for Smtp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Smtp").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Smtp {
    /// A sender that dates its e-mails by `clock`. Connects when the first e-mail is sent.
    #[must_use]
    pub fn new(options: Options, clock: Clock) -> Self {
        let permits = Semaphore::new(options.max_connections);
        Smtp { options, clock, permits, idle: Mutex::default(), refusals: Refusals::default() }
    }

    /// Sends one e-mail. Dropping the future closes its connection.
    pub async fn send(&self, message: &Message<'_>) -> Outcome {
        let started = Instant::now();
        // Half of the time for waiting, so that enough is left to send.
        let Ok(Ok(_permit)) = timeout_at(started + self.options.timeout / 2, self.permits.acquire()).await
        else {
            return held_back(NO_FREE_CONNECTION, None);
        };
        // Not before, so that there are no more e-mails in memory than connections: they may have attachments.
        let mail = match request::compose(message, &self.options.from, self.clock.now()) {
            Ok(mail) => mail,
            Err(error) => return permanent(error.reason()),
        };
        match self.deliver(&mail, started + self.options.timeout).await {
            Ok(()) => {
                self.refusals.taken(message.delivery);
                Outcome::Sent { provider_id: Some(mail.message_id) }
            }
            Err((step, failure)) => match outcome::of(step, &failure) {
                Outcome::Unavailable { reason, .. } if outcome::is_policy(step, &failure) => {
                    self.refusals.judge(message.delivery, reason)
                }
                outcome => outcome,
            },
        }
    }

    /// Connects and signs in.
    pub async fn probe(&self) -> Probe {
        match Connection::open(&self.options, Instant::now() + self.options.timeout).await {
            Ok(_) => Probe::Works,
            Err((step, failure)) => Probe::of_outcome(outcome::of(step, &failure)),
        }
    }

    async fn deliver(&self, mail: &Mail, deadline: Instant) -> Result<(), Failed> {
        if let Some(connection) = self.take() {
            match self.transact(connection, mail, deadline).await {
                // The server has hung up in the meantime, or it does not forget what it refused last. This e-mail has not
                // begun: a new connection may try it.
                Err((Step::Reset, _)) => {}
                Err((Step::Mail, failure)) if failure.ends_connection() => {}
                settled => return settled,
            }
        }
        let connection = Connection::open(&self.options, deadline).await?;
        self.transact(connection, mail, deadline).await
    }

    /// Sends on `connection` and keeps it if its state is known afterwards.
    async fn transact(
        &self,
        mut connection: Connection,
        mail: &Mail,
        deadline: Instant,
    ) -> Result<(), Failed> {
        let from = &self.options.from.email;
        let result = connection.transact(from, mail, self.options.command_timeout, deadline).await;
        match &result {
            Ok(()) => self.put(connection),
            Err((step, failure)) if *step != Step::Reset && !failure.ends_connection() => {
                connection.reset_later();
                self.put(connection);
            }
            // Dropping it closes it.
            Err(_) => {}
        }
        result
    }

    fn take(&self) -> Option<Connection> {
        let now = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| connection.is_fresh(now));
        idle.pop()
    }

    fn put(&self, mut connection: Connection) {
        if connection.rest(Instant::now()) {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
    }
}
