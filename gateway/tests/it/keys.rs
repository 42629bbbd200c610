//! Keys through the API.

use peal_common::key::Scope;
use serde_json::json;

use crate::harness::{Credentials, Harness};

fn credentials(body: &serde_json::Value) -> Credentials {
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    Credentials { key: text("key"), secret: text("secret") }
}

#[tokio::test]
async fn a_key_is_made_rotated_and_revoked() {
    let harness = Harness::start().await;
    let admin = harness.admin().await;
    let body =
        json!({"app": "shop", "name": "checkout", "scopes": ["read", "read"], "rate_limit_per_second": 500});
    let made = admin.post("/v1/keys", body).await;
    let first = credentials(made.ok(201));
    assert!(first.key.starts_with("pk_") && first.secret.starts_with("sk_") && first.secret.len() == 46);
    assert_eq!(made.body["scopes"], json!(["read"]));
    harness.client(&first).get("/v1/recipients").await.ok(200);

    let shown = admin.get(&format!("/v1/keys/{}", first.key)).await;
    assert_eq!(shown.ok(200)["rate_limit_per_second"], 500);
    let listed = admin.get("/v1/keys").await;
    assert_eq!(listed.ok(200)["data"].as_array().unwrap().len(), 2);
    for text in [&shown.text, &listed.text] {
        assert!(!text.contains("sk_") && !text.contains("sealed"), "{text}");
    }

    let rotate = format!("/v1/keys/{}/rotate", first.key);
    let second = credentials(admin.post(&rotate, json!({})).await.ok(200));
    assert_eq!(second.key, first.key);
    for live in [&first, &second] {
        harness.client(live).get("/v1/recipients").await.ok(200);
    }
    let third = credentials(admin.post(&rotate, json!({})).await.ok(200));
    harness.client(&first).get("/v1/recipients").await.problem(401, "unauthorized");
    for live in [&second, &third] {
        harness.client(live).get("/v1/recipients").await.ok(200);
    }

    let path = format!("/v1/keys/{}", first.key);
    admin.delete(&path).await.ok(204);
    admin.delete(&path).await.ok(204);
    for dead in [&second, &third] {
        harness.client(dead).get("/v1/recipients").await.problem(401, "unauthorized");
    }
    assert_eq!(admin.get(&path).await.ok(200)["revoked"], true);
    admin.post(&rotate, json!({})).await.problem(409, "revoked");
    assert_eq!(harness.files_with(&third.secret), Vec::<String>::new(), "the secret is stored in the clear");
}

#[tokio::test]
async fn keys_of_other_apps_are_out_of_sight() {
    let harness = Harness::start().await;
    let admin = harness.admin().await;
    let bank = harness.key_of("bank", &[Scope::Read]).await;
    let path = format!("/v1/keys/{}", bank.key);
    admin.get(&path).await.problem(404, "not_found");
    admin.delete(&path).await.problem(404, "not_found");
    admin.post(&format!("{path}/rotate"), json!({})).await.problem(404, "not_found");
    assert_eq!(admin.get("/v1/keys").await.ok(200)["data"].as_array().unwrap().len(), 1);
    harness.client(&bank).get("/v1/recipients").await.ok(200);
}

#[tokio::test]
async fn pages_of_keys_hold_all_keys_of_the_app_once() {
    let harness = Harness::start().await;
    let admin = harness.admin().await;
    for n in 0..7 {
        admin.post("/v1/keys", json!({"name": format!("k{n}"), "scopes": ["read"]})).await.ok(201);
        harness.key_of("bank", &[Scope::Read]).await;
    }
    let mut names = Vec::new();
    let mut path = "/v1/keys?limit=3".to_owned();
    loop {
        let page = admin.get(&path).await;
        let body = page.ok(200);
        names.extend(
            body["data"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap().to_owned()),
        );
        let Some(next) = body["next"].as_str() else { break };
        path = format!("/v1/keys?limit=3&after={next}");
    }
    names.sort();
    assert_eq!(names, ["k0", "k1", "k2", "k3", "k4", "k5", "k6", "test"]);
}

#[tokio::test]
async fn what_is_wrong_with_a_new_key_is_said() {
    let harness = Harness::start().await;
    let admin = harness.admin().await;
    for (body, field, code) in [
        (json!({"app": "bank", "name": "x", "scopes": ["read"]}), "app", "other_app"),
        (json!({"name": "", "scopes": ["read"]}), "name", "invalid_value"),
        (json!({"name": "x", "scopes": []}), "scopes", "required"),
        (json!({"name": "x", "scopes": ["all"]}), "scopes[0]", "unknown_value"),
        (
            json!({"name": "x", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"}),
            "expires_at",
            "in_the_past",
        ),
        (json!({"name": "x", "scopes": ["read"], "expires_at": "soon"}), "expires_at", "invalid_value"),
        (
            json!({"name": "x", "scopes": ["read"], "rate_limit_per_second": 0}),
            "rate_limit_per_second",
            "out_of_range",
        ),
        (json!({"scopes": ["read"]}), "name", "missing_field"),
    ] {
        admin.post("/v1/keys", body).await.field(field, code);
    }
    assert_eq!(admin.get("/v1/keys").await.ok(200)["data"].as_array().unwrap().len(), 1);
}
