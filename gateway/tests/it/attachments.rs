//! Attachments: taken whole, refused with a reason, part of what an id stands for, and told to nobody.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use peal_common::attachment::MAX_ATTACHED_BYTES;
use peal_common::channel::{Channel, Priority};
use peal_common::envelope::{ATTACHED_VERSION, Envelope as _, Intake, Work};
use peal_common::key::Scope;
use peal_nats::topology::{INTAKE, work_stream};
use serde_json::{Value, json};

use crate::dead_letters::letter_of;
use crate::harness::{APP, Client, Harness};
use crate::lookup::accepted;

const PATH: &str = "/v1/notifications";
const NAME: &str = "invoice-of-kim.pdf";

async fn shop() -> (Harness, Client) {
    let harness = Harness::start().await;
    let client = harness.client(&harness.key(&[Scope::Admin]).await);
    client.put("/v1/categories/orders", json!({"class": "transactional"})).await.ok(201);
    let contact = json!({"channel": "email", "address": "kim@example.com"});
    client.put("/v1/recipients/u-1", json!({"contacts": [contact]})).await.ok(201);
    let texts = json!({"email": {"subject": "Your invoice", "text": "It is attached."}});
    client.put("/v1/templates/invoice", json!({"channels": texts})).await.ok(201);
    (harness, client)
}

fn file(name: &str, kind: &str, content: &str) -> Value {
    json!({"filename": name, "content_type": kind, "content": content})
}

fn order(id: &str, attachments: Value) -> Value {
    json!({
        "id": id, "category": "orders", "to": [{"recipient": "u-1"}], "attachments": attachments,
        "content": {"title": "Your invoice", "body": "It is attached."},
    })
}

async fn stored(harness: &Harness) -> Intake {
    let subject = harness.subjects.intake(Priority::Normal, APP);
    let stored = harness.connection.last_of(INTAKE, &subject).await.unwrap().unwrap();
    Intake::decode(&stored.payload).unwrap()
}

#[tokio::test]
async fn they_are_stored_with_the_notification_and_told_to_nobody() {
    let (harness, client) = shop().await;
    let bytes: Vec<u8> = (0..=255).cycle().take(MAX_ATTACHED_BYTES).collect();
    let content = STANDARD.encode(&bytes);
    let attachments = json!([file(NAME, "application/pdf", &content)]);
    client.post(PATH, order("with-content", attachments.clone())).await.ok(202);
    let intake = stored(&harness).await;
    assert_eq!(intake.v, ATTACHED_VERSION, "dispatchers that would drop them leave it alone");
    assert_eq!(intake.notification.attachments[0].decode().unwrap(), bytes);

    let mut templated = order("with-template", attachments);
    templated.as_object_mut().unwrap().remove("content");
    templated["template"] = json!("invoice");
    let batch = client.post("/v1/notifications/batch", json!({"notifications": [templated]})).await;
    assert_eq!(batch.ok(202)["results"][0]["status"], "accepted", "{}", batch.text);
    let intake = stored(&harness).await;
    assert_eq!(
        (intake.notification.id.as_str(), intake.notification.attachments[0].size()),
        ("with-template", MAX_ATTACHED_BYTES)
    );

    for path in [
        "/v1/notifications/with-content",
        "/v1/notifications",
        "/v1/events",
        "/v1/notifications/with-content/explain",
    ] {
        let answer = client.get(path).await;
        answer.ok(200);
        assert!(answer.text.len() < 20_000 && !answer.text.contains(NAME), "{path}: {}", answer.text.len());
    }
    // What is not attached is what it was before there were attachments.
    client.post(PATH, order("without", json!([]))).await.ok(202);
    assert_eq!(stored(&harness).await.v, peal_common::envelope::ENVELOPE_VERSION);
}

#[tokio::test]
async fn what_is_wrong_is_named_and_never_repeated() {
    let (harness, client) = shop().await;
    let good = || file(NAME, "application/pdf", "JVBERi0xLjcK");
    let half = STANDARD.encode(vec![0; MAX_ATTACHED_BYTES / 2 + 1]);
    let with = |field: &str, value: Value| {
        let mut bad = good();
        bad[field] = value;
        json!([good(), bad])
    };
    for (attachments, field, code) in [
        (with("filename", json!("../etc/passwd")), "attachments[1].filename", "invalid_filename"),
        (with("filename", json!("a\r\nBcc: b@example.com")), "attachments[1].filename", "invalid_filename"),
        (with("filename", json!("x".repeat(256))), "attachments[1].filename", "invalid_filename"),
        (
            with("content_type", json!("text/html; charset=x")),
            "attachments[1].content_type",
            "invalid_content_type",
        ),
        (
            with("content_type", json!("message/rfc822")),
            "attachments[1].content_type",
            "invalid_content_type",
        ),
        (with("content", json!("")), "attachments[1].content", "empty"),
        (with("content", json!("https://example.com/a.pdf")), "attachments[1].content", "invalid_base64"),
        (with("content", json!([1, 2])), "attachments[1].content", "wrong_type"),
        (with("url", json!("https://example.com")), "attachments[1].url", "unknown_field"),
        (json!([{"filename": "a"}]), "attachments[0]", "missing_field"),
        (json!(vec![good(); 11]), "attachments", "too_many"),
        (json!([file("a", "text/plain", &half), file("b", "text/plain", &half)]), "attachments", "too_large"),
    ] {
        let answer = client.post(PATH, order("bad", attachments)).await;
        let shown = format!("{field} {code}: {}", answer.text);
        let found = &answer.problem(422, "invalid")["errors"][0];
        assert!(found["field"].as_str().unwrap().starts_with(field) && found["code"] == code, "{shown}");
        assert!(!answer.text.contains("passwd") && !answer.text.contains("Bcc"), "{shown}");
    }
    let mut many = order("many", json!([good()]));
    many["to"] = (0..101).map(|n| json!({"email": format!("u{n}@example.com")})).collect();
    client.post(PATH, many).await.field("to", "too_many");
    let huge = STANDARD.encode(vec![0; 400 * 1024]);
    let answer = client.post(PATH, order("huge", json!([file("a", "text/plain", &huge)]))).await;
    assert_eq!(answer.status, 413, "{}", answer.text);
    assert_eq!(harness.connection.stream_state(INTAKE).await.unwrap().messages, 0);
}

#[tokio::test]
async fn an_id_stands_for_what_is_attached_too() {
    let (_harness, client) = shop().await;
    let one = json!([file(NAME, "application/pdf", "JVBERi0xLjcK")]);
    client.post(PATH, order("once", one.clone())).await.ok(202);
    assert_eq!(client.post(PATH, order("once", one.clone())).await.ok(202)["duplicate"], true);
    let twice = json!([one[0], one[0]]);
    for other in [json!([]), json!([file(NAME, "application/pdf", "JVBERi0xLjgK")]), twice] {
        client.post(PATH, order("once", other)).await.problem(422, "id_reused");
    }
}

#[tokio::test]
async fn a_replay_has_them_and_the_list_does_not() {
    let harness = Harness::start().await;
    let client = harness.admin().await;
    let mut notification = accepted(&harness, "n-1");
    let attachments: peal_common::attachment::Attachments =
        serde_json::from_value(json!([file(NAME, "application/pdf", "JVBERi0xLjcK")])).unwrap();
    notification.attachments = attachments.clone();
    let id = letter_of(&harness, notification, Channel::Email, "attempts_exhausted").await;
    let list = client.get("/v1/dead-letters").await;
    assert_eq!(list.ok(200)["data"][0]["notification"], "n-1");
    assert!(!list.text.contains(NAME) && !list.text.contains("JVBERi0xLjcK"), "{}", list.text);

    let answer = client.post("/v1/dead-letters/replay", json!({"ids": [id.to_string()]})).await;
    assert_eq!(answer.ok(200)["replayed"], 1);
    let subject = harness.subjects.work(Channel::Email, Priority::Normal, APP);
    let queued = harness.connection.last_of(&work_stream(Channel::Email), &subject).await.unwrap().unwrap();
    let work = Work::decode(&queued.payload).unwrap();
    assert_eq!((work.v, work.replays, &work.notification.attachments), (ATTACHED_VERSION, 1, &attachments));
}
