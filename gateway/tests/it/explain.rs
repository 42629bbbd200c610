//! Why a recipient got a notification, or did not.

use peal_common::channel::Channel;
use peal_common::key::Scope;
use peal_common::suppression::Suppression;
use serde_json::{Value, json};

use crate::harness::{Harness, eventually};

/// What each channel's rules say, as `channel: rule=detail, …`, with `!` for the channel that is chosen.
fn channels(explained: &Value) -> Vec<String> {
    let of = |channel: &Value| {
        let refused = channel["rules"].as_array().unwrap().iter().filter(|rule| rule["passed"] == false);
        let refused: Vec<_> = refused
            .map(|rule| format!("{}={}", rule["rule"].as_str().unwrap(), rule["detail"].as_str().unwrap()))
            .collect();
        let chosen = if channel["chosen"] == true { "!" } else { "" };
        format!("{}{chosen} {}", channel["channel"].as_str().unwrap(), refused.join(", "))
    };
    explained["channels"].as_array().unwrap().iter().map(of).collect()
}

fn refused(explained: &Value) -> Vec<(&str, &str)> {
    let rules = explained["rules"].as_array().unwrap().iter().filter(|rule| rule["passed"] == false);
    rules.map(|rule| (rule["rule"].as_str().unwrap(), rule["detail"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn every_rule_is_told_with_what_it_says() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    let order = json!(["telegram", "sms", "email", "push", "inbox"]);
    client.put("/v1/categories/orders", json!({"class": "transactional", "channels": order})).await.ok(201);
    let contacts = json!([
        {"channel": "sms", "address": "+821012345678"},
        {"channel": "email", "address": "a@example.com"},
        {"channel": "fcm", "token": "device-1"},
    ]);
    client.put("/v1/recipients/u-1", json!({"contacts": contacts})).await.ok(201);
    client.put("/v1/recipients/u-2", json!({})).await.ok(201);
    client.put("/v1/recipients/u-1/preferences", json!({"channels": {"sms": false}})).await.ok(200);
    let suppression =
        Suppression { reason: "hard_bounce".to_owned(), since: "2099-01-01T00:00:00Z".parse().unwrap() };
    harness.suppress(Channel::Email, "a@example.com", &suppression).await;
    eventually("the gateway has heard of it", || async {
        client.get("/v1/suppressions").await.ok(200).to_string().contains("hard_bounce")
    })
    .await;
    let to = json!([{"recipient": "u-1"}, {"recipient": "u-2"}]);
    let notification =
        json!({"id": "n-1", "category": "orders", "to": to, "content": {"title": "t", "body": "b"}});
    client.post("/v1/notifications", notification).await.ok(202);

    let answer = client.get("/v1/notifications/n-1/explain?recipient=u-1").await;
    let explained = answer.ok(200);
    assert_eq!((&explained["category"], &explained["class"]), (&json!("orders"), &json!("transactional")));
    assert_eq!(refused(explained), []);
    assert_eq!(
        channels(explained),
        [
            "telegram contact=no_contact",
            "sms preferences=channel_opt_out",
            "email suppression=address_suppressed",
            "apns contact=no_contact",
            "fcm! ",
            "webpush contact=no_contact",
            "inbox ",
        ]
    );
    assert_eq!(explained["events"][0]["type"], "accepted");
    let other = client.get("/v1/notifications/n-1/explain?recipient=u-2").await;
    assert_eq!(channels(other.ok(200)).last().unwrap(), "inbox! ");

    // What changes is told as it is now.
    client
        .put("/v1/recipients/u-1/preferences", json!({"categories": {"orders": {"enabled": false}}}))
        .await
        .ok(200);
    let answer = client.get("/v1/notifications/n-1/explain?recipient=u-1").await;
    assert!(channels(answer.ok(200)).iter().all(|channel| channel.contains("preferences=category_opt_out")));
    client.post("/v1/notifications/n-1/cancel", json!({})).await.ok(202);
    client.delete("/v1/recipients/u-1").await.ok(204);
    let answer = client.get("/v1/notifications/n-1/explain?recipient=u-1").await;
    assert_eq!(refused(answer.ok(200)), [("not_cancelled", "cancelled"), ("recipient", "unknown_recipient")]);

    client.get("/v1/notifications/n-1/explain").await.field("recipient", "required");
    client.get("/v1/notifications/n-1/explain?recipient=u-9").await.problem(404, "not_found");
    client.get("/v1/notifications/n-9/explain?recipient=u-1").await.problem(404, "not_found");
    let bank = harness.client(&harness.key_of("bank", &[Scope::Admin]).await);
    bank.get("/v1/notifications/n-1/explain?recipient=u-1").await.problem(404, "not_found");
}
