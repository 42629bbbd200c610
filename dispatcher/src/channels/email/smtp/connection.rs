//! One connection to the mail server, driven command by command.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use lettre::Address;
use lettre::transport::smtp::authentication::Mechanism;
#[expect(deprecated, reason = "the only way to TLS from the first byte over a socket of our own")]
use lettre::transport::smtp::client::AsyncNetworkStream;
use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream};
use lettre::transport::smtp::commands::{Data, Mail as MailFrom, Rcpt, Rset};
use lettre::transport::smtp::response::Response;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _};

use super::options::{Options, Protection};
use super::outcome::{Failure, Step};
use super::request::Mail;

/// What a server may say over the life of a connection. A hundred e-mails need about 50 KB; lettre reads a line
/// however long it is.
const MAX_READ_BYTES: u64 = 1024 * 1024;
/// E-mails sent over one connection before it is replaced.
const MAX_USES: u32 = 100;
/// Idle connections are kept this long: below the minute after which the common servers hang up.
const MAX_IDLE: Duration = Duration::from_secs(30);

/// A step that failed, and how.
pub(super) type Failed = (Step, Failure);

/// A connection that has said hello and signed in. It is dropped, and thereby closed, after any failure that leaves
/// its state unknown.
pub(super) struct Connection {
    smtp: AsyncSmtpConnection,
    uses: u32,
    idle_since: Instant,
    needs_reset: bool,
}

impl Connection {
    /// Connects, says hello, turns TLS on and signs in, as the options demand.
    pub(super) async fn open(options: &Options, deadline: Instant) -> Result<Self, Failed> {
        let within = |step| Limit { step, at: deadline.min(Instant::now() + options.command_timeout) };
        let target = (options.host.as_str(), options.port);
        let tcp = within(Step::Connect).io(TcpStream::connect(target)).await?;
        // The final dot is a small write of its own: without this it waits for the acknowledgement of the text.
        tcp.set_nodelay(true).map_err(|_| (Step::Connect, Failure::Lost))?;
        let line = Metered { tcp, left: MAX_READ_BYTES };

        let transport: Box<dyn AsyncTokioStream> = match &options.protection {
            Protection::Implicit(tls) => {
                #[expect(deprecated, reason = "see above")]
                let mut stream = AsyncNetworkStream::use_existing_tokio1(Box::new(line));
                within(Step::Tls).smtp(stream.upgrade_tls(tls.parameters.clone())).await?;
                Box::new(Encrypted(stream.compat()))
            }
            _ => Box::new(line),
        };
        let hello = AsyncSmtpConnection::connect_with_transport(transport, &options.hello);
        let mut smtp = within(Step::Hello).smtp(hello).await?;

        if let Protection::Starttls(tls) = &options.protection {
            if !smtp.can_starttls() {
                return Err((Step::Tls, Failure::NotOffered));
            }
            within(Step::Tls).smtp(smtp.starttls(tls.parameters.clone(), &options.hello)).await?;
        }
        if let Some(credentials) = &options.credentials {
            let known = [Mechanism::Plain, Mechanism::Login];
            if smtp.server_info().get_auth_mechanism(&known).is_none() {
                return Err((Step::Auth, Failure::NotOffered));
            }
            let answer = within(Step::Auth).smtp(smtp.auth(&known, credentials)).await?;
            expect(Step::Auth, &answer, &[235])?;
        }
        Ok(Connection { smtp, uses: 0, idle_since: Instant::now(), needs_reset: false })
    }

    /// Sends one e-mail to one recipient. After an error the connection may be kept only if
    /// [`Failure::ends_connection`] says so, and only by way of [`Connection::reset_later`].
    pub(super) async fn transact(
        &mut self,
        from: &Address,
        mail: &Mail,
        command_timeout: Duration,
        deadline: Instant,
    ) -> Result<(), Failed> {
        self.uses += 1;
        let within = |step| Limit { step, at: deadline.min(Instant::now() + command_timeout) };
        if self.needs_reset {
            let answer = within(Step::Reset).smtp(self.smtp.command(Rset)).await?;
            expect(Step::Reset, &answer, &[250])?;
            self.needs_reset = false;
        }
        let sender = MailFrom::new(Some(from.clone()), Vec::new());
        let answer = within(Step::Mail).smtp(self.smtp.command(sender)).await?;
        expect(Step::Mail, &answer, &[250])?;

        let recipient = Rcpt::new(mail.to.clone(), Vec::new());
        let answer = within(Step::Rcpt).smtp(self.smtp.command(recipient)).await?;
        // 251: the server will forward it (RFC 5321 §3.4).
        expect(Step::Rcpt, &answer, &[250, 251])?;

        let answer = within(Step::Data).smtp(self.smtp.command(Data)).await?;
        expect(Step::Data, &answer, &[354])?;

        // lettre asks for more text until there is none, and then writes the final dot: asking once more is the last
        // thing that happens before the server may take the e-mail.
        let ended = AtomicBool::new(false);
        let end = std::iter::from_fn(|| {
            ended.store(true, Ordering::Relaxed);
            None
        });
        let text = std::iter::once(mail.text.as_slice()).chain(end);
        // The server now does its work: it may take all the time that is left.
        let answer = Limit { step: Step::Text, at: deadline }.smtp(self.smtp.message_iter(text)).await;
        let step = if ended.load(Ordering::Relaxed) { Step::End } else { Step::Text };
        let answer = answer.map_err(|(_, failure)| (step, failure))?;
        expect(step, &answer, &[250])
    }

    /// Has the next e-mail on this connection begin with RSET, after a refusal in the middle of a transaction.
    pub(super) fn reset_later(&mut self) {
        self.needs_reset = true;
    }

    /// Notes that the connection is idle from `now` on. False when it has served enough.
    pub(super) fn rest(&mut self, now: Instant) -> bool {
        self.idle_since = now;
        self.uses < MAX_USES
    }

    /// Whether the connection has not been idle for too long.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        now.duration_since(self.idle_since) < MAX_IDLE
    }
}

fn expect(step: Step, answer: &Response, codes: &[u16]) -> Result<(), Failed> {
    if codes.iter().any(|code| answer.has_code(*code)) { Ok(()) } else { Err((step, Failure::Unexpected)) }
}

/// The time limit of one step.
struct Limit {
    step: Step,
    at: Instant,
}

impl Limit {
    async fn smtp<T>(
        self,
        call: impl Future<Output = Result<T, lettre::transport::smtp::Error>>,
    ) -> Result<T, Failed> {
        match timeout_at(self.at, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err((self.step, Failure::of(&error))),
            Err(_) => Err((self.step, Failure::TimedOut)),
        }
    }

    async fn io<T>(self, call: impl Future<Output = io::Result<T>>) -> Result<T, Failed> {
        match timeout_at(self.at, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err((self.step, Failure::Lost)),
            Err(_) => Err((self.step, Failure::TimedOut)),
        }
    }
}

/// A socket that breaks when the other side sends more than it may.
#[derive(Debug)]
struct Metered {
    tcp: TcpStream,
    left: u64,
}

impl AsyncTokioStream for Metered {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.peer_addr()
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.tcp).poll_read(cx, buf);
        let got = (buf.filled().len() - before) as u64;
        match self.left.checked_sub(got) {
            Some(left) => self.left = left,
            None => return Poll::Ready(Err(io::Error::other("the server sends without end"))),
        }
        read
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// lettre's TLS stream in the shape in which lettre takes a stream.
#[derive(Debug)]
#[expect(deprecated, reason = "see above")]
struct Encrypted(Compat<AsyncNetworkStream>);

impl AsyncTokioStream for Encrypted {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.0.get_ref().peer_addr()
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
