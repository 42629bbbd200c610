//! The link in e-mails that stops a category: looking, acting, and what is no link.

use peal_common::channel::Channel;
use peal_common::unsubscribe::Unsubscribe;
use reqwest::Method;
use serde_json::json;

use crate::harness::{Answer, Client, Harness};

const PREFERENCES: &str = "/v1/recipients/u-42/preferences";

fn path(harness: &Harness, recipient: &str) -> String {
    let link = Unsubscribe {
        app: "shop".parse().unwrap(),
        recipient: recipient.parse().unwrap(),
        category: "news".parse().unwrap(),
        channel: Channel::Email,
    };
    link.link("", &harness.sealer).unwrap()
}

/// What a mailbox provider sends (RFC 8058 §3.2).
async fn one_click(client: &Client, path: &str) -> Answer {
    let form = "application/x-www-form-urlencoded";
    let request = client.request(Method::POST, path).header("content-type", form);
    Answer::of(request.body("List-Unsubscribe=One-Click")).await
}

async fn recipient(harness: &Harness) -> Client {
    let client = harness.admin().await;
    let contact = json!({"channel": "email", "address": "kim@example.com"});
    client.put("/v1/recipients/u-42", json!({"contacts": [contact]})).await.ok(201);
    client
}

#[tokio::test]
async fn one_click_stops_the_category_and_nothing_else() {
    let harness = Harness::start().await;
    let client = recipient(&harness).await;
    let before = json!({"categories": {"news": {"digest": "daily"}}, "marketing": true});
    client.put(PREFERENCES, before.clone()).await.ok(200);
    let path = path(&harness, "u-42");

    // Scanners look at every link.
    let page = harness.anonymous().get(&path).await;
    page.ok(200);
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(page.text.contains("<form method=\"post\">") && page.text.contains("“news”"), "{}", page.text);
    assert!(!page.text.contains("u-42") && !page.text.contains("kim"), "{}", page.text);
    assert!(page.header("content-security-policy").contains("form-action 'self'"));
    assert_eq!((page.header("cache-control"), page.header("referrer-policy")), ("no-store", "no-referrer"));
    Answer::of(harness.anonymous().request(Method::HEAD, &path)).await.ok(200);
    assert_eq!(client.get(PREFERENCES).await.ok(200), &before);

    let after =
        json!({"categories": {"news": {"channels": {"email": false}, "digest": "daily"}}, "marketing": true});
    for _ in 0..2 {
        let done = one_click(&harness.anonymous(), &path).await;
        done.ok(200);
        assert!(done.text.contains("You are unsubscribed") && !done.text.contains("<form"), "{}", done.text);
        assert!(!done.text.contains("u-42") && !done.text.contains("kim"), "{}", done.text);
        assert_eq!(client.get(PREFERENCES).await.ok(200), &after);
    }

    // Wanted again, and stopped again.
    client.put(PREFERENCES, before).await.ok(200);
    one_click(&harness.anonymous(), &path).await.ok(200);
    assert_eq!(client.get(PREFERENCES).await.ok(200), &after);
}

#[tokio::test]
async fn what_is_no_link_is_refused_and_changes_nothing() {
    let harness = Harness::start().await;
    let client = recipient(&harness).await;
    let path = path(&harness, "u-42");
    let last = if path.ends_with('A') { "B" } else { "A" };
    let tampered = [
        format!("{}{last}", &path[..path.len() - 1]),
        path[..path.len() - 8].to_owned(),
        format!("{path}AAAA"),
        "/u/x".to_owned(),
        "/u/%00".to_owned(),
    ];
    for path in &tampered {
        for answer in [harness.anonymous().get(path).await, one_click(&harness.anonymous(), path).await] {
            answer.ok(404);
            assert!(answer.text.contains("This link is not valid"), "{path}: {}", answer.text);
        }
    }
    assert_eq!(client.get(PREFERENCES).await.ok(200), &json!({}));
    harness.anonymous().put(&path, json!({})).await.problem(405, "method_not_allowed");
}

#[tokio::test]
async fn whoever_is_gone_gets_nothing_and_is_not_made_again() {
    let harness = Harness::start().await;
    let client = recipient(&harness).await;
    client.delete("/v1/recipients/u-42").await;
    for id in ["u-42", "nobody"] {
        one_click(&harness.anonymous(), &path(&harness, id)).await.ok(200);
        client.get(&format!("/v1/recipients/{id}")).await.problem(404, "not_found");
    }
}

#[tokio::test]
async fn without_jetstream_nobody_is_told_that_it_is_stopped() {
    let mut harness = Harness::start().await;
    let client = recipient(&harness).await;
    let path = path(&harness, "u-42");
    harness.server.kill().await.unwrap();
    let refused = one_click(&harness.anonymous(), &path).await;
    refused.ok(503);
    assert!(!refused.header("retry-after").is_empty());
    assert!(refused.header("content-type").starts_with("text/html"));
    assert!(refused.text.contains("not unsubscribed yet"), "{}", refused.text);

    harness.server.restart().await.unwrap();
    harness.ready().await;
    one_click(&harness.anonymous(), &path).await.ok(200);
    let preferences = client.get(PREFERENCES).await;
    assert_eq!(preferences.ok(200), &json!({"categories": {"news": {"channels": {"email": false}}}}));
}

#[tokio::test]
async fn the_api_description_has_it() {
    let harness = Harness::start().await;
    let document = harness.anonymous().get("/openapi.json").await;
    let path = &document.ok(200)["paths"]["/u/{token}"];
    for method in ["get", "post"] {
        assert_eq!(path[method]["security"], json!([{}]), "{path}");
    }
}
