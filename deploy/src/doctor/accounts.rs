//! Accounts at providers: whether they work, as the dispatcher finds by asking something harmless.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use reqwest::Client;
use serde::Deserialize;

use super::Check;
use crate::up::ready;

const NAME: &str = "account";
/// How long the answer may take: a provider that does not answer is given up after 20 s.
const LIMIT: Duration = Duration::from_secs(30);

/// An account, as the dispatcher lists it.
#[derive(Debug, Deserialize)]
struct Account {
    channel: String,
    provider: String,
    status: AccountStatus,
    #[serde(default)]
    reason: String,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AccountStatus {
    Works,
    Fails,
    Unknown,
}

/// Asks the dispatcher that listens on `listen`. Nothing when it does not answer, which another check tells.
pub async fn accounts(listen: SocketAddr, client: &Client) -> Vec<Check> {
    let url = format!("{}/accounts", ready::base_url(listen));
    let Ok(answer) = client.get(url).timeout(LIMIT).send().await else { return Vec::new() };
    let Ok(body) = answer.bytes().await else { return Vec::new() };
    match serde_json::from_slice::<Vec<Account>>(&body) {
        Ok(accounts) => checks(&accounts),
        Err(_) => {
            let advice = "peal-dispatcher is of another version, or something else listens there";
            vec![Check::warn(NAME, "the dispatcher does not list its accounts", advice)]
        }
    }
}

fn checks(accounts: &[Account]) -> Vec<Check> {
    let is_unknown = |account: &&Account| account.status == AccountStatus::Unknown;
    let unknown: BTreeSet<_> =
        accounts.iter().filter(is_unknown).map(|account| account.provider.as_str()).collect();
    let mut checks: Vec<_> = accounts.iter().filter(|account| !is_unknown(account)).map(check).collect();
    if !unknown.is_empty() {
        let names: Vec<_> = unknown.into_iter().collect();
        checks.push(Check::ok(
            NAME,
            format!("not asked, since only a message would tell: {}", names.join(", ")),
        ));
    }
    checks
}

fn check(Account { channel, provider, status, reason }: &Account) -> Check {
    if *status == AccountStatus::Works {
        return Check::ok(NAME, format!("{provider} ({channel}) answers and takes the credentials"));
    }
    let advice = format!(
        "correct {provider}'s credentials and address in the settings, which the dispatcher takes without a restart \
         on SIGHUP, or see whether the provider is down"
    );
    Check::fail(NAME, format!("{provider} ({channel}): {reason}"), advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn what_only_a_message_would_tell_is_one_line() {
        let of = |provider: &str, status| Account {
            channel: "sms".to_owned(),
            provider: provider.to_owned(),
            status,
            reason: "http_401".to_owned(),
        };
        let unknown = |provider| of(provider, AccountStatus::Unknown);
        let accounts = [unknown("c"), of("b", AccountStatus::Fails), unknown("a"), unknown("c")];
        let [b, others] = checks(&accounts).try_into().unwrap();
        assert_eq!((b.status, b.found.as_str()), (Status::Fail, "b (sms): http_401"));
        assert!(others.found.ends_with(": a, c"), "{}", others.found);
    }
}
