//! What happens to all accounts at providers alike: credentials that are put right while the dispatcher runs, names that
//! lead nowhere, servers without TLS, and providers that want to be left in peace for a moment.

use std::sync::atomic::{AtomicU32, Ordering};

use peal_common::envelope::Text;
use peal_common::event::EventType;
use peal_dispatcher::recording::{Answer, Vonage};
use serde_json::json;

use super::accounts::{Account, RIGHT, content, json_of};
use super::region::{Region, intake};

/// What is written before it is put right. As long as what the providers know.
const WRONG: &str = "WRONG00001";
/// Enough for what goes wrong until it is put right.
const ATTEMPTS: &str = "[dispatcher]\nmax_attempts = 100\n";

/// Accounts of which no two serve the same channel.
const SETS: [&[&str]; 3] = [
    &["apns", "fcm", "telegram", "twilio", "smtp"],
    &["vonage", "sendgrid", "aligo"],
    &["sms_http", "mandrill"],
];

struct Trial {
    region: Region,
    accounts: Vec<Account>,
    state: u64,
}

impl Trial {
    async fn start(set: &[&'static str]) -> Self {
        let region = Region::start().await;
        region.category("orders", json!({"class": "transactional"})).await;
        let mut accounts = Vec::new();
        for name in set {
            let account = Account::start(name).await;
            account.guard(|_| None);
            accounts.push(account);
        }
        let addresses: Vec<_> = accounts.iter().map(|account| (account.channel, account.address())).collect();
        let contacts: Vec<_> =
            addresses.iter().map(|(channel, address)| (*channel, address.as_str())).collect();
        let state = region.recipient("u", &contacts, json!({})).await;
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
            intake.notification.text = Text::Content(content());
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
            assert_eq!(account.calls(), 1, "{}", account.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_refusals_passes() {
    /// How often each provider says that it has had enough.
    const STORM: u32 = 4;
    for set in SETS.into_iter().chain([&["webpush"][..]]) {
        let trial = Trial::start(set).await;
        for account in &trial.accounts {
            let (said, name) = (AtomicU32::new(0), account.name);
            account.guard(move |_| {
                let number = said.fetch_add(1, Ordering::Relaxed);
                // What is nonsense counts as nothing.
                let after = ["0", "soon", "-1", "Thu, 01 Jan 1970 00:00:00 GMT"][number as usize % 4];
                let enough = match name {
                    "vonage" => Vonage::parts(&[1]),
                    "telegram" => json_of(
                        429,
                        &json!({"ok": false, "error_code": 429, "description": "Too Many Requests",
                               "parameters": {"retry_after": 1}}),
                    ),
                    // FCM wants to be left alone for a minute (channels/fcm/outcome.rs), which is too long here.
                    "fcm" => return None,
                    "apns" => json_of(429, &json!({"reason": "TooManyRequests"})),
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
