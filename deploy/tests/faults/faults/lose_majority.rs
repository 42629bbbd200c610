//! Two of three servers are killed: nothing may be accepted until one of them is back.

use std::time::Duration;

use futures_util::FutureExt as _;
use rand::RngExt as _;
use serde_json::json;

use super::{Fault, PROBE_LIMIT, restart_all};
use crate::region::{Api, CATEGORY};
use crate::wait::now_ms;

const ELECTED: Duration = Duration::from_secs(15);
/// How many notifications are handed in while the majority is away.
const TRIES: usize = 5;

/// `kill -9` of two of three nats-servers.
pub const FAULT: Fault = Fault {
    name: "kill -9 two of three",
    resends: Some(ELECTED),
    strike: |region, rng| {
        async {
            let stays = rng.random_range(0..region.nodes.len());
            for (number, node) in region.nodes.iter_mut().enumerate() {
                if number != stays {
                    node.kill().await?;
                }
            }
            region.until_it_refuses_writes(PROBE_LIMIT).await?;
            // A leader that is left alone keeps what it is handed and stores it once the others are back. It would be
            // delivered then, although nobody was told that it was accepted, and nobody repeats these.
            region.until_nobody_leads().await?;
            hand_in_vain(&region.api).await?;
            let down = region.nodes.iter_mut().enumerate().filter(|(number, _)| *number != stays);
            restart_all(down.map(|(_, node)| node)).await?;
            region.until_recovered().await
        }
        .boxed()
    },
};

/// Hands in notifications that nobody else knows. None may be accepted: whoever answers says when to come back.
async fn hand_in_vain(api: &Api) -> anyhow::Result<()> {
    for number in 0..TRIES {
        let notification = json!({
            "id": format!("refused-{}-{number}", now_ms()),
            "category": CATEGORY,
            "to": [{ "recipient": "u-0" }],
            "content": { "title": "Shipped", "body": "Without a majority nobody can know" },
        });
        // No answer in time is no acceptance either.
        if let Ok(answer) = api.post("/v1/notifications", &notification).await {
            anyhow::ensure!(answer.is_come_back(), "without a majority a notification got {answer:?}");
        }
    }
    Ok(())
}
