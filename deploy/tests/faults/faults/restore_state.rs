//! The stream with the region's state is lost and restored from a copy, with the stock `nats` command, as an operator would.
//! Meanwhile nobody may answer as if there were no recipients.

use std::time::Duration;

use anyhow::Context as _;
use futures_util::FutureExt as _;
use peal_nats::Subjects;
use peal_nats::server::find;

use super::{Fault, PROBE_LIMIT};

/// A state stream that is made anew.
pub const FAULT: Fault = Fault {
    name: "state stream restored",
    resends: None,
    strike: |region, _| {
        async {
            let nats = find::nats_command()?.context("the nats command is missing")?;
            let folder = tempfile::tempdir()?;
            let copy = folder.path().join("state");
            let copy = copy.to_str().context("a folder with an odd name")?;
            let stream = Subjects::new(&region.connection.region).state_stream();
            let server = region.nodes[0].url();
            for arguments in [
                &["stream", "backup", &stream, copy, "--no-progress"][..],
                &["stream", "rm", &stream, "--force"],
                &["stream", "restore", copy, "--no-progress"],
            ] {
                let mut command = tokio::process::Command::new(&nats);
                command.args(["--server", &server]).args(arguments).kill_on_drop(true);
                let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await??;
                let told = String::from_utf8_lossy(&output.stderr);
                anyhow::ensure!(output.status.success(), "nats {}: {told}", arguments.join(" "));
            }
            region.until_it_takes_writes(PROBE_LIMIT).await
        }
        .boxed()
    },
};
