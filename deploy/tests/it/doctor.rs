//! `peal doctor`.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use peal_nats::Subjects;
use peal_nats::connect::{Options, connect};
use peal_nats::publish::Outgoing;
use peal_nats::service::{Description, Service};
use peal_nats::topology::EVENTS;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::clock::{self, Clock};
use crate::linked::{Linked, eventually};
use crate::support::{Region, finished, peal};

fn status<'a>(report: &'a Value, name: &str) -> &'a str {
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == name);
    check.unwrap_or_else(|| panic!("{name} is not in {report}"))["status"].as_str().unwrap()
}

#[tokio::test]
async fn what_is_missing_is_found() {
    let region = Region::start().await;
    // Nobody listens on these: the usual ports may belong to somebody on this machine.
    let port = || peal_nats::server::free_port().unwrap();
    let mut text = std::fs::read_to_string(&region.config).unwrap();
    for process in ["gateway", "dispatcher"] {
        text.push_str(&format!("[{process}]\nlisten = \"127.0.0.1:{}\"\n", port()));
    }
    std::fs::write(&region.config, text).unwrap();

    let bare = region.run(["--json", "doctor"]).await.exits(1).json();
    assert_eq!(status(&bare, "topology"), "fail");
    region.run(["topology", "apply"]).await.exits(0);
    let report = region.run(["--json", "doctor"]).await.exits(1).json();
    for good in [
        "settings",
        "region key",
        "connection",
        "versions",
        "domain",
        "storage",
        "topology",
        "clock",
        "servers",
        "queues",
    ] {
        assert_eq!(status(&report, good), "ok", "{good}: {report}");
    }
    // The server's own default: it forces data to disk every two minutes.
    assert_eq!(status(&report, "power loss"), "warn");
    assert!(report.to_string().contains("120s"), "{report}");
    for missing in ["gateway", "dispatcher"] {
        assert_eq!(status(&report, missing), "fail");
    }
    let table = region.run(["doctor"]).await.exits(1);
    assert!(
        table.stdout.contains("What to do:") && table.stdout.contains("start peal-gateway"),
        "{}",
        table.stdout
    );
}

#[tokio::test]
async fn without_a_server_it_says_so_and_goes_on() {
    let mut region = Region::start().await;
    region.server.kill().await.unwrap();
    let report = region.run(["--json", "doctor"]).await.exits(1).json();
    assert_eq!(status(&report, "connection"), "fail");
    assert_eq!(status(&report, "region key"), "ok");
}

#[tokio::test]
async fn two_versions_side_by_side_are_told() {
    let region = Region::with_streams().await;
    let options = Options::new([region.server.url()], "local".parse().unwrap(), "test");
    let connection = connect(&options).await.unwrap();
    let mut services = Vec::new();
    for (name, version) in
        [("peal-gateway", "0.1.0"), ("peal-dispatcher", "0.1.0"), ("peal-gateway", "0.2.0")]
    {
        let metadata = HashMap::from([("region".to_owned(), "local".to_owned())]);
        let description = Description { name, version, description: "Of a test", metadata };
        services.push(Service::register(&connection, &description).await.unwrap());
        let report = region.run(["--json", "doctor"]).await.json();
        let expected = ["warn", "ok", "warn"][services.len() - 1];
        assert_eq!(status(&report, "running"), expected, "{report}");
    }
    let report = region.run(["doctor"]).await;
    for text in
        ["0.1.0: peal-dispatcher of local, peal-gateway of local; 0.2.0: peal-gateway of local", "upgrade"]
    {
        assert!(report.stdout.contains(text), "{}", report.stdout);
    }
    for service in services {
        service.stop().await;
    }
}

#[tokio::test]
async fn a_clock_that_is_off_is_told() {
    let Some(library) = clock::library() else {
        peal_nats::server::skipped("a clock that is off: libfaketime is not installed");
        return;
    };
    let region = Region::with_streams().await;
    let slow = Clock::new(&library, region.folder.path().join("offset")).unwrap();
    for (seconds, expected) in [(0, "ok"), (-5, "warn"), (90, "fail")] {
        slow.set(seconds).unwrap();
        let mut command = peal(region.folder.path());
        command.args(["--json", "doctor", "--config"]).arg(&region.config).envs(slow.variables());
        let report = finished(&mut command).await.json();
        assert_eq!(status(&report, "clock"), expected, "{report}");
    }
}

#[tokio::test]
async fn what_waits_for_a_hub_that_does_not_take_it_is_told() {
    const COUNT: u64 = 10_001;
    let linked = Linked::start(&["eu"]).await;
    linked.run("eu", ["topology", "apply"]).await.exits(0);
    let eu = linked.connection("eu").await;
    let subject = Subjects::new(&eu.region).event("sent", None, "shop");
    let publish = |number: u64| eu.publish(Outgoing::new(subject.clone(), number.to_string()));
    let published: Vec<_> = stream::iter(0..COUNT).map(publish).buffer_unordered(256).collect().await;
    assert!(published.iter().all(Result::is_ok));
    // The hub's server is there; its streams are not.
    let report = linked.run("eu", ["--json", "doctor"]).await.json();
    assert_eq!(status(&report, "hub"), "warn");
    assert!(report.to_string().contains("hub answers; 10001 messages wait for hub"), "{report}");
    linked.run("hub", ["topology", "apply"]).await.exits(0);
    eventually("the hub has taken it", async || {
        let report = linked.run("eu", ["--json", "doctor"]).await.json();
        status(&report, "hub") == "ok" && report.to_string().contains("; 0 messages wait for hub")
    })
    .await;
    let hub = linked.connection("hub").await;
    assert_eq!(hub.stream_state(EVENTS).await.unwrap().messages, COUNT);
    let report = linked.run("hub", ["--json", "doctor"]).await.json();
    assert_eq!(status(&report, "links"), "ok", "{report}");
}

#[tokio::test]
async fn accounts_at_providers_are_asked() {
    let region = Region::with_streams().await;
    let [port, nobody] = [(); 2].map(|()| peal_nats::server::free_port().unwrap());
    let mut text = std::fs::read_to_string(&region.config).unwrap();
    text.push_str(&format!(
        "[dispatcher]\nlisten = \"127.0.0.1:{port}\"\n\
         [channels.telegram]\ntoken = \"1:secret\"\nbase_url = \"http://127.0.0.1:{nobody}\"\n"
    ));
    std::fs::write(&region.config, text).unwrap();
    let dispatcher = Path::new(env!("CARGO_BIN_EXE_peal")).with_file_name("peal-dispatcher");
    let mut dispatcher = Command::new(dispatcher)
        .arg("--config")
        .arg(&region.config)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .current_dir(region.folder.path())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let report = loop {
        let report = region.run(["--json", "doctor"]).await.json();
        if status(&report, "dispatcher") == "ok" {
            break report;
        }
        assert!(Instant::now() < deadline, "{report}");
        sleep(Duration::from_millis(100)).await;
    };
    let accounts: Vec<_> =
        report["checks"].as_array().unwrap().iter().filter(|check| check["name"] == "account").collect();
    let [telegram, others] = accounts[..] else { panic!("{report}") };
    assert_eq!(telegram["found"], "telegram (telegram): connect_failed");
    assert_eq!((telegram["status"].as_str(), others["status"].as_str()), (Some("fail"), Some("ok")));
    assert!(others["found"].as_str().unwrap().contains("webhook"), "{others}");
    dispatcher.kill().await.unwrap();
}
