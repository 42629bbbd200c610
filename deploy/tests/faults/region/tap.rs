//! A tap on the line between dispatchers and their server: it reads the NATS protocol and can keep back single messages,
//! so that a process can be killed at exactly one step of its work, without a hook in the process itself.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, BufWriter};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The dispatcher.
    Client,
    /// The nats-server.
    Server,
}

/// A message on the line.
#[derive(Debug)]
pub struct Message<'a> {
    /// Who says it.
    pub by: By,
    /// Its subject.
    pub subject: &'a str,
    /// Where its answer is to go. Of a message from a stream, where it is to be acknowledged.
    pub reply: &'a str,
    /// What it says, without its headers.
    pub payload: &'a [u8],
}

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Pass,
    /// It is lost.
    Lose,
    /// It passes, and this is noted.
    Note(String),
    /// It is lost, and this is noted.
    LoseAndNote(String),
}

type Rule = dyn Fn(&Message<'_>) -> Verdict + Send + Sync;

struct State {
    rule: Arc<Rule>,
    noted: BTreeSet<String>,
    /// Connections of an earlier one are over.
    generation: u64,
}

/// Relays connections from a port of its own to a server. Dropping it ends all of them.
pub struct Tap {
    port: u16,
    state: Arc<Mutex<State>>,
    accepting: AbortHandle,
}

impl Tap {
    /// Opens a tap before a server on a port of 127.0.0.1. Everything passes.
    pub async fn to(target: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(Mutex::new(State {
            rule: Arc::new(|_| Verdict::Pass),
            noted: BTreeSet::new(),
            generation: 0,
        }));
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, target));
        let accepting = tokio::spawn(accept(listener, target, Arc::clone(&state))).abort_handle();
        Ok(Tap { port, state, accepting })
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Judges every message by this rule from now on; what was noted is forgotten.
    pub fn judge(&self, rule: impl Fn(&Message<'_>) -> Verdict + Send + Sync + 'static) {
        let mut state = lock(&self.state);
        state.rule = Arc::new(rule);
        state.noted.clear();
    }

    /// Ends all connections, with whatever is still on its way over them, and lets everything pass over new ones: what a
    /// process wrote before it was killed must not arrive because the rule is gone.
    pub fn hang_up(&self) {
        lock(&self.state).generation += 1;
        self.judge(|_| Verdict::Pass);
    }

    /// What was noted under the present rule, each thing once.
    pub fn noted(&self) -> BTreeSet<String> {
        lock(&self.state).noted.clone()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        lock(&self.state).generation += 1;
        self.accepting.abort();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, target: SocketAddr, state: Arc<Mutex<State>>) {
    while let Ok((near, _)) = listener.accept().await {
        let generation = lock(&state).generation;
        tokio::spawn(relay(near, target, Arc::clone(&state), generation));
    }
}

async fn relay(near: TcpStream, target: SocketAddr, state: Arc<Mutex<State>>, generation: u64) {
    let Ok(far) = TcpStream::connect(target).await else { return };
    // Where it can't be set, messages are only slower.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
    // When one side is gone, the other one sees the end of its connection.
    tokio::select! {
        _ = carry(By::Client, from_near, to_far, &state, generation) => {}
        _ = carry(By::Server, from_far, to_near, &state, generation) => {}
    }
}

async fn carry(
    by: By,
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    state: &Mutex<State>,
    generation: u64,
) -> io::Result<()> {
    let (mut from, mut to) = (BufReader::with_capacity(64 * 1024, from), BufWriter::new(to));
    let (mut line, mut body) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        if from.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line);
        let head = Head::read(&text);
        let mut passes = true;
        body.clear();
        if let Some(head) = &head {
            body.resize(head.size + 2, 0);
            from.read_exact(&mut body).await?;
            let payload = &body[head.headers..head.size];
            let message = Message { by, subject: head.subject, reply: head.reply, payload };
            let rule = Arc::clone(&lock(state).rule);
            let verdict = rule(&message);
            passes = matches!(verdict, Verdict::Pass | Verdict::Note(_));
            if let Verdict::Note(what) | Verdict::LoseAndNote(what) = verdict {
                lock(state).noted.insert(what);
            }
        }
        if lock(state).generation != generation {
            return Ok(());
        }
        if passes {
            to.write_all(&line).await?;
            to.write_all(&body).await?;
        }
        if from.buffer().is_empty() {
            to.flush().await?;
        }
    }
}

/// The line before a message (NATS client protocol: PUB, HPUB, MSG, HMSG). All other lines stand for themselves.
struct Head<'a> {
    subject: &'a str,
    reply: &'a str,
    /// Bytes of the headers, which the size includes.
    headers: usize,
    size: usize,
}

impl<'a> Head<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        let (verb, subject) = (words.first()?, *words.get(1)?);
        // A message to the client has the number of its subscription, too.
        let (before_reply, sizes) = match verb.to_ascii_uppercase().as_str() {
            "PUB" => (2, 1),
            "HPUB" => (2, 2),
            "MSG" => (3, 1),
            "HMSG" => (3, 2),
            _ => return None,
        };
        let sizes_from = words.len().checked_sub(sizes)?;
        let reply = if sizes_from > before_reply { words[before_reply] } else { "" };
        let size = words.last()?.parse().ok()?;
        let headers = if sizes == 2 { words[sizes_from].parse().ok()? } else { 0 };
        (headers <= size).then_some(Head { subject, reply, headers, size })
    }
}

#[test]
fn lines_before_messages_are_read() {
    let read = |line| Head::read(line).map(|it| (it.subject, it.reply, it.headers, it.size));
    assert_eq!(read("PUB a.b 5\r\n"), Some(("a.b", "", 0, 5)));
    assert_eq!(read("PUB a.b _INBOX.1 5\r\n"), Some(("a.b", "_INBOX.1", 0, 5)));
    assert_eq!(read("HPUB a.b _INBOX.1 12 17\r\n"), Some(("a.b", "_INBOX.1", 12, 17)));
    assert_eq!(read("MSG a.b 3 5\r\n"), Some(("a.b", "", 0, 5)));
    assert_eq!(read("HMSG a.b 3 $JS.ACK.x 12 17\r\n"), Some(("a.b", "$JS.ACK.x", 12, 17)));
    assert_eq!(read("SUB a.b 3\r\n"), None);
    assert_eq!(read("PING\r\n"), None);
}
