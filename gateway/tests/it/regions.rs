//! How regions stand, as `GET /v1/regions` and the console's page tell it.

use std::collections::HashMap;

use peal_common::channel::Priority;
use peal_common::clock::Clock;
use peal_nats::publish::Outgoing;
use peal_nats::service::{Description, Request, Service};
use peal_nats::topology::{self, Current, Links, Topology};
use peal_nats::{Connection, Region, Subjects};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::browser::Browser;
use crate::harness::{APP, Client, Harness, eventually, region};

/// Linked with `ap`, whose gateway answers, and with `us`, which is cut off.
fn settings() -> String {
    format!(
        "[gateway]\nconsole_requires_key = false\n[topology]\nhub = \"hub\"\nregions = [\"{}\", \"ap\", \"us\"]\n",
        region()
    )
}

/// A region of three, without its hub.
async fn linked() -> Harness {
    let mut harness = Harness::prepare(&settings(), Clock::System).await;
    let links = Links { hub: named("hub"), others: vec![named("ap"), named("us")] };
    let options = topology::Options { links: Some(links), ..topology::Options::laptop() };
    let wanted = Topology::for_region(&region(), &options);
    let jetstream = &harness.connection.jetstream;
    let plan = topology::plan(&Current::read(jetstream, &wanted).await.unwrap(), &wanted);
    // The hub is not there, and there is nothing of it to miss.
    topology::apply(jetstream, &plan, true).await.unwrap();
    harness.start_gateway().await;
    harness.ready().await;
    harness
}

fn named(name: &str) -> Region {
    name.parse().unwrap()
}

/// Somebody whom `nats micro ls` lists.
async fn registered(connection: &Connection, name: &'static str, region: &Region) -> Service {
    let metadata = HashMap::from([("region".to_owned(), region.to_string())]);
    let description = Description { name, version: "0.2.0", description: "Of a test", metadata };
    Service::register(connection, &description).await.unwrap()
}

/// The gateway of `ap`, of an earlier version: it tells less.
async fn answer_as_ap(connection: Connection, stop: CancellationToken) {
    let service = registered(&connection, "peal-gateway", &named("ap")).await;
    let told = json!({
        "name": "ap", "reachable": true, "ready": true, "waiting": 7, "in_hand": 1, "scheduled": 0, "dead_letters": 0,
        "lag": { "events": 2, "state": 1 }, "gateways": [], "dispatchers": [], "checked_at": "2026-01-02T03:04:05Z",
    });
    let answer = |request: Request| {
        let told = told.to_string();
        async move { request.answer(Ok(told.into())).await }
    };
    let subject = Subjects::new(&named("ap")).api("region");
    service.serve("region", &subject, 1, &stop, answer).await.unwrap();
    service.stop().await;
}

/// The regions, once they are as wanted.
async fn regions(client: &Client, what: &str, holds: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let found = async || client.get("/v1/regions").await.ok(200)["data"].as_array().unwrap().clone();
    eventually(what, async || holds(&found().await)).await;
    found().await
}

fn of<'a>(regions: &'a [Value], name: &str) -> &'a Value {
    regions.iter().find(|found| found["name"] == name).unwrap()
}

#[tokio::test]
async fn a_region_without_a_dispatcher_is_degraded_and_one_that_is_cut_off_does_not_answer() {
    let harness = linked().await;
    let here = region();
    let stop = CancellationToken::new();
    let ap = tokio::spawn(answer_as_ap(harness.connection.clone(), stop.clone()));
    let client = harness.admin().await;
    // The hub takes nothing, so all of this waits for it; the key that was just made does, too.
    let subject = harness.subjects.intake(Priority::Normal, APP);
    for number in 1..=3 {
        harness.connection.publish(Outgoing::new(subject.clone(), number.to_string())).await.unwrap();
    }

    let found = regions(&client, "the other region answers, and its lag is known", |regions| {
        of(regions, "ap")["reachable"] == true && of(regions, here.as_str())["lag"]["notifications"] == 3
    })
    .await;
    let own = of(&found, here.as_str());
    assert_eq!((&own["ready"], &own["state"]), (&json!(true), &json!("degraded")));
    assert_eq!(own["reasons"], json!(["no dispatcher answers: what is accepted waits"]));
    assert_eq!((&own["waiting"], &own["lag"]["events"]), (&json!(3), &json!(0)));
    assert!(own["lag"]["state"].as_u64().unwrap() > 0, "{own}");
    let ap_found = of(&found, "ap");
    assert_eq!((&ap_found["state"], &ap_found["lag"]["events"]), (&json!("degraded"), &json!(2)));
    assert_eq!(ap_found["gateways"][0]["version"], "0.2.0");
    let us = of(&found, "us");
    assert_eq!((&us["reachable"], &us["state"]), (&json!(false), &json!("unreachable")));
    assert!(us["lag"].is_null() && us["reasons"][0].is_string(), "{us}");

    let page = client.get("/console/regions").await;
    page.ok(200);
    for text in ["Linked by hub", "degraded", "no dispatcher answers", "does not answer", "3 notifications, "]
    {
        assert!(page.text.contains(text), "{text}:\n{}", page.text);
    }

    let service = registered(&harness.connection, "peal-dispatcher", &here).await;
    let found =
        regions(&client, "its dispatcher is found", |regions| of(regions, here.as_str())["state"] == "ready")
            .await;
    let own = of(&found, here.as_str());
    assert_eq!((&own["reasons"], &own["dispatchers"][0]["version"]), (&json!([]), &json!("0.2.0")));
    assert_eq!(of(&found, "ap")["state"], "degraded", "a dispatcher here delivers nothing there");
    if let Some(browser) = Browser::start().await {
        let mut page = browser.open(&format!("{}/console/regions", harness.url)).await;
        let rows = page.evaluate("document.querySelector('.list tbody').innerText").await;
        let rows = rows.as_str().unwrap();
        for text in ["ready", "degraded", "does not answer", "3 notifications, "] {
            assert!(rows.contains(text), "{text}:\n{rows}");
        }
        for (name, width, scheme) in [
            ("regions-light", 1360, "light"),
            ("regions-dark", 1360, "dark"),
            ("regions-phone", 390, "light"),
        ] {
            assert!(page.picture(name, width, scheme).await.starts_with(b"\x89PNG"));
            let fits = "document.documentElement.scrollWidth <= window.innerWidth";
            assert_eq!(page.evaluate(fits).await, true, "{name} is wider than the screen");
            let whole =
                "[...document.querySelectorAll('.scroll')].every(it => it.scrollWidth <= it.clientWidth)";
            assert_eq!(
                page.evaluate(whole).await,
                width > 1000,
                "{name}: all columns show where there is room"
            );
        }
        assert_eq!(page.log, [""; 0], "the browser complains");
    }
    service.stop().await;
    stop.cancel();
    ap.await.unwrap();
}
