//! What only nats-server's own monitoring page tells: how it was configured.

use std::collections::HashMap;
use std::time::Duration;

use reqwest::Client;
use serde::Deserialize;

const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// The part of `/varz` that matters here.
#[derive(Debug, Deserialize)]
pub struct ServerPage {
    jetstream: Option<JetStream>,
    /// What can be switched on in `feature_flags`, and whether it is.
    #[serde(default)]
    feature_flags: HashMap<String, bool>,
}

#[derive(Debug, Deserialize)]
struct JetStream {
    config: Option<SyncConfig>,
}

/// How often data is forced to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct SyncConfig {
    /// Nanoseconds.
    #[serde(default)]
    pub(super) sync_interval: u64,
    #[serde(default)]
    pub(super) sync_always: bool,
}

impl ServerPage {
    /// Asks the monitoring page at `monitor`. `None` when it does not answer.
    pub async fn read(client: &Client, monitor: &str) -> Option<Self> {
        let url = format!("{}/varz", monitor.trim_end_matches('/'));
        let answer = client.get(url).timeout(ANSWER_LIMIT).send().await.ok()?;
        serde_json::from_slice(&answer.bytes().await.ok()?).ok()
    }

    pub(super) fn sync(&self) -> Option<SyncConfig> {
        self.jetstream.as_ref()?.config
    }

    pub(super) fn has_switched_on(&self, flag: &str) -> bool {
        self.feature_flags.get(flag).is_some_and(|on| *on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_page_is_read_as_it_writes_it() {
        let page = r#"{"server_id":"N","jetstream":{"config":{"max_memory":1,"sync_interval":120000000000,
            "sync_always":true,"strict":true}},"feature_flags":{"js_ack_fc_v2":true,"js_api_reply_v2":false}}"#;
        let page: ServerPage = serde_json::from_str(page).unwrap();
        let sync = SyncConfig { sync_interval: 120_000_000_000, sync_always: true };
        assert_eq!(page.sync(), Some(sync));
        assert!(page.has_switched_on("js_ack_fc_v2"));
        assert!(!page.has_switched_on("js_api_reply_v2") && !page.has_switched_on("another"));
    }
}
