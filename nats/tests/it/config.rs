//! The example configurations are accepted by the server.

use std::process::Command;

use peal_nats::server::find;

fn accepted(file: &str, environment: &[(&str, &str)]) {
    let path = format!("{}/config/{file}", env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(find::nats_server().unwrap())
        .args(["-t", "-c", &path])
        .envs(environment.iter().copied())
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_laptop_configuration_is_accepted() {
    accepted("laptop.conf", &[]);
}

#[test]
fn the_configuration_of_a_region_is_accepted() {
    let environment = [
        ("NODE", "seoul-a"),
        ("HOST", "10.0.0.1"),
        ("REGION", "seoul"),
        ("ROUTE_A", "nats-route://10.0.0.1:6222"),
        ("ROUTE_B", "nats-route://10.0.0.2:6222"),
        ("ROUTE_C", "nats-route://10.0.0.3:6222"),
        ("PEAL_PASSWORD", "one"),
        ("SYS_PASSWORD", "two"),
    ];
    accepted("region-node.conf", &environment);
}
