//! Settings that are read again: what stays as it is keeps what it has.

use std::net::TcpListener;

use peal_common::channel::Channel;
use peal_common::event::EventType;
use peal_dispatcher::recording::{Answer, Telegram};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};

use super::LIMIT;
use super::region::{Region, eventually, intake};
use crate::channels::http2_peer::Peer;

fn bot(account: &str, token: &str, bot: &Telegram) -> String {
    let section = match account {
        "" => "[channels.telegram]".to_owned(),
        name => format!(
            "[channels.accounts.{name}]\nfor = {{ classes = [\"marketing\"] }}\n[channels.accounts.{name}.telegram]"
        ),
    };
    format!("{section}\ntoken = \"{token}\"\nbase_url = \"{}\"\n", bot.base_url())
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_that_stay_as_they_are_keep_their_circuits_and_those_that_go_are_forgotten() {
    let region = Region::start().await;
    let server = Telegram::start().await.unwrap();
    server.answer_with(|call| match call.token.as_str() {
        "1:right" => Answer::status(200).body(r#"{"ok":true,"result":{"message_id":1}}"#),
        _ => Telegram::error(401, "Unauthorized", None),
    });
    region.category("orders", json!({"class": "transactional"})).await;
    let state = region.recipient("u", &[(Channel::Telegram, "4711")], json!({})).await;
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!("[dispatcher]\nlisten = \"127.0.0.1:{port}\"\n");
    let _ = rustls::crypto::ring::default_provider().install_default();
    let text = async |path: &str| {
        let answer = reqwest::get(format!("http://127.0.0.1:{port}{path}")).await.ok()?;
        answer.text().await.ok()
    };
    let telegrams = async || {
        let ready: Value = serde_json::from_str(&text("/readyz").await?).ok()?;
        let all = ready["accounts"].as_array()?.clone();
        Some(all.into_iter().filter(|it| it["channel"] == "telegram").collect::<Vec<_>>())
    };
    let gauges = async || {
        let metrics = text("/metrics").await.unwrap_or_default();
        let lines = metrics.lines().filter(|line| line.starts_with("peal_dispatcher_circuit_open{"));
        let mut lines: Vec<_> = lines.filter(|line| line.contains("telegram")).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let gauge = |provider: &str, value: u8| {
        format!("peal_dispatcher_circuit_open{{channel=\"telegram\",provider=\"{provider}\"}} {value}")
    };

    let wrong = bot("", "1:wrong", &server);
    let before = format!("{listen}{wrong}{}", bot("going", "2:x", &server));
    let (dispatcher, reload) = region.reloading_dispatcher(&before);
    region.accept(&intake("n-1", &["u"], state)).await;
    eventually("its circuit is open", async || {
        telegrams().await.is_some_and(|all| all.iter().any(|it| it["circuit"] == "open"))
    })
    .await;
    assert_eq!(gauges().await, [gauge("telegram", 1), gauge("telegram:going", 0)]);
    let open = telegrams().await.unwrap().into_iter().find(|it| it["provider"] == "telegram").unwrap();

    // The other one goes, and another one comes.
    let after = format!("{listen}{wrong}{}", bot("coming", "3:x", &server));
    reload.send(region.settings(&after)).await.unwrap();
    let names = async || {
        let all = telegrams().await.unwrap_or_default();
        all.iter().map(|it| it["provider"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    eventually("they are in force", async || names().await.contains(&"telegram:coming".to_owned())).await;
    let kept = telegrams().await.unwrap().into_iter().find(|it| it["provider"] == "telegram").unwrap();
    assert_eq!(kept, open, "since the same moment, for the same reason");
    assert_eq!(gauges().await, [gauge("telegram", 1), gauge("telegram:coming", 0)]);

    // One that was put right is another one, which nothing speaks against.
    let right = format!("{listen}{}", bot("", "1:right", &server));
    reload.send(region.settings(&right)).await.unwrap();
    let sent = region.event("n-1", EventType::Sent).await;
    assert_eq!(sent.attempts, Some(1));
    assert_eq!(gauges().await, [gauge("telegram", 0)]);
    region.drained().await;
    dispatcher.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_with_one_key_of_apple_share_a_connection_also_when_one_of_them_changes() {
    let region = Region::start().await;
    for (category, class) in [("orders", "transactional"), ("news", "marketing")] {
        region.category(category, json!({ "class": class })).await;
    }
    let device = "11fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f1";
    let state = region.recipient("u", &[(Channel::Apns, device)], json!({})).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let keys = |topic: &str| {
        format!(
            "key = '''{key}'''\nkey_id = \"ABC123DEFG\"\nteam_id = \"DEF123GHIJ\"\ntopic = \"{topic}\"\n\
             base_url = \"{url}\"\n"
        )
    };
    let settings = |topic: &str| {
        format!(
            "[channels.apns]\n{}[channels.accounts.ads]\nfor = {{ classes = [\"marketing\"] }}\n\
             [channels.accounts.ads.apns]\n{}",
            keys("com.example.shop"),
            keys(topic)
        )
    };
    let (dispatcher, reload) = region.reloading_dispatcher(&settings("com.example.ads"));
    let send = async |id: &str, category: &str| {
        let mut intake = intake(id, &["u"], state);
        intake.notification.category = category.parse().unwrap();
        region.accept(&intake).await;
    };
    let sent = async |id: &str| region.event(id, EventType::Sent).await.provider;

    send("n-1", "orders").await;
    let accepted = tokio::time::timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    let mut apple = Peer::accept(accepted.0, Some(100)).await.unwrap();
    let mut answer_one = async || {
        // Over this connection, or it never comes.
        let asked = tokio::time::timeout(LIMIT, apple.requests(1)).await.expect("the same connection");
        apple.answer(asked[0]).await;
    };
    answer_one().await;
    assert_eq!(sent("n-1").await.as_deref(), Some("apns"));
    send("n-2", "news").await;
    answer_one().await;
    assert_eq!(sent("n-2").await.as_deref(), Some("apns:ads"));

    reload.send(region.settings(&settings("com.example.other"))).await.unwrap();
    // The one before was taken by whoever reads them when this one is.
    reload.send(region.settings(&settings("com.example.others"))).await.unwrap();
    reload.reserve().await.map(drop).unwrap();
    for (id, category) in [("n-3", "orders"), ("n-4", "news")] {
        send(id, category).await;
        answer_one().await;
        sent(id).await;
    }
    region.drained().await;
    dispatcher.end().await;
}
