//! A recording mail server.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::ServerConfig;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::{Counter, TimedOut};

/// A moment at which the server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the commands of RFC 5321, by their names")]
pub enum Command {
    /// The connection was made.
    Greeting,
    Ehlo,
    Starttls,
    Auth,
    Mail,
    Rcpt,
    /// The command; the answer should be 354.
    Data,
    /// The text has come, with its final dot.
    Text,
    Rset,
    Quit,
}

/// What the server does at such a moment instead of its usual answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Says this: one or more lines, without the last line end.
    Say(String),
    /// Says this, but not before the time has passed.
    SayAfter(Duration, String),
    /// Says nothing and reads nothing, with the connection open.
    Stall,
    /// Says this and then reads nothing, with the connection open.
    SayAndStall(String),
    /// Hangs up.
    Close,
    /// Says this and hangs up.
    SayAndClose(String),
    /// Sends bytes without a line end for ever.
    Endless,
}

impl Reply {
    /// Says this.
    #[must_use]
    pub fn say(text: &str) -> Self {
        Reply::Say(text.to_owned())
    }
}

/// An e-mail whose text has come whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// The connection, counted from 1.
    pub connection: usize,
    /// The address of MAIL FROM.
    pub from: String,
    /// The addresses of RCPT TO that were accepted.
    pub to: Vec<String>,
    /// The text, without the dots that make it transparent.
    pub text: String,
    /// Whether the server answered 250. Without that it may count as sent or not.
    pub accepted: bool,
}

/// When TLS begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpTlsMode {
    /// After STARTTLS, which is offered.
    Starttls,
    /// With the first byte.
    Implicit,
}

#[derive(Default)]
struct Plan {
    next: HashMap<Command, VecDeque<Reply>>,
    always: HashMap<Command, Reply>,
    /// For lines that contain a text, such as an address.
    containing: Vec<(Command, String, Reply)>,
    login: Option<(String, String)>,
}

struct Shared {
    plan: Mutex<Plan>,
    mails: Mutex<Vec<Mail>>,
    commands: Mutex<Vec<String>>,
    texts: Counter,
    connections: Counter,
    tls: Option<(SmtpTlsMode, TlsAcceptor)>,
}

/// A mail server on `127.0.0.1:<port>` that accepts everything unless told otherwise.
pub struct Smtp {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl fmt::Debug for Smtp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Smtp").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Smtp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Smtp {
    /// Starts on a free port, without TLS.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn start() -> io::Result<Self> {
        Smtp::start_with(None).await
    }

    /// Starts on a free port, with TLS.
    ///
    /// # Errors
    /// When no port can be opened.
    pub async fn start_tls(mode: SmtpTlsMode, config: Arc<ServerConfig>) -> io::Result<Self> {
        Smtp::start_with(Some((mode, TlsAcceptor::from(config)))).await
    }

    async fn start_with(tls: Option<(SmtpTlsMode, TlsAcceptor)>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            plan: Mutex::default(),
            mails: Mutex::default(),
            commands: Mutex::default(),
            texts: Counter::new(),
            connections: Counter::new(),
            tls,
        });
        let task = tokio::spawn(accept(listener, shared.clone())).abort_handle();
        Ok(Smtp { address, shared, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Does this once at the next such moment; several are used in order.
    pub fn reply_next(&self, command: Command, reply: Reply) {
        self.plan(|plan| plan.next.entry(command).or_default().push_back(reply));
    }

    /// Does this at every such moment from now on.
    pub fn reply(&self, command: Command, reply: Reply) {
        self.plan(|plan| plan.always.insert(command, reply));
    }

    /// Does again what it usually does at such a moment, from now on.
    pub fn as_usual(&self, command: Command) {
        self.plan(|plan| plan.always.remove(&command));
    }

    /// Does this whenever the command's line contains `text`, such as a recipient's address.
    pub fn reply_to(&self, command: Command, text: &str, reply: Reply) {
        self.plan(|plan| plan.containing.push((command, text.to_owned(), reply)));
    }

    /// Offers AUTH and takes nothing but this user and password.
    pub fn require_login(&self, user: &str, password: &str) {
        self.plan(|plan| plan.login = Some((user.to_owned(), password.to_owned())));
    }

    fn plan<T>(&self, change: impl FnOnce(&mut Plan) -> T) {
        change(&mut self.shared.plan.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The e-mails whose text came, in order, accepted or not.
    #[must_use]
    pub fn mails(&self) -> Vec<Mail> {
        self.shared.mails.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the texts of `wanted` e-mails have come, and gives all of them.
    ///
    /// # Errors
    /// [`TimedOut`] when there are fewer after `limit`.
    pub async fn wait_for(&self, wanted: usize, limit: Duration) -> Result<Vec<Mail>, TimedOut> {
        self.shared.texts.wait_for(wanted, limit).await?;
        Ok(self.mails())
    }

    /// The lines of commands so far, in order, those of AUTH without what follows.
    #[must_use]
    pub fn commands(&self) -> Vec<String> {
        self.shared.commands.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many connections were made so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.get()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        shared.connections.increment();
        let (number, shared) = (shared.connections.get(), shared.clone());
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            // An error is the end of the connection, and the business of whoever called.
            let _ = serve(stream, number, shared).await;
        });
    }
}

async fn serve(tcp: TcpStream, number: usize, shared: Arc<Shared>) -> io::Result<()> {
    if let Some((SmtpTlsMode::Implicit, acceptor)) = &shared.tls {
        let stream = acceptor.accept(tcp).await?;
        return Session::new(stream, number, &shared, true).run().await.map(drop);
    }
    let Some(plain) = Session::new(tcp, number, &shared, false).run().await? else { return Ok(()) };
    let Some((_, acceptor)) = &shared.tls else { return Ok(()) };
    let stream = acceptor.accept(plain).await?;
    Session { greeted: true, ..Session::new(stream, number, &shared, true) }.run().await.map(drop)
}

/// What follows a command.
enum Next {
    Go,
    Stop,
}

struct Session<'a, S> {
    stream: BufReader<S>,
    number: usize,
    shared: &'a Shared,
    encrypted: bool,
    greeted: bool,
    signed_in: bool,
    from: Option<String>,
    to: Vec<String>,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Session<'a, S> {
    fn new(stream: S, number: usize, shared: &'a Shared, encrypted: bool) -> Self {
        Session {
            stream: BufReader::new(stream),
            number,
            shared,
            encrypted,
            greeted: false,
            signed_in: false,
            from: None,
            to: Vec::new(),
        }
    }

    /// Serves until the end. Gives the stream back when TLS is to begin on it.
    async fn run(mut self) -> io::Result<Option<S>> {
        if !self.greeted
            && matches!(self.speak(Command::Greeting, "", "220 recorder ESMTP").await?.1, Next::Stop)
        {
            return Ok(None);
        }
        while let Some(line) = self.read_line().await? {
            let verb = line.split_ascii_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            let shown = if verb == "AUTH" { verb.clone() } else { line.clone() };
            self.shared.commands.lock().unwrap_or_else(PoisonError::into_inner).push(shown);
            let next = match verb.as_str() {
                "EHLO" => self.ehlo(&line).await?,
                "STARTTLS" if self.offers_starttls() => {
                    match self.speak(Command::Starttls, &line, "220 go ahead").await? {
                        ("220", _) => return Ok(Some(self.stream.into_inner())),
                        (_, next) => next,
                    }
                }
                "AUTH" => self.auth(&line).await?,
                "MAIL" => self.mail(&line).await?,
                "RCPT" => self.rcpt(&line).await?,
                "DATA" => self.data(&line).await?,
                "RSET" => {
                    self.forget();
                    self.speak(Command::Rset, &line, "250 2.0.0 forgotten").await?.1
                }
                "NOOP" => self.say("250 2.0.0 ok").await?,
                "QUIT" => {
                    self.speak(Command::Quit, &line, "221 2.0.0 bye").await?;
                    Next::Stop
                }
                _ => self.say("500 5.5.1 what?").await?,
            };
            if matches!(next, Next::Stop) {
                return Ok(None);
            }
        }
        Ok(None)
    }

    async fn ehlo(&mut self, line: &str) -> io::Result<Next> {
        let mut usual = "250-recorder\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n".to_owned();
        if self.offers_starttls() {
            usual.push_str("250-STARTTLS\r\n");
        }
        if self.login().is_some() {
            usual.push_str("250-AUTH PLAIN LOGIN\r\n");
        }
        usual.push_str("250 SIZE 10000000");
        Ok(self.speak(Command::Ehlo, line, &usual).await?.1)
    }

    async fn auth(&mut self, line: &str) -> io::Result<Next> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let given = match words.get(1).map(|word| word.to_ascii_uppercase()).as_deref() {
            Some("PLAIN") => {
                let answer = match words.get(2) {
                    Some(initial) => (*initial).to_owned(),
                    None => self.ask("").await?,
                };
                let decoded = decode(&answer);
                let mut parts = decoded.splitn(3, '\0').skip(1).map(str::to_owned);
                parts.next().zip(parts.next())
            }
            Some("LOGIN") => {
                let user = decode(&self.ask("VXNlcm5hbWU6").await?);
                Some((user, decode(&self.ask("UGFzc3dvcmQ6").await?)))
            }
            _ => None,
        };
        self.signed_in = given.is_some() && given == self.login();
        let usual = if self.signed_in { "235 2.7.0 welcome" } else { "535 5.7.8 wrong user or password" };
        Ok(self.speak(Command::Auth, line, usual).await?.1)
    }

    async fn mail(&mut self, line: &str) -> io::Result<Next> {
        if self.login().is_some() && !self.signed_in {
            return self.say("530 5.7.0 sign in first").await;
        }
        let (code, next) = self.speak(Command::Mail, line, "250 2.1.0 ok").await?;
        if code == "250" {
            self.from = Some(between_brackets(line));
        }
        Ok(next)
    }

    async fn rcpt(&mut self, line: &str) -> io::Result<Next> {
        if self.from.is_none() {
            return self.say("503 5.5.1 MAIL first").await;
        }
        let (code, next) = self.speak(Command::Rcpt, line, "250 2.1.5 ok").await?;
        if code == "250" {
            self.to.push(between_brackets(line));
        }
        Ok(next)
    }

    async fn data(&mut self, line: &str) -> io::Result<Next> {
        if self.to.is_empty() {
            return self.say("503 5.5.1 RCPT first").await;
        }
        let (code, next) = self.speak(Command::Data, line, "354 go ahead").await?;
        if code != "354" || matches!(next, Next::Stop) {
            return Ok(next);
        }
        let Some(text) = self.read_text().await? else { return Ok(Next::Stop) };
        let mail = Mail {
            connection: self.number,
            from: self.from.take().unwrap_or_default(),
            to: std::mem::take(&mut self.to),
            text,
            accepted: false,
        };
        let index = {
            let mut mails = self.shared.mails.lock().unwrap_or_else(PoisonError::into_inner);
            mails.push(mail);
            mails.len() - 1
        };
        self.shared.texts.increment();
        let (code, next) = self.speak(Command::Text, "", "250 2.0.0 queued").await?;
        if code == "250" {
            self.shared.mails.lock().unwrap_or_else(PoisonError::into_inner)[index].accepted = true;
        }
        Ok(next)
    }

    async fn read_text(&mut self) -> io::Result<Option<String>> {
        let mut text = String::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            if self.stream.read_until(b'\n', &mut line).await? == 0 {
                return Ok(None);
            }
            if line == b".\r\n" {
                return Ok(Some(text));
            }
            let plain = line.strip_prefix(b".").unwrap_or(&line);
            text.push_str(&String::from_utf8_lossy(plain));
        }
    }

    fn forget(&mut self) {
        self.from = None;
        self.to.clear();
    }

    fn offers_starttls(&self) -> bool {
        !self.encrypted && matches!(self.shared.tls, Some((SmtpTlsMode::Starttls, _)))
    }

    fn login(&self) -> Option<(String, String)> {
        self.shared.plan.lock().unwrap_or_else(PoisonError::into_inner).login.clone()
    }

    fn planned(&self, command: Command, line: &str) -> Option<Reply> {
        let mut plan = self.shared.plan.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reply) = plan.next.get_mut(&command).and_then(VecDeque::pop_front) {
            return Some(reply);
        }
        let fitting =
            plan.containing.iter().find(|(at, text, _)| *at == command && line.contains(text.as_str()));
        fitting.map(|(_, _, reply)| reply).or_else(|| plan.always.get(&command)).cloned()
    }

    /// Does what is planned for this moment, or says the usual. Gives the code that was said.
    async fn speak(&mut self, command: Command, line: &str, usual: &str) -> io::Result<(&'static str, Next)> {
        let reply = self.planned(command, line).unwrap_or_else(|| Reply::say(usual));
        match reply {
            Reply::Say(text) => {
                self.say(&text).await?;
                Ok((known_code(&text), Next::Go))
            }
            Reply::SayAfter(delay, text) => {
                tokio::time::sleep(delay).await;
                self.say(&text).await?;
                Ok((known_code(&text), Next::Go))
            }
            Reply::SayAndClose(text) => {
                self.say(&text).await?;
                Ok((known_code(&text), Next::Stop))
            }
            Reply::SayAndStall(text) => {
                self.say(&text).await?;
                std::future::pending().await
            }
            Reply::Stall => std::future::pending().await,
            Reply::Close => Ok(("", Next::Stop)),
            Reply::Endless => loop {
                self.stream.write_all(&[b'2'; 4096]).await?;
            },
        }
    }

    async fn say(&mut self, text: &str) -> io::Result<Next> {
        self.stream.write_all(format!("{text}\r\n").as_bytes()).await?;
        self.stream.flush().await?;
        Ok(Next::Go)
    }

    async fn ask(&mut self, challenge: &str) -> io::Result<String> {
        self.say(&format!("334 {challenge}")).await?;
        Ok(self.read_line().await?.unwrap_or_default())
    }

    async fn read_line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).await?;
        Ok((read > 0).then(|| line.trim_end().to_owned()))
    }
}

/// The codes on which the session's state depends.
fn known_code(text: &str) -> &'static str {
    ["220", "250", "354"].into_iter().find(|code| text.starts_with(code)).unwrap_or_default()
}

fn between_brackets(line: &str) -> String {
    let inner = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inner.map(|(inner, _)| inner.to_owned()).unwrap_or_default()
}

fn decode(text: &str) -> String {
    STANDARD.decode(text.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}
