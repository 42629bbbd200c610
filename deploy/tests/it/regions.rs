//! `peal up --regions`: several regions and their hub on one machine.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::SignedDuration;
use peal_common::clock::Clock;
use peal_nats::server::free_port;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::process::Command;

use crate::gateway::{Gateway, LIMIT};
use crate::support::{Ran, finished, peal, run};
use crate::up::{Up, is_running, kill, pids};

/// What a provider of text messages signs its reports with.
const CALLBACK_KEY: &str = "a key of the provider";

/// A free port whose successors by steps of `step` are free too: for so many regions and the hub.
fn ports(step: u16, regions: u16) -> String {
    loop {
        let port = free_port().unwrap();
        if (1..=regions).all(|number| TcpListener::bind(("127.0.0.1", port + number * step)).is_ok()) {
            return port.to_string();
        }
    }
}

/// `peal up` with regions, on ports of its own.
fn regions_up(folder: &Path, names: &[&str]) -> Up {
    let count = u16::try_from(names.len()).unwrap();
    let mut command = peal(folder);
    command.args(["--json", "up", "--regions", &names.join(",")]);
    command.args(["--port", &ports(10, count), "--nats-port", &ports(1, count)]);
    command.args(["--dispatcher-port", &ports(10, count)]);
    command.env("PEAL__CALLBACKS__VONAGE__KEYS", CALLBACK_KEY);
    Up::spawn(command)
}

fn place(folder: &Path, name: &str) -> PathBuf {
    folder.join(".peal").join(name)
}

/// What `peal` says with the settings of a region.
async fn peal_in(folder: &Path, name: &str, arguments: &[&str]) -> Ran {
    let config = place(folder, name).join("peal.toml");
    run(folder, arguments.iter().copied().chain(["--config", config.to_str().unwrap()])).await
}

/// The hub has everything of all regions.
fn are_level(regions: &Value) -> bool {
    let level = json!({ "notifications": 0, "events": 0, "state": 0 });
    regions.as_array().is_some_and(|regions| regions.iter().all(|region| region["lag"] == level))
}

fn notification(id: &str, title: &str) -> Value {
    json!({ "id": id, "category": "demo", "to": [{ "recipient": "demo-user" }],
            "content": { "title": title, "body": "Once" } })
}

#[tokio::test]
async fn regions_work_while_their_hub_is_down_and_agree_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut up = regions_up(folder, &["eu", "us", "ap"]);
    let ready = up.ready().await;
    let [eu, us, ap] = ["eu", "us", "ap"].map(|name| Gateway::of(&ready["regions"][name]));
    let hub = Gateway { url: ready["hub"]["api"].as_str().unwrap().to_owned(), user: eu.user.clone() };
    assert!(eu.user == us.user && us.user == ap.user, "one key for all regions");
    assert!(eu.url != us.url && us.url != ap.url);
    let unnamed = run(folder, ["doctor"]).await.exits(2);
    assert!(unnamed.stderr.contains("--config .peal/eu/peal.toml"), "{}", unnamed.stderr);
    for name in ["hub", "eu", "us", "ap"] {
        peal_in(folder, name, &["topology", "check"]).await.exits(0);
        // A server that just started may not have tried its links yet.
        let content = async {
            loop {
                let doctor = peal_in(folder, name, &["doctor"]).await.exits(0);
                let rows = doctor.stdout.lines().skip(1);
                if rows.clone().all(|row| row.starts_with("ok")) {
                    break rows.map(str::to_owned).collect::<Vec<_>>();
                }
            }
        };
        let rows = tokio::time::timeout(LIMIT, content).await;
        let rows = rows.unwrap_or_else(|_| panic!("{name}: peal doctor is never content"));
        for about in [" acknowledgements ", " links ", " running "] {
            assert!(rows.iter().any(|row| row.contains(about)), "{about} is not in {rows:?}");
        }
    }
    us.set_preferences(json!({ "marketing": false })).await;
    for other in [&eu, &ap] {
        other.eventually_prefers(&json!({ "marketing": false })).await;
    }

    // Each region sees the others, with what runs there.
    for gateway in [&eu, &hub] {
        let regions = gateway.call("GET", "/v1/regions", None).await;
        assert_eq!(regions["data"].as_array().unwrap().len(), 3);
        for (region, name) in regions["data"].as_array().unwrap().iter().zip(["ap", "eu", "us"]) {
            let found = [&region["name"], &region["reachable"], &region["ready"], &region["state"]];
            assert_eq!(found, [&json!(name), &json!(true), &json!(true), &json!("ready")], "{region}");
            let running =
                [&region["gateways"], &region["dispatchers"]].map(|of| of.as_array().unwrap().len());
            assert_eq!(running, [1, 1], "{region}");
            assert!(region["lag"]["events"].is_u64() && region["waiting"].is_u64(), "{region}");
        }
    }

    an_id_is_the_same_notification_everywhere(&eu, &us).await;
    publishers_go_on_to_the_next_region(folder, &mut up, [&eu, &us, &ap], &hub).await;
    the_hub_answers_for_all_regions(folder, [&eu, &us, &ap], &hub).await;
    a_report_is_handed_to_its_region(&eu, &us).await;

    let server_of_hub = pids(&place(folder, "hub"))["nats-server"];
    kill("STOP", server_of_hub).await;
    eu.eventually_regions("us does not answer", |regions| regions[2]["reachable"] == false).await;
    eu.send(folder, "without-a-hub").await;
    // The notification itself, and what happened to it.
    eu.eventually_regions("it waits for the hub", |regions| {
        let lag = &regions[1]["lag"];
        lag["notifications"].as_u64() >= Some(1) && lag["events"].as_u64() >= Some(1)
    })
    .await;
    let doctor = peal_in(folder, "eu", &["doctor"]).await.exits(0);
    let hub_row = doctor.stdout.lines().find(|row| row.contains("hub does not answer")).unwrap();
    let waiting: u64 = hub_row.split("; ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(waiting >= 2 && hub_row.starts_with("warn"), "{}", doctor.stdout);
    kill("KILL", server_of_hub).await;
    let opted_out = json!({ "marketing": false, "channels": { "email": false } });
    us.set_preferences(opted_out.clone()).await;
    up.says("hub: nats-server runs again").await;
    for other in [&eu, &ap] {
        other.eventually_prefers(&opted_out).await;
    }
    eu.eventually_regions("all answer, and the hub has everything", |regions| {
        are_level(regions) && regions.as_array().unwrap().iter().all(|region| region["state"] == "ready")
    })
    .await;

    let all: Vec<_> =
        ["hub", "eu", "us", "ap"].iter().flat_map(|name| pids(&place(folder, name)).into_values()).collect();
    assert_eq!(all.len(), 2 + 3 + 3 + 3);
    up.stopped_by("INT").await;
    for pid in all {
        assert!(!is_running(pid).await, "process {pid} still runs");
    }
}

/// An id that one region accepted is the same notification in the other one, and no other.
async fn an_id_is_the_same_notification_everywhere(eu: &Gateway, us: &Gateway) {
    let first = eu.call("POST", "/v1/notifications", Some(notification("once", "Hi"))).await;
    assert_eq!((&first["duplicate"], &first["region"]), (&json!(false), &json!("eu")));
    us.eventually_knows_of("once").await;
    let again = us.call("POST", "/v1/notifications", Some(notification("once", "Hi"))).await;
    assert_eq!(
        again,
        json!({ "id": "once", "status": "accepted", "duplicate": true, "region": "eu",
                              "accepted_at": first["accepted_at"] })
    );
    assert_eq!(us.refusal("/v1/notifications", &notification("once", "Other")).await, "id_reused");
}

/// What the README says that publishers do: the gateways in an order, the same request first at the same region, then at
/// the next one.
async fn publishers_go_on_to_the_next_region(
    folder: &Path,
    up: &mut Up,
    endpoints: [&Gateway; 3],
    hub: &Gateway,
) {
    let [eu, _, ap] = endpoints;
    let request = notification("over", "Hi");
    // Nobody starts it again meanwhile.
    kill("STOP", up.pid()).await;
    kill("KILL", pids(&place(folder, "eu"))["gateway"]).await;
    let mut answers = Vec::new();
    for endpoint in endpoints {
        for _ in 0..2 {
            if answers.last().is_none_or(Option::is_none) {
                answers.push(endpoint.try_send(&request).await);
            }
        }
    }
    let [None, None, Some(taken)] = answers.as_slice() else { panic!("{answers:?}") };
    assert_eq!((&taken["region"], &taken["duplicate"]), (&json!("us"), &json!(false)));
    ap.eventually_knows_of("over").await;
    kill("CONT", up.pid()).await;
    up.says("eu: gateway runs again").await;
    // It takes nothing before it has read what others accepted.
    let again = async {
        loop {
            if let Some(answer) = eu.try_send(&request).await {
                break answer;
            }
        }
    };
    let again = tokio::time::timeout(LIMIT, again).await.expect("eu takes nothing any more");
    assert_eq!((&again["region"], &again["duplicate"]), (&json!("us"), &json!(true)), "{again}");
    assert_eq!(again["accepted_at"], taken["accepted_at"]);
    hub.eventually_delivered("over", "us", "demo-user").await;
    let all = hub.call("GET", "/v1/notifications?recipient=demo-user", None).await;
    let found = all["data"].as_array().unwrap().iter().filter(|found| found["id"] == "over").count();
    assert_eq!(found, 1, "sent by one region alone: {all}");
}

/// The hub's gateway knows what happened in every region, and changes nothing.
async fn the_hub_answers_for_all_regions(folder: &Path, regions: [&Gateway; 3], hub: &Gateway) {
    for (gateway, region) in regions.into_iter().zip(["eu", "us", "ap"]) {
        let id = format!("in-{region}");
        gateway.send(folder, &id).await;
        hub.eventually_delivered(&id, region, "demo-user").await;
        let one = hub.call("GET", &format!("/v1/notifications/{id}"), None).await;
        assert_eq!((&one["region"], &one["deliveries"][0]["status"]), (&json!(region), &json!("sent")));
        let types = |list: &Value| -> Vec<String> {
            list.as_array().unwrap().iter().map(|it| it["type"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(types(&one["events"]), ["accepted", "planned", "sent"]);
        let events = hub.call("GET", &format!("/v1/events?notification={id}"), None).await;
        // The latest first.
        assert_eq!(types(&events["data"]), ["sent", "planned", "accepted"]);
        let why = hub.call("GET", &format!("/v1/notifications/{id}/explain"), None).await;
        assert_eq!(
            (&why["recipient"], &why["channels"][0]["chosen"]),
            (&json!("demo-user"), &json!(true)),
            "{why}"
        );
        assert_eq!(types(&why["events"]), ["accepted", "planned", "sent"]);
        let page = hub.page(&format!("/console/notifications/demo/{id}")).await;
        assert!(page.contains(&id) && page.contains("sandbox"), "{page}");
        let tail =
            ["--json", "tail", "--since", "10m", "--type", "sent", "--notification", &id, "--count", "1"];
        assert_eq!(peal_in(folder, "hub", &tail).await.exits(0).json()["region"], region);
    }
    let (overview, of_regions) = (hub.page("/console").await, hub.page("/console/regions").await);
    for region in ["eu", "us", "ap"] {
        assert!(overview.contains(&format!("in-{region}")), "in-{region} is not in {overview}");
        assert!(of_regions.contains(&format!("<b>{region}</b>")), "{of_regions}");
    }
    let refused = hub.refusal("/v1/notifications", &notification("at-the-hub", "Hi")).await;
    assert_eq!(refused, "only_in_regions");
    assert_eq!(hub.preferences().await, json!({ "marketing": false }));
}

/// A provider knows one address. What it reports there of another region's delivery is handed to that one.
async fn a_report_is_handed_to_its_region(eu: &Gateway, us: &Gateway) {
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
    let mut up = regions_up(folder.path(), &["eu", "us"]);
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

    eu.eventually_regions("the hub has everything", are_level).await;
    assert_eq!(us.refused("GET", "/v1/recipients/homebody", &Value::Null).await["code"], "not_found");
    us.call("GET", "/v1/recipients/traveller", None).await;
    for _ in 0..2 {
        eu.deleted("/v1/recipients/homebody").await;
    }
    // It goes the same way, and it is the last.
    us.eventually_lacks("/v1/recipients/traveller", async || eu.deleted("/v1/recipients/traveller").await)
        .await;
    up.stopped_by("INT").await;
    let place = |name: &str| place(folder.path(), name).join("nats-server");
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
