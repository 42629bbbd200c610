//! What happens to all accounts at providers alike: credentials that are put right while the dispatcher runs, names that
//! lead nowhere, servers without TLS, and providers that want to be left in peace for a moment.

use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use peal_common::channel::Channel;
use peal_common::event::EventType;
use peal_dispatcher::recording::{Answer, Mandrill, Request, Smtp, Twilio, Vonage, Webhooks};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};

use super::region::{Region, intake};

const RSA_KEY: &str = include_str!("../../keys/rsa-2048.pem");
/// What the providers know, and what is written before it is put right. As long as a key id of Apple.
const RIGHT: &str = "RIGHT00001";
const WRONG: &str = "WRONG00001";
/// Enough for what goes wrong until it is put right.
const ATTEMPTS: &str = "[dispatcher]\nmax_attempts = 100\n";

/// An account, and whoever stands in for its provider.
struct Account {
    name: &'static str,
    channel: Channel,
    server: Server,
}

enum Server {
    Http(Webhooks),
    Smtp(Smtp),
}

/// Accounts of which no two serve the same channel.
const SETS: [&[&str]; 3] =
    [&["apns", "fcm", "telegram", "twilio", "smtp"], &["vonage", "sendgrid"], &["sms_http", "mandrill"]];

impl Account {
    async fn start(name: &'static str) -> Self {
        let channel = match name {
            "apns" => Channel::Apns,
            "fcm" => Channel::Fcm,
            "telegram" => Channel::Telegram,
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
    fn guard(&self, also: impl Fn() -> Option<Answer> + Send + Sync + 'static) {
        let name = self.name;
        match &self.server {
            Server::Smtp(server) => server.require_login("peal", RIGHT),
            Server::Http(server) => server.answer_with(move |request| match knows(request) {
                true => also().unwrap_or_else(|| taken(name, request)),
                false => refused(name, request),
            }),
        }
    }

    fn host_and_port(&self) -> (String, u16) {
        let address = match &self.server {
            Server::Http(server) => server.address(),
            Server::Smtp(server) => server.address(),
        };
        (address.ip().to_string(), address.port())
    }

    /// The settings of the account, with this secret, of a provider at this place.
    fn settings(&self, secret: &str, scheme: &str, (host, port): (String, u16)) -> String {
        let url = format!("{scheme}://{host}:{port}");
        match self.name {
            "apns" => {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
                format!(
                    "[channels.apns]\nkey = '''{key}'''\nkey_id = \"{secret}\"\nteam_id = \"DEF123GHIJ\"\n\
                     topic = \"com.example.shop\"\nbase_url = \"{url}\"\n"
                )
            }
            "fcm" => {
                let account = json!({
                    "type": "service_account", "project_id": "shop", "private_key_id": secret,
                    "private_key": RSA_KEY, "client_email": "peal@shop.iam.gserviceaccount.com",
                    "token_uri": format!("{url}/token"),
                });
                format!("[channels.fcm]\nservice_account = '''{account}'''\nbase_url = \"{url}\"\n")
            }
            "telegram" => format!("[channels.telegram]\ntoken = \"1:{secret}\"\nbase_url = \"{url}\"\n"),
            "twilio" => format!(
                "[channels.sms.twilio]\naccount_sid = \"AC{:032}\"\nauth_token = \"{secret}\"\n\
                 from = \"+14155550100\"\nbase_url = \"{url}\"\n",
                1
            ),
            "vonage" => format!(
                "[channels.sms.vonage]\napi_key = \"k\"\napi_secret = \"{secret}\"\nfrom = \"Shop\"\n\
                 base_url = \"{url}\"\n"
            ),
            "sms_http" => format!(
                "[channels.sms.http]\nurl = \"{url}/send\"\nbody = '[\"{{{{ to }}}}\", \"{{{{ text }}}}\"]'\n\
                 headers = {{ Authorization = \"Bearer {secret}\" }}\n"
            ),
            "sendgrid" => format!(
                "[channels.email.sendgrid]\nkey = \"{secret}\"\nfrom = \"shop@example.com\"\nbase_url = \"{url}\"\n"
            ),
            "mandrill" => format!(
                "[channels.email.mandrill]\nkey = \"{secret}\"\nfrom = \"shop@example.com\"\nbase_url = \"{url}\"\n"
            ),
            _ => format!(
                "[channels.email.smtp]\nhost = \"{host}\"\nport = {port}\ntls = \"{}\"\nfrom = \"shop@example.com\"\n\
                 user = \"peal\"\npassword = \"{secret}\"\n",
                if scheme == "https" { "implicit" } else { "none" }
            ),
        }
    }
}

/// Whether a request shows the right secret, wherever its provider wants it.
fn knows(request: &Request) -> bool {
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
    // Whoever got a token had the right key.
    plain || given == "Bearer ya29.1" || String::from_utf8_lossy(&decoded).contains(RIGHT)
}

fn json_of(status: u16, body: Value) -> Answer {
    Answer::status(status).header("content-type", "application/json").body(body.to_string())
}

/// How a provider takes a message.
fn taken(name: &str, request: &Request) -> Answer {
    match name {
        "fcm" if request.path == "/token" => {
            json_of(200, json!({"access_token": "ya29.1", "expires_in": 3600, "token_type": "Bearer"}))
        }
        "fcm" => json_of(200, json!({"name": "projects/shop/messages/1"})),
        "telegram" => json_of(200, json!({"ok": true, "result": {"message_id": 1}})),
        "twilio" => json_of(201, json!({"sid": "SM1", "status": "queued"})),
        "vonage" => Vonage::parts(&[0]),
        "mandrill" => json_of(200, json!([{"email": "x", "status": "sent", "_id": "1"}])),
        "sendgrid" => Answer::status(202).header("x-message-id", "1"),
        "apns" => Answer::status(200).header("apns-id", "eabeae54-14a8-11e5-b60b-1697f925ec7b"),
        _ => Answer::status(200),
    }
}

/// How a provider refuses credentials.
fn refused(name: &str, request: &Request) -> Answer {
    match name {
        "apns" => json_of(403, json!({"reason": "InvalidProviderToken"})),
        "fcm" if request.path == "/token" => json_of(400, json!({"error": "invalid_grant"})),
        "telegram" => json_of(401, json!({"ok": false, "error_code": 401, "description": "Unauthorized"})),
        "twilio" => Twilio::error(401, 20003),
        "vonage" => Vonage::parts(&[4]),
        "mandrill" => Mandrill::error(401, -1, "Invalid_Key"),
        _ => Answer::status(401),
    }
}

struct Trial {
    region: Region,
    accounts: Vec<Account>,
    state: u64,
}

impl Trial {
    async fn start(set: &[&'static str]) -> Self {
        let region = Region::start().await;
        region.category("orders", json!({"class": "transactional"})).await;
        let contacts = [
            (Channel::Apns, "11fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f1"),
            (Channel::Fcm, "android"),
            (Channel::Telegram, "4711"),
            (Channel::Sms, "+821012345678"),
            (Channel::Email, "kim@example.com"),
        ];
        let state = region.recipient("u", &contacts, json!({})).await;
        let mut accounts = Vec::new();
        for name in set {
            let account = Account::start(name).await;
            account.guard(|| None);
            accounts.push(account);
        }
        Trial { region, accounts, state }
    }

    /// The settings of all accounts, each at the place that `place` says.
    fn settings(&self, secret: &str, scheme: &str, place: impl Fn(&Account) -> (String, u16)) -> String {
        let each = self.accounts.iter().map(|account| account.settings(secret, scheme, place(account)));
        each.fold(ATTEMPTS.to_owned(), |all, one| all + &one)
    }

    /// Sends something on each account's channel.
    async fn accept(&self) {
        for account in &self.accounts {
            let mut intake = intake(account.name, &["u"], self.state);
            intake.notification.channels = Some(serde_json::from_value(json!([account.channel])).unwrap());
            self.region.accept(&intake).await;
        }
    }

    /// Begins with settings that can't work, waits until each account has been tried, and puts them right.
    /// Gives the reason and the attempts that each had used up by the time that it was sent.
    async fn put_right(&self, wrong: &str) -> Vec<(&'static str, String, u32)> {
        let (dispatcher, reload) = self.region.reloading_dispatcher(wrong);
        self.accept().await;
        let mut reasons = Vec::new();
        for account in &self.accounts {
            let retried = self.region.event(account.name, EventType::Retried).await;
            assert_eq!(retried.provider.as_deref(), Some(account.name));
            reasons.push(retried.reason.unwrap());
        }
        let right = self.settings(RIGHT, "http", Account::host_and_port);
        reload.send(self.region.settings(&right)).await.unwrap();
        let mut found = Vec::new();
        for (account, reason) in self.accounts.iter().zip(reasons) {
            let sent = self.region.event(account.name, EventType::Sent).await;
            found.push((account.name, reason, sent.attempts.unwrap()));
        }
        self.region.drained().await;
        dispatcher.end().await;
        found
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_are_put_right_cost_no_attempt() {
    for set in SETS {
        let trial = Trial::start(set).await;
        let wrong = trial.settings(WRONG, "http", Account::host_and_port);
        for (name, reason, attempts) in trial.put_right(&wrong).await {
            assert_eq!(attempts, 1, "{name}: {reason}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_lead_nowhere_are_asked_again() {
    // No resolver has to be asked for a label of more than 63 characters (RFC 1035 §2.3.4).
    let nowhere = || (format!("{}.example", "x".repeat(64)), 443);
    for set in SETS {
        let trial = Trial::start(set).await;
        let wrong = trial.settings(RIGHT, "http", |_| nowhere());
        for (name, reason, _) in trial.put_right(&wrong).await {
            assert!(reason.ends_with("connect_failed"), "{name}: {reason}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_to_a_server_without_tls() {
    for set in SETS {
        let trial = Trial::start(set).await;
        let wrong = trial.settings(RIGHT, "https", Account::host_and_port);
        for (name, reason, _) in trial.put_right(&wrong).await {
            let expected = if name == "smtp" { "tls_failed" } else { "connect_failed" };
            assert!(reason.ends_with(expected), "{name}: {reason}");
        }
        for account in &trial.accounts {
            if let Server::Http(server) = &account.server {
                let calls = server.received().iter().filter(|request| request.path != "/token").count();
                assert_eq!(calls, 1, "{}", account.name);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_refusals_passes() {
    /// How often each provider says that it has had enough.
    const STORM: u32 = 4;
    for set in SETS {
        let trial = Trial::start(set).await;
        for account in &trial.accounts {
            let (said, name) = (AtomicU32::new(0), account.name);
            account.guard(move || {
                let number = said.fetch_add(1, Ordering::Relaxed);
                // What is nonsense counts as nothing.
                let after = ["0", "soon", "-1", "Thu, 01 Jan 1970 00:00:00 GMT"][number as usize % 4];
                let enough = match name {
                    "vonage" => Vonage::parts(&[1]),
                    "telegram" => json_of(
                        429,
                        json!({"ok": false, "error_code": 429, "description": "Too Many Requests",
                               "parameters": {"retry_after": 1}}),
                    ),
                    // FCM wants to be left alone for a minute (channels/fcm/outcome.rs), which is too long here.
                    "fcm" => return None,
                    "apns" => json_of(429, json!({"reason": "TooManyRequests"})),
                    _ => Answer::status(429),
                };
                (number < STORM).then(|| enough.header("retry-after", after))
            });
        }
        let dispatcher = trial.region.dispatcher(&trial.settings(RIGHT, "http", Account::host_and_port));
        trial.accept().await;
        for account in &trial.accounts {
            trial.region.event(account.name, EventType::Sent).await;
        }
        trial.region.drained().await;
        dispatcher.end().await;
    }
}
