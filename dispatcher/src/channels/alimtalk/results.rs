//! What became of messages: Aligo tells it batch by batch, some seconds after it took them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use peal_common::outcome::Outcome;

use super::outcome;

/// How long an answer serves everybody who asks after the same batch.
const FRESH: Duration = Duration::from_secs(3);
/// Batches whose answers are kept.
const KEPT: usize = 64;

/// Aligo's list of a batch's messages (`history/detail`).
#[derive(Debug, Deserialize)]
pub(super) struct Detail {
    #[serde(default)]
    list: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(default)]
    phone: String,
    /// Kakao's code, once there is one.
    #[serde(default)]
    rslt: Option<String>,
}

/// By number, as it is dialled in Korea.
type Results = HashMap<String, Option<Outcome>>;

/// The answers of the last moments.
#[derive(Default)]
pub(super) struct Asked(Mutex<VecDeque<(String, Instant, Arc<Results>)>>);

impl Asked {
    /// What became of the message to `receiver` in `batch`; `None` while nobody knows. `read` asks Aligo, once for
    /// everybody who wants to know of a batch at the same time.
    ///
    /// # Errors
    /// The outcome of the question, when Aligo can't tell.
    pub(super) async fn result(
        &self,
        batch: &str,
        receiver: &str,
        read: impl AsyncFnOnce() -> Result<Detail, Outcome>,
    ) -> Result<Option<Outcome>, Outcome> {
        let mut asked = self.0.lock().await;
        asked.retain(|(_, at, _)| at.elapsed() < FRESH);
        let known = asked.iter().find(|(known, ..)| known == batch).map(|(.., results)| Arc::clone(results));
        let results = match known {
            Some(results) => results,
            None => {
                let results = Arc::new(results(read().await?));
                if asked.len() == KEPT {
                    asked.pop_front();
                }
                asked.push_back((batch.to_owned(), Instant::now(), Arc::clone(&results)));
                results
            }
        };
        Ok(results.get(receiver).cloned().flatten())
    }
}

fn results(detail: Detail) -> Results {
    let digits = |phone: String| phone.chars().filter(char::is_ascii_digit).collect::<String>();
    let result = |code: Option<String>| outcome::of_result(code.as_deref().unwrap_or_default());
    detail.list.into_iter().map(|entry| (digits(entry.phone), result(entry.rslt))).collect()
}
