//! Gateway, dispatchers and nats-server are killed at random moments while notifications flow: webhooks, which may be
//! repeated, and text messages, which may not.

use crate::faults;
use crate::plan::{Plan, given};
use crate::region::Wanted;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_accepted_notification_ends_once_whatever_is_killed() -> anyhow::Result<()> {
    let faults = faults::KILLS.to_vec();
    // Not by default: they take a tenth of the run and are judged more strictly than webhooks.
    let has_texts = given("PEAL_FAULT_KILLS_TEXTS", 0) == 1;
    let plan = Plan { name: "KILLS", notifications: 50_000, rate: 0, times: 30, has_texts, faults };
    plan.run(|webhook| Wanted { dispatchers: 2, ..Wanted::new(webhook) }).await
}
