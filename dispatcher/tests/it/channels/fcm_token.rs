//! FCM: when access tokens are asked for, with what, and what it means when there is none.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use peal_common::clock::Clock;
use peal_common::outcome::Outcome;
use peal_dispatcher::channels::fcm::{Client, Options};
use peal_dispatcher::recording::{Answer, Fcm};
use ring::rsa::KeyPair;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::fcm::{EMAIL, KEY, TOKEN_URI, client, client_with, device, sent, settings};
use super::fixture::{SHORT, SOON, clock, retry, retry_after, unavailable};

fn is_sent(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Sent { .. })
}

async fn send(client: &Client) -> Outcome {
    client.send(&device(1).message()).await
}

async fn send_many(client: &Client, count: u32) -> Vec<Outcome> {
    join_all((0..count).map(|n| async move { client.send(&device(n).message()).await })).await
}

fn after(clock: &Clock, seconds: u64) {
    clock.advance(Duration::from_secs(seconds));
}

#[tokio::test]
async fn one_token_serves_all_who_send_at_once() {
    let server = Fcm::start().await.unwrap();
    let client = client(&server);
    server.answer_next_grant(Fcm::grant("ya29.1", 3599).after(SHORT));
    // The answer above is not counted as given.
    server.answer(Answer::status(200).body(r#"{"name":"projects/shop-1042/messages/1"}"#));
    assert!(send_many(&client, 100).await.iter().all(is_sent));
    assert!(is_sent(&send(&client).await));
    assert_eq!(server.grants().len(), 1);
    assert!(server.pushes().iter().all(|push| push.header("authorization") == "Bearer ya29.1"));
}

#[tokio::test]
async fn a_token_is_asked_for_with_a_word_that_the_account_signed() {
    let server = Fcm::start().await.unwrap();
    assert_eq!(send(&client(&server)).await, sent(1));
    let [request] = server.grants().try_into().unwrap();
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/token"));
    assert_eq!(request.header("content-type"), "application/x-www-form-urlencoded");
    let form: Vec<_> = url::form_urlencoded::parse(&request.body).into_owned().collect();
    let [(grant_type, kind), (assertion, word)] = form.try_into().unwrap();
    assert_eq!((grant_type.as_str(), assertion.as_str()), ("grant_type", "assertion"));
    assert_eq!(kind, "urn:ietf:params:oauth:grant-type:jwt-bearer");

    let (signed, signature) = word.rsplit_once('.').unwrap();
    let der = PrivatePkcs8KeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
    let key = KeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap();
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public().as_ref());
    let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    public.verify(signed.as_bytes(), &signature).unwrap();
    signature[7] ^= 1;
    public.verify(signed.as_bytes(), &signature).unwrap_err();

    let parts: Vec<Value> = signed
        .split('.')
        .map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap())
        .collect();
    // 2026-11-22T12:00:00Z.
    let claims = json!({
        "iss": EMAIL,
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "aud": TOKEN_URI,
        "iat": 1_795_348_800,
        "exp": 1_795_352_400,
    });
    assert_eq!(parts, [json!({"alg": "RS256", "typ": "JWT", "kid": "0123abcd"}), claims]);
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires() {
    let server = Fcm::start().await.unwrap();
    let clock = clock();
    let client = client_with(&settings(&server), clock.clone());
    let bearer = || server.pushes().last().unwrap().header("authorization").to_owned();
    for (seconds, token, grants) in [(0, 1, 1), (3_298, 1, 1), (1, 2, 2), (3_298, 2, 2), (3_600, 3, 3)] {
        after(&clock, seconds);
        assert!(is_sent(&send(&client).await));
        assert_eq!((bearer(), server.grants().len()), (format!("Bearer ya29.{token}"), grants));
    }
}

#[tokio::test]
async fn while_a_token_is_renewed_the_old_one_serves() {
    let server = Fcm::start().await.unwrap();
    let clock = clock();
    let client = client_with(&settings(&server), clock.clone());
    assert!(is_sent(&send(&client).await));
    after(&clock, 3_400);

    // One of them asks and the others do not wait for it.
    server.answer_next_grant(Answer::status(503).after(SHORT));
    let started = Instant::now();
    assert!(send_many(&client, 20).await.iter().all(is_sent));
    assert!(started.elapsed() >= SHORT, "who asked has waited");
    assert_eq!(server.grants().len(), 2);
    // Nobody asks again at once.
    assert!(send_many(&client, 20).await.iter().all(is_sent));
    after(&clock, 4);
    assert!(is_sent(&send(&client).await));
    assert_eq!(server.grants().len(), 2);
    after(&clock, 1);
    assert!(is_sent(&send(&client).await));
    assert_eq!(server.grants().len(), 3);
    assert_eq!(server.pushes().last().unwrap().header("authorization"), "Bearer ya29.2");
}

#[tokio::test]
async fn who_renews_does_not_wait_for_ever() {
    let server = Fcm::start().await.unwrap();
    let clock = clock();
    let mut options = Options::from_settings(&settings(&server)).unwrap();
    options.timeout = Duration::from_secs(2);
    let client = Client::new(options, clock.clone()).unwrap();
    assert!(is_sent(&send(&client).await));
    after(&clock, 3_400);
    server.answer_next_grant(Answer::hang());
    assert!(
        is_sent(&timeout(SOON, send(&client)).await.unwrap()),
        "with the old one, in the time that is left"
    );
    assert_eq!(server.grants().len(), 2);
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_once() {
    let server = Fcm::start().await.unwrap();
    let clock = clock();
    let client = client_with(&settings(&server), clock.clone());
    assert!(is_sent(&send(&client).await));
    server.revoke();
    assert!(send_many(&client, 50).await.iter().all(is_sent), "nobody notices");
    assert_eq!(server.grants().len(), 2);
    // A second one so soon is not asked for.
    server.revoke();
    for outcome in send_many(&client, 20).await {
        assert_eq!(outcome, unavailable("unauthenticated"));
    }
    assert_eq!(server.grants().len(), 2);
    after(&clock, 10);
    assert!(is_sent(&send(&client).await));
    assert_eq!(server.grants().len(), 3);
}

#[tokio::test]
async fn firebase_that_takes_no_token_is_not_asked_for_ever() {
    let server = Fcm::start().await.unwrap();
    let client = client(&server);
    server.answer(Fcm::error(401, "UNAUTHENTICATED", &[]));
    assert_eq!(send(&client).await, unavailable("unauthenticated"));
    assert_eq!((server.grants().len(), server.pushes().len()), (2, 2));
    for outcome in send_many(&client, 20).await {
        assert_eq!(outcome, unavailable("unauthenticated"));
    }
    assert_eq!((server.grants().len(), server.pushes().len()), (2, 22));
}

#[tokio::test]
async fn without_a_token_nothing_is_sent() {
    let error = |status, error: &str| Answer::status(status).body(json!({"error": error}).to_string());
    let answers = [
        (error(400, "invalid_grant"), unavailable("credentials_refused")),
        (error(401, "invalid_client"), unavailable("credentials_refused")),
        (error(403, "access_denied"), unavailable("credentials_refused")),
        (Answer::status(404), unavailable("credentials_refused")),
        (
            Answer::status(302).header("location", "http://127.0.0.1:9/"),
            unavailable("token_redirect_refused"),
        ),
        (Answer::status(429).header("retry-after", "9"), retry_after("token_http_429", 9)),
        (Answer::status(500), retry("token_http_500")),
        (Answer::status(503).header("retry-after", "17"), retry_after("token_http_503", 17)),
        (Answer::status(200).body("<html>Welcome to the hotel</html>"), retry("token_unreadable")),
        (Answer::status(200).endless(), retry("token_unreadable")),
        (Answer::reset(), retry("token_connection_lost")),
    ];
    for (answer, expected) in answers {
        let server = Fcm::start().await.unwrap();
        let clock = clock();
        let client = client_with(&settings(&server), clock.clone());
        server.answer_grants(answer.clone());
        for outcome in timeout(SOON, send_many(&client, 20)).await.expect("outcomes in time") {
            assert_eq!(outcome, expected, "{answer:?}");
        }
        after(&clock, 4);
        assert_eq!(send(&client).await, expected);
        assert_eq!(server.grants().len(), 1, "nobody asks again at once: {answer:?}");
        server.grant_again();
        after(&clock, 1);
        assert_eq!(send(&client).await, sent(1));
        assert_eq!((server.grants().len(), server.pushes().len()), (2, 1));
    }
}

#[tokio::test]
async fn silence_of_who_gives_out_tokens_is_bounded() {
    for answer in [Answer::hang(), Answer::status(200).stalled()] {
        let server = Fcm::start().await.unwrap();
        let mut options = Options::from_settings(&settings(&server)).unwrap();
        options.timeout = SHORT;
        let client = Client::new(options, clock()).unwrap();
        server.answer_next_grant(answer);
        let started = Instant::now();
        for outcome in send_many(&client, 20).await {
            let Outcome::Retry { reason, after: None } = outcome else { panic!("{outcome:?}") };
            assert!(["token_timeout", "token_unreadable"].contains(&&*reason), "{reason}");
        }
        assert!(started.elapsed() < SHORT + Duration::from_secs(5));
        assert!(server.pushes().is_empty());
    }
}

#[tokio::test]
async fn a_closed_port_of_who_gives_out_tokens_is_a_retry() {
    let (server, other) = (Fcm::start().await.unwrap(), Fcm::start().await.unwrap());
    let mut settings = settings(&server);
    settings.token_url = Some(other.token_url());
    drop(other);
    let closed = async {
        while client_with(&settings, clock()).send(&device(1).message()).await
            != retry("token_connect_failed")
        {}
    };
    timeout(SOON, closed).await.expect("the port is closed");
    assert!(server.pushes().iter().all(|push| push.header("authorization").starts_with("Bearer ya29.")));
}
