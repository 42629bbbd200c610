//! The server process: start, restart, pause, and errors that say what to do.

use std::collections::HashSet;
use std::time::Duration;

use peal_nats::connect::{self, Auth};
use peal_nats::server::{ClusterConfig, Login, Server, ServerConfig, ServerError, Sync, free_port};
use peal_nats::topology::{self, Current, Options, Topology};

use crate::support::{connected, connection, eventually, region, start};

#[tokio::test]
async fn streams_and_messages_survive_a_kill_and_a_stop() {
    let (mut running, first) = connected().await;
    let topology = Topology::for_region(&region(), &Options::laptop());
    let plan = topology::plan(&Current::default(), &topology);
    topology::apply(&first.jetstream, &plan, false).await.unwrap();
    let subject = "peal.test-1.intake.normal.shop";
    first.jetstream.publish(subject, "one".into()).await.unwrap().await.unwrap();

    let port = running.server.client_port();
    running.server.kill().await.unwrap();
    assert!(running.server.pid().is_none());
    running.server.restart().await.unwrap();
    running.server.restart().await.unwrap();
    assert_eq!(running.server.client_port(), port);

    let again = connection(&running.server).await;
    let mut stream = again.jetstream.get_stream(topology::INTAKE).await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 1);
    // The earlier connection comes back by itself.
    eventually("the first connection answers again", || async {
        first.jetstream.query_account().await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_paused_server_answers_only_after_it_is_resumed() {
    let (running, connection) = connected().await;
    running.server.pause().await.unwrap();
    let silent = tokio::time::timeout(Duration::from_millis(300), connection.jetstream.query_account()).await;
    assert!(silent.is_err(), "a paused server answered: {silent:?}");
    running.server.resume().await.unwrap();
    connection.jetstream.query_account().await.unwrap();
}

#[tokio::test]
async fn servers_started_at_once_get_ports_of_their_own() {
    let servers = futures_util::future::join_all((0..4).map(|_| start(|_| {}))).await;
    let ports: HashSet<_> = servers.iter().map(|running| running.server.client_port()).collect();
    assert_eq!(ports.len(), servers.len());
    for running in &servers {
        assert!(running.server.monitor().unwrap().starts_with("http://127.0.0.1:"));
        assert!(running.folder.path().join("nats-server.conf").exists());
    }
}

#[tokio::test]
async fn a_taken_port_and_a_wrong_configuration_are_told_apart() {
    let running = start(|_| {}).await;
    let folder = tempfile::tempdir().unwrap();
    let mut config = ServerConfig::new(region(), folder.path());
    config.port = running.server.client_port();
    let error = Server::start(config).await.unwrap_err();
    assert!(matches!(error, ServerError::PortTaken { .. }), "{error}");

    let mut config = ServerConfig::new(region(), folder.path());
    config.extra = "no_such_setting: 1".to_owned();
    let error = Server::start(config).await.unwrap_err();
    assert!(matches!(error, ServerError::Ended { .. }), "{error}");
}

#[tokio::test]
async fn a_login_is_demanded_and_disk_settings_are_accepted() {
    let login = Login { user: "peal".to_owned(), password: "open \"sesame\" $HOME \\".to_owned() };
    let running = start(|config| {
        config.login = Some(login.clone());
        config.sync = Sync::Always;
        config.max_file_store = Some(64 * 1024 * 1024);
        config.max_memory_store = Some(1024 * 1024);
    })
    .await;
    let mut options = connect::Options::new([running.server.url()], region(), "test");
    let error = connect::connect(&options).await.unwrap_err();
    assert!(matches!(error, connect::ConnectError::Refused { .. }), "{error:?}");
    options.auth = Auth::Password { user: login.user, password: login.password };
    let account = connect::connect(&options).await.unwrap().jetstream.query_account().await.unwrap();
    assert_eq!(account.domain.as_deref(), Some("test-1"));
}

#[tokio::test]
async fn three_servers_keep_three_copies() {
    let ports: Vec<u16> = (0..3).map(|_| free_port().unwrap()).collect();
    let nodes = futures_util::future::join_all(ports.iter().map(|&port| {
        let ports = ports.clone();
        start(move |config| {
            config.cluster = Some(ClusterConfig {
                name: "test-1".to_owned(),
                server_name: format!("node-{port}"),
                port,
                routes: ports,
                advertise: None,
            });
        })
    }))
    .await;
    let connection = connection(&nodes[0].server).await;
    let topology = Topology::for_region(&region(), &Options { replicas: 3, ..Options::laptop() });
    let jetstream = &connection.jetstream;
    // Servers that just met may not know each other's resources yet and refuse to place a stream.
    eventually("the topology can be applied", || async {
        let current = Current::read(jetstream, &topology).await.unwrap();
        topology::apply(jetstream, &topology::plan(&current, &topology), false).await.is_ok()
    })
    .await;
    eventually("all copies are current", || async {
        topology::check(jetstream, &topology).await.is_ok_and(|report| report.is_ok())
    })
    .await;

    let mut nodes = nodes;
    nodes[2].server.kill().await.unwrap();
    eventually("the missing copies are noticed", || async {
        let Ok(report) = topology::check(jetstream, &topology).await else { return false };
        report.to_string().contains("2 of 3 copies")
    })
    .await;
}
