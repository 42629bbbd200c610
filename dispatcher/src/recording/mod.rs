//! Recording providers: real servers on the loopback that take what dispatchers send, remember it, and answer as they
//! are told – with errors, late, endlessly, or not at all.
//!
//! They are part of the library so that tests and benchmarks of every crate can use them. Each listens on a port of its
//! own and stops when it is dropped.

mod aligo;
mod apns;
mod fcm;
mod http;
mod mandrill;
mod sendgrid;
mod smtp;
mod telegram;
mod twilio;
mod vonage;
mod webhooks;

use std::time::Duration;

use tokio::sync::watch;

pub use aligo::{Aligo, AligoMessage};
pub use apns::Apns;
pub use fcm::Fcm;
pub use http::{Answer, Request};
pub use mandrill::Mandrill;
pub use sendgrid::Sendgrid;
pub use smtp::{Command, Mail, Reply, Smtp, SmtpTlsMode};
pub use telegram::{Telegram, TelegramCall};
pub use twilio::Twilio;
pub use vonage::Vonage;
pub use webhooks::Webhooks;

/// What was waited for did not come in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("only {seen} of {wanted} came in time")]
pub struct TimedOut {
    /// How many came.
    pub seen: usize,
    /// How many were wanted.
    pub wanted: usize,
}

/// Counts, and wakes whoever waits for a count.
#[derive(Debug)]
struct Counter(watch::Sender<usize>);

impl Counter {
    fn new() -> Self {
        Counter(watch::Sender::new(0))
    }

    fn increment(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    fn get(&self) -> usize {
        *self.0.borrow()
    }

    async fn wait_for(&self, wanted: usize, limit: Duration) -> Result<(), TimedOut> {
        let mut receiver = self.0.subscribe();
        let waited = tokio::time::timeout(limit, receiver.wait_for(|count| *count >= wanted)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            _ => Err(TimedOut { seen: self.get(), wanted }),
        }
    }
}
