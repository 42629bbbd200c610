//! `peal up --regions`: several regions and their hub on one machine.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::SignedDuration;
use peal_common::clock::Clock;
use peal_nats::server::free_port;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::process::Command;

use crate::support::{finished, peal, run};
use crate::up::{Up, is_running, kill, pids};

const LIMIT: Duration = Duration::from_secs(60);
/// What a provider of text messages signs its reports with.
const CALLBACK_KEY: &str = "a key of the provider";

/// One region's gateway, with the key that all regions know.
struct Gateway {
    url: String,
    user: String,
}

impl Gateway {
    fn of(region: &Value) -> Self {
        let text = |name: &str| region[name].as_str().unwrap().to_owned();
        Gateway { url: text("api"), user: format!("{}:{}", text("key"), text("secret")) }
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-f", "-u", &self.user, "-X", method, &format!("{}{path}", self.url)]);
        if let Some(body) = body {
            curl.args(["-H", "Content-Type: application/json", "-d", &body.to_string()]);
        }
        serde_json::from_str(&finished(&mut curl).await.exits(0).stdout).unwrap()
    }

    /// The code with which something is refused.
    async fn refusal(&self, path: &str, body: &Value) -> String {
        self.refused("POST", path, body).await["code"].as_str().unwrap().to_owned()
    }

    /// The problem with which something is refused.
    async fn refused(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-u", &self.user, "-X", method, "-H", "Content-Type: application/json"]);
        if !body.is_null() {
            curl.args(["-d", &body.to_string()]);
        }
        let answer = finished(curl.arg(format!("{}{path}", self.url))).await.exits(0).json();
        assert!(answer["code"].is_string(), "not refused: {answer}");
        answer
    }

    async fn deleted(&self, path: &str) {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-f", "-u", &self.user, "-X", "DELETE", &format!("{}{path}", self.url)]);
        finished(&mut curl).await.exits(0);
    }

    async fn eventually_lacks(&self, path: &str, delete: impl AsyncFnOnce()) {
        self.call("GET", path, None).await;
        delete().await;
        let gone = async {
            let mut curl = Command::new("curl");
            curl.args(["-sS", "-u", &self.user, &format!("{}{path}", self.url)]);
            while finished(&mut curl).await.exits(0).json()["code"] != "not_found" {}
        };
        tokio::time::timeout(LIMIT, gone).await.unwrap_or_else(|_| panic!("{path} never goes"));
    }

    async fn preferences(&self) -> Value {
        self.call("GET", "/v1/recipients/demo-user/preferences", None).await
    }

    async fn set_preferences(&self, body: Value) {
        self.call("PUT", "/v1/recipients/demo-user/preferences", Some(body)).await;
    }

    async fn eventually_prefers(&self, expected: &Value) {
        let waiting = async { while self.preferences().await != *expected {} };
        let told = || format!("{} never has {expected}", self.url);
        tokio::time::timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("{}", told()));
    }

    async fn eventually_regions(&self, what: &str, holds: impl Fn(&Value) -> bool) {
        let waiting = async { while !holds(&self.call("GET", "/v1/regions", None).await["data"]) {} };
        tokio::time::timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("{}: never {what}", self.url));
    }

    async fn eventually_delivered(&self, id: &str, region: &str, recipient: &str) {
        let path = format!("/v1/notifications?recipient={recipient}");
        let found = async {
            loop {
                let all = self.call("GET", &path, None).await;
                let found = all["data"].as_array().unwrap().iter().find(|found| found["id"] == id).cloned();
                if let Some(found) =
                    found.filter(|found| found["status"] == "sent" && found["region"] == region)
                {
                    break found;
                }
            }
        };
        let found = tokio::time::timeout(LIMIT, found).await;
        assert!(found.is_ok(), "{}: {id} of {region} is not known as sent", self.url);
    }

    /// The first delivery of a notification, as soon as it is as wanted.
    async fn eventually_has_delivery(&self, id: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/v1/notifications/{id}");
        let found = async {
            loop {
                let delivery = self.call("GET", &path, None).await["deliveries"][0].clone();
                if is_wanted(&delivery) {
                    break delivery;
                }
            }
        };
        tokio::time::timeout(LIMIT, found).await.unwrap_or_else(|_| panic!("{}: {id} stays", self.url))
    }

    async fn send(&self, folder: &Path, id: &str) {
        let mut send = peal(folder);
        let (key, secret) = self.user.split_once(':').unwrap();
        send.args(["send", "--to", "demo-user", "--category", "demo", "--title", "Hi", "--id", id, "--wait"]);
        send.args(["--url", &self.url, "--key", key]).env("PEAL_SECRET", secret);
        finished(&mut send).await.exits(0);
    }
}

/// A free port whose successors by `step` and twice that are free too: for two regions and the hub.
fn ports(step: u16) -> String {
    loop {
        let port = free_port().unwrap();
        if [step, 2 * step].iter().all(|step| TcpListener::bind(("127.0.0.1", port + step)).is_ok()) {
            return port.to_string();
        }
    }
}

/// `peal up` with two regions, on ports of its own.
fn two_regions(folder: &Path) -> Up {
    let mut command = peal(folder);
    command.args(["--json", "up", "--regions", "eu,us", "--port", &ports(10), "--nats-port", &ports(1)]);
    command.args(["--dispatcher-port", &ports(10)]);
    command.env("PEAL__CALLBACKS__VONAGE__KEYS", CALLBACK_KEY);
    Up::spawn(command)
}

#[tokio::test]
async fn regions_work_while_their_hub_is_down_and_agree_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut up = two_regions(folder.path());
    let ready = up.ready().await;
    let (eu, us) = (Gateway::of(&ready["regions"]["eu"]), Gateway::of(&ready["regions"]["us"]));
    assert_eq!(eu.user, us.user, "one key for all regions");
    assert_ne!(eu.url, us.url);
    let place = |name: &str| folder.path().join(".peal").join(name);
    for name in ["hub", "eu", "us"] {
        let config = place(name).join("peal.toml");
        run(folder.path(), ["topology", "check", "--config", config.to_str().unwrap()]).await.exits(0);
        // A server that just started may not have tried yet.
        let linked = async {
            loop {
                let doctor =
                    run(folder.path(), ["doctor", "--config", config.to_str().unwrap()]).await.exits(0);
                let is_fine = |about: &str| {
                    doctor.stdout.lines().any(|line| line.starts_with("ok") && line.contains(about))
                };
                assert!(is_fine(" acknowledgements "), "{}", doctor.stdout);
                if is_fine(" links ") {
                    break;
                }
            }
        };
        tokio::time::timeout(LIMIT, linked).await.unwrap_or_else(|_| panic!("{name} is not linked"));
    }
    us.set_preferences(json!({ "marketing": false })).await;
    eu.eventually_prefers(&json!({ "marketing": false })).await;

    // Each region sees the other one, with what runs there.
    let regions = eu.call("GET", "/v1/regions", None).await;
    for (region, name) in regions["data"].as_array().unwrap().iter().zip(["eu", "us"]) {
        assert_eq!(
            (&region["name"], &region["reachable"], &region["ready"]),
            (&json!(name), &json!(true), &json!(true))
        );
        let running = [&region["gateways"], &region["dispatchers"]].map(|of| of.as_array().unwrap().len());
        assert_eq!(running, [1, 1], "{region}");
        assert!(region["lag"]["events"].is_u64() && region["waiting"].is_u64(), "{region}");
    }

    // An id that one region accepted is the same notification in the other one, and no other.
    let notification = |title: &str| {
        json!({ "id": "once", "category": "demo", "to": [{ "recipient": "demo-user" }],
                "content": { "title": title, "body": "Once" } })
    };
    let first = eu.call("POST", "/v1/notifications", Some(notification("Hi"))).await;
    assert_eq!((&first["duplicate"], &first["region"]), (&json!(false), &json!("eu")));
    // Nothing is accepted by asking, whether us has heard of the id or not.
    let mut unknown = notification("Hi");
    unknown["to"] = json!([{ "recipient": "nobody" }]);
    let told = async { while us.refusal("/v1/notifications", &unknown).await != "id_reused" {} };
    tokio::time::timeout(LIMIT, told).await.expect("us is never told what eu accepted");
    let again = us.call("POST", "/v1/notifications", Some(notification("Hi"))).await;
    assert_eq!(
        again,
        json!({ "id": "once", "status": "accepted", "duplicate": true, "region": "eu",
                              "accepted_at": first["accepted_at"] })
    );
    assert_eq!(us.refusal("/v1/notifications", &notification("Other")).await, "id_reused");

    // The hub's gateway knows what happened in every region, and changes nothing.
    let hub = Gateway { url: ready["hub"]["api"].as_str().unwrap().to_owned(), user: eu.user.clone() };
    us.send(folder.path(), "in-us").await;
    for (id, region) in [("once", "eu"), ("in-us", "us")] {
        hub.eventually_delivered(id, region, "demo-user").await;
    }
    assert_eq!(hub.refusal("/v1/notifications", &notification("Hi")).await, "only_in_regions");
    let names = hub.call("GET", "/v1/regions", None).await["data"].as_array().unwrap().clone();
    assert_eq!(names.iter().map(|region| &region["name"]).collect::<Vec<_>>(), ["eu", "us"]);
    assert_eq!(hub.preferences().await, json!({ "marketing": false }));

    // A provider knows one address. What it reports there of another region's delivery is handed to that one.
    let message = json!({ "id": "by-sms", "category": "demo", "to": [{ "phone": "+821012345678" }],
                          "content": { "title": "Hi", "body": "By SMS" } });
    us.call("POST", "/v1/notifications", Some(message)).await;
    let delivery = us.eventually_has_delivery("by-sms", |delivery| delivery["provider"] == "sandbox").await;
    let reference = format!("us.demo.by-sms.{}", delivery["id"].as_str().unwrap());
    let fields = [("client-ref", reference.as_str()), ("messageId", "0A01"), ("status", "rejected")];
    let mut mac = Hmac::<Sha256>::new_from_slice(CALLBACK_KEY.as_bytes()).unwrap();
    fields.iter().for_each(|(name, value)| mac.update(format!("&{name}={value}").as_bytes()));
    let signature: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-f", &format!("{}/v1/callbacks/vonage", eu.url)]);
    for (name, value) in fields.into_iter().chain([("sig", signature.as_str())]) {
        curl.args(["--data-urlencode", &format!("{name}={value}")]);
    }
    finished(&mut curl).await.exits(0);
    let bounced = us.eventually_has_delivery("by-sms", |delivery| delivery["status"] == "bounced").await;
    assert_eq!(bounced["reason"], "rejected");

    let hub = pids(&place("hub"))["nats-server"];
    kill("STOP", hub).await;
    eu.eventually_regions("us does not answer", |regions| regions[1]["reachable"] == false).await;
    eu.send(folder.path(), "without-a-hub").await;
    let config = place("eu").join("peal.toml");
    let doctor = run(folder.path(), ["doctor", "--config", config.to_str().unwrap()]).await.exits(0);
    assert!(doctor.stdout.contains("hub does not answer"), "{}", doctor.stdout);
    kill("KILL", hub).await;
    us.set_preferences(json!({ "marketing": false, "channels": { "email": false } })).await;
    up.says("hub: nats-server runs again").await;
    eu.eventually_prefers(&json!({ "marketing": false, "channels": { "email": false } })).await;

    eu.eventually_regions("us answers, and the hub has everything", |regions| {
        let lag = json!({ "events": 0, "state": 0 });
        regions[1]["reachable"] == true && regions[0]["lag"] == lag && regions[1]["lag"] == lag
    })
    .await;

    let all: Vec<_> = ["hub", "eu", "us"].iter().flat_map(|name| pids(&place(name)).into_values()).collect();
    assert_eq!(all.len(), 2 + 3 + 3);
    up.stopped_by("INT").await;
    for pid in all {
        assert!(!is_running(pid).await, "process {pid} still runs");
    }
}

/// Whether any file below a folder holds this text.
fn holds(folder: &Path, text: &str) -> bool {
    let has = |file: &Path| fs::read(file).unwrap().windows(text.len()).any(|part| part == text.as_bytes());
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .any(|path| if path.is_dir() { holds(&path, text) } else { has(&path) })
}

#[tokio::test]
async fn what_is_pinned_leaves_nothing_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let mut up = two_regions(folder.path());
    let ready = up.ready().await;
    let (eu, us) = (Gateway::of(&ready["regions"]["eu"]), Gateway::of(&ready["regions"]["us"]));

    let recipient = |address: &str, pinned_to: Value| json!({ "contacts": [{ "channel": "email", "address": address }], "pinned_to": pinned_to });
    for (id, pinned_to) in [("homebody", json!("eu")), ("traveller", Value::Null)] {
        let body = recipient(&format!("{id}@example.com"), pinned_to);
        eu.call("PUT", &format!("/v1/recipients/{id}"), Some(body)).await;
        let preferences = json!({ "channels": { "sms": false } });
        eu.call("PUT", &format!("/v1/recipients/{id}/preferences"), Some(preferences)).await;
        let content = json!({ "title": "Hi", "body": format!("words for {id}") });
        let body = json!({ "id": format!("to-{id}"), "category": "demo", "to": [{ "recipient": id }], "content": content });
        eu.call("POST", "/v1/notifications", Some(body)).await;
        eu.eventually_delivered(&format!("to-{id}"), "eu", id).await;
        eu.call("POST", &format!("/v1/notifications/to-{id}/acknowledge"), None).await;
    }
    let found = eu.call("GET", "/v1/notifications/to-homebody", None).await;
    assert_eq!(found["pinned"], true, "{found}");
    let listed = eu.call("GET", "/v1/recipients", None).await["data"].as_array().unwrap().clone();
    let listed: Vec<_> =
        listed.iter().map(|recipient| recipient["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(listed, ["demo-user", "traveller", "homebody"]);

    // Somebody who was never heard of is pinned with the notification that names the address.
    let inline = json!({ "id": "to-an-address", "category": "demo", "to": [{ "email": "unheard-of@example.com" }],
                         "content": { "title": "Hi", "body": "words for an address" }, "pinned_to": "eu" });
    eu.call("POST", "/v1/notifications", Some(inline.clone())).await;
    // An address beside one of somebody who is pinned, too; and what is said of a notification later.
    let both = json!([{ "email": "never-met@example.com" }, { "email": "homebody@example.com" }]);
    let content = json!({ "title": "Hi", "body": "words for both" });
    let body = json!({ "id": "to-both", "category": "demo", "to": both, "content": content });
    eu.call("POST", "/v1/notifications", Some(body)).await;
    let body = json!({ "id": "to-be-cancelled", "category": "demo", "to": [{ "recipient": "homebody" }],
                       "content": { "title": "Hi", "body": "Never" },
                       "send_at": (Clock::System.now() + SignedDuration::from_hours(24)).to_string() });
    eu.call("POST", "/v1/notifications", Some(body)).await;
    eu.call("POST", "/v1/notifications/to-be-cancelled/cancel", None).await;
    let again = recipient("homebody@example.com", Value::Null);
    assert_eq!(eu.refused("PUT", "/v1/recipients/homebody", &again).await["code"], "pinned_differs");
    let elsewhere = us.refused("POST", "/v1/notifications", &inline).await;
    assert_eq!(elsewhere["errors"][0]["code"], "wrong_region", "{elsewhere}");
    let elsewhere = us.refused("PUT", "/v1/recipients/x", &recipient("x@example.com", json!("eu"))).await;
    assert_eq!(elsewhere["errors"][0]["code"], "wrong_region", "{elsewhere}");

    eu.eventually_regions("the hub has everything", |regions| {
        regions[0]["lag"] == json!({ "events": 0, "state": 0 })
    })
    .await;
    assert_eq!(us.refused("GET", "/v1/recipients/homebody", &Value::Null).await["code"], "not_found");
    us.call("GET", "/v1/recipients/traveller", None).await;
    for _ in 0..2 {
        eu.deleted("/v1/recipients/homebody").await;
    }
    // It goes the same way, and it is the last.
    us.eventually_lacks("/v1/recipients/traveller", async || eu.deleted("/v1/recipients/traveller").await)
        .await;
    up.stopped_by("INT").await;
    let place = |name: &str| folder.path().join(".peal").join(name).join("nats-server");
    for (text, pinned) in [
        ("homebody", true),
        ("words for homebody", true),
        ("to-an-address", true),
        ("words for an address", true),
        ("to-both", true),
        ("to-be-cancelled", true),
        ("addr:email", true),
        ("addr=3Aemail", true),
        ("traveller", false),
        ("words for traveller", false),
    ] {
        assert!(holds(&place("eu"), text), "{text} is not even in eu");
        assert_eq!(holds(&place("hub"), text), !pinned, "{text} at the hub");
        let in_us = holds(&place("us"), text);
        assert!(!(pinned && in_us), "{text} in us");
    }
}

#[tokio::test]
async fn names_that_cannot_be_are_refused_before_anything_is_started() {
    let folder = tempfile::tempdir().unwrap();
    for (names, told) in
        [("eu", "2 to 9"), ("eu,eu", "twice"), ("eu,hub", "name of the hub"), ("E U,us", "E U")]
    {
        let ran = run(folder.path(), ["up", "--regions", names]).await.exits(2);
        assert!(ran.stderr.contains(told), "{}", ran.stderr);
    }
    assert!(!folder.path().join(".peal/eu").exists());
}
