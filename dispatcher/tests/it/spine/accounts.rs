//! Accounts at all providers: their settings, whom each is called for, and a stand-in for each provider that takes what
//! its real one would take.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use peal_common::channel::Channel;
use peal_common::template::Content;
use peal_common::vapid::VapidKey;
use peal_dispatcher::recording::{Aligo, Answer, Mandrill, Request, Smtp, Twilio, Vonage, Webhooks};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};

const RSA_KEY: &str = include_str!("../../keys/rsa-2048.pem");
/// The secret that the stand-ins know. As long as a key id of Apple.
pub const RIGHT: &str = "RIGHT00001";
/// The number of everybody, and how it is dialled in Korea.
const NUMBER: &str = "+821012345678";
const DIALLED: &str = "01012345678";
/// The text that is registered with Kakao.
const ALIMTALK: &str = "주문 1042이 출발했습니다.";
const SEND: &str = "/akv10/alimtalk/send/";

/// An account, and whoever stands in for its provider.
pub struct Account {
    pub name: &'static str,
    pub channel: Channel,
    pub server: Server,
}

pub enum Server {
    Http(Webhooks),
    Smtp(Smtp),
}

impl Account {
    /// At the provider with this name, which is that of its key in the settings.
    pub async fn start(name: &'static str) -> Self {
        let channel = match name {
            "apns" => Channel::Apns,
            "fcm" => Channel::Fcm,
            "webpush" => Channel::Webpush,
            "webhook" => Channel::Webhook,
            "telegram" => Channel::Telegram,
            "aligo" => Channel::Alimtalk,
            "twilio" | "vonage" | "sms_http" => Channel::Sms,
            _ => Channel::Email,
        };
        let server = match name {
            "smtp" => Server::Smtp(Smtp::start().await.unwrap()),
            _ => Server::Http(Webhooks::start().await.unwrap()),
        };
        Account { name, channel, server }
    }

    /// Has the provider decide: it refuses who does not know its secret, and what `also` says of others.
    pub fn guard(&self, also: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) {
        let name = self.name;
        match &self.server {
            Server::Smtp(server) => server.require_login("peal", RIGHT),
            Server::Http(server) => server.answer_with(move |request| match knows(name, request) {
                true => also(request).unwrap_or_else(|| taken(name, request)),
                false => refused(name, request),
            }),
        }
    }

    /// How often something was handed over to it, taken or not.
    pub fn calls(&self) -> usize {
        match &self.server {
            Server::Http(server) => {
                server.received().iter().filter(|request| is_message(self.name, request)).count()
            }
            Server::Smtp(server) => server.commands().iter().filter(|line| line.starts_with("MAIL")).count(),
        }
    }

    pub fn host_and_port(&self) -> (String, u16) {
        let address = match &self.server {
            Server::Http(server) => server.address(),
            Server::Smtp(server) => server.address(),
        };
        (address.ip().to_string(), address.port())
    }

    /// Where it reaches somebody.
    pub fn address(&self) -> String {
        match (self.channel, &self.server) {
            (Channel::Apns, _) => {
                "11fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f1".to_owned()
            }
            (Channel::Fcm, _) => "android".to_owned(),
            (Channel::Telegram, _) => "4711".to_owned(),
            (Channel::Sms | Channel::Alimtalk, _) => NUMBER.to_owned(),
            (_, Server::Http(server)) if matches!(self.name, "webpush" | "webhook") => server.url("/hook"),
            _ => "kim@example.com".to_owned(),
        }
    }

    /// The settings of the channel's account, with this secret, of a provider at this place.
    pub fn settings(&self, secret: &str, scheme: &str, place: (String, u16)) -> String {
        let section = match self.channel {
            Channel::Sms => format!("sms.{}", self.name.trim_start_matches("sms_")),
            Channel::Email => format!("email.{}", self.name),
            Channel::Alimtalk => format!("alimtalk.{}", self.name),
            _ => self.name.to_owned(),
        };
        format!("[channels.{section}]\n{}", self.keys(secret, scheme, place))
    }

    /// The settings of one more account, which serves one app and has its name.
    pub fn settings_for(&self, app: &str) -> String {
        let keys = self.keys(RIGHT, "http", self.host_and_port());
        format!(
            "[channels.accounts.{app}]\nfor = {{ apps = [\"{app}\"] }}\n[channels.accounts.{app}.{}]\n{keys}",
            self.name
        )
    }

    fn keys(&self, secret: &str, scheme: &str, (host, port): (String, u16)) -> String {
        let url = format!("{scheme}://{host}:{port}");
        match self.name {
            "apns" => {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
                format!(
                    "key = '''{key}'''\nkey_id = \"{secret}\"\nteam_id = \"DEF123GHIJ\"\n\
                     topic = \"com.example.shop\"\nbase_url = \"{url}\"\n"
                )
            }
            "fcm" => {
                let account = json!({
                    "type": "service_account", "project_id": "shop", "private_key_id": secret,
                    "private_key": RSA_KEY, "client_email": "peal@shop.iam.gserviceaccount.com",
                    "token_uri": format!("{url}/token"),
                });
                format!("service_account = '''{account}'''\nbase_url = \"{url}\"\n")
            }
            "webpush" => format!(
                "private_key = \"{}\"\nsubject = \"mailto:ops@example.com\"\nallowed_networks = [\"127.0.0.0/8\"]\n",
                *VapidKey::generate().private()
            ),
            "webhook" => "allowed_networks = [\"127.0.0.0/8\"]\n".to_owned(),
            // Bots with the same token have their limits together.
            "telegram" => format!("token = \"{port}:{secret}\"\nbase_url = \"{url}\"\n"),
            "aligo" => format!(
                "api_key = \"{secret}\"\nuser_id = \"shop\"\nsender_key = \"s\"\nsender = \"02-1234-5678\"\n\
                 base_url = \"{url}\"\n"
            ),
            "twilio" => format!(
                "account_sid = \"AC{:032}\"\nauth_token = \"{secret}\"\nfrom = \"+14155550100\"\n\
                 base_url = \"{url}\"\n",
                1
            ),
            "vonage" => {
                format!("api_key = \"k\"\napi_secret = \"{secret}\"\nfrom = \"Shop\"\nbase_url = \"{url}\"\n")
            }
            "sms_http" => format!(
                "url = \"{url}/send\"\nbody = '[\"{{{{ to }}}}\", \"{{{{ text }}}}\"]'\n\
                 headers = {{ Authorization = \"Bearer {secret}\" }}\n"
            ),
            "sendgrid" | "mandrill" => {
                format!("key = \"{secret}\"\nfrom = \"shop@example.com\"\nbase_url = \"{url}\"\n")
            }
            _ => format!(
                "host = \"{host}\"\nport = {port}\ntls = \"{}\"\nfrom = \"shop@example.com\"\nuser = \"peal\"\n\
                 password = \"{secret}\"\n",
                if scheme == "https" { "implicit" } else { "none" }
            ),
        }
    }
}

/// Something to say that every channel takes.
pub fn content() -> Content {
    let alimtalk = json!({"template_code": "T1", "text": ALIMTALK});
    let body = "Order 1042 <is> on its way";
    serde_json::from_value(json!({"title": "Shipped", "body": body, "by_channel": {"alimtalk": alimtalk}}))
        .unwrap()
}

/// Whether a request shows the right secret, wherever its provider wants it.
fn knows(name: &str, request: &Request) -> bool {
    let given = request.header("authorization");
    let body = String::from_utf8_lossy(&request.body);
    let basic = given.strip_prefix("Basic ").and_then(|basic| STANDARD.decode(basic).ok());
    // Of signed tokens the header names the key.
    let tokens = [given.strip_prefix("bearer "), body.split("assertion=").nth(1)];
    let headers = tokens
        .into_iter()
        .flatten()
        .filter_map(|token| URL_SAFE_NO_PAD.decode(token.split('.').next()?).ok());
    let decoded: Vec<u8> = basic.into_iter().chain(headers).flatten().collect();
    let plain = [given, request.path.as_str(), &body].iter().any(|text| text.contains(RIGHT));
    // Whoever got a token had the right key, and servers of recipients know nobody.
    plain
        || given == "Bearer ya29.1"
        || matches!(name, "webpush" | "webhook")
        || String::from_utf8_lossy(&decoded).contains(RIGHT)
}

/// Whether a request hands a message over, and does not only ask for something.
pub fn is_message(name: &str, request: &Request) -> bool {
    match name {
        "fcm" => request.path != "/token",
        "aligo" => request.path == SEND,
        _ => request.method == "POST",
    }
}

/// Whether a request asks Aligo what became of a batch.
pub fn asks_for_results(request: &Request) -> bool {
    request.path == "/akv10/history/detail/"
}

pub fn json_of(status: u16, body: &Value) -> Answer {
    Answer::status(status).header("content-type", "application/json").body(body.to_string())
}

/// How Aligo tells what became of the only message of a batch.
pub fn result(code: &str) -> Answer {
    json_of(200, &json!({"code": 0, "list": [{"phone": DIALLED, "status": "완료", "rslt": code}]}))
}

/// How a provider takes a message, or answers a question.
pub fn taken(name: &str, request: &Request) -> Answer {
    match name {
        "fcm" if request.path == "/token" => {
            json_of(200, &json!({"access_token": "ya29.1", "expires_in": 3600, "token_type": "Bearer"}))
        }
        "fcm" => json_of(200, &json!({"name": "projects/shop/messages/1"})),
        "webpush" => Answer::status(201),
        "telegram" => json_of(200, &json!({"ok": true, "result": {"message_id": 1}})),
        "aligo" => match request.path.as_str() {
            SEND => json_of(200, &json!({"code": 0, "info": {"mid": 1}})),
            "/akv10/template/list/" => {
                let text = json!({"templtCode": "T1", "templtContent": ALIMTALK, "inspStatus": "APR"});
                json_of(200, &json!({"code": 0, "list": [text]}))
            }
            _ if asks_for_results(request) => result("0000"),
            _ => json_of(200, &json!({"code": 0, "list": []})),
        },
        "twilio" if !is_message(name, request) => json_of(200, &json!({"messages": []})),
        "twilio" => json_of(201, &json!({"sid": "SM1", "status": "queued"})),
        "vonage" => Vonage::parts(&[0]),
        "mandrill" => json_of(200, &json!([{"email": "x", "status": "sent", "_id": "1"}])),
        "sendgrid" => Answer::status(202).header("x-message-id", "1"),
        "apns" => Answer::status(200).header("apns-id", "eabeae54-14a8-11e5-b60b-1697f925ec7b"),
        _ => Answer::status(200),
    }
}

/// How a provider refuses credentials.
fn refused(name: &str, request: &Request) -> Answer {
    match name {
        "apns" => json_of(403, &json!({"reason": "InvalidProviderToken"})),
        "fcm" if request.path == "/token" => json_of(400, &json!({"error": "invalid_grant"})),
        "telegram" => json_of(401, &json!({"ok": false, "error_code": 401, "description": "Unauthorized"})),
        "aligo" => Aligo::error(-101),
        "twilio" => Twilio::error(401, 20003),
        "vonage" => Vonage::parts(&[4]),
        "mandrill" => Mandrill::error(401, -1, "Invalid_Key"),
        _ => Answer::status(401),
    }
}
