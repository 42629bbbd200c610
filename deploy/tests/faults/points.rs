//! The four points of a delivery at which a dispatcher is killed, each as a rule for the tap on its line to the server:
//! what the rule keeps back holds every delivery at that point, however fast the machine is.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use peal_common::channel::Channel;
use peal_common::envelope::{Accepted, Envelope as _, InboxEntry, Intake, Work};
use peal_common::event::{Event, EventType, Status};
use peal_common::id::Region;
use peal_nats::Subjects;

use crate::region::CATEGORY;
use crate::region::tap::{By, Message, Verdict};

/// Where a dispatcher is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Nobody knows yet that the provider is about to be called: where an intent is kept it is on its way, elsewhere the
    /// message has been handed out and not been read.
    BeforeIntent,
    /// The intent is durable, and the dispatcher does not know that yet. Where none is kept, the call has been begun and
    /// nothing of it has arrived: nobody could tell that from the point before.
    IntentToCall,
    /// The provider has taken the message and has said so; no event tells.
    AcceptToEvent,
    /// The event is durable, and the message is not acknowledged.
    EventToAck,
}

impl Point {
    /// In the order in which a delivery comes to them.
    pub const ALL: [Point; 4] =
        [Point::BeforeIntent, Point::IntentToCall, Point::AcceptToEvent, Point::EventToAck];

    /// What the table calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Point::BeforeIntent => "before the intent",
            Point::IntentToCall => "intent to call",
            Point::AcceptToEvent => "accept to event",
            Point::EventToAck => "event to ack",
        }
    }

    /// Keeps every delivery at this point, and notes each that has come to it.
    pub fn rule(self, region: &Region) -> impl Fn(&Message<'_>) -> Verdict + Send + Sync + use<> {
        let line = Line::of(region);
        move |message| match self {
            Point::EventToAck => line.after_event(message),
            // A delivery must not come back to the dispatcher before that is killed.
            _ if line.is_acknowledgement(message) => Verdict::Lose,
            Point::BeforeIntent => line.before_intent(message),
            Point::IntentToCall => line.after_intent(message),
            Point::AcceptToEvent => line.before_event(message),
        }
    }

    /// What is promised of a delivery whose dispatcher was killed here: how often its provider has it in the end, and
    /// how it ends. `is_asked`: its provider can say whether it has a message.
    pub fn promise(self, channel: Channel, category: &str, is_asked: bool) -> (usize, Vec<Status>) {
        let taken = match channel {
            Channel::Webhook | Channel::Inbox => vec![Status::Delivered],
            // Its provider is asked a little later.
            Channel::Alimtalk => vec![Status::Sent, Status::Delivered],
            _ => vec![Status::Sent],
        };
        match self {
            Point::BeforeIntent | Point::EventToAck => (1, taken),
            // Whoever is asked has nothing, and is called again.
            Point::IntentToCall if is_asked => (1, taken),
            Point::IntentToCall if keeps_intents(channel, category) => (0, vec![Status::Ambiguous]),
            Point::IntentToCall => (1, taken),
            // The question was put down before the event.
            Point::AcceptToEvent if channel == Channel::Alimtalk => (1, vec![Status::Delivered]),
            // Whoever is asked has it.
            Point::AcceptToEvent if is_asked => (1, taken),
            Point::AcceptToEvent if keeps_intents(channel, category) => (1, vec![Status::Ambiguous]),
            // The stream of the inbox recognises the item.
            Point::AcceptToEvent if channel == Channel::Inbox => (1, taken),
            Point::AcceptToEvent => (2, taken),
        }
    }
}

/// Whether a delivery is rather never sent than twice, as the README promises it: said here once more, so that a change of
/// the rule is noticed.
pub fn keeps_intents(channel: Channel, category: &str) -> bool {
    match channel {
        Channel::Sms | Channel::Alimtalk => true,
        Channel::Telegram => category != CATEGORY,
        _ => false,
    }
}

/// The delivery that the server hands out with a message, if it is one.
pub fn handed_out(message: &Message<'_>) -> Option<Work> {
    let is_work = message.by == By::Server && is_of_work(message.reply);
    is_work.then(|| Work::decode(message.payload).ok()).flatten()
}

fn is_of_work(subject: &str) -> bool {
    subject.starts_with("$JS.ACK.") && subject.contains(".WORK_")
}

/// The notification that the server hands out with a message, and its only channel.
fn handed_out_whole(message: &Message<'_>) -> Option<(Accepted, Channel)> {
    let is_intake = message.by == By::Server && is_of_intake(message.reply);
    let notification = is_intake.then(|| Intake::decode(message.payload).ok()).flatten()?.notification;
    let only = match notification.channels.as_deref() {
        Some([only]) => only.channels().first().copied()?,
        _ => return None,
    };
    Some((notification, only))
}

fn is_of_intake(subject: &str) -> bool {
    subject.starts_with("$JS.ACK.") && subject.contains(".INTAKE.")
}

/// What subjects of a region begin with, and what is on its way.
struct Line {
    attempts: String,
    inbox: String,
    outcomes: [String; 2],
    /// The intent whose acknowledgement goes to a subject.
    intents: Mutex<HashMap<String, String>>,
    /// The notifications of what was handed out, by where that is acknowledged.
    handed_out: Mutex<HashMap<String, String>>,
    /// The notifications of which an event tells.
    told: Mutex<HashSet<String>>,
}

impl Line {
    fn of(region: &Region) -> Self {
        let subjects = Subjects::new(region);
        let start = |all: String| all.trim_end_matches('>').to_owned();
        let events = start(subjects.event_all());
        let outcome = |kind: EventType| format!("{events}{}.", kind.as_str());
        Line {
            attempts: start(subjects.attempt_all()),
            inbox: start(subjects.inbox_all()),
            outcomes: [outcome(EventType::Sent), outcome(EventType::Delivered)],
            intents: Mutex::default(),
            handed_out: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// What the server hands out with a message, by its notification, where no intent tells of it: a delivery, or a
    /// notification whose delivery may be made at once.
    fn begun(&self, message: &Message<'_>) -> Option<(Channel, String)> {
        let (notification, channel) = match handed_out(message) {
            Some(work) => (work.notification, work.channel),
            None => handed_out_whole(message)?,
        };
        let has_intent = keeps_intents(channel, notification.category.as_str());
        if has_intent && is_of_intake(message.reply) {
            return None;
        }
        let id = notification.id.to_string();
        lock(&self.handed_out).insert(message.reply.to_owned(), id.clone());
        (!has_intent).then_some((channel, id))
    }

    /// Whether the dispatcher says with a message what is to become of a delivery.
    fn is_acknowledgement(&self, message: &Message<'_>) -> bool {
        message.by == By::Client && lock(&self.handed_out).contains_key(message.subject)
    }

    /// The event by which the dispatcher says with a message that a delivery was made.
    fn outcome(&self, message: &Message<'_>) -> Option<Event> {
        let tells =
            message.by == By::Client && self.outcomes.iter().any(|it| message.subject.starts_with(it));
        tells.then(|| Event::decode(message.payload).ok()).flatten()
    }

    /// The intent that the dispatcher declares with a message.
    fn intent<'m>(&self, message: &Message<'m>) -> Option<&'m str> {
        let is_intent = message.by == By::Client && message.subject.starts_with(&self.attempts);
        is_intent.then(|| message.subject.rsplit('.').next()).flatten()
    }

    fn before_intent(&self, message: &Message<'_>) -> Verdict {
        if let Some(intent) = self.intent(message) {
            return Verdict::LoseAndNote(intent.to_owned());
        }
        self.begun(message).map_or(Verdict::Pass, |(_, id)| Verdict::LoseAndNote(id))
    }

    fn after_intent(&self, message: &Message<'_>) -> Verdict {
        let mut intents = lock(&self.intents);
        if let Some(intent) = self.intent(message) {
            intents.insert(message.reply.to_owned(), intent.to_owned());
            return Verdict::Pass;
        }
        if message.by == By::Server
            && let Some(intent) = intents.get(message.subject)
        {
            return Verdict::LoseAndNote(intent.clone());
        }
        // The call of the inbox goes over the same line.
        if message.by == By::Client && message.subject.starts_with(&self.inbox) {
            let entry = InboxEntry::decode(message.payload);
            return entry.map_or(Verdict::Pass, |entry| Verdict::LoseAndNote(entry.item.to_string()));
        }
        match self.begun(message) {
            Some((channel, id)) if channel != Channel::Inbox => Verdict::Note(id),
            _ => Verdict::Pass,
        }
    }

    fn before_event(&self, message: &Message<'_>) -> Verdict {
        self.begun(message);
        let event = self.outcome(message);
        event.map_or(Verdict::Pass, |event| Verdict::LoseAndNote(event.notification.to_string()))
    }

    fn after_event(&self, message: &Message<'_>) -> Verdict {
        self.begun(message);
        if let Some(event) = self.outcome(message) {
            lock(&self.told).insert(event.notification.to_string());
        }
        if !self.is_acknowledgement(message) || !matches!(message.payload, b"" | b"+ACK") {
            return Verdict::Pass;
        }
        // A notification is done before its delivery where that goes through its queue.
        let id = lock(&self.handed_out).get(message.subject).cloned();
        match id.filter(|id| lock(&self.told).contains(id)) {
            Some(id) => Verdict::LoseAndNote(id),
            None => Verdict::Pass,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
