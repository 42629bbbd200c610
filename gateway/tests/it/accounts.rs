//! An app's own accounts at providers.

use peal_common::key::Scope;
use peal_common::state::{Kind, RecordKey};
use peal_nats::catalog::read_account;
use serde_json::{Value, json};

use crate::harness::{APP, Harness};

fn telegram(token: &str) -> Value {
    json!({"telegram": {"token": token}, "for": {"classes": ["marketing"]}})
}

#[tokio::test]
async fn an_account_lives_and_its_secrets_are_shown_to_nobody() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    let token = "123456:AA-s3cret_token";
    let made = client.put("/v1/accounts/bot", telegram(token)).await;
    let view =
        json!({"name": "bot", "providers": ["telegram"], "for": {"classes": ["marketing"], "countries": []}});
    assert_eq!(made.ok(201), &view);
    client.put("/v1/accounts/bot", telegram(token)).await.ok(200);
    assert_eq!(client.get("/v1/accounts/bot").await.ok(200), &view);
    let smtp =
        json!({"smtp": {"host": "smtp.example.com", "from": "a@example.com", "password": "pass-s3cret"}});
    client.put("/v1/accounts/mail", smtp).await.ok(201);
    let listed = client.get("/v1/accounts").await;
    assert_eq!(listed.ok(200)["data"].as_array().unwrap().len(), 2);
    assert!(!listed.body.to_string().contains("s3cret"));
    for secret in [token, "pass-s3cret"] {
        assert_eq!(harness.files_with(secret), Vec::<String>::new());
    }

    // Dispatchers can open it.
    let key = RecordKey::new(Kind::Account, &APP.parse().unwrap(), "bot");
    let stored = harness
        .connection
        .last_of(&harness.subjects.state_stream(), &harness.subjects.state(key.as_str()))
        .await;
    let record = serde_json::from_slice(&stored.unwrap().unwrap().payload).unwrap();
    let account = read_account(&key, &record, &harness.sealer).unwrap().unwrap();
    assert_eq!(account.settings.telegram.unwrap().token.unwrap().expose(), token);

    // Another app has none, and makes its own.
    let bank = harness.client(&harness.key_of("bank", &[Scope::Admin]).await);
    bank.get("/v1/accounts/bot").await.problem(404, "not_found");
    assert_eq!(bank.get("/v1/accounts").await.ok(200)["data"], json!([]));
    bank.delete("/v1/accounts/bot").await.ok(204);
    client.get("/v1/accounts/bot").await.ok(200);
    client.delete("/v1/accounts/bot").await.ok(204);
    client.get("/v1/accounts/bot").await.problem(404, "not_found");
    client.delete("/v1/accounts/bot").await.ok(204);
    let sender = harness.client(&harness.key_of(APP, &[Scope::Send, Scope::Manage]).await);
    sender.put("/v1/accounts/bot", telegram(token)).await.problem(403, "forbidden");
}

#[tokio::test]
async fn an_app_has_so_many_accounts_and_no_more() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    for number in 0..32 {
        client.put(&format!("/v1/accounts/bot-{number}"), telegram("t")).await.ok(201);
    }
    client.put("/v1/accounts/another", telegram("t")).await.problem(409, "too_many");
    client.put("/v1/accounts/bot-7", telegram("t")).await.ok(200);
    client.delete("/v1/accounts/bot-7").await.ok(204);
    client.put("/v1/accounts/another", telegram("t")).await.ok(201);
}

#[tokio::test]
async fn what_can_be_no_account_is_refused_without_repeating_it() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    let cases = [
        (json!({}), ""),
        (json!({"for": {}}), ""),
        (json!({"telegram": {"token_file": "/etc/passwd"}}), "telegram.token_file"),
        (
            json!({"smtp": {"host": "h", "from": "a@example.com", "tls_ca_file": "/etc/passwd"}}),
            "smtp.tls_ca_file",
        ),
        (
            json!({"sms_http": {"url": "http://x", "header_files": {"x": "/etc/passwd"}}}),
            "sms_http.header_files",
        ),
        (json!({"pigeon": {}}), "pigeon"),
        (json!({"telegram": {"token": 7}}), "telegram.token"),
        (json!({"telegram": {"token": "t"}, "for": {"apps": ["bank"]}}), "for.apps"),
        (json!({"telegram": {"token": "t"}, "for": {"countries": ["KR"]}}), "for.countries"),
        (json!({"twilio": {"auth_token": "s3cret", "timeout_seconds": 99}}), "twilio.timeout_seconds"),
    ];
    for (body, field) in cases {
        let answer = client.put("/v1/accounts/x", body.clone()).await;
        assert_eq!(answer.status, 422, "{body}: {}", answer.body);
        let errors = answer.body["errors"].as_array().unwrap();
        assert_eq!(errors[0]["field"], field, "{body}: {}", answer.body);
        assert!(!answer.body.to_string().contains("s3cret"));
    }
    for name in ["A", "a b", "a.b", &"x".repeat(33)] {
        let answer = client.put(&format!("/v1/accounts/{name}"), telegram("t")).await;
        assert_eq!(answer.status, 422, "{name}: {}", answer.body);
    }
    assert_eq!(client.get("/v1/accounts").await.ok(200)["data"], json!([]));
}
