//! `peal topology plan|apply|check`.

use peal_nats::connect::{Options, connect};

use crate::support::Region;

#[tokio::test]
async fn plan_apply_and_check_agree() {
    let region = Region::start().await;
    let plan = region.run(["topology", "plan"]).await.exits(0);
    assert!(plan.stdout.contains("create stream INTAKE"), "{}", plan.stdout);
    region.run(["topology", "plan", "--exit-code"]).await.exits(1);
    region.run(["topology", "check"]).await.exits(1);

    let applied = region.run(["--json", "topology", "apply"]).await.exits(0).json();
    assert!(applied["applied"].as_array().unwrap().len() > 14, "{applied}");
    let again = region.run(["--json", "topology", "apply"]).await.exits(0).json();
    assert_eq!(again["applied"].as_array().unwrap().len(), 0, "{again}");
    region.run(["topology", "plan", "--exit-code"]).await.exits(0);
    let check = region.run(["--json", "topology", "check"]).await.exits(0).json();
    assert_eq!(check["ok"], true, "{check}");
}

#[tokio::test]
async fn what_loses_data_needs_permission() {
    let region = Region::with_streams().await;
    let options = Options::new([region.server.url()], "local".parse().unwrap(), "test");
    let connection = connect(&options).await.unwrap();
    let mut events = connection.jetstream.get_stream("EVENTS").await.unwrap().cached_info().config.clone();
    // Going back to what the topology says shrinks a limit.
    events.max_age *= 2;
    connection.jetstream.update_stream(events).await.unwrap();
    let check = region.run(["topology", "check"]).await.exits(1);
    assert!(check.stdout.contains("EVENTS") && check.stdout.contains("max_age"), "{}", check.stdout);
    let refused = region.run(["topology", "apply"]).await.exits(1);
    assert!(refused.stderr.contains("--allow-destructive"), "{}", refused.stderr);
    region.run(["topology", "check"]).await.exits(1);
    region.run(["topology", "apply", "--allow-destructive"]).await.exits(0);
    region.run(["topology", "check"]).await.exits(0);
}
