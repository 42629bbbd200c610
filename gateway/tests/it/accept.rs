//! Handing in notifications, over HTTP and over NATS: durable before the answer, each id once, bad ones refused with
//! nothing stored.

use std::collections::BTreeMap;

use futures_util::future::{join, join_all};
use peal_common::channel::Priority;
use peal_common::clock::Clock;
use peal_common::envelope::{Envelope as _, Intake};
use peal_common::key::Scope;
use peal_nats::topology::INTAKE;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Client, Credentials, Harness, eventually};

const PATH: &str = "/v1/notifications";
const BATCH: &str = "/v1/notifications/batch";
const ADDRESS: &str = "kim.accept@example.com";

/// A gateway with a category, a template and a recipient, who has an e-mail address and an inbox.
struct Shop {
    harness: Harness,
    key: Credentials,
    client: Client,
}

impl Shop {
    async fn open() -> Self {
        // All members of a large batch share the time of one request, on a machine where other tests run.
        let harness = Harness::start_with("[nats]\nrequest_timeout_ms = 10000\n", Clock::System).await;
        let key = harness.key(&[Scope::Admin]).await;
        let client = harness.client(&key);
        client.put("/v1/categories/orders", json!({"class": "transactional"})).await.ok(201);
        let contact = json!({"channel": "email", "address": ADDRESS});
        client.put("/v1/recipients/u-1", json!({"contacts": [contact]})).await.ok(201);
        let variable = json!({"type": "string", "required": true});
        let template =
            json!({"channels": {"inbox": {"body": "Order {{order}}"}}, "variables": {"order": variable}});
        client.put("/v1/templates/shipped", template).await.ok(201);
        Shop { harness, key, client }
    }

    /// Messages in INTAKE.
    async fn stored(&self) -> u64 {
        self.harness.connection.stream_state(INTAKE).await.unwrap().messages
    }

    /// Another gateway that knows what this one knows.
    async fn another(&mut self) -> Client {
        let other = self.client.at(&self.harness.start_another().await);
        eventually("the other gateway is ready and knows the recipient", || async {
            other.get("/readyz").await.status == 200 && other.get("/v1/recipients/u-1").await.status == 200
        })
        .await;
        other
    }
}

/// A good notification.
fn order(id: &str) -> Value {
    json!({
        "id": id, "category": "orders", "to": [{"recipient": "u-1"}],
        "content": {"title": "Shipped", "body": "It is on its way"}, "metadata": {"order": 1042},
    })
}

/// It with one field changed; `null` leaves the field out.
fn with(field: &str, value: Value) -> Value {
    let mut body = order("bad");
    match value {
        Value::Null => drop(body.as_object_mut().unwrap().remove(field)),
        value => body[field] = value,
    }
    body
}

#[tokio::test]
async fn a_notification_is_in_the_stream_when_it_is_answered() {
    let shop = Shop::open().await;
    let answer = shop.client.post(PATH, order("order-1")).await;
    let accepted = answer.ok(202);
    assert_eq!((&accepted["id"], &accepted["status"]), (&json!("order-1"), &json!("accepted")));
    assert_eq!(accepted["duplicate"], false);
    assert_eq!(accepted["region"], shop.harness.settings.region.name.as_str());

    let subject = shop.harness.subjects.intake(Priority::Normal, "shop");
    let stored = shop.harness.connection.last_of(INTAKE, &subject).await.unwrap().unwrap();
    assert_eq!(stored.header("Nats-Msg-Id"), Some("shop:order-1"));
    let intake = Intake::decode(&stored.payload).unwrap();
    assert_eq!(json!(intake.notification.accepted_at), accepted["accepted_at"]);
    assert!(!String::from_utf8_lossy(&stored.payload).contains(ADDRESS));

    let answer = shop.client.get("/v1/notifications/order-1").await;
    let seen = answer.ok(200);
    assert_eq!((&seen["category"], &seen["priority"]), (&json!("orders"), &json!("normal")));
    assert_eq!(seen["events"][0]["type"], "accepted", "{seen}");

    // The id may stand in a header, and a notification without one gets one.
    let headed = shop.client.request(Method::POST, PATH).header("idempotency-key", "order-2");
    let headed = headed.header("content-type", "application/json").body(with("id", Value::Null).to_string());
    assert_eq!(Answer::of(headed).await.ok(202)["id"], "order-2");
    let nameless = shop.client.post(PATH, with("id", Value::Null)).await;
    let id = nameless.ok(202)["id"].as_str().unwrap();
    shop.client.get(&format!("{PATH}/{id}")).await.ok(200);
    let torn = shop.client.request(Method::POST, PATH).header("idempotency-key", "order-3");
    let torn = torn.header("content-type", "application/json").body(order("order-4").to_string());
    Answer::of(torn).await.field("Idempotency-Key", "conflict");
    assert_eq!(shop.stored().await, 3);
}

#[tokio::test]
async fn an_inline_address_is_sealed_on_its_way() {
    let shop = Shop::open().await;
    let mut body = order("inline");
    body["to"] = json!([{"email": "New.Face@Example.com"}, {"email": ADDRESS}]);
    shop.client.post(PATH, body).await.ok(202);
    let subject = shop.harness.subjects.intake(Priority::Normal, "shop");
    let stored = shop.harness.connection.last_of(INTAKE, &subject).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&stored.payload).to_lowercase();
    assert!(!text.contains("example.com"), "{text}");
    let intake = Intake::decode(&stored.payload).unwrap();
    let recipients: Vec<_> = intake.targets.iter().map(|target| target.recipient.as_str()).collect();
    assert!(recipients[0].starts_with("addr:email:"), "{recipients:?}");
    assert_eq!(recipients[1], "u-1", "who has registered the address is its recipient");
}

#[tokio::test]
async fn what_is_wrong_is_named_and_nothing_is_stored() {
    let shop = Shop::open().await;
    let late = shop.harness.clock.now() - jiff::SignedDuration::from_mins(6);
    let to = |target: Value| with("to", json!([target]));
    for (body, field, code) in [
        (with("category", json!("nothing")), "category", "unknown_category"),
        (with("category", Value::Null), "category", "missing_field"),
        (to(json!({"recipient": "nobody"})), "to[0].recipient", "unknown_recipient"),
        (to(json!({"group": "vip"})), "to[0].group", "not_available"),
        (to(json!({"email": "a@example.com\r\nBcc: b@example.com"})), "to[0].email", "invalid_email"),
        (to(json!({"webhook": "http://127.0.0.1/hook"})), "to[0].webhook", "private_target"),
        (with("to", json!([])), "to", "required"),
        (with("content", Value::Null), "content", "required"),
        (with("content", json!({"body": " "})), "content.body", "missing"),
        (with("template", json!("shipped")), "content", "conflict"),
        (with("channels", json!(["sms"])), "to[0].recipient", "no_usable_channel"),
        (with("channels", json!(["pigeon"])), "channels[0]", "unknown_value"),
        (with("send_at", json!(late)), "send_at", "in_the_past"),
        (with("ttl_seconds", json!(0)), "ttl_seconds", "out_of_range"),
        (with("priority", json!("urgent")), "priority", "unknown_value"),
        (with("colour", json!("red")), "colour", "unknown_field"),
        (with("metadata", json!({"x": "x".repeat(17 * 1024)})), "metadata", "too_large"),
        (with("digest_key", json!("d")), "digest_key", "not_available"),
    ] {
        shop.client.post(PATH, body).await.field(field, code);
    }
    let mut templated = with("content", Value::Null);
    templated["template"] = json!("nothing");
    shop.client.post(PATH, templated.clone()).await.field("template", "unknown_template");
    templated["template"] = json!("shipped");
    let answer = shop.client.post(PATH, templated.clone()).await;
    assert_eq!(answer.problem(422, "invalid")["errors"][0]["field"], "data.order", "{}", answer.text);
    for id in ["a b", "a.b", "a*", ">", "", &"x".repeat(10_000), "a\u{0}b"] {
        let answer = shop.client.post(PATH, with("id", json!(id))).await;
        assert!([400, 422].contains(&answer.status), "{id:?}: {}", answer.text);
        assert!(!answer.text.contains(&"x".repeat(200)), "values are not repeated");
    }
    // Several mistakes are reported at once.
    let mut twice = with("category", json!("nothing"));
    twice["to"] = json!([{"recipient": "nobody"}, {"recipient": "u-1"}]);
    let answer = shop.client.post(PATH, twice).await;
    assert_eq!(answer.problem(422, "invalid")["errors"].as_array().unwrap().len(), 2, "{}", answer.text);
    assert_eq!(shop.stored().await, 0);

    templated["data"] = json!({"order": "1042"});
    shop.client.post(PATH, templated).await.ok(202);
    assert_eq!(shop.stored().await, 1);
}

#[tokio::test]
async fn an_id_counts_once_whatever_ends_in_between() {
    let mut shop = Shop::open().await;
    let first = shop.client.post(PATH, order("once")).await;
    let first = first.ok(202)["accepted_at"].clone();
    let check = async |shop: &Shop| {
        // Other white space, another order of fields.
        let spaced = shop.client.request(Method::POST, PATH).header("content-type", "application/json");
        let spaced = spaced.body(serde_json::to_string_pretty(&order("once")).unwrap());
        let again = Answer::of(spaced).await;
        assert_eq!(again.ok(202)["duplicate"], true);
        assert_eq!(again.body["accepted_at"], first, "the first answer is given again");
        let mut changed = order("once");
        changed["content"]["body"] = json!("It is lost");
        shop.client.post(PATH, changed).await.problem(422, "id_reused");
        assert_eq!(shop.stored().await, 1);
    };
    check(&shop).await;

    shop.harness.stop_gateway().await;
    shop.harness.start_gateway().await;
    shop.harness.ready().await;
    shop.client = shop.harness.client(&shop.key);
    check(&shop).await;

    shop.harness.server.kill().await.unwrap();
    shop.harness.server.restart().await.unwrap();
    shop.harness.ready().await;
    check(&shop).await;

    // The read model's file is a copy: without it the streams tell.
    shop.harness.stop_gateway().await;
    std::fs::remove_file(shop.harness.settings.gateway.data_dir.join("model.redb")).unwrap();
    shop.harness.start_gateway().await;
    shop.harness.ready().await;
    shop.client = shop.harness.client(&shop.key);
    check(&shop).await;

    // Ids belong to their app.
    let other = shop.harness.client(&shop.harness.key_of("other", &[Scope::Admin]).await);
    other.put("/v1/categories/orders", json!({"class": "transactional"})).await.ok(201);
    other.put("/v1/recipients/u-1", json!({})).await.ok(201);
    assert_eq!(other.post(PATH, order("once")).await.ok(202)["duplicate"], false);
    shop.harness.anonymous().post(PATH, order("once")).await.problem(401, "unauthorized");
}

#[tokio::test]
async fn of_many_at_once_one_is_stored() {
    let shop = Shop::open().await;
    let answers = join_all((0..40).map(|_| shop.client.post(PATH, order("rush")))).await;
    let mut count = BTreeMap::new();
    for answer in &answers {
        let what = match answer.status {
            202 => answer.body["duplicate"].to_string(),
            _ => answer.problem(409, "in_flight")["code"].to_string(),
        };
        *count.entry(what).or_insert(0) += 1;
    }
    assert_eq!(count.get("false"), Some(&1), "{count:?}");
    assert_eq!(shop.stored().await, 1);
}

#[tokio::test]
async fn two_gateways_take_an_id_once() {
    let mut shop = Shop::open().await;
    let other = shop.another().await;
    for number in 0..20 {
        let id = format!("both-{number}");
        let (one, two) = join(shop.client.post(PATH, order(&id)), other.post(PATH, order(&id))).await;
        let duplicates = [one.ok(202)["duplicate"] == true, two.ok(202)["duplicate"] == true];
        assert_eq!(duplicates.iter().filter(|duplicate| **duplicate).count(), 1, "{id}: {duplicates:?}");
        assert_eq!(one.body["accepted_at"], two.body["accepted_at"], "{id}");

        let id = format!("differs-{number}");
        let mut changed = order(&id);
        changed["content"]["body"] = json!("It is lost");
        let (one, two) = join(shop.client.post(PATH, order(&id)), other.post(PATH, changed)).await;
        let (taken, refused) = if one.status == 202 { (one, two) } else { (two, one) };
        taken.ok(202);
        refused.problem(422, "id_reused");
    }
    assert_eq!(shop.stored().await, 40);
}

#[tokio::test]
async fn bad_members_of_a_batch_fail_alone() {
    let shop = Shop::open().await;
    shop.client.post(PATH, order("early")).await.ok(202);
    let mut changed = order("early");
    changed["priority"] = json!("high");
    let deep = (0..100).fold(json!({}), |inner, _| json!({ "a": inner }));
    let members = json!([
        order("b-0"),
        with("category", json!("nothing")),
        order("b-0"),
        "no object",
        order("early"),
        changed,
        {"colour": "red"},
        with("content", json!({"body": "\0"})),
        with("metadata", deep),
        order("b-7"),
    ]);
    let answer = shop.client.post(BATCH, json!({"notifications": members})).await;
    let results = answer.ok(202)["results"].as_array().unwrap();
    let told: Vec<_> = results
        .iter()
        .map(|result| match &result["error"] {
            Value::Null => format!("{} {}", result["id"].as_str().unwrap(), result["duplicate"]),
            error => error["code"].as_str().unwrap().to_owned(),
        })
        .collect();
    let expected = [
        "b-0 false",
        "invalid",
        "b-0 true",
        "invalid",
        "early true",
        "id_reused",
        "invalid",
        "invalid",
        "invalid",
        "b-7 false",
    ];
    assert_eq!(told, expected, "{}", answer.text);
    for (index, result) in results.iter().enumerate() {
        assert_eq!(result["index"], index);
    }
    assert_eq!(results[1]["error"]["errors"][0]["field"], "category");
    assert_eq!(shop.stored().await, 3);

    for count in [0, 1_001] {
        let members = vec![order("x"); count];
        shop.client
            .post(BATCH, json!({"notifications": members}))
            .await
            .field("notifications", "out_of_range");
    }
    let large = json!({"notifications": [with("content", json!({"body": "x".repeat(9 * 1024 * 1024)}))]});
    shop.client.post(BATCH, large).await.problem(413, "too_large");
    let large = with("content", json!({"body": "x".repeat(600 * 1024)}));
    shop.client.post(PATH, large).await.problem(413, "too_large");
    assert_eq!(shop.stored().await, 3);
}

#[tokio::test]
async fn a_batch_of_a_thousand_is_stored_whole_and_in_order() {
    let shop = Shop::open().await;
    let members: Vec<_> = (0..1_000).map(|number| order(&format!("t-{number}"))).collect();
    let answer = shop.client.post(BATCH, json!({"notifications": members})).await;
    let results = answer.ok(202)["results"].as_array().unwrap();
    for (index, result) in results.iter().enumerate() {
        assert_eq!((&result["index"], &result["id"]), (&json!(index), &json!(format!("t-{index}"))));
    }
    assert_eq!((results.len(), shop.stored().await), (1_000, 1_000));
}

#[tokio::test]
async fn cancelling_and_acknowledging_need_a_notification_of_the_app() {
    let shop = Shop::open().await;
    let path = |what: &str| format!("{PATH}/late/{what}");
    for what in ["cancel", "acknowledge"] {
        shop.client.post(&path(what), json!({})).await.problem(404, "not_found");
    }
    let mut later = order("late");
    later["send_at"] = json!(shop.harness.clock.now() + jiff::SignedDuration::from_hours(1));
    shop.client.post(PATH, later).await.ok(202);
    let stranger = shop.harness.client(&shop.harness.key_of("other", &[Scope::Admin]).await);
    for what in ["cancel", "acknowledge"] {
        stranger.post(&path(what), json!({})).await.problem(404, "not_found");
        for _ in 0..2 {
            shop.client.post(&path(what), json!({})).await.ok(202);
        }
    }
    stranger.get(&format!("{PATH}/late")).await.problem(404, "not_found");
    eventually("the acknowledgement shows", || async {
        let seen = shop.client.get(&format!("{PATH}/late")).await;
        seen.ok(200)["events"].as_array().unwrap().iter().any(|event| event["type"] == "acknowledged")
    })
    .await;
}

#[tokio::test]
async fn the_door_over_nats_checks_and_answers_alike() {
    let shop = Shop::open().await;
    let basic = shop.key.basic();
    let ask = async |door: &str, authorization: &str, body: Value| {
        let headers = [("Authorization".parse().unwrap(), authorization.parse().unwrap())];
        let client = &shop.harness.connection.client;
        let subject = shop.harness.subjects.api(door);
        let answer =
            client.request_with_headers(subject, headers.into_iter().collect(), body.to_string().into());
        let answer = answer.await.unwrap();
        let code = answer
            .headers
            .and_then(|headers| headers.get("Nats-Service-Error-Code").map(ToString::to_string));
        (code, serde_json::from_slice::<Value>(&answer.payload).unwrap())
    };
    eventually("the door is open", || async {
        shop.harness
            .connection
            .client
            .request(shop.harness.subjects.api("notifications"), "".into())
            .await
            .is_ok()
    })
    .await;

    let (code, accepted) = ask("notifications", &basic, order("n-1")).await;
    assert_eq!((code, &accepted["duplicate"]), (None, &json!(false)), "{accepted}");
    assert_eq!(shop.client.post(PATH, order("n-1")).await.ok(202)["duplicate"], true);
    let (code, results) = ask("batch", &basic, json!({"notifications": [order("n-1"), order("n-2")]})).await;
    assert_eq!(code, None);
    assert_eq!(results["results"][0]["duplicate"], true);
    assert_eq!(results["results"][1]["id"], "n-2");

    let (code, problem) = ask("notifications", &basic, with("category", json!("nothing"))).await;
    assert_eq!((code.as_deref(), &problem["errors"][0]["code"]), (Some("422"), &json!("unknown_category")));
    let (code, problem) = ask("notifications", "Basic cGtfMTpza18x", order("n-3")).await;
    assert_eq!((code.as_deref(), &problem["code"]), (Some("401"), &json!("unauthorized")));
    let body = order("n-4").to_string();
    let now = shop.harness.clock.now().as_second();
    let signed = shop.key.signed("POST", PATH, body.as_bytes(), now, "nonce-of-the-door");
    let (code, accepted) = ask("notifications", &signed, order("n-4")).await;
    assert_eq!((code, &accepted["id"]), (None, &json!("n-4")));
    assert_eq!(shop.stored().await, 3);
}
