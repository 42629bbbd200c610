//! `peal topology render`: what it writes starts real servers, which link up.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use peal_nats::publish::Outgoing;
use peal_nats::server::free_port;
use peal_nats::topology::{EVENTS, OTHERS_STATE};
use peal_nats::{Connection, Subjects, connect, server};
use tokio::process::{Child, Command};

use crate::support::run;

/// A cluster that starts elects a leader for each of some sixty streams and consumers.
const LIMIT: Duration = Duration::from_secs(90);

fn entry(folder: &Path, name: &str) -> String {
    let [client, cluster, leaf, monitor] = [0; 4].map(|_| free_port().unwrap());
    let store = folder.join(name);
    format!(
        "{{ host = \"127.0.0.1\", client = {client}, cluster = {cluster}, leaf = {leaf}, monitor = {monitor}, \
         store_dir = \"{}\" }}",
        store.display()
    )
}

/// A hub and regions, each with so many servers, called by its name and a letter.
fn description(folder: &Path, hub: usize, regions: &[(&str, usize)]) -> String {
    let servers = |name: &str, count: usize| {
        let entries = ('a'..).take(count).map(|letter| entry(folder, &format!("{name}-{letter}")));
        entries.collect::<Vec<_>>().join(", ")
    };
    let mut text = format!(
        "listen = \"127.0.0.1\"\ninstall_dir = \"{out}\"\n[hub]\nname = \"hub\"\nservers = [{hub}]\n",
        out = folder.join("out").display(),
        hub = servers("hub", hub),
    );
    for (name, count) in regions {
        text.push_str(&format!(
            "[[region]]\nname = \"{name}\"\nservers = [{}]\ntags = [\"here\"]\n",
            servers(name, *count)
        ));
    }
    text
}

/// Sets up the streams of a region or of the hub, as soon as its servers have found each other.
async fn applied(folder: &Path, name: &str) {
    let path = |name: &str| folder.join("out").join(name);
    let config = path(name).join("peal.toml");
    let config = config.to_str().unwrap();
    let applied = async {
        while run(folder, ["topology", "apply", "--config", config]).await.code != Some(0) {}
        while run(folder, ["topology", "check", "--config", config]).await.code != Some(0) {}
    };
    let log = path(name).join(format!("{name}-1.log"));
    let told = || std::fs::read_to_string(&log).unwrap_or_default();
    tokio::time::timeout(LIMIT, applied).await.unwrap_or_else(|_| panic!("{name}:\n{}", told()));
}

async fn connected(folder: &Path, name: &str) -> Connection {
    let text = std::fs::read_to_string(folder.join("out").join(name).join("peal.toml")).unwrap();
    let settings =
        peal_common::settings::Settings::parse(Some(&text), std::collections::HashMap::new()).unwrap();
    connect(&connect::Options::from_settings(&settings, "test").unwrap()).await.unwrap()
}

fn start(config: &Path) -> Child {
    let mut command = Command::new(server::find::nats_server().unwrap());
    let log = config.with_extension("log");
    command.arg("-c").arg(config).arg("--log").arg(log);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command.spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_a_single_server_and_a_hub_come_from_one_description() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    std::fs::write(path("deployment.toml"), description(folder.path(), 1, &[("eu", 3), ("us", 1)])).unwrap();
    let render = ["topology", "render", "--deployment", &path("deployment.toml"), "--out", &path("out")];
    let first = run(folder.path(), render).await.exits(0);
    for file in ["hub/hub-1.conf", "eu/eu-3.conf", "us/us-1.conf", "us/peal.toml", "us/secrets.conf"] {
        assert!(first.stdout.contains(file), "{file} is not among\n{}", first.stdout);
    }
    // Whoever reads a configuration learns no password, and rendering again makes no other one.
    let password = std::fs::read_to_string(path("out/us/link.password")).unwrap();
    assert!(!std::fs::read_to_string(path("out/us/us-1.conf")).unwrap().contains(&password));
    let second = run(folder.path(), render).await.exits(0);
    assert_eq!(second.stdout, "nothing has changed\n");

    let configs = ["hub/hub-1", "eu/eu-1", "eu/eu-2", "eu/eu-3", "us/us-1"];
    let servers: Vec<_> =
        configs.iter().map(|name| start(Path::new(&path(&format!("out/{name}.conf"))))).collect();
    for name in ["hub", "eu", "us"] {
        applied(folder.path(), name).await;
    }

    // A key that is made in the cluster of one region arrives in the other one.
    let keys = ["keys", "create", "--app", "shop", "--name", "first", "--scope", "send", "--config"];
    run(folder.path(), keys.iter().copied().chain([path("out/eu/peal.toml").as_str()])).await.exits(0);
    let us = connected(folder.path(), "us").await;
    let arrived =
        async { while us.stream_state(OTHERS_STATE).await.map_or(0, |state| state.messages) == 0 {} };
    tokio::time::timeout(LIMIT, arrived).await.expect("the key does not arrive");
    drop(servers);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_reach_a_hub_of_three_servers_also_when_one_of_them_is_killed() {
    const COUNT: u64 = 200;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("d.toml"), description(folder, 3, &[("eu", 1)])).unwrap();
    run(folder, ["topology", "render", "--deployment", "d.toml", "--out", "out"]).await.exits(0);
    let server = |name: &str| (name.to_owned(), start(&folder.join("out").join(format!("{name}.conf"))));
    let mut servers: BTreeMap<_, _> =
        ["hub/hub-1", "hub/hub-2", "hub/hub-3", "eu/eu-1"].iter().map(|name| server(name)).collect();
    for name in ["eu", "hub"] {
        applied(folder, name).await;
    }
    let (eu, hub) = (connected(folder, "eu").await, connected(folder, "hub").await);
    let happened = async || {
        let subject = Subjects::new(&eu.region).event("sent", None, "shop");
        for number in 0..COUNT {
            eu.publish(Outgoing::new(subject.clone(), number.to_string())).await.unwrap();
        }
    };
    let arrived = async |count: u64| {
        let arriving =
            async { while hub.stream_state(EVENTS).await.map_or(0, |state| state.messages) != count {} };
        tokio::time::timeout(LIMIT, arriving)
            .await
            .unwrap_or_else(|_| panic!("{count} events do not arrive"));
    };
    happened().await;
    arrived(COUNT).await;
    // The one that takes them from the region, and with it whatever else it does.
    let mut stream = hub.jetstream.get_stream(EVENTS).await.unwrap();
    let info = stream.info().await.unwrap();
    assert_eq!(info.config.num_replicas, 3);
    let leader = info.cluster.as_ref().unwrap().leader.clone().unwrap();
    servers.remove(&format!("hub/{leader}")).unwrap().kill().await.unwrap();
    happened().await;
    arrived(2 * COUNT).await;
    // The new leader says a little later what it has.
    let config = folder.join("out/eu/peal.toml");
    let doctor = async || run(folder, ["doctor", "--config", config.to_str().unwrap()]).await.stdout;
    let confirmed = async { while !doctor().await.contains("hub answers; 0 messages wait for hub") {} };
    let confirmed = tokio::time::timeout(LIMIT, confirmed).await;
    assert!(confirmed.is_ok(), "the hub does not confirm what it has:\n{}", doctor().await);
    drop(servers);
}

#[tokio::test]
async fn what_it_cannot_use_is_told_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("d.toml"),
        "[hub]\nname = \"hub\"\nservers = [\"a\", \"b\"]\nregion = []\n",
    )
    .unwrap();
    let ran =
        run(folder.path(), ["topology", "render", "--deployment", "d.toml", "--out", "out"]).await.exits(2);
    assert!(ran.stderr.contains("region"), "{}", ran.stderr);
    assert!(!folder.path().join("out").exists());
    run(folder.path(), ["topology", "render", "--out", "out"]).await.exits(2);
    let example = run(folder.path(), ["topology", "render", "--example"]).await.exits(0);
    std::fs::write(folder.path().join("d.toml"), example.stdout).unwrap();
    run(folder.path(), ["topology", "render", "--deployment", "d.toml", "--out", "out"]).await.exits(0);
}
