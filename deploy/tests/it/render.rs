//! `peal topology render`: what it writes starts real servers, which link up.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use peal_nats::server::free_port;
use peal_nats::topology::OTHERS_STATE;
use peal_nats::{connect, server};
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

fn description(folder: &Path) -> String {
    let servers =
        |names: &[&str]| names.iter().map(|name| entry(folder, name)).collect::<Vec<_>>().join(", ");
    format!(
        "listen = \"127.0.0.1\"\ninstall_dir = \"{out}\"\n[hub]\nname = \"hub\"\nservers = [{hub}]\n\
         [[region]]\nname = \"eu\"\nservers = [{eu}]\ntags = [\"here\"]\n\
         [[region]]\nname = \"us\"\nservers = [{us}]\n",
        out = folder.join("out").display(),
        hub = servers(&["hub"]),
        eu = servers(&["eu-a", "eu-b", "eu-c"]),
        us = servers(&["us"]),
    )
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
    std::fs::write(path("deployment.toml"), description(folder.path())).unwrap();
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
        let config = path(&format!("out/{name}/peal.toml"));
        let applied = async {
            while run(folder.path(), ["topology", "apply", "--config", &config]).await.code != Some(0) {}
            while run(folder.path(), ["topology", "check", "--config", &config]).await.code != Some(0) {}
        };
        let told = || std::fs::read_to_string(path(&format!("out/{name}/{name}-1.log"))).unwrap_or_default();
        tokio::time::timeout(LIMIT, applied).await.unwrap_or_else(|_| panic!("{name}:\n{}", told()));
    }

    // A key that is made in the cluster of one region arrives in the other one.
    let keys = ["keys", "create", "--app", "shop", "--name", "first", "--scope", "send", "--config"];
    run(folder.path(), keys.iter().copied().chain([path("out/eu/peal.toml").as_str()])).await.exits(0);
    let text = std::fs::read_to_string(path("out/us/peal.toml")).unwrap();
    let settings =
        peal_common::settings::Settings::parse(Some(&text), std::collections::HashMap::new()).unwrap();
    let us = connect(&connect::Options::from_settings(&settings, "test").unwrap()).await.unwrap();
    let arrived =
        async { while us.stream_state(OTHERS_STATE).await.map_or(0, |state| state.messages) == 0 {} };
    tokio::time::timeout(LIMIT, arrived).await.expect("the key does not arrive");
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
