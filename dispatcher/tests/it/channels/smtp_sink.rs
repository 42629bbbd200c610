//! E-mail through smtp-sink, with which Postfix's authors measure and torment mail clients.

use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use peal_common::channel::Channel;
use peal_common::outcome::Outcome;
use peal_common::settings::SmtpSettings;
use peal_dispatcher::channels::email::Smtp;
use peal_dispatcher::channels::email::smtp::Options;
use tempfile::TempDir;
use tokio::time::Instant;

use super::fixture::{Fixture, SOON, address_dead, ambiguous, clock, permanent, retry, unavailable};
use super::peers::Peer;
use super::smtp::{sent, settings_at, smtp, to};

/// A time limit that is meant to be reached.
const HASTY: Duration = Duration::from_secs(1);
/// What a client says, in its order, as smtp-sink names it; `.` ends the text.
const STEPS: [&str; 6] = ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "."];

/// smtp-sink, which writes each e-mail to a file of its own.
struct Sink {
    peer: Peer,
    folder: TempDir,
}

impl Sink {
    async fn start(arguments: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let template = folder.path().join("mail.");
        let record = ["-d", template.to_str().unwrap()];
        let peer = Peer::smtp_sink(&[&record, arguments].concat()).await?;
        Some(Sink { peer, folder })
    }

    fn settings(&self) -> SmtpSettings {
        settings_at(self.peer.port)
    }

    fn smtp(&self) -> Smtp {
        smtp(&self.settings())
    }

    /// A sender that waits a second for each command, and twice that for all of them.
    fn hasty(&self) -> Smtp {
        let mut options = Options::from_settings(&self.settings()).unwrap();
        options.command_timeout = HASTY;
        options.timeout = HASTY * 2;
        Smtp::new(options, clock())
    }

    /// Ends it and gives the texts that it has read, even if it refused them then.
    async fn end(self) -> Vec<String> {
        assert_eq!(self.peer.end().await, Vec::<String>::new());
        texts(self.folder.path())
    }
}

fn texts(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let files = entries.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap());
    // It begins a file with the sender's name, long before there is a text.
    files.filter(|file| file.contains("\nMessage-ID: ")).collect()
}

/// Has one e-mail fail at each step, as an option says that takes the step's name, and expects an outcome of each. No
/// text may be read twice, and none before its time.
async fn each_step(option: &str, delay: &str, expected: [Outcome; STEPS.len()]) {
    let attempts = STEPS.into_iter().zip(expected).map(async |(step, expected)| {
        let Some(sink) = Sink::start(&[option, &format!("{step}{delay}")]).await else { return };
        let smtp = if delay.is_empty() { sink.smtp() } else { sink.hasty() };
        assert_eq!(smtp.send(&to("kim@example.org").message()).await, expected, "{option} {step}");
        assert_eq!(sink.end().await.len(), usize::from(step == "."), "{option} {step}");
    });
    join_all(attempts).await;
}

#[tokio::test]
async fn emails_arrive_whole_and_each_once() {
    let Some(sink) = Sink::start(&[]).await else { return };
    let smtp = sink.smtp();
    let fixtures: Vec<Fixture> = (0..50)
        .map(|n| {
            let mut fixture = Fixture::to(Channel::Email, &format!("u{n}@example.org"), n);
            fixture.rendered.text = ".\n..\nA line\n.\n".to_owned();
            fixture
        })
        .collect();
    let sends = fixtures.iter().map(|fixture| async { smtp.send(&fixture.message()).await });
    for (outcome, fixture) in join_all(sends).await.into_iter().zip(&fixtures) {
        assert_eq!(outcome, sent(fixture));
    }
    let texts = sink.end().await;
    assert_eq!(texts.len(), fixtures.len());
    for (n, fixture) in fixtures.iter().enumerate() {
        let recipient = format!("X-Rcpt-Args: <u{n}@example.org>\n");
        let [text] = texts.iter().filter(|text| text.contains(&recipient)).collect::<Vec<_>>()[..] else {
            panic!("{recipient} is not there once");
        };
        assert!(text.contains("X-Mail-Args: <no-reply@example.com>\n"), "{text}");
        assert!(text.contains(&format!("\nMessage-ID: <{}@example.com>\n", fixture.delivery)), "{text}");
        assert!(text.trim_end().ends_with("\n\n.\n..\nA line\n."), "{text:?}");
    }
}

#[tokio::test]
async fn what_is_refused_for_good_depends_on_the_step() {
    let refused = permanent("smtp_500_5.3.0");
    let expected = [
        unavailable("server_refused"),
        unavailable("server_refused"),
        unavailable("sender_refused"),
        refused.clone(),
        refused.clone(),
        refused,
    ];
    each_step("-f", "", expected).await;
}

#[tokio::test]
async fn what_is_refused_for_now_is_tried_again() {
    each_step("-r", "", [(); STEPS.len()].map(|()| retry("smtp_450_4.3.0"))).await;
}

#[tokio::test]
async fn a_server_that_shuts_down_is_tried_again() {
    each_step("-Q", "", [(); STEPS.len()].map(|()| retry("smtp_421_4.0.0"))).await;
}

#[tokio::test]
async fn a_hung_up_connection_is_tried_again_unless_the_text_was_out() {
    let mut expected = [(); STEPS.len()].map(|()| retry("connection_lost"));
    expected[STEPS.len() - 1] = ambiguous("no_answer_after_data");
    each_step("-q", "", expected).await;
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_tried_again_unless_the_text_was_out() {
    let mut expected = [(); STEPS.len()].map(|()| retry("timeout"));
    expected[STEPS.len() - 1] = ambiguous("no_answer_after_data");
    each_step("-W", ":60", expected).await;
}

#[tokio::test]
async fn a_slow_answer_within_the_limits_is_waited_for() {
    let Some(sink) = Sink::start(&["-W", ".:1"]).await else { return };
    let fixture = to("kim@example.org");
    let started = Instant::now();
    assert_eq!(sink.smtp().send(&fixture.message()).await, sent(&fixture));
    assert!((HASTY..SOON).contains(&started.elapsed()));
    assert_eq!(sink.end().await.len(), 1);
}

fn full(reason: &str) -> Outcome {
    Outcome::AddressFull { reason: reason.to_owned() }
}

#[tokio::test]
async fn what_a_refusal_says_decides_about_the_address() {
    let cases = [
        ("-B", "550 5.1.1 no such user", "RCPT", address_dead("smtp_550_5.1.1")),
        ("-B", "550 5.1.1 no such user", ".", address_dead("smtp_550_5.1.1")),
        ("-B", "550 5.1.2 no such domain", "RCPT", address_dead("smtp_550_5.1.2")),
        ("-B", "551 5.1.6 moved", "RCPT", address_dead("smtp_551_5.1.6")),
        ("-B", "556 5.1.10 null MX", "RCPT", address_dead("smtp_556_5.1.10")),
        ("-B", "550 5.2.1 disabled", "RCPT", address_dead("smtp_550_5.2.1")),
        ("-B", "552 5.2.2 full", "RCPT", full("smtp_552_5.2.2")),
        ("-B", "552 5.3.4 too large", "MAIL", permanent("smtp_552_5.3.4")),
        ("-B", "552 5.3.4 too large", ".", permanent("smtp_552_5.3.4")),
        ("-B", "530 5.7.0 sign in first", "MAIL", unavailable("authentication_failed")),
        ("-B", "550 mailbox unavailable", "RCPT", permanent("smtp_550")),
        ("-b", "450 4.2.0 greylisted", "RCPT", retry("smtp_450_4.2.0")),
        ("-b", "452 4.2.2 full", "RCPT", retry("smtp_452_4.2.2")),
        ("-b", "454 Throttling failure", ".", retry("smtp_454")),
    ];
    for (reply, text, step, expected) in cases {
        let refusal = if reply == "-B" { "-f" } else { "-r" };
        let Some(sink) = Sink::start(&[reply, text, refusal, step]).await else { return };
        let outcome = sink.smtp().send(&to("kim@example.org").message()).await;
        assert_eq!(outcome, expected, "{text} at {step}");
        assert_eq!(sink.end().await.len(), usize::from(step == "."), "{text} at {step}");
    }
}

#[tokio::test]
async fn signing_in_may_be_refused_for_good_or_for_now() {
    for (arguments, expected) in [
        (&["-f", "AUTH"][..], unavailable("authentication_failed")),
        (&["-r", "AUTH"], retry("smtp_450_4.3.0")),
        (&["-q", "AUTH"], retry("connection_lost")),
        // It does not announce that one can sign in.
        (&["-a"], unavailable("authentication_not_offered")),
        // It knows neither EHLO nor, therefore, anything that is announced there.
        (&["-e"], unavailable("server_refused")),
        // It says 250, where RFC 4954 §6 has 235: nobody knows who was let in.
        (&[], retry("unexpected_answer")),
    ] {
        let Some(sink) = Sink::start(arguments).await else { return };
        let login = SmtpSettings {
            user: Some("peal".to_owned()),
            password: Some("right".to_owned().into()),
            ..sink.settings()
        };
        let outcome = smtp(&login).send(&to("kim@example.org").message()).await;
        assert_eq!(outcome, expected, "{arguments:?}");
        assert_eq!(sink.end().await, Vec::<String>::new(), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_refused_text_ends_neither_the_connection_nor_the_next_email() {
    // One session is all that it serves; the first one was to see whether it listens.
    let Some(sink) = Sink::start(&["-f", ".", "-n", "2"]).await else { return };
    let smtp = sink.smtp();
    for _ in 0..3 {
        assert_eq!(smtp.send(&to("kim@example.org").message()).await, permanent("smtp_500_5.3.0"));
    }
    assert_eq!(sink.end().await.len(), 3);
}

#[tokio::test]
async fn a_refused_reset_costs_the_connection_and_not_the_next_email() {
    for refusal in ["-f", "-r", "-q", "-Q"] {
        let Some(sink) = Sink::start(&["-B", "550 5.1.1 no such user", "-f", ".", refusal, "RSET"]).await
        else {
            return;
        };
        let smtp = sink.smtp();
        for _ in 0..3 {
            let outcome = smtp.send(&to("kim@example.org").message()).await;
            assert_eq!(outcome, address_dead("smtp_550_5.1.1"), "{refusal}");
        }
        assert_eq!(sink.end().await.len(), 3, "{refusal}");
    }
}
