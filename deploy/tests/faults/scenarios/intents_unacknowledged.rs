//! Storage answers too late: the intent to call is durable, and the dispatcher that declared it does not hear so.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use peal_common::channel::Channel;
use peal_common::event::Status;
use peal_nats::Subjects;
use peal_nats::topology::DEAD_LETTERS;
use serde_json::json;

use crate::channels::{Carrier, Channels};
use crate::journal::Journal;
use crate::region::tap::{By, Message, Verdict};
use crate::region::{CATEGORY, Region, Wanted};
use crate::wait;

const LIMIT: Duration = Duration::from_secs(60);
/// Where an intent precedes each call, and the category.
const ROWS: [(Channel, &str); 3] =
    [(Channel::Sms, CATEGORY), (Channel::Telegram, "news"), (Channel::Alimtalk, CATEGORY)];
const EACH: u64 = 3;

/// Loses what the server answers to the first intent of each delivery.
fn lose_first_answers(attempts: String) -> impl Fn(&Message<'_>) -> Verdict + Send + Sync {
    let (declared, awaited) = (Mutex::new(HashSet::new()), Mutex::new(HashSet::new()));
    move |message| {
        let (mut declared, mut awaited) = (declared.lock().unwrap(), awaited.lock().unwrap());
        match message.by {
            By::Client if message.subject.starts_with(&attempts) => {
                if declared.insert(message.subject.to_owned()) {
                    awaited.insert(message.reply.to_owned());
                }
                Verdict::Pass
            }
            By::Server if awaited.remove(message.subject) => Verdict::LoseAndNote(message.subject.to_owned()),
            _ => Verdict::Pass,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_intent_that_was_not_followed_by_a_call_stands_in_nobodys_way() -> anyhow::Result<()> {
    let channels = Channels::start().await?;
    let settings = channels.settings("")?;
    let wanted = Wanted { tapped: true, channels: &settings, ..Wanted::new("http://127.0.0.1:9/unused") };
    let mut region = Region::start(wanted).await?;
    let result = run(&mut region, &channels).await;
    result.map_err(|error| error.context(region.logs()))
}

async fn run(region: &mut Region, channels: &Channels) -> anyhow::Result<()> {
    let journal = Journal::start(&region.connection);
    let news = json!({ "class": "marketing", "channels": ["telegram"] });
    region.api.put("/v1/categories/news", &news).await?;
    let subjects = Subjects::new(&region.connection.region);
    let attempts = subjects.attempt_all().trim_end_matches('>').to_owned();
    region.tap()?.judge(lose_first_answers(attempts));
    let mut notifications = Vec::new();
    for (row, (channel, category)) in (0..).zip(ROWS) {
        for number in row * EACH..(row + 1) * EACH {
            region
                .api
                .put(&format!("/v1/recipients/w-{number}"), &channels.recipient(number, Carrier::Twilio))
                .await?;
            notifications.push(json!({
                "id": format!("w-{number}"), "category": category, "channels": [channel],
                "to": [{ "recipient": format!("w-{number}") }], "content": Channels::content(),
            }));
        }
    }
    let all = notifications.len();
    region.api.post("/v1/notifications/batch", &json!({ "notifications": notifications })).await?;
    wait::until("all are settled", LIMIT, async || (journal.entries().settled.len() == all).then_some(()))
        .await?;
    let lost = region.tap()?.noted().len();
    anyhow::ensure!(lost == all, "{lost} of {all} intents had no answer");
    for end in journal.entries().settled.values() {
        let sent = end.statuses.iter().any(|(status, _)| *status == Status::Sent);
        anyhow::ensure!(sent, "{} ended as {:?}", end.notification, end.statuses);
    }
    for (channel, _) in ROWS {
        let calls = channels.calls(channel, &region.connection).await?;
        anyhow::ensure!(calls.len() as u64 == EACH, "{channel}: {} calls of {EACH}", calls.len());
    }
    let dead = region.connection.stream_state(DEAD_LETTERS).await?.messages;
    anyhow::ensure!(dead == 0, "{dead} dead letters");
    Ok(())
}
