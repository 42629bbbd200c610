//! How fast a bot may send, all dispatchers together, and the pause that Telegram asks for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use peal_common::channel::Priority;
use peal_common::outcome::Outcome;
use peal_nats::turns::{NoTurn, Rate, Turns};
use sha2::Sha256;
use tokio::time::{Instant, sleep, timeout_at};

use super::request::Chat;
use crate::channels::PROVIDER_PAUSED;
use crate::channels::outcomes::{held_back, no_turn};

/// All chats together: 25 messages a second evenly and 4 at once, so that no second has more than the 30 that Telegram
/// allows (Bots FAQ, "My bot is hitting limits"), even when one is a little late.
const OVERALL: Rate = Rate { period: Duration::from_millis(40), burst: 4 };
/// One chat: a message a second (same source).
const CHAT: Rate = Rate { period: Duration::from_secs(1), burst: 1 };
/// A group: 17 messages a minute evenly and 3 at once, so that no minute has more than 20 (same source).
const GROUP: Rate = Rate { period: Duration::from_millis(60_000 / 17), burst: 3 };
/// After a wait this long it is looked again whether the bot was paused meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// When no turn is near enough, the next look is not sooner.
const AGAIN: Duration = Duration::from_millis(20);

/// The rate limits of one bot.
pub(super) struct Limits {
    turns: Turns,
    key: Hmac<Sha256>,
    overall: String,
    lines: Mutex<HashMap<(String, Priority), Arc<Line>>>,
}

/// Who of this process waits for a chat's turn, each priority for itself and one behind the other. All at once would each take a
/// turn of the bot for the one that the chat has.
type Line = tokio::sync::Mutex<()>;

impl Limits {
    /// Those of the bot with this token. Neither it nor a chat can be read from the names of the buckets.
    pub(super) fn new(turns: Turns, token: &str) -> Self {
        // A key of HMAC may have any length (RFC 2104 §2).
        let key = Hmac::new_from_slice(token.as_bytes()).unwrap_or_else(|_| Hmac::new(&Default::default()));
        let overall = format!("telegram.{}", digest(&key, ""));
        Limits { turns, key, overall, lines: Mutex::default() }
    }

    /// The line of a chat and priority, and how many stand in it already.
    fn line(&self, chat: &str, priority: Priority) -> (Arc<Line>, u32) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        // Beside whoever stands in a line the map has it.
        lines.retain(|_, line| Arc::strong_count(line) > 1);
        let line = Arc::clone(lines.entry((chat.to_owned(), priority)).or_default());
        let before = u32::try_from(Arc::strong_count(&line).saturating_sub(2)).unwrap_or(u32::MAX);
        (line, before)
    }

    /// Waits for the turn of a message to `chat`, at most `max_wait`.
    ///
    /// # Errors
    /// The outcome, when that would take longer, or the bot is paused.
    pub(super) async fn turn(
        &self,
        chat: &Chat,
        priority: Priority,
        max_wait: Duration,
    ) -> Result<(), Outcome> {
        let deadline = Instant::now() + max_wait;
        let (of_chat, of_group) = (self.name_of(chat), format!("{}.group", self.name_of(chat)));
        let mut own = vec![(of_chat.as_str(), CHAT)];
        own.extend(chat.is_group().then_some((of_group.as_str(), GROUP)));
        let (line, before) = self.line(&of_chat, priority);
        let slowest = own.iter().map(|(_, rate)| rate.period).max().unwrap_or_default();
        let behind_them = slowest.saturating_mul(before);
        if behind_them > max_wait {
            return Err(no_turn(NoTurn::Later(behind_them)));
        }
        let Ok(_turn) = timeout_at(deadline, line.lock()).await else {
            return Err(no_turn(NoTurn::Later(behind_them.max(AGAIN))));
        };
        loop {
            // A message that its chat holds back takes no turn from the others.
            let mut wait = Duration::ZERO;
            for (name, rate) in &own {
                wait = wait.max(self.turns.wait(name, *rate).await.map_err(no_turn)?);
            }
            if wait.is_zero() {
                match self.both(&own, ahead(priority).min(max_wait)).await {
                    Ok(turn) => return self.until(turn).await,
                    Err(NoTurn::Later(later)) => wait = later.max(AGAIN),
                    Err(error) => return Err(no_turn(error)),
                }
            }
            if Instant::now() + wait > deadline {
                return Err(no_turn(NoTurn::Later(wait)));
            }
            sleep(wait).await;
        }
    }

    /// Takes a turn of the bot, and those of the chat at the same time.
    async fn both(&self, own: &[(&str, Rate)], patience: Duration) -> Result<Duration, NoTurn> {
        let turn = self.turns.take(&self.overall, OVERALL, 1, patience).await?;
        for (name, rate) in own {
            self.turns.take_at(name, *rate, turn).await?;
        }
        Ok(turn)
    }

    async fn until(&self, turn: Duration) -> Result<(), Outcome> {
        sleep(turn).await;
        if turn >= LOOK_AGAIN
            && let Some(left) = self.turns.frozen(&self.overall).await.map_err(no_turn)?
        {
            return Err(held_back(PROVIDER_PAUSED, Some(left)));
        }
        Ok(())
    }

    fn name_of(&self, chat: &Chat) -> String {
        let digest = match chat {
            Chat::Id(id) => digest(&self.key, &id.to_string()),
            Chat::Name(name) => digest(&self.key, name),
        };
        format!("{}.{digest}", self.overall)
    }

    /// Keeps all dispatchers from the bot.
    pub(super) async fn pause(&self, wait: Duration) {
        if let Err(error) = self.turns.freeze(&self.overall, wait).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "other dispatchers do not hear of a bot's pause"
            );
        }
    }
}

/// How far ahead turns are reserved. What is less urgent leaves the nearest ones to what is more so.
const fn ahead(priority: Priority) -> Duration {
    match priority {
        Priority::Critical => Duration::from_secs(5),
        Priority::High => Duration::from_secs(2),
        Priority::Normal => Duration::from_secs(1),
        Priority::Bulk => Duration::from_millis(250),
    }
}

fn digest(key: &Hmac<Sha256>, text: &str) -> String {
    let mac = key.clone().chain_update(text).finalize().into_bytes();
    mac[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channels::THROTTLED;

    async fn turn(limits: &Limits, chat: i64, priority: Priority) -> Option<&'static str> {
        match limits.turn(&Chat::Id(chat), priority, Duration::ZERO).await {
            Ok(()) => None,
            Err(Outcome::HeldBack { reason, after: Some(_) }) if reason == THROTTLED => Some(THROTTLED),
            Err(Outcome::HeldBack { reason, after: Some(_) }) if reason == PROVIDER_PAUSED => {
                Some(PROVIDER_PAUSED)
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    fn is_throttled(outcome: &Result<(), Outcome>) -> bool {
        matches!(outcome, Err(Outcome::HeldBack { reason, .. }) if reason == THROTTLED)
    }

    #[tokio::test]
    async fn one_chat_has_to_wait_and_others_do_not() {
        let limits = Limits::new(Turns::local(), "1:a");
        assert_eq!(turn(&limits, 1, Priority::Normal).await, None);
        assert_eq!(turn(&limits, 1, Priority::Normal).await, Some(THROTTLED));
        assert_eq!(turn(&limits, 2, Priority::Normal).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn many_for_one_chat_take_no_turns_from_the_others() {
        let limits = Arc::new(Limits::new(Turns::local(), "1:a"));
        let (waiting, max_wait) = (20, Duration::from_secs(60));
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..waiting {
            let limits = Arc::clone(&limits);
            all.spawn(async move { limits.turn(&Chat::Id(1), Priority::Normal, max_wait).await });
        }
        // The chat has just had another turn.
        sleep(CHAT.period * 3 + AGAIN).await;
        for other in 2..5 {
            assert_eq!(turn(&limits, other, Priority::Normal).await, None, "{other}");
        }
        let began = Instant::now();
        assert!(all.join_all().await.iter().all(Result::is_ok));
        assert!(began.elapsed() <= CHAT.period * waiting);
        // Who would stand too far back is told at once.
        let chat = limits.name_of(&Chat::Id(9));
        let (_first, _second) = (limits.line(&chat, Priority::Normal), limits.line(&chat, Priority::Normal));
        let began = Instant::now();
        let refused = limits.turn(&Chat::Id(9), Priority::Normal, CHAT.period).await;
        assert!(is_throttled(&refused) && began.elapsed().is_zero(), "{refused:?}");
        assert_eq!(limits.turn(&Chat::Id(9), Priority::High, CHAT.period).await, Ok(()));
        assert_eq!(limits.lines.lock().unwrap().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn no_minute_of_a_group_has_more_than_twenty_messages() {
        const MINUTE: Duration = Duration::from_secs(60);
        const MESSAGES: usize = 60;
        let limits = Arc::new(Limits::new(Turns::local(), "1:a"));
        let send_all = async |chat: Chat| {
            let began = Instant::now();
            let mut all = tokio::task::JoinSet::new();
            for _ in 0..MESSAGES {
                let (limits, chat) = (Arc::clone(&limits), chat.clone());
                all.spawn(async move {
                    limits.turn(&chat, Priority::Normal, MINUTE * 10).await.unwrap();
                    began.elapsed()
                });
            }
            let mut sent = all.join_all().await;
            sent.sort();
            sent
        };
        for group in [Chat::Id(-100_123), Chat::Name("@shop".to_owned())] {
            let sent = send_all(group).await;
            for (first, later) in sent.iter().zip(&sent[20..]) {
                assert!(*later - *first > MINUTE, "{first:?} to {later:?}");
            }
            // It is no slower than it has to be.
            assert!(*sent.last().unwrap() < MINUTE * 4, "{sent:?}");
        }
        let person = send_all(Chat::Id(100_123)).await;
        assert!(*person.last().unwrap() < MINUTE + CHAT.period, "{person:?}");
        // Who can't wait is told for how long.
        let group = Chat::Id(-7);
        for _ in 0..3 {
            limits.turn(&group, Priority::Normal, MINUTE).await.unwrap();
        }
        sleep(CHAT.period).await;
        match limits.turn(&group, Priority::Normal, Duration::ZERO).await {
            Err(Outcome::HeldBack { reason, after: Some(after) }) if reason == THROTTLED => {
                assert!(after < GROUP.period, "{after:?}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn all_chats_together_are_limited_and_paused_together() {
        let turns = Turns::local();
        let limits = Limits::new(turns.clone(), "1:a");
        let mut passed = 0;
        for chat in 0..200 {
            passed += usize::from(turn(&limits, chat, Priority::Critical).await.is_none());
        }
        // The loop takes far less than a second, but how long exactly depends on the machine.
        assert!((4..=30).contains(&passed), "{passed}");
        limits.pause(Duration::from_secs(60)).await;
        assert_eq!(turn(&limits, 999, Priority::Critical).await, Some(PROVIDER_PAUSED));
        let other = Limits::new(turns, "1:b");
        assert_eq!(turn(&other, 999, Priority::Critical).await, None);
        assert!(!other.overall.contains("1:b"));
    }

    #[tokio::test]
    async fn what_is_urgent_may_reserve_further_ahead() {
        let limits = Limits::new(Turns::local(), "1:a");
        // Everything within the next second is given away.
        for _ in 0..28 {
            limits.turns.take(&limits.overall, OVERALL, 1, Duration::from_secs(9)).await.unwrap();
        }
        let wait = Duration::from_millis(500);
        let refused = |outcome: Result<(), Outcome>| matches!(outcome, Err(Outcome::HeldBack { .. }));
        assert!(refused(limits.turn(&Chat::Id(1), Priority::Bulk, wait).await));
        let wait = Duration::from_secs(5);
        assert_eq!(limits.turn(&Chat::Id(2), Priority::Critical, wait).await, Ok(()));
    }
}
