//! What a power cut can cost: it depends on copies, and on how often the server forces data to disk. The second stands
//! only in the server's monitoring pages.

use std::time::Duration;

use peal_common::settings::Settings;

use super::Check;
use super::server_page::{ServerPages, SyncConfig};

const NAME: &str = "power loss";

/// Says what is promised, by what the servers' pages tell.
pub fn power_loss(settings: &Settings, pages: &ServerPages) -> Check {
    judge(settings.topology.replicas, settings.channels.sandbox.enabled, pages.sync())
}

fn judge(replicas: usize, sandbox: bool, known: Option<SyncConfig>) -> Check {
    let Some(config) = known else {
        let found = match replicas {
            1 => "one copy; how often the server forces data to disk is unknown".to_owned(),
            copies => format!("{copies} copies; what is lost when all servers lose power at once is unknown"),
        };
        let advice = "name the server's monitoring page with --monitor http://host:8222; nats-server's own default is \
                      every 2 minutes";
        return Check::warn(NAME, found, advice);
    };
    let often = Duration::from_nanos(config.sync_interval);
    match (config.sync_always, replicas) {
        (true, _) => Check::ok(
            NAME,
            "nothing that was acknowledged is lost, as far as the disks keep what they confirm",
        ),
        (false, 1) => {
            let found = format!("one copy, forced to disk every {often:?}: a power cut can lose as much");
            let advice =
                "three servers with replicas = 3, or `sync_interval: always` in the server's configuration";
            if sandbox {
                Check::ok(NAME, format!("{found}; enough for trying out"))
            } else {
                Check::warn(NAME, found, advice)
            }
        }
        (false, copies) => Check::ok(
            NAME,
            format!(
                "{copies} copies: losing one server loses nothing; all at once can lose the last {often:?}. Whether they \
                 share a power supply is not visible from here"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn the_promise_follows_from_copies_and_interval() {
        let every =
            |seconds: u64| Some(SyncConfig { sync_interval: seconds * 1_000_000_000, sync_always: false });
        let always = Some(SyncConfig { sync_interval: 0, sync_always: true });
        assert_eq!(judge(1, false, always).status, Status::Ok);
        assert_eq!(judge(1, false, every(120)).status, Status::Warn);
        assert_eq!(judge(1, true, every(10)).status, Status::Ok);
        assert!(judge(3, false, every(10)).found.contains("10s"));
        assert_eq!(judge(3, false, None).status, Status::Warn);
    }
}
