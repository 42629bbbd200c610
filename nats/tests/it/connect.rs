//! Connecting: the errors say what to do.

use std::time::Duration;

use peal_nats::connect::{self, ConnectError, Options};
use peal_nats::server::free_port;

use crate::support::{connected, region, start};

#[tokio::test]
async fn an_address_without_server_fails_after_the_attempts() {
    let url = format!("nats://127.0.0.1:{}", free_port().unwrap());
    let mut options = Options::new([url.clone()], region(), "test");
    options.attempts = 2;
    let error = connect::connect(&options).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { attempts: 2, .. }), "{error:?}");
    assert!(error.to_string().contains(&url));
}

#[tokio::test]
async fn a_missing_credentials_file_is_named() {
    let mut options = Options::new(["nats://127.0.0.1:1"], region(), "test");
    options.auth = connect::Auth::CredentialsFile("/no/such.creds".into());
    let error = connect::connect(&options).await.unwrap_err();
    assert!(error.to_string().contains("/no/such.creds"), "{error}");
}

#[tokio::test]
async fn requests_end_within_their_limit() {
    let running = start(|_| {}).await;
    let mut options = Options::new([running.server.url()], region(), "test");
    options.request_limit = Duration::from_millis(200);
    let connection = connect::connect(&options).await.unwrap();
    running.server.pause().await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(5), connection.jetstream.query_account()).await;
    assert!(answer.unwrap().is_err());
    running.server.resume().await.unwrap();
}

#[tokio::test]
async fn another_regions_streams_are_out_of_reach() {
    let (running, _) = connected().await;
    let options = Options::new([running.server.url()], "elsewhere".parse().unwrap(), "test");
    let connection = connect::connect(&options).await.unwrap();
    assert!(connection.jetstream.query_account().await.is_err());
}
