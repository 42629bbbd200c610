//! Webhooks reach public machines and what is allowed besides, and nothing else.

use peal_common::channel::Channel;
use peal_common::outcome::Outcome;
use peal_dispatcher::channels::Hosts;
use peal_dispatcher::channels::webhook::{Client, Options, Secrets, SigningSecret};
use peal_dispatcher::recording::Webhooks;

use super::fixture::{Fixture, SOON, clock, permanent, retry};

fn client(allowed: &[&str], hosts: Hosts) -> Client {
    let options = Options {
        timeout: SOON,
        allowed_networks: allowed.iter().map(|network| network.parse().unwrap()).collect(),
        hosts,
    };
    let secret = SigningSecret::from_bytes(&[1; 32]).unwrap();
    Client::new(options, Secrets::Fixed(vec![secret]), clock()).unwrap()
}

async fn send(client: &Client, url: &str) -> Outcome {
    client.send(&Fixture::to(Channel::Webhook, url, 1).message()).await
}

#[tokio::test]
async fn private_targets_are_refused_in_every_spelling() {
    let server = Webhooks::start().await.unwrap();
    let port = server.address().port();
    let hosts = Hosts::default();
    hosts.set("rebound.test", vec!["127.0.0.1".parse().unwrap()]);
    hosts.set("mapped.test", vec!["::ffff:127.0.0.1".parse().unwrap()]);
    hosts.set("link-local.test", vec!["169.254.169.254".parse().unwrap(), "fe80::1".parse().unwrap()]);
    let client = client(&[], hosts);
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:10.0.0.1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "169.254.169.254",
        "10.0.0.1",
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "rebound.test",
        "mapped.test",
        "link-local.test",
    ] {
        let outcome = send(&client, &format!("http://{host}:{port}/")).await;
        assert_eq!(outcome, permanent("private_target"), "{host}");
    }
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn the_systems_own_names_are_checked_after_they_are_resolved() {
    // Every machine knows itself by a name that leads to a private or loopback address; where it leads to none, or to
    // a public one, there is nothing to refuse.
    let server = Webhooks::start().await.unwrap();
    let name = std::fs::read_to_string("/etc/hostname").unwrap_or_default().trim().to_owned();
    let addresses: Vec<std::net::SocketAddr> = match tokio::net::lookup_host((name.as_str(), 1)).await {
        Ok(found) => found.collect(),
        Err(_) => Vec::new(),
    };
    let all_private = addresses.iter().all(|address| !peal_common::address::is_public(address.ip()));
    let expected = match (addresses.is_empty(), all_private) {
        (true, _) => retry("dns_failed"),
        (false, true) => permanent("private_target"),
        (false, false) => return,
    };
    if name.is_empty() {
        return;
    }
    let outcome =
        send(&client(&[], Hosts::default()), &format!("http://{name}:{}/", server.address().port())).await;
    assert_eq!(outcome, expected);
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn allowed_networks_are_reached_by_address_and_by_name() {
    let server = Webhooks::start().await.unwrap();
    let port = server.address().port();
    let hosts = Hosts::default();
    hosts.set("inside.test", vec!["127.0.0.1".parse().unwrap()]);
    // Of several addresses only the allowed ones are tried.
    hosts.set("mixed.test", vec!["10.9.9.9".parse().unwrap(), "127.0.0.1".parse().unwrap()]);
    let client = client(&["127.0.0.0/8"], hosts);
    for host in ["127.0.0.1", "127.1", "2130706433", "localhost", "inside.test", "mixed.test"] {
        let outcome = send(&client, &format!("http://{host}:{port}/")).await;
        assert_eq!(outcome, Outcome::Delivered { provider_id: None }, "{host}");
    }
    assert_eq!(server.count(), 6);
    for host in ["10.0.0.1", "[::ffff:10.0.0.1]", "192.168.0.1", "[fd00::1]"] {
        assert_eq!(
            send(&client, &format!("http://{host}:{port}/")).await,
            permanent("private_target"),
            "{host}"
        );
    }
}

#[tokio::test]
async fn a_name_that_changes_its_mind_is_checked_again() {
    let hosts = Hosts::default();
    let client = client(&["127.0.0.0/30"], hosts.clone());
    let first = Webhooks::start().await.unwrap();
    hosts.set("fickle.test", vec!["127.0.0.1".parse().unwrap()]);
    let url = |server: &Webhooks| format!("http://fickle.test:{}/", server.address().port());
    assert_eq!(send(&client, &url(&first)).await, Outcome::Delivered { provider_id: None });
    // Another port, so that no kept connection serves it.
    let second = Webhooks::start().await.unwrap();
    hosts.set("fickle.test", vec!["127.0.0.9".parse().unwrap()]);
    assert_eq!(send(&client, &url(&second)).await, permanent("private_target"));
    assert_eq!((first.count(), second.count()), (1, 0));
}

#[tokio::test]
async fn what_is_no_url_or_leads_nowhere_is_told_apart() {
    let hosts = Hosts::default();
    hosts.set("nowhere.test", Vec::new());
    let client = client(&[], hosts);
    for bad in [
        "example.com",
        "/x",
        "ftp://example.com/",
        "http://u:p@example.com/",
        "https://example.com/\r\na: b",
        "",
    ] {
        assert_eq!(send(&client, bad).await, permanent("invalid_address"), "{bad:?}");
    }
    assert_eq!(send(&client, "http://nowhere.test/").await, retry("dns_failed"));
}
