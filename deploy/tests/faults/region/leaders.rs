//! Who leads what among the servers of a region.

use std::collections::HashMap;

use peal_common::channel::Channel;
use peal_nats::Subjects;
use peal_nats::topology::{EVENTS, INTAKE, work_stream};
use rand::RngExt as _;
use rand::rngs::StdRng;
use reqwest::Client;
use serde_json::Value;

use super::{Region, SERVER_LIMIT, plain_client};
use crate::wait::Patience;

/// Who leads what, as one of the servers has it.
struct Leaders {
    /// Who leads the group that all servers are in, and has a say in where streams are.
    meta: Option<usize>,
    streams: HashMap<String, usize>,
}

impl Region {
    /// One of its servers: the one that leads INTAKE, EVENTS, the state, the queue of webhooks or the servers themselves, or
    /// any, each equally often. Waits until it is known.
    pub async fn any_node(&self, rng: &mut StdRng) -> anyhow::Result<usize> {
        let mut streams = self.led_streams().to_vec();
        let drawn = rng.random_range(0..streams.len() + 2);
        let any = rng.random_range(0..self.nodes.len());
        let stream = (drawn < streams.len()).then(|| streams.swap_remove(drawn));
        let is_meta = stream.is_none() && drawn.is_multiple_of(2);
        let http = plain_client()?;
        let patience = Patience::new("the servers know who leads", SERVER_LIMIT);
        loop {
            let (node, what) = match &stream {
                None if !is_meta => (Some(any), "whatever it leads"),
                _ => {
                    let known = self.leaders_seen_from(0, &http).await;
                    match &stream {
                        None => (known.and_then(|known| known.meta), "which leads the servers"),
                        Some(stream) => {
                            let led = known.and_then(|known| known.streams.get(stream).copied());
                            (led, stream.as_str())
                        }
                    }
                }
            };
            if let Some(node) = node {
                println!("one of three: node-{node}, {what}");
                return Ok(node);
            }
            patience.pause().await?;
        }
    }

    /// Waits until the servers besides `node` agree that it leads nothing any more.
    pub async fn until_another_leads(&self, node: usize) -> anyhow::Result<()> {
        let streams = self.led_streams();
        let http = plain_client()?;
        let patience = Patience::new("other servers lead", SERVER_LIMIT);
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            loop {
                let known = self.leaders_seen_from(other, &http).await;
                let is_led = |leader: Option<usize>| leader.is_some_and(|leader| leader != node);
                if known.is_some_and(|known| {
                    let led = streams.iter().all(|stream| is_led(known.streams.get(stream).copied()));
                    is_led(known.meta) && led
                }) {
                    break;
                }
                patience.pause().await?;
            }
        }
        Ok(())
    }

    fn led_streams(&self) -> [String; 4] {
        let state = Subjects::new(&self.connection.region).state_stream();
        [INTAKE.to_owned(), EVENTS.to_owned(), state, work_stream(Channel::Webhook)]
    }

    /// What one of the servers says. It is asked itself: who has lost the others is not asked by way of them.
    async fn leaders_seen_from(&self, node: usize, http: &Client) -> Option<Leaders> {
        let url = format!("{}/jsz?accounts=true&streams=true", self.nodes[node].monitor()?);
        let told: Value =
            serde_json::from_slice(&http.get(url).send().await.ok()?.bytes().await.ok()?).ok()?;
        let number = |leader: &Value| leader.as_str()?.strip_prefix("node-")?.parse().ok();
        let accounts = told["account_details"].as_array().map_or(&[][..], Vec::as_slice);
        let streams = accounts.iter().filter_map(|account| account["stream_detail"].as_array()).flatten();
        let leader = |stream: &Value| {
            Some((stream["name"].as_str()?.to_owned(), number(&stream["cluster"]["leader"])?))
        };
        Some(Leaders {
            meta: number(&told["meta_cluster"]["leader"]),
            streams: streams.filter_map(leader).collect(),
        })
    }
}
