//! What a failure means beyond the message that met it: for others of the account, or when many meet the same.

use peal_common::channel::Channel;
use peal_common::event::{Event, EventType};
use peal_dispatcher::recording::{Fcm, Telegram};
use serde_json::json;
use tokio::net::TcpListener;

use crate::channels::http2_peer::{NO_ERROR, Peer};
use crate::spine::LIMIT;
use crate::spine::accounts::{Account, RIGHT, Server, is_message};
use crate::spine::region::{Region, intake, kinds};

/// Longer than anything that happens meanwhile, and half of it is shorter than a circuit's first wait.
const BASE: &str = "[dispatcher]\nretry_base_ms = 5000\n";

/// A region with somebody at each of these addresses.
async fn region(account: &Account, addresses: &[String]) -> (Region, u64) {
    let region = Region::start().await;
    region.category("orders", json!({"class": "transactional"})).await;
    let mut state = 0;
    for (number, address) in addresses.iter().enumerate() {
        state = region.recipient(&format!("u-{number}"), &[(account.channel, address)], json!({})).await;
    }
    (region, state)
}

async fn send(region: &Region, channel: Channel, number: usize, state: u64) {
    let mut intake = intake(&format!("n-{number}"), &[&format!("u-{number}")], state);
    intake.notification.channels = Some(serde_json::from_value(json!([channel])).unwrap());
    region.accept(&intake).await;
}

fn settings(account: &Account) -> String {
    format!("{BASE}{}", account.settings(RIGHT, "http", account.host_and_port()))
}

fn server(account: &Account) -> &peal_dispatcher::recording::Webhooks {
    match &account.server {
        Server::Http(server) => server,
        Server::Smtp(_) => panic!("a provider of HTTP"),
    }
}

async fn retried(region: &Region, number: usize) -> (Option<String>, Option<u32>) {
    let Event { reason, attempts, .. } = region.event(&format!("n-{number}"), EventType::Retried).await;
    (reason, attempts)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_service_that_takes_our_key_from_nobody_costs_no_more_attempts() {
    const ENOUGH: usize = 10;
    let account = Account::start("webpush").await;
    let addresses: Vec<_> = (0..ENOUGH + 2).map(|n| server(&account).url(&format!("/{n}"))).collect();
    let (region, state) = region(&account, &addresses).await;
    server(&account).answer(super::status(403));
    let dispatcher = region.dispatcher(&settings(&account));
    for number in 0..ENOUGH {
        send(&region, account.channel, number, state).await;
    }
    for number in 0..ENOUGH {
        assert_eq!(retried(&region, number).await, (Some("http_403".to_owned()), Some(1)));
    }
    for number in ENOUGH..ENOUGH + 2 {
        send(&region, account.channel, number, state).await;
        let held_back = (Some("circuit_open: http_403".to_owned()), None);
        assert_eq!(retried(&region, number).await, held_back);
    }
    assert_eq!(account.calls(), ENOUGH);
    account.guard(|_| None);
    for number in 0..ENOUGH + 2 {
        let sent = region.event(&format!("n-{number}"), EventType::Sent).await;
        assert_eq!(sent.attempts, Some(if number < ENOUGH { 2 } else { 1 }));
    }
    region.drained().await;
    assert!(region.dead_letters().await.is_empty());
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tokens_of_another_project_are_the_accounts_fault() {
    const SPIKE: usize = 10;
    let account = Account::start("fcm").await;
    let addresses: Vec<_> = (0..SPIKE + 2).map(|n| format!("android-{n}")).collect();
    let (region, state) = region(&account, &addresses).await;
    account.guard(|request| {
        let mismatch = Fcm::error(403, "PERMISSION_DENIED", &[Fcm::code("SENDER_ID_MISMATCH")]);
        is_message("fcm", request).then_some(mismatch)
    });
    let dispatcher = region.dispatcher(&settings(&account));
    // One after the other: in a row, as a project of ours that is the wrong one would have it.
    for number in 0..SPIKE - 1 {
        send(&region, account.channel, number, state).await;
        let failed = region.event(&format!("n-{number}"), EventType::Failed).await;
        assert_eq!(failed.reason.as_deref(), Some("sender_id_mismatch"));
    }
    send(&region, account.channel, SPIKE - 1, state).await;
    assert_eq!(retried(&region, SPIKE - 1).await, (Some("sender_id_mismatch".to_owned()), None));
    account.guard(|_| None);
    for number in SPIKE..SPIKE + 2 {
        send(&region, account.channel, number, state).await;
    }
    for number in SPIKE - 1..SPIKE + 2 {
        let sent = region.event(&format!("n-{number}"), EventType::Sent).await;
        assert_eq!(sent.attempts, Some(1), "it burnt none");
    }
    region.drained().await;
    assert_eq!(region.dead_letters().await.len(), SPIKE - 1);
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_that_is_too_fast_is_frozen_as_a_whole() {
    const ASKED: u64 = 4;
    let account = Account::start("telegram").await;
    let (region, state) = region(&account, &["4711".to_owned(), "4712".to_owned()]).await;
    account.guard(|_| None);
    server(&account).answer_next(Telegram::error(429, "Too Many Requests", Some(ASKED)));
    let dispatcher = region.dispatcher(&settings(&account));
    send(&region, account.channel, 0, state).await;
    assert_eq!(retried(&region, 0).await, (Some("http_429".to_owned()), Some(1)));
    send(&region, account.channel, 1, state).await;
    let paused = region.event("n-1", EventType::Retried).await;
    assert_eq!((paused.reason.as_deref(), paused.attempts), (Some("provider_paused"), None));
    assert_eq!(account.calls(), 1, "the other one has to wait too");
    let thawed = region.event("n-1", EventType::Sent).await;
    assert_eq!(thawed.attempts, Some(1), "it burnt none");
    let frozen = region.event("n-0", EventType::Retried).await;
    assert!(thawed.at.duration_since(frozen.at).as_secs_f64() > ASKED as f64 - 0.5);
    region.event("n-0", EventType::Sent).await;
    region.drained().await;
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_apple_has_looked_at_before_it_goes_away_is_tried_again() {
    let account = Account::start("apns").await;
    let (region, state) = region(&account, &[account.address()]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let place = (address.ip().to_string(), address.port());
    let dispatcher = region.dispatcher(&account.settings(RIGHT, "http", place));
    send(&region, account.channel, 0, state).await;
    let accept = async || Peer::accept(listener.accept().await.unwrap().0, Some(100)).await.unwrap();
    let server = async {
        let mut first = accept().await;
        let [stream] = first.requests(1).await.try_into().unwrap();
        first.go_away(stream, NO_ERROR).await;
        drop(first);
        // What it has not looked at goes over the next connection, and is no attempt.
        let mut second = accept().await;
        second.requests(1).await;
        second.go_away(0, NO_ERROR).await;
        let mut third = accept().await;
        let [stream] = third.requests(1).await.try_into().unwrap();
        third.answer(stream).await;
        (second, third)
    };
    let open = tokio::time::timeout(LIMIT, server).await.expect("three connections");
    assert_eq!(retried(&region, 0).await, (Some("connection_lost".to_owned()), Some(1)));
    let sent = region.event("n-0", EventType::Sent).await;
    assert_eq!(sent.attempts, Some(2));
    region.drained().await;
    assert_eq!(
        kinds(&region.events().await, "n-0"),
        [EventType::Planned, EventType::Retried, EventType::Sent]
    );
    dispatcher.end().await;
    drop(open);
}
