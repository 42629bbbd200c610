//! A client whose server is cut off from the others of its cluster goes to another one.

use std::time::Duration;

use futures_util::future::join_all;
use peal_nats::connect::{Options, connect};
use peal_nats::server::Routes;

use crate::support::{eventually, region, start};

/// The server that is cut off gives up being the leader within 20 s (nats-server 2.15), and is given 10 s more.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_client_leaves_a_server_that_is_cut_off() {
    let routes = Routes::new(3).await.unwrap();
    let nodes = join_all((0..3).map(|number| {
        let cluster = routes.of(number, "test-1").unwrap();
        start(move |config| config.cluster = Some(cluster))
    }))
    .await;
    let urls = nodes.iter().map(|node| node.server.url());
    let connection = connect(&Options::new(urls, region(), "test")).await.unwrap();
    let answers = async || connection.jetstream.query_account().await.is_ok();
    eventually("JetStream answers", answers).await;

    let left = connection.client.server_info().server_name;
    let number = left.strip_prefix("node-").unwrap().parse().unwrap();
    routes.silence(number);
    let mut interval = tokio::time::interval(Duration::from_millis(100));
    let leaves = async {
        while connection.client.server_info().server_name == left || !answers().await {
            interval.tick().await;
        }
    };
    assert!(tokio::time::timeout(LIMIT, leaves).await.is_ok(), "it is still at {left}");
}
