//! `peal bench --quick` measures everything and leaves nothing behind. Its figures are not looked at: they depend on the
//! machine and on what else it does.

use std::process::Command;

use serde_json::Value;

#[test]
fn a_quick_measurement_reports_every_part_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let measured = Command::new(env!("CARGO_BIN_EXE_peal"))
        .args(["bench", "--quick", "--json", "--dir"])
        .arg(folder.path())
        .output()
        .unwrap();
    let progress = String::from_utf8_lossy(&measured.stderr);
    assert!(measured.status.success(), "{progress}\n{}", String::from_utf8_lossy(&measured.stdout));
    let report: Value = serde_json::from_slice(&measured.stdout).unwrap();

    assert_eq!(report["faults"], serde_json::json!([]));
    assert_eq!(report["quick"], true);
    assert!(report["payload_bytes"].as_u64().unwrap() > 100);
    assert!(report["machine"]["cores"].as_u64().unwrap() > 0);
    assert_eq!(report["accepting"].as_array().unwrap().len(), 3);
    for series in report["accepting"].as_array().unwrap() {
        assert!(series["per_second"].as_f64().unwrap() > 0.0, "{series}");
    }
    assert_eq!(report["sustained"].as_array().unwrap().len(), 2);
    assert!(report["end_to_end"]["per_second"].as_f64().unwrap() > 0.0);
    for critical in [&report["light"], &report["backlog"]["critical"]] {
        let latency = &critical["to_provider"];
        assert!(latency["p99_ms"].as_f64().unwrap() >= latency["p50_ms"].as_f64().unwrap(), "{critical}");
    }
    assert_eq!(report["recipients"]["per_second_by_tenth"].as_array().unwrap().len(), 10);
    for name in ["peal-gateway", "peal-dispatcher", "nats-server"] {
        assert!(report["memory"]["recipients"][name]["peak_bytes"].as_u64().unwrap() > 0, "{name}");
    }
    assert_eq!(report["always"].as_array().unwrap().len(), 2);
    assert!(!report["comparisons"].as_array().unwrap().is_empty());

    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
