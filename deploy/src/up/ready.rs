//! Waiting for a process to say that it is ready, on `/readyz`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use reqwest::Client;
use tokio::time::{Instant, sleep};

/// How often it is asked.
const POLL: Duration = Duration::from_millis(50);
/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How much of an answer is told.
const TOLD_CHARACTERS: usize = 600;

/// The base address under which this machine reaches what listens on `listen`: a server on all addresses is asked on
/// the loopback.
#[must_use]
pub fn base_url(listen: SocketAddr) -> String {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, listen.port()))
}

/// Asks once. `Ok` means ready.
///
/// # Errors
/// What is missing, in words.
pub async fn ask(client: &Client, base: &str) -> Result<(), String> {
    let answer = client.get(format!("{base}/readyz")).timeout(ANSWER_LIMIT).send().await;
    let answer = answer.map_err(|error| {
        if error.is_timeout() {
            "it does not answer in time".to_owned()
        } else {
            "it does not answer".to_owned()
        }
    })?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let text = answer.text().await.unwrap_or_default();
    Err(format!("{status}: {}", text.trim().chars().take(TOLD_CHARACTERS).collect::<String>()))
}

/// Asks until it is ready.
///
/// # Errors
/// What is missing when `limit` is over.
pub async fn wait(client: &Client, base: &str, limit: Duration) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    loop {
        match ask(client, base).await {
            Ok(()) => return Ok(()),
            Err(missing) if Instant::now() >= deadline => return Err(missing),
            Err(_) => sleep(POLL).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_all_addresses_is_asked_on_the_loopback() {
        let url = |listen: &str| base_url(listen.parse().unwrap());
        assert_eq!(url("0.0.0.0:80"), "http://127.0.0.1:80");
        assert_eq!(url("[::]:80"), "http://[::1]:80");
        assert_eq!(url("10.0.0.1:80"), "http://10.0.0.1:80");
    }
}
