//! What waits: queues, whether anybody takes from them, how full streams are, and dead letters.

use peal_nats::connect::Connection;
use peal_nats::inspect::StreamFacts;
use peal_nats::topology::{DEAD_LETTERS, STATE_TO};

use super::{Check, size};

/// A stream this full should be looked at.
const WARN_PERCENT: u64 = 80;
/// A stream this full is about to refuse.
const FAIL_PERCENT: u64 = 97;
/// So much waiting work that new notifications are late.
const WARN_BACKLOG: u64 = 100_000;

/// Looks at all streams of the region.
pub async fn work(connection: &Connection) -> Vec<Check> {
    match connection.stream_facts().await {
        Ok(streams) => vec![queues(&streams), fill(&streams), dead_letters(&streams)],
        Err(error) => vec![Check::fail("queues", error.to_string(), "see the server's log")],
    }
}

fn queues(streams: &[StreamFacts]) -> Check {
    let mut waiting = 0;
    let mut in_hand = 0;
    let mut abandoned = Vec::new();
    for stream in streams {
        for consumer in stream.consumers.iter().filter(|consumer| !consumer.pushes) {
            waiting += consumer.pending;
            in_hand += consumer.unacknowledged;
            // With messages to give and nothing in hand, somebody who works would have a request standing.
            if consumer.pending > 0 && consumer.waiting == 0 && consumer.unacknowledged == 0 {
                abandoned.push(format!("{}/{} ({})", stream.name, consumer.name, consumer.pending));
            }
        }
    }
    let found = format!("{waiting} messages wait, {in_hand} are in hand");
    if !abandoned.is_empty() {
        let found = format!("{found}; nobody takes from {}", abandoned.join(", "));
        return Check::fail("queues", found, "start a dispatcher that serves these channels");
    }
    if waiting > WARN_BACKLOG {
        return Check::warn(
            "queues",
            found,
            "start more dispatchers, or see which channel is slow (`nats consumer report`)",
        );
    }
    Check::ok("queues", found)
}

fn fill(streams: &[StreamFacts]) -> Check {
    let percent =
        |stream: &&StreamFacts| stream.max_bytes.map(|limit| stream.bytes.saturating_mul(100) / limit.max(1));
    // A queue of a link that is full lets the bucket before it wait: see the links.
    let fullest = streams
        .iter()
        .filter(|stream| !stream.name.starts_with(STATE_TO))
        .filter_map(|stream| Some((percent(&stream)?, stream)))
        .max_by_key(|(percent, _)| *percent);
    let Some((percent, stream)) = fullest else {
        return Check::ok("stream limits", "no stream has a limit");
    };
    let limit = stream.max_bytes.unwrap_or_default();
    let found = format!("{} is {percent} % full ({} of {})", stream.name, size(stream.bytes), size(limit));
    let advice = "work it off, or raise the limit: a full stream refuses new messages";
    match percent {
        FAIL_PERCENT.. => Check::fail("stream limits", found, advice),
        WARN_PERCENT.. => Check::warn("stream limits", found, advice),
        _ => Check::ok("stream limits", found),
    }
}

fn dead_letters(streams: &[StreamFacts]) -> Check {
    let found = streams.iter().find(|stream| stream.name == DEAD_LETTERS).map_or(0, |stream| stream.messages);
    if found == 0 {
        return Check::ok("dead letters", "none");
    }
    let advice = "`peal dead-letters list` says why, `peal dead-letters replay` takes them up again";
    Check::warn("dead letters", format!("{found} wait for somebody to look"), advice)
}

#[cfg(test)]
mod tests {
    use peal_nats::inspect::ConsumerFacts;

    use super::super::Status;
    use super::*;

    fn stream(name: &str, bytes: u64, pending: u64, waiting: usize) -> StreamFacts {
        let consumer = ConsumerFacts {
            name: "c".to_owned(),
            pending,
            unacknowledged: 0,
            redelivered: 0,
            waiting,
            pushes: false,
        };
        StreamFacts {
            name: name.to_owned(),
            messages: pending,
            bytes,
            max_bytes: Some(100),
            consumers: vec![consumer],
            ..StreamFacts::default()
        }
    }

    #[test]
    fn work_that_nobody_takes_fails_and_much_of_it_warns() {
        assert_eq!(queues(&[stream("A", 0, 0, 0)]).status, Status::Ok);
        assert_eq!(queues(&[stream("A", 0, 5, 1)]).status, Status::Ok);
        assert_eq!(queues(&[stream("A", 0, 5, 0)]).status, Status::Fail);
        assert_eq!(queues(&[stream("A", 0, WARN_BACKLOG + 1, 1)]).status, Status::Warn);
    }

    #[test]
    fn the_fullest_stream_counts() {
        let status = |bytes| fill(&[stream("A", 1, 0, 0), stream("B", bytes, 0, 0)]).status;
        assert_eq!([status(50), status(85), status(99)], [Status::Ok, Status::Warn, Status::Fail]);
    }

    #[test]
    fn dead_letters_are_counted() {
        assert_eq!(dead_letters(&[stream("WORK_SMS", 0, 3, 1)]).status, Status::Ok);
        assert!(dead_letters(&[stream(DEAD_LETTERS, 0, 3, 1)]).found.starts_with("3 "));
    }
}
