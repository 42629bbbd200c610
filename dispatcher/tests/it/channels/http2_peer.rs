//! The server's side of HTTP/2 (RFC 9113), frame by frame: for what no library's server can be made to do.

use std::collections::HashSet;
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const REFUSED_STREAM: u32 = 7;
/// GOAWAY's code for a server that shuts down as it should.
pub const NO_ERROR: u32 = 0;
/// GOAWAY's code for a client that does too much.
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// What a client did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Did {
    /// It opened a stream.
    Opened(u32),
    /// It ended its request on a stream.
    Asked(u32),
    /// It has taken note of our settings.
    Settled,
    /// It answered a ping.
    Ponged,
}

/// A connection with a client.
pub struct Peer<S> {
    io: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// Begins: `streams` is how many requests the client may have under way.
    pub async fn accept(mut io: S, streams: Option<u32>) -> io::Result<Self> {
        let mut preface = [0; PREFACE.len()];
        io.read_exact(&mut preface).await?;
        assert_eq!(preface, PREFACE, "HTTP/2 from the first byte");
        let mut peer = Peer { io };
        let mut settings = Vec::new();
        if let Some(streams) = streams {
            settings.extend(MAX_CONCURRENT_STREAMS.to_be_bytes());
            settings.extend(streams.to_be_bytes());
        }
        peer.write(SETTINGS, 0, 0, &settings).await?;
        Ok(peer)
    }

    /// The next thing that the client does; `None` when it is gone.
    pub async fn next(&mut self) -> Option<Did> {
        loop {
            let (kind, flags, stream, payload) = self.read().await.ok()?;
            match kind {
                HEADERS => return Some(Did::Opened(stream)),
                DATA if flags & END_STREAM != 0 => return Some(Did::Asked(stream)),
                SETTINGS if flags & ACK == 0 => self.write(SETTINGS, ACK, 0, &[]).await.ok()?,
                SETTINGS => return Some(Did::Settled),
                PING if flags & ACK == 0 => self.write(PING, ACK, 0, &payload).await.ok()?,
                PING => return Some(Did::Ponged),
                _ => {}
            }
        }
    }

    /// Waits until `count` requests are there, and gives their streams.
    pub async fn requests(&mut self, count: usize) -> Vec<u32> {
        let mut asked = Vec::new();
        while asked.len() < count {
            if let Did::Asked(stream) = self.next().await.expect("the client is there") {
                asked.push(stream);
            }
        }
        assert_eq!(asked.iter().collect::<HashSet<_>>().len(), count);
        asked
    }

    /// Answers with 200 and an `apns-id` (RFC 7541: a field of the static table, and a literal).
    pub async fn answer(&mut self, stream: u32) {
        let block = [&[0x88, 0x00, 7][..], b"apns-id", &[3], b"yes"].concat();
        self.write(HEADERS, END_HEADERS | END_STREAM, stream, &block).await.unwrap();
    }

    /// Answers with 200 and a body.
    pub async fn answer_with(&mut self, stream: u32, body: &str) {
        self.write(HEADERS, END_HEADERS, stream, &[0x88]).await.unwrap();
        self.write(DATA, END_STREAM, stream, body.as_bytes()).await.unwrap();
    }

    /// Says that a stream was not looked at.
    pub async fn refuse(&mut self, stream: u32) {
        self.write(RST_STREAM, 0, stream, &REFUSED_STREAM.to_be_bytes()).await.unwrap();
    }

    /// Says that no stream after `last` was or will be looked at.
    pub async fn go_away(&mut self, last: u32, code: u32) {
        self.write(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat()).await.unwrap();
    }

    /// Asks whether the client is there: what comes before its answer was sent before it got the question.
    pub async fn ping(&mut self) {
        self.write(PING, 0, 0, &[7; 8]).await.unwrap();
    }

    /// Waits until the client closes the connection.
    pub async fn closed(mut self) {
        while self.next().await.is_some() {}
    }

    async fn read(&mut self) -> io::Result<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.io.read_exact(&mut payload).await?;
        Ok((kind, flags, u32::from_be_bytes(stream), payload))
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.io.write_all(&[&head, payload].concat()).await?;
        self.io.flush().await
    }
}
