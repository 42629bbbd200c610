//! HTTP providers as one, for what the network does to each of them alike.

use peal_common::channel::Channel;
use peal_common::outcome::Outcome;
use peal_common::settings::{FcmSettings, SendgridSettings, TwilioSettings, WebhookSettings};
use peal_dispatcher::channels::{apns, email::sendgrid, fcm, sms::twilio, webhook};
use peal_dispatcher::recording::Fcm;
use serde_json::{Value, json};

use super::apns::{DEVICE, client as apns_client, settings as apns_settings, to as to_apns};
use super::fcm::{client_with as fcm_client, device, settings as fcm_settings};
use super::fixture::{Fixture, ambiguous, clock, retry};
use super::twilio::settings as twilio_settings;

/// Providers that differ in what a second request does, or in how they speak HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    Webhook,
    /// HTTP/2 alone.
    Apns,
    Fcm,
    Sendgrid,
    Twilio,
}

/// How a provider says that it has taken a message.
pub struct Success {
    pub status: u16,
    pub headers: Value,
    pub body: String,
    pub outcome: Outcome,
}

impl Provider {
    pub const ALL: [Provider; 5] =
        [Provider::Webhook, Provider::Apns, Provider::Fcm, Provider::Sendgrid, Provider::Twilio];

    pub fn success(self) -> Success {
        let sent = |id: &str| Outcome::Sent { provider_id: Some(id.to_owned()) };
        let (status, headers, body, outcome) = match self {
            Provider::Webhook => (204, json!({}), json!(null), Outcome::Delivered { provider_id: None }),
            Provider::Apns => (200, json!({"apns-id": "push-1"}), json!(null), sent("push-1")),
            Provider::Fcm => {
                let name = "projects/shop-1042/messages/1";
                (200, json!({}), json!({"name": name}), sent(name))
            }
            Provider::Sendgrid => (202, json!({"x-message-id": "email-1"}), json!(null), sent("email-1")),
            Provider::Twilio => (201, json!({}), json!({"sid": "SM1", "status": "queued"}), sent("SM1")),
        };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        Success { status, headers, body, outcome }
    }

    /// The outcome of a request that may have been seen and has no answer.
    pub fn unanswered(self, how: &str) -> Outcome {
        // A second e-mail or text would be read twice; the others are recognised.
        match self {
            Provider::Sendgrid | Provider::Twilio => ambiguous("no_answer_after_send"),
            Provider::Webhook | Provider::Apns | Provider::Fcm => retry(how),
        }
    }
}

enum Client {
    Webhook(webhook::Client),
    Apns(apns::Client),
    /// With the server that it has its access tokens from.
    Fcm(Box<fcm::Client>, Fcm),
    Sendgrid(sendgrid::Client),
    Twilio(twilio::Client),
}

/// A provider's client with a message to send.
pub struct Sender {
    client: Client,
    fixture: Fixture,
}

impl Sender {
    /// A client of the provider that something at a URL stands in for.
    pub async fn new(provider: Provider, base_url: &str, timeout_seconds: u64) -> Self {
        let (client, fixture) = match provider {
            Provider::Webhook => {
                let settings = WebhookSettings {
                    enabled: true,
                    secret: None,
                    secret_file: None,
                    timeout_seconds,
                    allowed_networks: vec!["127.0.0.0/8".to_owned()],
                };
                let options = webhook::Options::from_settings(&settings).unwrap();
                let secret = webhook::SigningSecret::from_bytes(&[7; 32]).unwrap();
                let secrets = webhook::Secrets::Fixed(vec![secret]);
                let client = webhook::Client::new(options, secrets, clock()).unwrap();
                (Client::Webhook(client), Fixture::to(Channel::Webhook, base_url, 1))
            }
            Provider::Apns => {
                let mut settings = apns_settings(base_url);
                settings.timeout_seconds = timeout_seconds;
                (Client::Apns(apns_client(&settings)), to_apns(DEVICE, 1))
            }
            Provider::Fcm => {
                let tokens = Fcm::start().await.unwrap();
                let settings =
                    FcmSettings { base_url: base_url.to_owned(), timeout_seconds, ..fcm_settings(&tokens) };
                (Client::Fcm(Box::new(fcm_client(&settings, clock())), tokens), device(1))
            }
            Provider::Sendgrid => {
                let settings = SendgridSettings {
                    key: Some("SG.TEST-key_0".to_owned().into()),
                    key_file: None,
                    from: "no-reply@example.com".to_owned(),
                    base_url: base_url.to_owned(),
                    sandbox_mode: false,
                    tls_ca_file: None,
                    timeout_seconds,
                    rate_per_second: None,
                };
                let options = sendgrid::Options::from_settings(&settings).unwrap();
                let client = sendgrid::Client::new(options, clock()).unwrap();
                (Client::Sendgrid(client), Fixture::to(Channel::Email, "kim@example.org", 1))
            }
            Provider::Twilio => {
                let settings = TwilioSettings { timeout_seconds, ..twilio_settings(base_url) };
                let options = twilio::Options::from_settings(&settings).unwrap();
                let client = twilio::Client::new(options, clock()).unwrap();
                (Client::Twilio(client), Fixture::to(Channel::Sms, "+821012345678", 1))
            }
        };
        Sender { client, fixture }
    }

    /// Makes one attempt.
    pub async fn send(&self) -> Outcome {
        let message = self.fixture.message();
        match &self.client {
            Client::Webhook(client) => client.send(&message).await,
            Client::Apns(client) => client.send(&message).await,
            Client::Fcm(client, tokens) => {
                let outcome = client.send(&message).await;
                assert_eq!(tokens.pushes().len(), 0, "pushes go elsewhere");
                outcome
            }
            Client::Sendgrid(client) => client.send(&message).await,
            Client::Twilio(client) => client.send(&message).await,
        }
    }
}
