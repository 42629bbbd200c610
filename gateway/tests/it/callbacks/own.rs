//! Reports about what an app's own account sent.

use peal_common::channel::Channel;
use peal_common::key::Scope;
use serde_json::{Value, json};

use super::{becomes, delivery, harness, post_form, sent};
use crate::harness::{APP, Answer, Client, Harness};

fn twilio(token: &str) -> Value {
    json!({"twilio": {"account_sid": "AC01", "auth_token": token, "from": "+14155550100"}})
}

#[tokio::test]
async fn an_app_s_own_account_reports_of_that_app_alone() {
    let harness = harness().await;
    let client = harness.admin().await;
    let mine = sent(&harness, "n-1", Channel::Sms, "twilio:shop/main").await;
    becomes(&client, "n-1", "sent").await;
    let post = async |app: &str, token: &str, status: &str| {
        let path = format!("/v1/callbacks/twilio?app={app}&ref={mine}");
        let fields = [("MessageSid", "SM1"), ("MessageStatus", status), ("To", "+821012345678")];
        post_form(&harness, &path, token, "x-twilio-signature", &fields).await
    };
    post(APP, "own-t0ken", "delivered").await.problem(404, "not_found");
    client.put("/v1/accounts/main", twilio("own-t0ken")).await.ok(201);
    // With the app's name only the app's keys count, and the keys of the app do not count without it.
    post(APP, "token", "delivered").await.problem(401, "invalid_signature");
    let without = format!("/v1/callbacks/twilio?ref={mine}");
    let fields = [("MessageStatus", "delivered")];
    post_form(&harness, &without, "own-t0ken", "x-twilio-signature", &fields)
        .await
        .problem(401, "invalid_signature");
    post("no app", "own-t0ken", "delivered").await.problem(404, "not_found");

    // Another app's account says nothing about this app's deliveries.
    let bank = harness.client(&harness.key_of("bank", &[Scope::Admin]).await);
    bank.put("/v1/accounts/main", twilio("bank-t0ken")).await.ok(201);
    post("bank", "bank-t0ken", "undelivered").await.ok(200);
    post(APP, "bank-t0ken", "undelivered").await.problem(401, "invalid_signature");
    assert_eq!(delivery(&client, "n-1").await["status"], "sent");

    post(APP, "own-t0ken", "delivered").await.ok(200);
    becomes(&client, "n-1", "delivered").await;
    for secret in ["own-t0ken", "bank-t0ken"] {
        assert_eq!(harness.files_with(secret), Vec::<String>::new());
    }

    // Another key in its place; and none any more.
    client.put("/v1/accounts/main", twilio("newer-t0ken")).await.ok(200);
    post(APP, "own-t0ken", "delivered").await.problem(401, "invalid_signature");
    post(APP, "newer-t0ken", "delivered").await.ok(200);
    client.delete("/v1/accounts/main").await.ok(204);
    post(APP, "newer-t0ken", "delivered").await.problem(404, "not_found");
}

#[tokio::test]
async fn an_app_s_own_bot_tells_who_blocked_it() {
    let harness = harness().await;
    let bank = harness.client(&harness.key_of("bank", &[Scope::Admin]).await);
    let bot = json!({"telegram": {"token": "1:t"}, "callbacks": {"telegram": {"keys": ["own-key"]}}});
    bank.put("/v1/accounts/bot", bot).await.ok(201);
    let blocked = json!({"update_id": 1, "my_chat_member": {
        "chat": {"id": 4711}, "date": harness.clock.now().as_second(),
        "new_chat_member": {"status": "kicked", "user": {"id": 1}}}});
    let post = async |key: &str| {
        let path = "/v1/callbacks/telegram?app=bank";
        let request = harness.anonymous().request(reqwest::Method::POST, path);
        let request = request.header("content-type", "application/json");
        let request = request.header("x-telegram-bot-api-secret-token", key);
        Answer::of(request.body(blocked.to_string())).await
    };
    post("t-key").await.problem(401, "invalid_signature");
    post("own-key").await.ok(200);
    let is_blocked = async |client: &Client| client.get("/v1/suppressions/telegram/4711").await.status;
    assert_eq!(is_blocked(&bank).await, 200);
    // It writes for nobody else.
    assert_eq!(is_blocked(&harness.admin().await).await, 404);
}

#[tokio::test]
async fn bad_keys_are_refused_with_the_field() {
    let harness = harness().await;
    let client = harness.admin().await;
    let with = |callbacks: Value| {
        let mut account = twilio("t");
        account["callbacks"] = callbacks;
        account
    };
    for (callbacks, field, code) in [
        (json!({"sendgrid": {"keys": ["x"]}}), "callbacks.sendgrid.keys", "invalid_value"),
        (json!({"mandrill": {"keys": []}}), "callbacks.mandrill.keys", "invalid_value"),
        (json!({"mandrill": {"key_files": ["/etc/passwd"]}}), "callbacks.mandrill.key_files", "not_allowed"),
        (json!({"telegram": {"keys": ["k"], "apps": ["bank"]}}), "callbacks.telegram.apps", "other_app"),
        (json!({"mailgun": {"keys": ["k"]}}), "callbacks.mailgun", "unknown_field"),
        (json!(7), "callbacks", "wrong_type"),
        // What would be read by its place: a file that nobody named.
        (json!({"telegram": [[], ["/etc/passwd"]]}), "callbacks.telegram", "wrong_type"),
        (json!([null, null, null, null, null]), "callbacks", "wrong_type"),
    ] {
        let answer = client.put("/v1/accounts/main", with(callbacks)).await;
        answer.problem(422, "invalid");
        let error = &answer.body["errors"][0];
        assert_eq!((&error["field"], &error["code"]), (&json!(field), &json!(code)), "{}", answer.body);
    }
    client.get("/v1/accounts/main").await.problem(404, "not_found");
}

#[tokio::test]
async fn who_signs_its_address_is_refused_where_nobody_knows_that() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    for name in ["twilio", "mandrill"] {
        let mut account = twilio("t");
        account["callbacks"] = json!({ name: {"keys": ["k"]} });
        let answer = client.put("/v1/accounts/main", account).await;
        answer.field(&format!("callbacks.{name}"), "not_set_up");
    }
    // The account itself can be used all the same, and others sign what they post.
    let mut account = twilio("t");
    account["callbacks"] = json!({"telegram": {"keys": ["k"]}});
    client.put("/v1/accounts/main", account).await.ok(201);
}
