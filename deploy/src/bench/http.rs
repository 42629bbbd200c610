//! A cheap HTTP/1.1 client: requests written by hand on a kept connection, one at a time, and of each answer only the
//! status and the body. A complete client would take a part of the machine that the measured processes need.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The longest head of an answer.
const MAX_HEAD: usize = 64 * 1024;
/// How much is read at once.
const READ_BYTES: usize = 16 * 1024;

/// A kept connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    body: std::ops::Range<usize>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, buffer: Vec::with_capacity(READ_BYTES), body: 0..0 })
    }

    /// Writes a whole request and reads the whole answer; gives its status.
    ///
    /// # Errors
    /// When the connection breaks, or the answer has no length.
    pub async fn call(&mut self, request: &[u8]) -> io::Result<u16> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let head = loop {
            self.fill().await?;
            if let Some(head) = Head::parse(&self.buffer)? {
                break head;
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(invalid("the head of the answer is too long"));
            }
        };
        let end = head.length + head.content;
        while self.buffer.len() < end {
            self.fill().await?;
        }
        self.body = head.length..end;
        Ok(head.status)
    }

    /// The body of the last answer.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.buffer.get(self.body.clone()).unwrap_or_default()
    }

    async fn fill(&mut self) -> io::Result<()> {
        self.buffer.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            _ => Ok(()),
        }
    }
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// What counts in the head of an answer.
struct Head {
    status: u16,
    /// Bytes of the head itself, with the empty line.
    length: usize,
    /// Bytes of the body.
    content: usize,
}

impl Head {
    /// `None` while the head is not complete.
    fn parse(bytes: &[u8]) -> io::Result<Option<Self>> {
        let Some(length) = head_length(bytes) else { return Ok(None) };
        let head = &bytes[..length];
        let status = head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        let status: u16 = status.ok_or_else(|| invalid("the answer has no status"))?;
        let content = match header(head, "content-length") {
            Some(text) => text.parse().map_err(|_| invalid("the answer's length is no number"))?,
            None if status == 204 || status == 304 => 0,
            None => return Err(invalid("the answer has no content-length")),
        };
        Ok(Some(Head { status, length, content }))
    }
}

/// How long the head of a message is, with its empty line. `None` while it is not complete.
#[must_use]
pub fn head_length(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// The value of a header, whose name is given in lower case.
#[must_use]
pub fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (found, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        found.eq_ignore_ascii_case(name.as_bytes()).then(|| std::str::from_utf8(value).ok().map(str::trim))?
    })
}

/// Appends a request to `out`.
pub fn write_request(out: &mut Vec<u8>, method: &str, path: &str, authorization: &str, body: &str) {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: peal\r\nauthorization: {authorization}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(body.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_complete() {
        assert!(Head::parse(b"HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\n").unwrap().is_none());
        let head =
            Head::parse(b"HTTP/1.1 202 Accepted\r\nX: y\r\nContent-Length: 5\r\n\r\nhel").unwrap().unwrap();
        assert_eq!((head.status, head.content), (202, 5));
        assert_eq!(Head::parse(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().unwrap().content, 0);
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn headers_are_found_in_any_case() {
        let head = b"POST / HTTP/1.1\r\nWebhook-Id:  d_1 \r\nHost: x\r\n\r\n";
        assert_eq!(header(head, "webhook-id"), Some("d_1"));
        assert_eq!(header(head, "webhook"), None);
    }
}
