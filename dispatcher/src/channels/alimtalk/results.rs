//! What became of messages: Aligo tells it batch by batch, some seconds after it took them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::OnceCell;
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

/// What Aligo said of one batch, once it has.
type Answer = Arc<OnceCell<Result<Results, Outcome>>>;

/// The answers of the last moments, each with when its batch was asked for.
#[derive(Default)]
pub(super) struct Asked(Mutex<VecDeque<(String, Instant, Answer)>>);

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
        let answer = self.of(batch);
        let said = answer.get_or_init(|| async { read().await.map(results) }).await;
        let results = said.as_ref().map_err(Clone::clone)?;
        Ok(results.get(receiver).cloned().flatten())
    }

    fn of(&self, batch: &str) -> Answer {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|(_, at, _)| at.elapsed() < FRESH);
        if let Some((.., answer)) = asked.iter().find(|(known, ..)| known == batch) {
            return Arc::clone(answer);
        }
        if asked.len() == KEPT {
            asked.pop_front();
        }
        let answer = Answer::default();
        asked.push_back((batch.to_owned(), Instant::now(), Arc::clone(&answer)));
        answer
    }
}

fn results(detail: Detail) -> Results {
    let digits = |phone: String| phone.chars().filter(char::is_ascii_digit).collect::<String>();
    let result = |code: Option<String>| outcome::of_result(code.as_deref().unwrap_or_default());
    detail.list.into_iter().map(|entry| (digits(entry.phone), result(entry.rslt))).collect()
}
