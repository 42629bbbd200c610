//! The channels: one folder per provider, all behind the same small seam.
//!
//! A provider takes a [`Message`] and answers with one [`Outcome`]. Each folder has the same files: `options.rs` (what
//! can be set), `request.rs` (message → request), `client.rs` (the call), `outcome.rs` (answer → outcome, pure). Every
//! call ends within [`CALL_LIMIT`], whatever the other side does, and nothing in here logs an address, a token, a
//! secret or a text.

pub mod alimtalk;
pub mod apns;
pub mod email;
pub mod fcm;
pub mod inbox;
pub mod sandbox;
pub mod sms;
pub mod telegram;
pub mod webhook;
pub mod webpush;

mod accounts;
mod breaker;
mod connections;
mod current;
mod endpoints;
mod found;
mod http;
mod jwt;
mod limit;
mod metadata;
mod probe;
mod providers;
mod refusals;
mod retry_after;
mod setup;
mod target;

pub use accounts::{Account, Admitted, Called, Sought};
pub use breaker::Opened;
pub use current::CurrentProviders;
pub use found::{CallTime, Claim, Found};
pub use target::Hosts;

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use peal_common::attachment::Attachments;
use peal_common::category::Class;
use peal_common::channel::Priority;
use peal_common::id::{AppId, CategoryId, DeliveryId, NotificationId, RecipientId, Region};
use peal_common::outcome::Outcome;
use peal_common::receipt::Reference;
use peal_common::recipient::Contact;
use peal_common::seal::DataKeys;
use peal_common::settings::SettingsError;
use peal_common::template::Rendered;

/// No call to a provider takes longer than this: less than the 30 s after which JetStream would deliver the message
/// to somebody else.
pub const CALL_LIMIT: Duration = Duration::from_secs(25);

/// How long after the first call of a delivery that must not be made twice another account may be called, when the one before
/// certainly did not take it.
pub const TRY_NEXT: Duration = Duration::from_secs(10);

/// Held back by Peal's own rate limit.
pub const THROTTLED: &str = "throttled";
/// Held back since the rate limit that all dispatchers share can't be asked.
pub const LIMITS_UNKNOWN: &str = "limits_unknown";
/// Held back while a provider has asked everybody to wait.
pub const PROVIDER_PAUSED: &str = "provider_paused";
/// Held back because all connections were busy.
pub const NO_FREE_CONNECTION: &str = "no_free_connection";

/// The account that an app brought along can't be set up. The dispatcher's log says why.
pub const UNUSABLE: &str = "account_unusable";
/// Held back while the circuits of all accounts are open; what opened it follows after a colon.
pub const CIRCUIT_OPEN: &str = "circuit_open";

/// What a provider is asked to deliver: one text for one contact.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    /// The region that delivers it.
    pub region: &'a Region,
    /// The app.
    pub app: &'a AppId,
    /// The notification.
    pub notification: &'a NotificationId,
    /// The delivery: the same on every attempt, so that the other side can recognise a repetition.
    pub delivery: &'a DeliveryId,
    /// The category.
    pub category: &'a CategoryId,
    /// The category's class.
    pub class: Class,
    /// How urgent it is.
    pub priority: Priority,
    /// The recipient.
    pub recipient: &'a RecipientId,
    /// Where to.
    pub contact: &'a Contact,
    /// Seals what Peal itself keeps for the recipient.
    pub data_keys: &'a DataKeys,
    /// The text.
    pub rendered: &'a Rendered,
    /// The files that go along with an e-mail; none on other channels.
    pub attachments: &'a Attachments,
    /// When the gateway accepted the notification.
    pub accepted_at: Timestamp,
    /// When it is of no use any more.
    pub expires_at: Timestamp,
    /// Counts from 1.
    pub attempt: u32,
    /// Newer messages with the same key replace older ones, where the channel can do that.
    pub collapse_key: Option<&'a str>,
    /// Where the recipient can stop the category on this channel, for e-mails of marketing categories.
    pub unsubscribe: Option<&'a str>,
    /// What the sender passed along.
    pub metadata: &'a Map<String, Value>,
}

impl Message<'_> {
    /// What the provider is to name when it reports what became of the message.
    #[must_use]
    pub fn reference(&self) -> Reference {
        Reference {
            region: self.region.clone(),
            app: self.app.clone(),
            notification: self.notification.clone(),
            delivery: self.delivery.clone(),
        }
    }
}

impl std::fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither contact nor text: a message that is shown somewhere must not show personal data.
        f.debug_struct("Message")
            .field("app", &self.app)
            .field("notification", &self.notification)
            .field("delivery", &self.delivery)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

pub use probe::Probe;
pub use providers::Providers;

/// A provider that can't be set up. The message says what to write and never repeats a secret.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A key does not fit.
    #[error("settings: {key}: {advice}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// What to write.
        advice: String,
    },
    /// It stands in an account with a name.
    #[error("in channels.accounts.{name}, where the keys are the same as in channels: {source}")]
    Account {
        /// The account.
        name: String,
        /// What is wrong.
        source: Box<ConfigError>,
    },
    /// A secret can't be read.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The HTTP client can't be built.
    #[error("the HTTP client cannot be built")]
    Http(#[source] reqwest::Error),
}

impl ConfigError {
    pub(crate) fn invalid(key: &'static str, advice: impl Into<String>) -> Self {
        ConfigError::Invalid { key, advice: advice.into() }
    }
}

/// Whoever carries a channel's messages away.
#[derive(Debug)]
pub enum Provider {
    /// Signed HTTP requests to the recipient's own endpoint.
    Webhook(webhook::Client),
    /// Pushes to Apple's devices.
    Apns(apns::Client),
    /// Pushes through Firebase Cloud Messaging.
    Fcm(fcm::Client),
    /// Encrypted messages for browsers.
    Webpush(webpush::Client),
    /// E-mail through an SMTP server.
    Smtp(email::Smtp),
    /// E-mail through SendGrid.
    Sendgrid(email::sendgrid::Client),
    /// E-mail through Mailchimp Transactional.
    Mandrill(email::mandrill::Client),
    /// Text messages through Twilio.
    Twilio(sms::twilio::Client),
    /// Text messages through Vonage.
    Vonage(sms::vonage::Client),
    /// Text messages through another gateway with an HTTP API.
    SmsHttp(sms::http::Client),
    /// Messages of a Telegram bot.
    Telegram(telegram::Client),
    /// Alimtalk messages through Aligo.
    Aligo(alimtalk::Client),
    /// The inbox that Peal itself keeps.
    Inbox(inbox::Client),
    /// Records instead of sending, for laptops and tests.
    Sandbox(sandbox::Client),
    /// An account that an app brought along and that can't be set up: the provider that it was meant for. What is meant for
    /// it waits until it is put right.
    Unusable(&'static str),
}

impl Provider {
    /// The provider's name in events, metrics and the API.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Provider::Webhook(_) => "webhook",
            Provider::Apns(_) => "apns",
            Provider::Fcm(_) => "fcm",
            Provider::Webpush(_) => "webpush",
            Provider::Smtp(_) => "smtp",
            Provider::Sendgrid(_) => "sendgrid",
            Provider::Mandrill(_) => "mandrill",
            Provider::Twilio(_) => "twilio",
            Provider::Vonage(_) => "vonage",
            Provider::SmsHttp(_) => "sms_http",
            Provider::Telegram(_) => "telegram",
            Provider::Aligo(_) => "aligo",
            Provider::Inbox(_) => "inbox",
            Provider::Sandbox(_) => "sandbox",
            Provider::Unusable(name) => name,
        }
    }

    /// Whether one account carries all messages, so that its trouble is everybody's. Webhooks and browsers' push services
    /// are as many as there are recipients, and what Peal keeps itself is out of order with JetStream alone.
    const fn is_shared(&self) -> bool {
        match self {
            Provider::Apns(_)
            | Provider::Fcm(_)
            | Provider::Smtp(_)
            | Provider::Sendgrid(_)
            | Provider::Mandrill(_)
            | Provider::Twilio(_)
            | Provider::Vonage(_)
            | Provider::SmsHttp(_)
            | Provider::Telegram(_)
            | Provider::Aligo(_)
            | Provider::Unusable(_) => true,
            Provider::Webhook(_) | Provider::Webpush(_) | Provider::Inbox(_) | Provider::Sandbox(_) => false,
        }
    }

    /// Why messages are kept back although one account does not carry them all: a browser's push service refuses our key.
    fn refused(&self) -> Option<Opened> {
        match self {
            Provider::Webpush(client) => client.refused(),
            _ => None,
        }
    }

    /// Asks whether it works, without sending anything to anybody. Takes at most [`CALL_LIMIT`].
    pub async fn probe(&self) -> Probe {
        match self {
            Provider::Apns(client) => client.probe().await,
            Provider::Fcm(client) => client.probe().await,
            Provider::Smtp(client) => client.probe().await,
            Provider::Sendgrid(client) => client.probe().await,
            Provider::Mandrill(client) => client.probe().await,
            Provider::Twilio(client) => client.probe().await,
            Provider::Vonage(client) => client.probe().await,
            Provider::Telegram(client) => client.probe().await,
            Provider::Aligo(client) => client.probe().await,
            Provider::Unusable(_) => Probe::Fails { reason: UNUSABLE.to_owned() },
            Provider::SmsHttp(_)
            | Provider::Webhook(_)
            | Provider::Webpush(_)
            | Provider::Inbox(_)
            | Provider::Sandbox(_) => Probe::Unknown,
        }
    }

    /// Whether it says nothing by itself of what it sent, and has to be asked: see [`result`](Self::result).
    const fn is_asked(&self) -> bool {
        matches!(self, Provider::Aligo(_))
    }

    /// Asks what became of a message: `None` while nobody knows. Takes at most [`CALL_LIMIT`].
    ///
    /// # Errors
    /// The outcome of the question, when the provider can't tell.
    async fn result(&self, provider_id: &str, contact: &Contact) -> Result<Option<Outcome>, Outcome> {
        match self {
            Provider::Aligo(client) => client.result(provider_id, contact).await,
            _ => Ok(None),
        }
    }

    /// Whether it can be asked for a message whose call was broken off: see [`find`](Self::find).
    const fn is_searchable(&self) -> bool {
        matches!(self, Provider::Twilio(_) | Provider::Aligo(_))
    }

    /// Looks for a message that it may have taken when it was called.
    ///
    /// # Errors
    /// The outcome of the question, when the provider can't be asked now.
    async fn find(&self, message: &Message<'_>, call: CallTime, claim: Claim<'_>) -> Result<Found, Outcome> {
        match self {
            Provider::Twilio(client) => client.find(message, call, claim).await,
            Provider::Aligo(client) => client.find(message, call).await,
            _ => Ok(Found::Unknown),
        }
    }

    /// Whether a call that is to be repeated may have been taken all the same. Where repeating does no harm that is no matter for
    /// the provider itself, but another one knows nothing of the first call.
    fn may_have_taken(&self, reason: &str, after: Option<Duration>) -> bool {
        match self {
            // They call that ambiguous.
            Provider::Smtp(_)
            | Provider::Twilio(_)
            | Provider::Vonage(_)
            | Provider::SmsHttp(_)
            | Provider::Aligo(_) => false,
            _ => outcomes::is_unclear(reason, after),
        }
    }

    /// Whether it tries another channel by itself where it reaches nobody.
    const fn has_failover(&self) -> bool {
        match self {
            Provider::Aligo(client) => client.has_failover(),
            _ => false,
        }
    }

    /// As how many messages it counts one: text messages by their segments, and not what is refused before.
    fn turns(&self, message: &Message<'_>) -> u32 {
        match self {
            Provider::Twilio(_) | Provider::Vonage(_) | Provider::SmsHttp(_) => sms::segments(message),
            _ => 1,
        }
    }

    /// Makes one attempt. Takes at most [`CALL_LIMIT`]; dropping the future abandons the attempt, whose connection
    /// is then closed rather than used again.
    pub async fn send(&self, message: &Message<'_>) -> Outcome {
        match self {
            Provider::Webhook(client) => client.send(message).await,
            Provider::Apns(client) => client.send(message).await,
            Provider::Fcm(client) => client.send(message).await,
            Provider::Webpush(client) => client.send(message).await,
            // By far the largest: on the heap, so that no delivery on another channel has to have room for it.
            Provider::Smtp(client) => Box::pin(client.send(message)).await,
            Provider::Sendgrid(client) => client.send(message).await,
            Provider::Mandrill(client) => client.send(message).await,
            Provider::Twilio(client) => client.send(message).await,
            Provider::Vonage(client) => client.send(message).await,
            Provider::SmsHttp(client) => client.send(message).await,
            Provider::Telegram(client) => client.send(message).await,
            Provider::Aligo(client) => client.send(message).await,
            Provider::Inbox(client) => client.send(message).await,
            Provider::Sandbox(client) => client.send(message).await,
            Provider::Unusable(_) => outcomes::unavailable(UNUSABLE),
        }
    }
}

/// Short forms for the outcomes that channels make, with the stable word for the event.
pub(crate) mod outcomes {
    use std::time::Duration;

    use peal_common::outcome::Outcome;
    use peal_nats::turns::NoTurn;

    use super::{LIMITS_UNKNOWN, PROVIDER_PAUSED, THROTTLED};

    pub(crate) fn retry(reason: impl Into<String>, after: Option<Duration>) -> Outcome {
        Outcome::Retry { reason: reason.into(), after }
    }

    /// Whether the reason to try again leaves open whether the provider took it: there was no answer, or none of its own. A 503
    /// with a wait says that nothing was done (RFC 9110 §15.6.4).
    pub(crate) fn is_unclear(reason: &str, after: Option<Duration>) -> bool {
        match reason {
            "timeout" | "connection_lost" | "unreadable_answer" | "http_408" => true,
            "http_503" => after.is_none(),
            _ => reason.starts_with("http_5"),
        }
    }

    pub(crate) fn held_back(reason: impl Into<String>, after: Option<Duration>) -> Outcome {
        Outcome::HeldBack { reason: reason.into(), after }
    }

    /// Without a turn nothing is sent now.
    pub(crate) fn no_turn(error: NoTurn) -> Outcome {
        match error {
            NoTurn::Later(wait) => held_back(THROTTLED, Some(wait)),
            NoTurn::Frozen(left) => held_back(PROVIDER_PAUSED, Some(left)),
            NoTurn::Unavailable(error) => {
                tracing::debug!(error = &*error as &dyn std::error::Error, "a rate limit cannot be asked");
                held_back(LIMITS_UNKNOWN, None)
            }
        }
    }

    pub(crate) fn permanent(reason: impl Into<String>) -> Outcome {
        Outcome::Permanent { reason: reason.into() }
    }

    pub(crate) fn address_dead(reason: impl Into<String>) -> Outcome {
        Outcome::AddressDead { reason: reason.into(), since: None }
    }

    pub(crate) fn unavailable(reason: impl Into<String>) -> Outcome {
        Outcome::Unavailable { reason: reason.into(), after: None }
    }

    pub(crate) fn ambiguous(reason: impl Into<String>) -> Outcome {
        Outcome::Ambiguous { reason: reason.into() }
    }
}
