//! Help, versions and exit codes: what scripts rely on.

use crate::support::run;

const COMMANDS: [&[&str]; 17] = [
    &[],
    &["up"],
    &["doctor"],
    &["topology"],
    &["topology", "plan"],
    &["topology", "apply"],
    &["topology", "check"],
    &["keys"],
    &["keys", "create"],
    &["keys", "list"],
    &["keys", "rotate"],
    &["keys", "revoke"],
    &["keys", "webhook-secret"],
    &["keys", "vapid"],
    &["send"],
    &["tail"],
    &["dead-letters", "replay"],
];

#[tokio::test]
async fn every_command_has_help_and_a_version() {
    let folder = tempfile::tempdir().unwrap();
    for command in COMMANDS {
        let help = run(folder.path(), command.iter().chain(&["--help"])).await.exits(0);
        assert!(help.stdout.contains("Usage: peal"), "{command:?}:\n{}", help.stdout);
        let version = run(folder.path(), command.iter().chain(&["--version"])).await.exits(0);
        assert!(
            version.stdout.trim_end().ends_with(env!("CARGO_PKG_VERSION")),
            "{command:?}: {}",
            version.stdout
        );
    }
}

#[tokio::test]
async fn wrong_arguments_and_settings_exit_with_2_and_say_what_to_write() {
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad.toml");
    std::fs::write(&bad, "[gateway]\nlistn = \"x\"\n").unwrap();
    let bad = bad.to_str().unwrap();
    let cases: [(&[&str], &str); 9] = [
        (&["frobnicate"], "unrecognized"),
        (&["up", "--port", "0"], "0 is not in 1..=65535"),
        (&["topology", "plan", "--config", bad], "listn"),
        (&["doctor", "--config", "missing.toml"], "missing.toml"),
        (&["keys", "create", "--app", "a b", "--scope", "send"], "1 to 128 characters"),
        (&["keys", "create", "--app", "a", "--scope", "everything"], "possible values"),
        (&["send", "--to", "u", "--category", "c", "--body", "b"], "--url or PEAL_URL"),
        (
            &[
                "send",
                "--to",
                "u",
                "--category",
                "c",
                "--body",
                "b",
                "--url",
                "nonsense",
                "--key",
                "k",
                "--secret",
                "s",
            ],
            "--url",
        ),
        (&["dead-letters", "replay", "--url", "http://127.0.0.1:1", "--key", "k", "--secret", "s"], "--all"),
    ];
    for (arguments, said) in cases {
        let ran = run(folder.path(), arguments).await.exits(2);
        assert!(ran.stderr.contains(said) && ran.stdout.is_empty(), "{arguments:?}:\n{}", ran.stderr);
    }
}

#[tokio::test]
async fn nobody_there_exits_with_1_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let port = peal_nats::server::free_port().unwrap();
    let config = folder.path().join("peal.toml");
    std::fs::write(&config, format!("[nats]\nurls = [\"nats://127.0.0.1:{port}\"]\n")).unwrap();
    let config = config.to_str().unwrap();
    for command in [&["topology", "check"][..], &["keys", "list"], &["tail"]] {
        let ran = run(folder.path(), command.iter().chain(&["--config", config])).await.exits(1);
        assert!(ran.stderr.contains("no NATS server answers"), "{}", ran.stderr);
    }
    let url = format!("http://127.0.0.1:{port}");
    let gateway = ["--url", &url, "--key", "pk_1", "--secret", "sk_1"];
    let send = ["send", "--to", "u", "--category", "c", "--body", "b"];
    let ran = run(folder.path(), send.iter().chain(&gateway)).await.exits(1);
    assert!(ran.stderr.contains("does not answer") && !ran.stderr.contains("sk_1"), "{}", ran.stderr);
    let ran = run(folder.path(), ["--json", "dead-letters", "list"].iter().chain(&gateway)).await.exits(1);
    let error: serde_json::Value = serde_json::from_str(ran.stderr.trim()).unwrap();
    assert!(error["error"]["detail"].as_str().unwrap().contains("does not answer"));
}
