//! What only the monitoring pages of nats-servers tell: how each of them was configured, and its clock.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use peal_common::clock::Clock;
use peal_common::id::Region;
use peal_nats::inspect::ClockSkew;
use reqwest::Client;
use serde::Deserialize;
use tokio::time::Instant;

/// The usual monitoring page of a server on this machine.
const LOOPBACK: &str = "http://127.0.0.1:8222";
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// What the servers of a region tell.
#[derive(Debug, Default)]
pub struct ServerPages {
    pub(super) pages: Vec<ServerPage>,
    /// The pages that did not answer.
    pub(super) silent: Vec<String>,
}

/// The part of `/varz` that matters here.
#[derive(Debug, Deserialize)]
pub(super) struct ServerPage {
    #[serde(default)]
    pub(super) server_name: String,
    #[serde(default)]
    pub(super) version: String,
    now: Option<Timestamp>,
    jetstream: Option<JetStream>,
    /// What can be switched on in `feature_flags`, and whether it is.
    #[serde(default)]
    feature_flags: HashMap<String, bool>,
    #[serde(skip)]
    pub(super) clock: Option<ClockSkew>,
}

#[derive(Debug, Deserialize)]
struct JetStream {
    config: Option<Config>,
}

#[derive(Debug, Deserialize)]
struct Config {
    domain: Option<String>,
    #[serde(flatten)]
    sync: SyncConfig,
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
    fn domain(&self) -> Option<&str> {
        self.jetstream.as_ref()?.config.as_ref()?.domain.as_deref()
    }
}

impl ServerPages {
    /// Asks the monitoring pages at `monitors`, all at once.
    pub async fn read(client: &Client, monitors: &[String]) -> Self {
        let asked = monitors.iter().map(|monitor| ServerPage::read(client, monitor));
        let mut found = ServerPages::default();
        for (monitor, page) in monitors.iter().zip(join_all(asked).await) {
            match page {
                Some(page) => found.pages.push(page),
                None => found.silent.push(monitor.clone()),
            }
        }
        found
    }

    /// Asks the server of a region that is on this machine, when none has told: what `peal topology render` sets up has its
    /// monitoring page on the loopback.
    pub async fn or_of_this_machine(mut self, client: &Client, region: &Region) -> Self {
        if self.pages.is_empty()
            && let Some(page) = ServerPage::read(client, LOOPBACK).await
            && page.domain() == Some(region.as_str())
        {
            self.pages.push(page);
            // The only one there is was silent under its name.
            if self.silent.len() == 1 {
                self.silent.clear();
            }
        }
        self
    }

    /// How often the one that does it least forces data to disk.
    pub(super) fn sync(&self) -> Option<SyncConfig> {
        let all = self.pages.iter().map(|page| Some(page.jetstream.as_ref()?.config.as_ref()?.sync));
        let all: Option<Vec<_>> = all.collect();
        all?.into_iter().max_by_key(|config| (!config.sync_always, config.sync_interval))
    }

    /// Whether all have it switched on; `None` when none of them told.
    pub(super) fn have_switched_on(&self, flag: &str) -> Option<bool> {
        let is_on = |page: &ServerPage| page.feature_flags.get(flag).is_some_and(|on| *on);
        (!self.pages.is_empty()).then(|| self.pages.iter().all(is_on))
    }
}

impl ServerPage {
    async fn read(client: &Client, monitor: &str) -> Option<Self> {
        let url = format!("{}/varz", monitor.trim_end_matches('/'));
        let asked = Instant::now();
        let answer = client.get(url).timeout(ANSWER_LIMIT).send().await.ok()?;
        let mut page: ServerPage = serde_json::from_slice(&answer.bytes().await.ok()?).ok()?;
        let half = i64::try_from(asked.elapsed().as_millis() / 2).unwrap_or(i64::MAX);
        page.clock = page.now.map(|now| ClockSkew {
            ahead_ms: now.as_millisecond() - (Clock::System.now_ms() - half),
            uncertainty_ms: half + 1,
        });
        Some(page)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Pages as servers write them, with these parts.
    pub(in crate::doctor) fn pages(parts: &[&str]) -> ServerPages {
        let pages = parts.iter().map(|part| serde_json::from_str(part).unwrap()).collect();
        ServerPages { pages, silent: Vec::new() }
    }

    #[test]
    fn the_servers_page_is_read_as_it_writes_it() {
        let page = r#"{"server_id":"N","server_name":"eu-1","version":"2.15.1","now":"2026-11-30T12:00:00.123456789Z",
            "jetstream":{"config":{"max_memory":1,"domain":"eu","sync_interval":120000000000,"sync_always":true,"strict":true}},
            "feature_flags":{"js_ack_fc_v2":true,"js_api_reply_v2":false}}"#;
        let found = pages(&[page]);
        let sync = SyncConfig { sync_interval: 120_000_000_000, sync_always: true };
        assert_eq!((found.sync(), found.pages[0].domain()), (Some(sync), Some("eu")));
        assert_eq!(found.have_switched_on("js_ack_fc_v2"), Some(true));
        assert_eq!(found.have_switched_on("js_api_reply_v2"), Some(false));
        assert_eq!(found.have_switched_on("another"), Some(false));
        assert_eq!(found.pages[0].now.unwrap().as_millisecond(), 1_796_040_000_123);
    }

    #[test]
    fn the_worst_server_counts() {
        let always = r#"{"jetstream":{"config":{"sync_always":true}},"feature_flags":{"js_ack_fc_v2":true}}"#;
        let often = r#"{"jetstream":{"config":{"sync_interval":10}},"feature_flags":{"js_ack_fc_v2":true}}"#;
        let rarely = r#"{"jetstream":{"config":{"sync_interval":120}}}"#;
        let sync = |parts: &[&str]| pages(parts).sync().map(|sync| (sync.sync_always, sync.sync_interval));
        assert_eq!(sync(&[always, rarely, often]), Some((false, 120)));
        assert_eq!(sync(&[always, always]), Some((true, 0)));
        assert_eq!((sync(&[]), sync(&[always, "{}"])), (None, None));
        assert_eq!(pages(&[always, often]).have_switched_on("js_ack_fc_v2"), Some(true));
        assert_eq!(pages(&[always, rarely]).have_switched_on("js_ack_fc_v2"), Some(false));
        assert_eq!(pages(&[]).have_switched_on("js_ack_fc_v2"), None);
    }
}
