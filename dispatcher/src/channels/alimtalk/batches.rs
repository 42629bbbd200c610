//! Gathering messages of one text, so that up to 500 go out with one call.
//!
//! Nobody waits for a batch to fill: a batch is what came while the one before it was under way. Whoever sends gets the
//! outcome of the call that their message was in.

use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use peal_common::outcome::Outcome;

use super::outcome::Sending;
use super::request::Prepared;
use crate::channels::THROTTLED;
use crate::channels::outcomes::{ambiguous, held_back};

/// The most messages of a call (Aligo, `receiver_1` to `receiver_500`).
pub(super) const MAX: usize = 500;
/// How long the first one waits for others that come at the same moment.
const GATHER: Duration = Duration::from_millis(10);
/// Given back unsent, since the task that was to send it broke off.
const BROKEN_OFF: &str = "batch_broken_off";

/// Sends a batch of one text.
pub(super) trait Call: Send + Sync + 'static {
    fn call(&self, code: &str, messages: &[&Prepared]) -> impl Future<Output = Sending> + Send;
}

/// The messages that wait, by text. A text that stands here has a task that sends what comes.
pub(super) struct Batches<C> {
    shared: Arc<Shared<C>>,
}

struct Shared<C> {
    call: C,
    waiting: Mutex<HashMap<String, VecDeque<Entry>>>,
}

struct Entry {
    message: Prepared,
    /// After this there would not be enough time left for a call.
    begin_by: Instant,
    answer: oneshot::Sender<Outcome>,
}

impl<C: Call> Batches<C> {
    pub(super) fn new(call: C) -> Self {
        Batches { shared: Arc::new(Shared { call, waiting: Mutex::default() }) }
    }

    /// Sends a message with others of the text `code`. It is given back unsent when its call has not begun in time.
    pub(super) async fn send(&self, code: &str, message: Prepared, begin_by: Instant) -> Outcome {
        let (answer, outcome) = oneshot::channel();
        let entry = Entry { message, begin_by, answer };
        let is_first = match self.shared.waiting().entry(code.to_owned()) {
            Slot::Occupied(mut waiting) => {
                waiting.get_mut().push_back(entry);
                false
            }
            Slot::Vacant(slot) => {
                slot.insert(VecDeque::from([entry]));
                true
            }
        };
        if is_first {
            // A task of its own: whoever came first may go, and the others' call goes on.
            tokio::spawn(Arc::clone(&self.shared).run(code.to_owned()));
        }
        outcome.await.unwrap_or_else(|_| ambiguous("no_answer_after_send"))
    }

    /// What calls.
    pub(super) fn call(&self) -> &C {
        &self.shared.call
    }
}

impl<C> Shared<C> {
    fn waiting(&self) -> MutexGuard<'_, HashMap<String, VecDeque<Entry>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Call> Shared<C> {
    async fn run(self: Arc<Self>, code: String) {
        let mut task = Task { shared: &self, code: &code, is_over: false };
        loop {
            sleep(GATHER).await;
            let Some(batch) = self.take(&code) else {
                // From here on the text may have another task.
                task.is_over = true;
                return;
            };
            self.send(&code, batch).await;
        }
    }

    /// The next batch. `None` when nobody waits: then the text is forgotten.
    fn take(&self, code: &str) -> Option<Vec<Entry>> {
        let mut all = self.waiting();
        let waiting = all.get_mut(code)?;
        if waiting.is_empty() {
            all.remove(code);
            return None;
        }
        let (mut batch, mut receivers, mut left) = (Vec::new(), HashSet::new(), VecDeque::new());
        for entry in waiting.drain(..) {
            // Results are told by number: a number that is in the batch already waits for the next one.
            if batch.len() < MAX && receivers.insert(entry.message.receiver.clone()) {
                batch.push(entry);
            } else {
                left.push_back(entry);
            }
        }
        *waiting = left;
        Some(batch)
    }

    /// Sends a batch. Where it is refused as a whole, its halves are tried, until the messages that are why stand alone.
    async fn send(&self, code: &str, batch: Vec<Entry>) {
        let mut parts = vec![batch];
        while let Some(mut part) = parts.pop() {
            let now = Instant::now();
            let (begun, late) = part.drain(..).partition::<Vec<_>, _>(|entry| entry.begin_by > now);
            late.into_iter().for_each(|entry| entry.tell(held_back(THROTTLED, None)));
            // Whoever does not wait any more has given the message back to its queue.
            let mut part: Vec<_> = begun.into_iter().filter(|entry| !entry.answer.is_closed()).collect();
            if part.is_empty() {
                continue;
            }
            let messages: Vec<_> = part.iter().map(|entry| &entry.message).collect();
            match self.call.call(code, &messages).await {
                Sending::Refused(_) if part.len() > 1 => {
                    parts.push(part.split_off(part.len() / 2));
                    parts.push(part);
                }
                Sending::All(outcome) | Sending::Refused(outcome) => {
                    part.into_iter().for_each(|entry| entry.tell(outcome.clone()));
                }
            }
        }
    }
}

/// The task that sends what comes of one text. Should it break off, the text must not stand there as one that has a task, or
/// nothing of it would be sent any more.
struct Task<'a, C> {
    shared: &'a Shared<C>,
    code: &'a str,
    is_over: bool,
}

impl<C> Drop for Task<'_, C> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let left = self.shared.waiting().remove(self.code);
        // They were in no call.
        left.into_iter().flatten().for_each(|entry| entry.tell(held_back(BROKEN_OFF, None)));
    }
}

impl Entry {
    fn tell(self, outcome: Outcome) {
        // Nobody may wait any more.
        let _ = self.answer.send(outcome);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::channels::outcomes::retry;

    /// Notes what it is called with, one call for each permit, and refuses batches with a number that ends in 13.
    struct Noted {
        permits: Semaphore,
        calls: Mutex<Vec<(String, usize)>>,
    }

    impl Call for Arc<Noted> {
        async fn call(&self, code: &str, messages: &[&Prepared]) -> Sending {
            self.calls.lock().unwrap().push((code.to_owned(), messages.len()));
            self.permits.acquire().await.unwrap().forget();
            match messages.iter().any(|message| message.receiver.ends_with("13")) {
                true => Sending::Refused(retry("no", None)),
                false => Sending::All(Outcome::Sent { provider_id: None }),
            }
        }
    }

    fn noted(permits: usize) -> Arc<Noted> {
        Arc::new(Noted { permits: Semaphore::new(permits), calls: Mutex::default() })
    }

    fn to(receiver: String) -> Prepared {
        Prepared { receiver, title: None, text: "x".to_owned(), buttons: Vec::new() }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(9)
    }

    fn sent() -> Outcome {
        Outcome::Sent { provider_id: None }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_together_goes_together_and_each_text_by_itself() {
        let noted = noted(10);
        let batches = Batches::new(Arc::clone(&noted));
        let all = (0..1200).map(|n| batches.send("T1", to(format!("0{}", 1000 + n * 100)), soon()));
        let (all, other) = tokio::join!(join_all(all), batches.send("T2", to("01".to_owned()), soon()));
        assert!(all.into_iter().chain([other]).all(|outcome| outcome == sent()));
        let mut calls = noted.calls.lock().unwrap().clone();
        calls.sort();
        let of = |code: &str, count| (code.to_owned(), count);
        assert_eq!(calls, [of("T1", 200), of("T1", 500), of("T1", 500), of("T2", 1)]);
        sleep(GATHER * 3).await;
        assert!(batches.shared.waiting().is_empty(), "texts are forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_number_is_in_a_batch_once() {
        let noted = noted(10);
        let batches = Batches::new(Arc::clone(&noted));
        join_all((0..3).map(|_| batches.send("T", to("01".to_owned()), soon()))).await;
        assert_eq!(noted.calls.lock().unwrap().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn one_bad_message_does_not_fail_the_others() {
        let noted = noted(100);
        let batches = Batches::new(Arc::clone(&noted));
        let outcomes = join_all((0..64).map(|n| batches.send("T", to(format!("0{n:02}")), soon()))).await;
        for (n, outcome) in outcomes.into_iter().enumerate() {
            assert_eq!(outcome, if n == 13 { retry("no", None) } else { sent() }, "{n}");
        }
        // 64, and two halves for each time that one is cut.
        assert_eq!(noted.calls.lock().unwrap().len(), 1 + 2 * 6);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_too_long_is_given_back_unsent_and_nobody_else_suffers_from_who_goes() {
        let noted = noted(0);
        let batches = Batches::new(Arc::clone(&noted));
        let first = batches.send("T", to("01".to_owned()), soon());
        let gone = tokio::time::timeout(Duration::from_millis(50), first).await;
        assert!(gone.is_err(), "whoever came first does not wait");
        let late = batches.send("T", to("02".to_owned()), Instant::now() + Duration::from_millis(100));
        let goes =
            tokio::time::timeout(Duration::from_millis(50), batches.send("T", to("03".to_owned()), soon()));
        let release = async {
            sleep(Duration::from_millis(200)).await;
            noted.permits.add_permits(2);
        };
        let (late, in_time, _, ()) =
            tokio::join!(late, batches.send("T", to("04".to_owned()), soon()), goes, release);
        assert_eq!((late, in_time), (held_back(THROTTLED, None), sent()));
        let calls: Vec<_> = noted.calls.lock().unwrap().iter().map(|(_, count)| *count).collect();
        assert_eq!(calls, [1, 1]);
    }

    /// Waits for a permit and breaks off, the first time.
    struct Breaking {
        permits: Semaphore,
        calls: AtomicU32,
    }

    impl Call for Arc<Breaking> {
        async fn call(&self, _code: &str, _messages: &[&Prepared]) -> Sending {
            self.permits.acquire().await.unwrap().forget();
            assert!(self.calls.fetch_add(1, Ordering::Relaxed) > 0, "this is meant to break off");
            Sending::All(sent())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_breaks_off_leaves_its_text_to_another() {
        let breaking = Arc::new(Breaking { permits: Semaphore::new(0), calls: AtomicU32::new(0) });
        let batches = Batches::new(Arc::clone(&breaking));
        let in_call = batches.send("T", to("01".to_owned()), soon());
        let behind = async {
            sleep(GATHER * 2).await;
            let release = async {
                sleep(GATHER).await;
                breaking.permits.add_permits(2);
            };
            tokio::join!(batches.send("T", to("02".to_owned()), soon()), release).0
        };
        let all = async { tokio::join!(in_call, behind) };
        let told = tokio::time::timeout(Duration::from_secs(60), all).await;
        let (in_call, behind) = told.expect("nobody waits for ever");
        assert_eq!(in_call, ambiguous("no_answer_after_send"));
        assert_eq!(behind, held_back(BROKEN_OFF, None));
        assert!(batches.shared.waiting().is_empty());
        assert_eq!(batches.send("T", to("02".to_owned()), soon()).await, sent());
    }
}
