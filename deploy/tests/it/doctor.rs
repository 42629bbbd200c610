//! `peal doctor`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::support::Region;

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
