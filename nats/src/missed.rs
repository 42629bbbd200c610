//! Notifications and events that the hub did not get, and how it gets them after all.
//!
//! The servers hand them on, and may skip some when a link comes up under load ([`crate::handed_on`] says how). Each message
//! that the hub has says which one of its region's stream it was, so whoever reads the hub's stream from its beginning sees
//! where some are missing: `1, 2, 7`. Its region is asked for what lies between and may leave it, and writes that again
//! under a [subject](Subjects::again) that nobody in the region works on and that is handed on like everything else: once,
//! however often it is asked.
//!
//! Behind what is skipped last nothing comes that would show the gap. So where nothing comes from a region for a while it is
//! asked, too, and if it has something newer it writes an empty message after that, a [mark](Subjects::mark).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::header::NATS_MESSAGE_ID;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use peal_common::clock::Clock;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::connect::Connection;
use crate::follow::Stored;
use crate::publish::{Outgoing, PublishError};
use crate::service::Refusal;
use crate::subjects::{Region, Subjects};
use crate::topology::{EVENTS, INTAKE};
use crate::unfinished::TAKEN_BACK;

/// The door at which a region's gateways are asked to write again what the hub missed. The question and its answer are for
/// Peal alone.
pub const DOOR: &str = "missed";

/// How often regions are asked.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// How long nothing may come from a region until it is asked whether it has something newer.
const QUIET: Duration = Duration::from_secs(5);
/// How many gaps are asked about at once.
const AT_ONCE: usize = 2_000;
/// How long a region may take to answer, and how long it works on an answer before it tells how far it came.
const ASK_LIMIT: Duration = Duration::from_secs(10);
const WORK_LIMIT: Duration = Duration::from_secs(3);
/// A region goes through so many pieces of a gap at once, each of so many sequences: one message after another would be
/// two round trips for each.
const PIECES: usize = 32;
const PIECE: u64 = 16;
/// Gaps of one region and stream that are kept in mind. Where pinned notifications lie between others there is a gap at
/// each. When there are more, the first ones count as one: what lies between them may come once more.
const MAX_OPEN: usize = 10_000;
/// A mark that is younger is waited for before there is another one.
const MARK_AGE_MS: i64 = 60_000;
/// Where the server says which message of which stream one was.
const SOURCE_HEADER: &str = "Nats-Stream-Source";
/// How the headers begin that are written again, too.
const OWN_HEADERS: &str = "Peal-";

/// Sequences of a region's stream, both ends included.
type Gap = (u64, u64);

/// What the hub's streams have missed. Cheap to clone: all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Misses(Arc<Mutex<BTreeMap<String, Gathered>>>);

/// What one stream of the hub has missed.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Gathered {
    /// Whether it was read from the first message that the hub ever stored, or to its end: then a region that was never
    /// seen before begins with its own first message.
    whole: bool,
    origins: BTreeMap<String, Origin>,
}

/// How much came from one region.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Origin {
    /// Which stream it was: one that was made again begins anew.
    identity: String,
    last: u64,
    gaps: VecDeque<Gap>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Question {
    stream: String,
    gaps: Vec<Gap>,
    /// What came last, if nothing has come for a while.
    #[serde(default)]
    last: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    /// So many gaps are filled.
    filled: usize,
    /// Where to go on in the next one.
    next: Option<u64>,
}

impl Misses {
    /// What was noted before.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Misses(Arc::new(Mutex::new(serde_json::from_slice(bytes).ok()?))))
    }

    /// What is noted now.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(&*self.lock()).unwrap_or_default()
    }

    /// Notes what comes next in `stream` of the hub.
    pub fn note<'a>(&self, stream: &str, messages: impl IntoIterator<Item = &'a Stored>) {
        let mut noted = self.lock();
        let gathered = noted.entry(stream.to_owned()).or_default();
        for message in messages {
            gathered.whole |= message.sequence == 1;
            let Some(region) = Subjects::region_of(&message.subject) else { continue };
            let source = message.header(SOURCE_HEADER).and_then(read_source);
            let Some((sequence, identity)) = source else { continue };
            gathered.came(region.as_str(), sequence, identity);
        }
    }

    /// Notes that all of the hub's streams are read to their ends.
    pub fn level(&self) {
        self.lock().values_mut().for_each(|gathered| gathered.whole = true);
    }

    /// How many gaps are not filled yet.
    #[must_use]
    pub fn gaps(&self) -> usize {
        let noted = self.lock();
        noted.values().flat_map(|gathered| gathered.origins.values()).map(|origin| origin.gaps.len()).sum()
    }

    /// Has `regions` fill the gaps, for ever.
    pub async fn fill(self, hub: Connection, regions: Vec<Region>) {
        let mut interval = interval(ASK_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut came: HashMap<(String, Region), (u64, Instant)> = HashMap::new();
        loop {
            interval.tick().await;
            let mut questions = Vec::new();
            for (region, mut question, last) in self.questions(&regions) {
                let place = (question.stream.clone(), region.clone());
                let seen = came.entry(place).or_insert((last, Instant::now()));
                if seen.0 != last {
                    *seen = (last, Instant::now());
                }
                if seen.1.elapsed() >= QUIET {
                    seen.1 = Instant::now();
                    question.last = Some(last);
                }
                if question.last.is_some() || !question.gaps.is_empty() {
                    questions.push((region, question));
                }
            }
            join_all(questions.into_iter().map(|(region, question)| self.ask(&hub, region, question))).await;
        }
    }

    async fn ask(&self, hub: &Connection, region: Region, question: Question) {
        let door = Subjects::new(&region).api(DOOR);
        let Ok(bytes) = serde_json::to_vec(&question) else { return };
        let told = hub.ask(door, Bytes::from(bytes), ASK_LIMIT).await;
        let answer = match told.map(|told| serde_json::from_slice::<Answer>(&told)) {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                return tracing::debug!(%region, %error, "what the hub missed is answered in other words");
            }
            Err(error) => {
                return tracing::debug!(
                    %region,
                    error = &error as &dyn std::error::Error,
                    "nobody writes again what the hub missed"
                );
            }
        };
        if let Some(gathered) = self.lock().get_mut(&question.stream)
            && let Some(origin) = gathered.origins.get_mut(region.as_str())
        {
            origin.filled(&question.gaps, &answer);
        }
    }

    /// What to ask each region about each stream, and what came from it last.
    fn questions(&self, regions: &[Region]) -> Vec<(Region, Question, u64)> {
        let mut noted = self.lock();
        let mut questions = Vec::new();
        for stream in [INTAKE, EVENTS] {
            let gathered = noted.entry(stream.to_owned()).or_default();
            for region in regions {
                let origin = gathered.origins.get(region.as_str());
                if origin.is_none() && !gathered.whole {
                    continue;
                }
                let gaps =
                    origin.iter().flat_map(|origin| origin.gaps.iter().take(AT_ONCE).copied()).collect();
                let question = Question { stream: stream.to_owned(), gaps, last: None };
                questions.push((region.clone(), question, origin.map_or(0, |origin| origin.last)));
            }
        }
        questions
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Gathered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gathered {
    fn came(&mut self, region: &str, sequence: u64, identity: &str) {
        if !self.origins.contains_key(region) {
            let last = if self.whole { 0 } else { sequence };
            let origin = Origin { identity: identity.to_owned(), last, gaps: VecDeque::new() };
            self.origins.insert(region.to_owned(), origin);
        }
        let Some(origin) = self.origins.get_mut(region) else { return };
        if !identity.is_empty() && origin.identity != identity {
            let known = std::mem::replace(&mut origin.identity, identity.to_owned());
            if !known.is_empty() {
                (origin.last, origin.gaps) = (0, VecDeque::new());
            }
        }
        if sequence > origin.last + 1 {
            origin.gaps.push_back((origin.last + 1, sequence - 1));
            if origin.gaps.len() > MAX_OPEN
                && let Some(first) = origin.gaps.pop_front()
                && let Some(second) = origin.gaps.front_mut()
            {
                second.0 = first.0;
            }
        }
        origin.last = origin.last.max(sequence);
    }
}

impl Origin {
    /// What was asked may have begun anew meanwhile.
    fn filled(&mut self, asked: &[Gap], answer: &Answer) {
        for gap in asked.iter().take(answer.filled) {
            if self.gaps.front() == Some(gap) {
                self.gaps.pop_front();
            }
        }
        if let (Some(next), Some(gap)) = (answer.next, asked.get(answer.filled))
            && let Some(first) = self.gaps.front_mut().filter(|first| *first == gap)
        {
            first.0 = next.clamp(gap.0, gap.1);
        }
    }
}

/// The sequence and, where the server tells it, the identity of the stream, from
/// `<stream>:<hash> <sequence> <filter> <transform> <subject>[ <identity>]` (nats-server: `genSourceHeader` in stream.go).
fn read_source(header: &str) -> Option<(u64, &str)> {
    let mut parts = header.split(' ').skip(1);
    let sequence = parts.next()?.parse().ok()?;
    Some((sequence, parts.nth(3).unwrap_or_default()))
}

/// Answers the hub that misses messages of this region.
///
/// # Errors
/// [`Refusal`] when it is to be asked again.
pub async fn asked(connection: &Connection, clock: &Clock, question: &[u8]) -> Result<Bytes, Refusal> {
    let refused = |code, title: &str| Refusal { code, title: title.to_owned(), body: Bytes::new() };
    let question: Question = serde_json::from_slice(question).map_err(|_| refused(400, "not a question"))?;
    let answer = write_again(connection, clock, &question).await.map_err(|error| {
        tracing::debug!(error = &*error, "what the hub missed is not written again");
        refused(503, "not written again")
    })?;
    let bytes = serde_json::to_vec(&answer).map_err(|_| refused(500, "no answer"))?;
    Ok(Bytes::from(bytes))
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

async fn write_again(connection: &Connection, clock: &Clock, question: &Question) -> Result<Answer, Failed> {
    let (stream, began) = (question.stream.as_str(), Instant::now());
    let subjects = Subjects::new(&connection.region);
    let filter = match stream {
        INTAKE => subjects.intake_unpinned(),
        EVENTS => subjects.event_unpinned(),
        _ => return Err(format!("{stream} is not handed on so").into()),
    };
    let (mut answer, mut written) = (Answer { filled: 0, next: None }, 0);
    for gap in &question.gaps {
        match fill(connection, stream, &filter, *gap, began, &mut written).await {
            Ok(reached) if reached == gap.1 => answer.filled += 1,
            Ok(reached) => {
                answer.next = Some(reached + 1);
                break;
            }
            Err(error) if answer.filled == 0 => return Err(error),
            Err(error) => {
                tracing::debug!(error = &*error, "only the first gaps are filled");
                break;
            }
        }
        if began.elapsed() > WORK_LIMIT {
            break;
        }
    }
    if let Some(last) = question.last {
        mark(connection, clock, stream, &filter, last).await?;
    }
    if written > 0 {
        tracing::warn!(stream, written, "the hub missed messages: they are written again");
    }
    Ok(answer)
}

/// Writes again what lies in a gap, from its beginning to the sequence that it gives back.
async fn fill(
    connection: &Connection,
    stream: &str,
    filter: &str,
    (from, to): Gap,
    began: Instant,
    written: &mut u64,
) -> Result<u64, Failed> {
    // In most gaps there is nothing: pinned notifications lie there.
    let first = connection.first_at_leader(stream, filter, from).await?;
    let Some(first) = first.map(|first| first.sequence).filter(|first| *first <= to) else { return Ok(to) };
    let pieces = (first..=to).step_by(PIECE as usize).map(|from| (from, to.min(from + PIECE - 1)));
    let fill_piece = |piece| fill_piece(connection, stream, filter, piece);
    let mut pieces = futures_util::stream::iter(pieces).map(fill_piece).buffered(PIECES);
    let mut reached = first - 1;
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok((to, count)) => {
                reached = to;
                *written += count;
            }
            Err(error) if reached < first => return Err(error),
            Err(error) => {
                tracing::debug!(error = &*error, "a gap is filled in part");
                break;
            }
        }
        if began.elapsed() > WORK_LIMIT {
            break;
        }
    }
    Ok(reached)
}

/// Gives back the piece's end, and how much was written.
async fn fill_piece(
    connection: &Connection,
    stream: &str,
    filter: &str,
    (from, to): Gap,
) -> Result<(u64, u64), Failed> {
    let (mut at, mut written) = (from, 0);
    let subjects = Subjects::new(&connection.region);
    while let Some(found) = connection.first_at_leader(stream, filter, at).await? {
        if found.sequence > to {
            break;
        }
        written += u64::from(write(connection, subjects.again(stream, found.sequence), &found).await?);
        at = found.sequence + 1;
    }
    Ok((to, written))
}

/// Writes a mark after the newest message, unless that is the one that came last, or a mark that may still arrive.
async fn mark(
    connection: &Connection,
    clock: &Clock,
    stream: &str,
    filter: &str,
    last: u64,
) -> Result<(), Failed> {
    let Some(newest) = connection.last_at_leader(stream, filter).await?.filter(|it| it.sequence > last)
    else {
        return Ok(());
    };
    let is_mark = Subjects::is_again(&newest.subject) && newest.payload.is_empty();
    if is_mark && clock.now_ms() - newest.at_ms < MARK_AGE_MS {
        return Ok(());
    }
    let subject = Subjects::new(&connection.region).mark(stream, newest.sequence);
    match connection.publish(Outgoing::new(subject, "").expect_last(0)).await {
        Ok(_) | Err(PublishError::Conflict) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether it was not written again before.
async fn write(connection: &Connection, subject: String, found: &Stored) -> Result<bool, PublishError> {
    let mut outgoing = Outgoing::new(subject, found.payload.clone()).expect_last(0);
    // The stream has the id already.
    if let Some(id) = found.header(NATS_MESSAGE_ID.as_ref()) {
        outgoing = outgoing.id(&format!("{id}{TAKEN_BACK}{}", found.sequence));
    }
    for (name, value) in found.headers().filter(|(name, _)| name.starts_with(OWN_HEADERS)) {
        outgoing = outgoing.header(name, value);
    }
    match connection.publish(outgoing).await {
        Ok(published) => Ok(!published.duplicate),
        Err(PublishError::Conflict) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(whole: bool, came: &[(&str, u64, &str)]) -> Gathered {
        let mut gathered = Gathered { whole, ..Gathered::default() };
        came.iter().for_each(|(region, sequence, identity)| gathered.came(region, *sequence, identity));
        gathered
    }

    fn gaps(gathered: &Gathered, region: &str) -> Vec<Gap> {
        gathered.origins[region].gaps.iter().copied().collect()
    }

    #[test]
    fn what_is_skipped_is_noticed_in_each_region() {
        let came = [("eu", 3, "a"), ("us", 1, "b"), ("eu", 4, "a"), ("us", 2, "b"), ("eu", 9, "a")];
        let whole = gathered(true, &came);
        assert_eq!(gaps(&whole, "eu"), [(1, 2), (5, 8)]);
        assert_eq!(gaps(&whole, "us"), []);
        assert_eq!(gaps(&gathered(false, &came), "eu"), [(5, 8)], "what came before is not known");
    }

    #[test]
    fn what_comes_again_is_no_gap_and_a_new_stream_begins_anew() {
        let came = [("eu", 1, "a"), ("eu", 5, "a"), ("eu", 3, "a"), ("eu", 6, "a")];
        assert_eq!(gaps(&gathered(true, &came), "eu"), [(2, 4)]);
        let anew = gathered(true, &[("eu", 1, "a"), ("eu", 5, "a"), ("eu", 2, "b"), ("eu", 3, "b")]);
        assert_eq!(gaps(&anew, "eu"), [(1, 1)]);
        let untold = gathered(true, &[("eu", 1, ""), ("eu", 2, "a"), ("eu", 3, "")]);
        assert_eq!(gaps(&untold, "eu"), []);
    }

    #[test]
    fn gaps_close_as_far_as_they_are_filled() {
        let mut gathered = gathered(true, &[("eu", 3, "a"), ("eu", 9, "a"), ("eu", 11, "a")]);
        let origin = gathered.origins.get_mut("eu").unwrap();
        let asked: Vec<_> = origin.gaps.iter().copied().collect();
        origin.filled(&asked, &Answer { filled: 1, next: Some(6) });
        assert_eq!(origin.gaps, [(6, 8), (10, 10)]);
        // The answer to a question that was asked before it began anew.
        origin.filled(&asked, &Answer { filled: 2, next: None });
        assert_eq!(origin.gaps, [(6, 8), (10, 10)]);
    }

    #[test]
    fn too_many_gaps_grow_together_and_none_is_lost() {
        let mut gathered = Gathered { whole: true, ..Gathered::default() };
        (1..=MAX_OPEN as u64 + 2).for_each(|number| gathered.came("eu", number * 2, "a"));
        let gaps = gaps(&gathered, "eu");
        assert_eq!((gaps.len(), gaps[0], gaps[1]), (MAX_OPEN, (1, 5), (7, 7)));
    }

    #[test]
    fn the_servers_header_is_read() {
        let header = "INTAKE:AbCd 1715 > > peal.eu.intake.high.shop QWERTY";
        assert_eq!(read_source(header), Some((1715, "QWERTY")));
        assert_eq!(read_source("INTAKE:AbCd 7 > > peal.eu.intake.high.shop"), Some((7, "")));
        assert_eq!(read_source("INTAKE"), None);
    }

    #[test]
    fn what_was_noted_is_read_back() {
        let misses = Misses::default();
        misses.lock().insert(INTAKE.to_owned(), gathered(true, &[("eu", 3, "a")]));
        let again = Misses::decode(&misses.encode()).unwrap();
        assert_eq!(again.encode(), misses.encode());
        let us = "us".parse().unwrap();
        let asked = again.questions(&["eu".parse().unwrap(), us]);
        let asked: Vec<_> =
            asked.iter().map(|(of, question, last)| (of.as_str(), &question.gaps[..], *last)).collect();
        assert_eq!(asked, [("eu", &[(1, 2)][..], 3), ("us", &[], 0)], "nothing is known of EVENTS");
        assert!(Misses::decode(b"[]").is_none());
    }
}
