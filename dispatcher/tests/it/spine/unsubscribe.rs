//! The link with which recipients stop what they were sent, in the e-mails that have to have it.

use peal_common::channel::Channel;
use peal_common::event::EventType;
use peal_common::unsubscribe::Unsubscribe;
use peal_dispatcher::recording::Sendgrid;
use serde_json::{Value, json};

use super::region::{Region, app, intake};

#[tokio::test(flavor = "multi_thread")]
async fn marketing_e_mails_have_a_link_that_stops_their_category() {
    let region = Region::start().await;
    let sendgrid = Sendgrid::start().await.unwrap();
    let state = region.recipient("u", &[(Channel::Email, "kim@example.com")], json!({})).await;
    let categories = [
        ("news", json!({"class": "marketing", "channels": ["email"]})),
        ("must", json!({"class": "marketing", "channels": ["email"], "mandatory": true})),
        ("receipts", json!({"class": "transactional", "channels": ["email"]})),
    ];
    let mut seen = state;
    for (id, rules) in &categories {
        seen = region.category(id, rules.clone()).await;
    }
    let provider = format!(
        "[channels.email.sendgrid]\nkey = \"SG.x\"\nfrom = \"shop@example.com\"\nbase_url = \"{}\"\n",
        sendgrid.base_url()
    );
    let send = async |category: &str, id: &str| {
        let mut sent = intake(id, &["u"], seen);
        sent.notification.category = category.parse().unwrap();
        region.accept(&sent).await;
        assert_eq!(region.event(id, EventType::Sent).await.provider.as_deref(), Some("sendgrid"));
        let last = sendgrid.requests().last().unwrap().json();
        last["headers"]["List-Unsubscribe"].clone()
    };

    let address = "[gateway]\npublic_url = \"https://peal.example.com/\"\n";
    let dispatcher = region.dispatcher(&format!("{address}{provider}"));
    let header = send("news", "n-1").await;
    let link = header.as_str().unwrap().strip_prefix("<https://peal.example.com/u/").unwrap();
    let stops = Unsubscribe::read(link.strip_suffix('>').unwrap(), &region.sealer).unwrap();
    assert_eq!(
        (stops.app, stops.recipient.as_str(), stops.category.as_str(), stops.channel),
        (app(), "u", "news", Channel::Email)
    );
    assert_eq!(send("must", "n-2").await, Value::Null, "it can't be stopped");
    assert_eq!(send("receipts", "n-3").await, Value::Null);
    dispatcher.end().await;

    let dispatcher = region.dispatcher(&provider);
    assert_eq!(send("news", "n-4").await, Value::Null, "nobody would answer it");
    region.drained().await;
    dispatcher.end().await;
}
