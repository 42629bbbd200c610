//! Takes webhooks: a small HTTP/1.1 server that notes which delivery arrived when, and answers 204. Pushes come in beside
//! it ([`super::pushes`]).
//!
//! A delivery is noted with its notification, whose id is `<series>-<number>`, under its series.

use std::collections::HashMap;
use std::io::BufRead as _;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::pushes::Pushes;
use crate::bench::http::{head_length, header};
use crate::bench::wall;

const NO_CONTENT: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// What the sink is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// How many webhooks of a series came.
    Count(String),
    /// What came of a series.
    Summary(String),
    /// When the notifications of a series came.
    Times(String),
}

/// Where the sink listens: its first line.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listening {
    /// The port on 127.0.0.1 for webhooks.
    pub port: u16,
    /// The one for pushes, over TLS.
    pub pushes_port: u16,
    /// What callers of that one have to trust, as PEM.
    pub certificate: String,
}

/// What came of a series.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Summary {
    /// Webhooks.
    pub received: u64,
    /// Different notifications among them.
    pub notifications: u64,
    /// Different deliveries among them.
    pub deliveries: u64,
    /// When the first one came, in nanoseconds since the Unix epoch.
    pub first_ns: u64,
    /// When the last one came.
    pub last_ns: u64,
}

pub(super) struct Arrival {
    number: u64,
    delivery: Box<str>,
    at_ns: u64,
}

/// What came, by series.
pub(super) type Arrivals = Arc<Mutex<HashMap<String, Vec<Arrival>>>>;

pub(super) async fn run() -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let (pushes, pushes_listener) = (Pushes::new()?, TcpListener::bind(("127.0.0.1", 0)).await?);
    super::say(&Listening {
        port: listener.local_addr()?.port(),
        pushes_port: pushes_listener.local_addr()?.port(),
        certificate: pushes.certificate.clone(),
    })?;
    let arrivals = Arrivals::default();
    let mut questions = questions();
    loop {
        // Cancel-safe: accepting and receiving both are.
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                let arrivals = Arc::clone(&arrivals);
                // A caller that goes away ends its connection and nothing else.
                tokio::spawn(async move { let _ = serve(stream, &arrivals).await; });
            }
            accepted = pushes_listener.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                let (pushes, arrivals) = (pushes.clone(), Arc::clone(&arrivals));
                tokio::spawn(async move { let _ = pushes.serve(stream, arrivals).await; });
            }
            question = questions.recv() => match question {
                Some(question) => answer(&arrivals, &question?)?,
                None => return Ok(()),
            },
        }
    }
}

/// Reads questions on a thread of its own, since reading stdin blocks. It ends with stdin.
fn questions() -> mpsc::Receiver<anyhow::Result<Question>> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let question = line.map_err(anyhow::Error::from);
            let question = question
                .and_then(|line| serde_json::from_str(&line).context("the sink was asked no question"));
            if sender.blocking_send(question).is_err() {
                break;
            }
        }
    });
    receiver
}

fn answer(arrivals: &Arrivals, question: &Question) -> std::io::Result<()> {
    let arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
    let of = |series: &String| arrivals.get(series).map(Vec::as_slice).unwrap_or_default();
    match question {
        Question::Count(series) => super::say(&of(series).len()),
        Question::Summary(series) => super::say(&summary(of(series))),
        Question::Times(series) => {
            let times: Vec<(u64, u64)> =
                of(series).iter().map(|arrival| (arrival.number, arrival.at_ns)).collect();
            super::say(&times)
        }
    }
}

fn summary(arrivals: &[Arrival]) -> Summary {
    let notifications: std::collections::HashSet<_> = arrivals.iter().map(|arrival| arrival.number).collect();
    let deliveries: std::collections::HashSet<_> = arrivals.iter().map(|arrival| &arrival.delivery).collect();
    let times = || arrivals.iter().map(|arrival| arrival.at_ns);
    Summary {
        received: arrivals.len() as u64,
        notifications: notifications.len() as u64,
        deliveries: deliveries.len() as u64,
        first_ns: times().min().unwrap_or(0),
        last_ns: times().max().unwrap_or(0),
    }
}

async fn serve(mut stream: TcpStream, arrivals: &Arrivals) -> std::io::Result<()> {
    let mut buffer = Vec::with_capacity(4096);
    loop {
        let (head, end) = loop {
            if let Some(head) = head_length(&buffer) {
                let content = header(&buffer[..head], "content-length").and_then(|text| text.parse().ok());
                let end = head + content.unwrap_or(0_usize);
                if buffer.len() >= end {
                    break (head, end);
                }
            }
            buffer.reserve(4096);
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        note(arrivals, &buffer[..head], &buffer[head..end], wall::nanos());
        buffer.drain(..end);
        stream.write_all(NO_CONTENT).await?;
    }
}

fn note(arrivals: &Arrivals, head: &[u8], body: &[u8], at_ns: u64) {
    arrived(arrivals, header(head, "webhook-id").unwrap_or_default(), body, at_ns);
}

/// Notes a delivery. One that names no notification of a series is noted under the empty series.
pub(super) fn arrived(arrivals: &Arrivals, delivery: &str, body: &[u8], at_ns: u64) {
    let (series, number) = notification(body).unwrap_or_default();
    let mut arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
    let arrival = Arrival { number, delivery: delivery.into(), at_ns };
    match arrivals.get_mut(series) {
        Some(known) => known.push(arrival),
        None => {
            arrivals.insert(series.to_owned(), vec![arrival]);
        }
    }
}

/// Series and number of `"notification":"<series>-<number>"`; reading the whole JSON would cost more than it is worth.
fn notification(body: &[u8]) -> Option<(&str, u64)> {
    const NAME: &str = "\"notification\":\"";
    let body = std::str::from_utf8(body).ok()?;
    let rest = &body[body.find(NAME)? + NAME.len()..];
    let (series, number) = rest[..rest.find('"')?].rsplit_once('-')?;
    Some((series, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_are_noted_by_series_and_repetitions_show() {
        let arrivals = Arrivals::default();
        let body = |id: &str| format!("{{\"data\":{{\"notification\":\"{id}\"}}}}");
        for (id, delivery, at) in
            [("a-1-7", "d1", 10), ("a-1-8", "d2", 20), ("a-1-8", "d2", 30), ("x", "d3", 40)]
        {
            let head = format!("POST / HTTP/1.1\r\nwebhook-id: {delivery}\r\n\r\n");
            note(&arrivals, head.as_bytes(), body(id).as_bytes(), at);
        }
        let arrivals = arrivals.lock().unwrap();
        let found = summary(&arrivals["a-1"]);
        assert_eq!((found.received, found.notifications, found.deliveries), (3, 2, 2));
        assert_eq!((found.first_ns, found.last_ns), (10, 30));
        assert_eq!(arrivals[""].len(), 1);
    }
}
