//! What a failure means, through a whole dispatcher: each row says what a provider answers, and what has to become of the
//! notification, of its address, and of the account. Where the codes come from stands beside what reads them
//! (`channels/*/outcome.rs`).

mod chats;
mod crowds;
mod mails;
mod pushes;
mod texts;
mod trial;
mod webhooks;

use std::ops::RangeInclusive;

use peal_common::event::EventType;
use peal_dispatcher::recording::{Answer, Command, Reply};

use trial::judge;

/// The upper bound of the first wait, in seconds.
const BASE: f64 = 1.0;

/// What a provider says, and what that means.
struct Row {
    provider: &'static str,
    said: Said,
    reason: &'static str,
    meaning: Meaning,
}

#[derive(Clone)]
enum Said {
    /// Whoever hands a message over is answered like this.
    Answer(Answer),
    /// At this moment of handing it over.
    Reply(Command, Reply),
    /// Whoever asks later hears this code.
    Result(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// The address is not written to again.
    Dead,
    /// The same, since it was full on two other days.
    FullForDays,
    /// This message is refused, and nothing else follows from it.
    Wrong,
    /// It is tried again, not before so many seconds, and has used up an attempt.
    Later(u32),
    /// The account is left alone for at least so many seconds. No attempt is used up.
    Out(u32),
    /// It may have been sent: it is sent again a while later, recognisably.
    Repeated,
    /// It may have been sent: the provider is asked.
    Asked,
    /// It may have been sent: it is not sent again.
    Unknown,
}

use Meaning::{Asked, Dead, FullForDays, Later, Out, Repeated, Unknown, Wrong};

/// What is told of it.
struct Expected {
    kind: EventType,
    reason: String,
    /// The attempts that are used up.
    attempts: Option<u32>,
    /// The seconds until the next one.
    wait: Option<RangeInclusive<f64>>,
    /// The attempts that are used up when it is sent in the end.
    sent: Option<u32>,
    is_dead_letter: bool,
}

impl Row {
    fn expected(&self) -> Expected {
        let is_result = matches!(self.said, Said::Result(_));
        let (kind, attempts) = match self.meaning {
            Dead | FullForDays | Wrong if is_result => (EventType::Bounced, None),
            Later(_) | Out(_) if is_result => (EventType::Replayed, None),
            Dead | FullForDays | Wrong => (EventType::Failed, Some(1)),
            Unknown => (EventType::Ambiguous, Some(1)),
            Out(_) => (EventType::Retried, None),
            Later(_) | Repeated | Asked => (EventType::Retried, Some(1)),
        };
        let wait = match self.meaning {
            _ if is_result => None,
            Dead | FullForDays | Wrong | Unknown => None,
            Later(0) => Some(BASE / 2.0..=BASE),
            Later(asked) => Some(f64::from(asked)..=f64::from(asked) + BASE / 2.0),
            Out(asked) => Some(f64::from(asked.max(5))..=f64::from(asked.max(5))),
            Repeated => Some(90.0..=90.0),
            Asked => Some(15.0..=15.0),
        };
        let sent = match self.meaning {
            Later(asked) if asked < LONG => Some(2),
            Asked => Some(2),
            Out(_) => Some(1),
            _ => None,
        };
        let reason = match self.meaning {
            Repeated | Asked => format!("ambiguous: {}", self.reason),
            _ => self.reason.to_owned(),
        };
        let is_dead_letter = matches!(kind, EventType::Failed | EventType::Ambiguous);
        Expected { kind, reason, attempts, wait, sent, is_dead_letter }
    }

    /// Whether it still waits when all others have ended.
    fn waits(&self) -> bool {
        self.meaning == Repeated || matches!(self.meaning, Later(asked) if asked >= LONG)
    }

    /// Whether its address is not written to again.
    fn suppresses(&self) -> bool {
        matches!(self.meaning, Dead | FullForDays)
    }
}

/// Waits of so many seconds are not waited out.
const LONG: u32 = 30;

/// The rows of a provider's answers.
fn answers<const N: usize>(provider: &'static str, rows: [(Answer, &'static str, Meaning); N]) -> Vec<Row> {
    let row = |(answer, reason, meaning)| Row { provider, said: Said::Answer(answer), reason, meaning };
    rows.into_iter().map(row).collect()
}

fn status(status: u16) -> Answer {
    Answer::status(status)
}

/// The same, and the time after which it may be tried again.
fn after(answer: Answer, seconds: &str) -> Answer {
    answer.header("retry-after", seconds)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_pushes() {
    judge([pushes::apns(), pushes::fcm(), pushes::webpush()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_texts() {
    judge([texts::twilio(), texts::vonage(), texts::gateway()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_mails() {
    judge([mails::sendgrid(), mails::mandrill(), mails::smtp()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_chats_and_webhooks() {
    judge([chats::telegram(), chats::alimtalk(), chats::alimtalk_results(), webhooks::webhook()]).await;
}
