//! `peal keys …`.

use crate::support::Region;

#[tokio::test]
async fn a_key_is_made_listed_rotated_and_revoked() {
    let region = Region::with_streams().await;
    let empty = region.run(["keys", "list"]).await.exits(0);
    assert!(empty.stdout.contains("no keys yet"), "{}", empty.stdout);

    let create =
        ["--json", "keys", "create", "--app", "shop", "--name", "checkout", "--scope", "send,read,send"];
    let made = region.run(create.into_iter().chain(["--expires-in", "90d"])).await.exits(0).json();
    let (key, secret) = (made["key"].as_str().unwrap(), made["secret"].as_str().unwrap());
    assert!(key.starts_with("pk_") && secret.starts_with("sk_"), "{made}");
    assert_eq!(made["scopes"], serde_json::json!(["send", "read"]));
    region.run(["keys", "create", "--app", "bank", "--scope", "admin"]).await.exits(0);

    let all = region.run(["--json", "keys", "list"]).await.exits(0).json();
    assert_eq!(all["data"].as_array().unwrap().len(), 2, "{all}");
    let list = region.run(["keys", "list", "--app", "shop"]).await.exits(0);
    assert!(list.stdout.contains(key) && list.stdout.contains("live until"), "{}", list.stdout);
    assert!(!list.stdout.contains("bank") && !list.stdout.contains("sk_"), "{}", list.stdout);

    let rotated = region.run(["--json", "keys", "rotate", key]).await.exits(0).json();
    assert_ne!(rotated["secret"].as_str(), Some(secret));
    assert_eq!(rotated["secrets"].as_array().unwrap().len(), 2, "{rotated}");
    let thrice = region.run(["--json", "keys", "rotate", key]).await.exits(0).json();
    assert_eq!(thrice["secrets"].as_array().unwrap().len(), 2, "{thrice}");

    region.run(["keys", "revoke", key]).await.exits(0);
    region.run(["keys", "revoke", key]).await.exits(0);
    let list = region.run(["keys", "list", "--app", "shop"]).await.exits(0);
    assert!(list.stdout.contains("revoked"), "{}", list.stdout);
    let refused = region.run(["keys", "rotate", key]).await.exits(1);
    assert!(refused.stderr.contains("revoked"), "{}", refused.stderr);
}

#[tokio::test]
async fn a_key_that_is_not_there_and_a_missing_region_key_are_told() {
    let region = Region::with_streams().await;
    for command in ["rotate", "revoke"] {
        let ran = region.run(["keys", command, "pk_nobody"]).await.exits(1);
        assert!(ran.stderr.contains("no such key") && ran.stderr.contains("pk_nobody"), "{}", ran.stderr);
    }
    region
        .run(["keys", "create", "--app", "a", "--scope", "send", "--expires-at", "2020-01-01T00:00:00Z"])
        .await
        .exits(2);
    std::fs::write(&region.config, format!("[nats]\nurls = [\"{}\"]\n", region.server.url())).unwrap();
    let ran = region.run(["keys", "create", "--app", "a", "--scope", "send"]).await.exits(2);
    assert!(ran.stderr.contains("region.key_file"), "{}", ran.stderr);
}

#[tokio::test]
async fn the_webhook_secret_belongs_to_the_app_and_needs_no_server() {
    let mut region = Region::start().await;
    region.server.kill().await.unwrap();
    let shop = region.run(["keys", "webhook-secret", "--app", "shop"]).await.exits(0);
    let again = region.run(["keys", "webhook-secret", "--app", "shop"]).await.exits(0);
    let bank = region.run(["keys", "webhook-secret", "--app", "bank"]).await.exits(0);
    assert!(shop.stdout.starts_with("whsec_") && shop.stdout == again.stdout && shop.stdout != bank.stdout);
}

#[tokio::test]
async fn a_vapid_key_is_made_and_its_public_half_shown_again() {
    let mut region = Region::start().await;
    region.server.kill().await.unwrap();
    let made = region.run(["keys", "vapid", "--json"]).await.exits(0);
    let made: serde_json::Value = serde_json::from_str(&made.stdout).unwrap();
    let mut settings = std::fs::read_to_string(&region.config).unwrap();
    settings += &format!(
        "\n[channels.webpush]\nsubject = \"mailto:ops@example.com\"\nprivate_key = {}\n",
        made["private_key"]
    );
    std::fs::write(&region.config, &settings).unwrap();
    let shown = region.run(["keys", "vapid"]).await.exits(0);
    assert_eq!(shown.stdout.trim(), made["public_key"].as_str().unwrap());
    let broken = settings.replace(made["private_key"].as_str().unwrap(), "SECRET");
    std::fs::write(&region.config, broken).unwrap();
    let refused = region.run(["keys", "vapid"]).await.exits(2);
    assert!(refused.stderr.contains("channels.webpush.private_key"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("SECRET"), "{}", refused.stderr);
}
