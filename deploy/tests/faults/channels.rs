//! Every channel with a recording provider of its own, each behind a link that can be silenced: the oracle of scenarios
//! that are about more than webhooks. What is sent to whom is told by addresses that are made of numbers.

use std::collections::HashMap;

use anyhow::Context as _;
use http::Method;
use peal_common::channel::Channel;
use peal_common::envelope::{Envelope as _, InboxChange, InboxEntry};
use peal_common::vapid::VapidKey;
use peal_dispatcher::recording::{Aligo, Apns, Fcm, Request, Smtp, Telegram, Twilio, Vonage, Webhooks};
use peal_nats::Connection;
use peal_nats::follow::Reader;
use peal_nats::server::Link;
use peal_nats::topology::INBOX;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};
use url::{Url, form_urlencoded};

/// An RSA key that nobody trusts: making one takes long.
const RSA_KEY: &str = include_str!("../../../dispatcher/tests/keys/rsa-2048.pem");
/// The text that "Kakao" has approved, and what is sent.
const TEMPLATE: (&str, &str) = ("T1", "주문 1042이 출발했습니다.");

/// The channels that are behind a link.
const LINKED: [Channel; 8] = [
    Channel::Apns,
    Channel::Fcm,
    Channel::Webpush,
    Channel::Sms,
    Channel::Email,
    Channel::Telegram,
    Channel::Alimtalk,
    Channel::Webhook,
];

/// A call as its provider saw it.
#[derive(Debug, Clone)]
pub struct Call {
    /// The number of whoever it was for.
    pub to: u64,
    /// What lets the other side recognise that it comes again, where there is such a thing.
    pub handle: Option<String>,
}

/// Who carries text messages, which is told by the country of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Carrier {
    /// Of whatever has no account of its own.
    Twilio,
    Vonage,
    /// Any other, by the settings of an HTTP API.
    Gateway,
}

impl Carrier {
    /// The number of somebody's telephone.
    fn phone(self, number: u64) -> String {
        match self {
            Carrier::Twilio => format!("+8210{number:08}"),
            Carrier::Vonage => format!("+121{number:08}"),
            Carrier::Gateway => format!("+4477{number:08}"),
        }
    }
}

/// The recording providers. The inbox is its own one.
pub struct Channels {
    pub apns: Apns,
    pub fcm: Fcm,
    pub browsers: Webhooks,
    pub twilio: Twilio,
    pub vonage: Vonage,
    pub gateway: Webhooks,
    pub mails: Smtp,
    pub bot: Telegram,
    pub aligo: Aligo,
    pub hooks: Webhooks,
    links: HashMap<Channel, Link>,
    carriers: HashMap<Carrier, Link>,
}

impl Channels {
    /// Starts them.
    pub async fn start() -> anyhow::Result<Self> {
        let mut channels = Channels {
            apns: Apns::start().await?,
            fcm: Fcm::start().await?,
            browsers: Webhooks::start().await?,
            twilio: Twilio::start().await?,
            vonage: Vonage::start().await?,
            gateway: Webhooks::start().await?,
            mails: Smtp::start().await?,
            bot: Telegram::start().await?,
            aligo: Aligo::start().await?,
            hooks: Webhooks::start().await?,
            links: HashMap::new(),
            carriers: HashMap::new(),
        };
        channels.aligo.register(TEMPLATE.0, "주문 #{order}이 출발했습니다.", &json!({}));
        for channel in LINKED {
            let port = channels.port(channel)?;
            channels.links.insert(channel, Link::to(port).await?);
        }
        let vonage = Link::to(port_of(channels.vonage.base_url())?).await?;
        let gateway = Link::to(channels.gateway.address().port()).await?;
        channels.carriers.extend([(Carrier::Vonage, vonage), (Carrier::Gateway, gateway)]);
        Ok(channels)
    }

    fn port(&self, channel: Channel) -> anyhow::Result<u16> {
        match channel {
            Channel::Apns => port_of(self.apns.base_url()),
            Channel::Fcm => port_of(self.fcm.base_url()),
            Channel::Webpush => Ok(self.browsers.address().port()),
            Channel::Sms => port_of(self.twilio.base_url()),
            Channel::Email => Ok(self.mails.address().port()),
            Channel::Telegram => port_of(self.bot.base_url()),
            Channel::Alimtalk => port_of(self.aligo.base_url()),
            Channel::Webhook => Ok(self.hooks.address().port()),
            Channel::Inbox => anyhow::bail!("the inbox has no provider"),
        }
    }

    /// The link to a channel's provider. There is none to the inbox.
    pub fn link(&self, channel: Channel) -> &Link {
        &self.links[&channel]
    }

    /// All links.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values().chain(self.carriers.values())
    }

    /// The settings of all of them; `more_of_sms` are further keys of the account for text messages.
    pub fn settings(&self, more_of_sms: &str) -> anyhow::Result<String> {
        let url = |channel| format!("http://127.0.0.1:{}", self.link(channel).port());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_pem();
        let account = json!({
            "type": "service_account", "project_id": "shop", "private_key_id": "1", "private_key": RSA_KEY,
            "client_email": "peal@shop.iam.gserviceaccount.com",
            "token_uri": format!("{}/token", url(Channel::Fcm)),
        });
        Ok(format!(
            "[channels.apns]\nkey = '''{key}'''\nkey_id = \"ABC123DEFG\"\nteam_id = \"DEF123GHIJ\"\n\
             topic = \"com.example.shop\"\nbase_url = \"{}\"\ntimeout_seconds = 2\n\
             [channels.fcm]\nservice_account = '''{account}'''\nbase_url = \"{}\"\n\
             [channels.webpush]\nprivate_key = \"{}\"\nsubject = \"mailto:ops@example.com\"\n\
             allowed_networks = [\"127.0.0.0/8\"]\n\
             [channels.sms.twilio]\naccount_sid = \"AC{:032}\"\nauth_token = \"t\"\nfrom = \"+14155550100\"\n\
             base_url = \"{}\"\n{more_of_sms}\n\
             [channels.email.smtp]\nhost = \"127.0.0.1\"\nport = {}\ntls = \"none\"\nfrom = \"Shop <shop@example.com>\"\n\
             [channels.telegram]\ntoken = \"1:secret\"\nbase_url = \"{}\"\n\
             [channels.alimtalk.aligo]\napi_key = \"k\"\nuser_id = \"shop\"\nsender_key = \"s\"\n\
             sender = \"02-1234-5678\"\nbase_url = \"{}\"\n",
            url(Channel::Apns),
            url(Channel::Fcm),
            *VapidKey::generate().private(),
            1,
            url(Channel::Sms),
            self.link(Channel::Email).port(),
            url(Channel::Telegram),
            url(Channel::Alimtalk),
        ))
    }

    /// The settings of the other carriers, beside those of all.
    pub fn settings_of_carriers(&self) -> String {
        let url = |carrier| format!("http://127.0.0.1:{}", self.carriers[&carrier].port());
        format!(
            "[channels.accounts.us.for]\ncountries = [\"+1\"]\n[channels.accounts.us.vonage]\napi_key = \"k\"\n\
             api_secret = \"s\"\nfrom = \"Shop\"\nbase_url = \"{}\"\n\
             [channels.accounts.gb.for]\ncountries = [\"+44\"]\n[channels.accounts.gb.sms_http]\nurl = \"{}/send\"\n\
             body = '[\"{{{{ to }}}}\", \"{{{{ text }}}}\"]'\n",
            url(Carrier::Vonage),
            url(Carrier::Gateway),
        )
    }

    /// A recipient who can be reached on every channel.
    pub fn recipient(&self, number: u64, carrier: Carrier) -> Value {
        let url =
            |channel, path: &str| format!("http://127.0.0.1:{}/{path}/{number}", self.link(channel).port());
        let keys = json!({ "p256dh": VapidKey::generate().public(), "auth": "AwMDAwMDAwMDAwMDAwMDAw" });
        let subscription = json!({ "endpoint": url(Channel::Webpush, "push"), "keys": keys });
        json!({ "contacts": [
            { "channel": "apns", "token": format!("{number:064}") },
            { "channel": "fcm", "token": format!("android-{number}") },
            { "channel": "webpush", "subscription": subscription },
            // The number serves Alimtalk, too.
            { "channel": "sms", "address": carrier.phone(number) },
            { "channel": "email", "address": format!("u-{number}@example.com") },
            { "channel": "telegram", "address": (1000 + number).to_string() },
            { "channel": "webhook", "address": url(Channel::Webhook, "hook") },
        ]})
    }

    /// What is said on each of them.
    pub fn content() -> Value {
        let (code, text) = TEMPLATE;
        let alimtalk = json!({ "template_code": code, "text": text });
        json!({ "title": "Shipped", "body": "It is on its way", "by_channel": { "alimtalk": alimtalk } })
    }

    /// All calls that a channel's provider has taken so far. Those of the inbox are the items in its stream.
    pub async fn calls(&self, channel: Channel, connection: &Connection) -> anyhow::Result<Vec<Call>> {
        let by_header = |requests: Vec<Request>, name: &str| {
            let call = |request: &Request| called(&request.path, Some(request.header(name)));
            requests.iter().map(call).collect::<anyhow::Result<Vec<_>>>()
        };
        match channel {
            Channel::Apns => by_header(self.apns.received(), "apns-id"),
            Channel::Webpush => by_header(self.browsers.received(), "topic"),
            Channel::Webhook => by_header(self.hooks.received(), "webhook-id"),
            Channel::Fcm => {
                let pushes = self.fcm.pushes();
                let call = |push: &Request| {
                    let message = push.json()["message"].take();
                    called(text(&message["token"]), message["android"]["notification"]["tag"].as_str())
                };
                pushes.iter().map(call).collect()
            }
            Channel::Sms => {
                let field = |request: &Request, name: &str| {
                    let form = form_urlencoded::parse(&request.body).into_owned();
                    form.into_iter().find(|(key, _)| key == name).map(|(_, to)| to).unwrap_or_default()
                };
                // It is asked for messages, too.
                let sent = self.twilio.received().into_iter().filter(|it| it.method == Method::POST);
                let twilio = sent.map(|it| field(&it, "To"));
                let vonage = self.vonage.received().into_iter().map(|it| field(&it, "to"));
                let gateway = self.gateway.received().into_iter().map(|it| text(&it.json()[0]).to_owned());
                twilio.chain(vonage).chain(gateway).map(|to| called(&to, None)).collect()
            }
            Channel::Email => {
                let call = |mail: &peal_dispatcher::recording::Mail| {
                    let address = mail.to.first().context("a mail to nobody")?;
                    let id = mail.text.lines().find(|line| line.starts_with("Message-ID:"));
                    called(address.trim_end_matches("@example.com"), id)
                };
                self.mails.mails().iter().map(call).collect()
            }
            Channel::Telegram => {
                let chat = |call: &peal_dispatcher::recording::TelegramCall| {
                    let id = &call.parameters["chat_id"];
                    id.as_u64().or_else(|| id.as_str()?.parse().ok()).context("a message to no chat")
                };
                let calls = self.bot.calls();
                calls.iter().map(|call| Ok(Call { to: chat(call)? - 1000, handle: None })).collect()
            }
            Channel::Alimtalk => self.aligo.messages().iter().map(|it| called(&it.receiver, None)).collect(),
            Channel::Inbox => items(connection).await,
        }
    }
}

fn port_of(url: String) -> anyhow::Result<u16> {
    Url::parse(&url)?.port().context("a provider without a port")
}

/// A call whose address ends with a number of at most eight digits.
fn called(address: &str, handle: Option<&str>) -> anyhow::Result<Call> {
    let digits = address.rfind(|c: char| !c.is_ascii_digit()).map_or(address, |at| &address[at + 1..]);
    let to = digits[digits.len().saturating_sub(8)..].parse();
    let to = to.with_context(|| format!("nobody has the address {address}"))?;
    Ok(Call { to, handle: handle.filter(|handle| !handle.is_empty()).map(str::to_owned) })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

async fn items(connection: &Connection) -> anyhow::Result<Vec<Call>> {
    let mut calls = Vec::new();
    let mut reader = Reader::open(connection, INBOX).await?;
    while reader.peek().await?.is_some() {
        let Some(message) = reader.take() else { continue };
        let entry = InboxEntry::decode(&message.payload)?;
        if matches!(entry.what, InboxChange::Item { .. }) {
            calls.push(called(entry.recipient.as_str(), Some(entry.item.as_str()))?);
        }
    }
    Ok(calls)
}
